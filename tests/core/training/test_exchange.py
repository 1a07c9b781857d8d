"""Exchange: a replica that another one's weights undercut continues from them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from flow import TINY, invoke, write_suite

from collapsebench.store import Store
from collapsebench.suite.schema import Exchange
from collapsebench.theory.envelope import Line, envelope
from collapsebench.training.exchange import Parked, takeovers
from collapsebench.training.pieces import cheapest
from collapsebench.training.trainer import Controls, Trained
from collapsebench.training.verdict import Record

FIRST_ORDER = {"encoder": ("linear", {}), "decoder": ("first-order", {"power": 2.0, "level": 1.0})}
TRAINING = {
    "optimiser": {"use": "preconditioned", "learning_rate": 0.01}, "antithetic": True, "average": 0.1,
    "batch_size": 256, "max_updates": 600, "convergence": {"checks": 12},
}  # fmt: skip
SHARES = (0.63, 0.5)
"""T V / lambda: at both, the active state costs less, by 0.754; at the first, the collapsed one is stable, from 0.6."""


@pytest.fixture(scope="module")
def one_mode(make_gaussian):
    """One mode of eigenvalue 1 beside weak ones."""
    return make_gaussian(dimension=4, samples=1024, spectrum={"kind": "explicit", "values": [1.0, 0.01, 0.01, 0.01]})


def metastable_trainer(make_trainer, data, exchange=None, *, seeds=(0,), **changes):
    """Two temperatures, of which the first starts at total collapse, exactly, in every cell."""
    limit = float(data.eigenvalues[0] / data.total_variance)
    temperatures = [share * limit for share in SHARES]
    training = {**TRAINING, **changes}
    trainer = make_trainer(
        data, temperatures, seeds=seeds, latent_dim=2, training=training, exchange=exchange,
        evaluation={"cost_samples": 65_536}, **FIRST_ORDER,
    )  # fmt: skip
    with torch.no_grad():
        for name, value in trainer.stack.parameters.items():
            if "log_variance" not in name:
                value[::2] = 0.0
    return trainer


def test_the_cheapest_of_a_cell_donates_to_whoever_saves_enough():
    lines = [Line(0.2, 1.0, 0.0), Line(0.1, 0.5, 2.0), Line(0.05, 0.45, 2.0), Line(0.2, 1.0, 0.0)]
    settings = Exchange(margin=0.05)
    assert takeovers(lines, [0, 0, 0, 1], [True] * 4, settings) == {0: 2, 1: 2}
    assert takeovers(lines, [0, 0, 0, 1], [False, True, True, True], settings) == {1: 2}
    assert takeovers(lines, [0, 0, 0, 1], [True] * 4, Exchange(margin=0.1)) == {0: 2}
    noisy = [line._replace(error=0.03) for line in lines]
    assert takeovers(noisy, [0, 0, 0, 1], [True] * 4, settings) == {}


def test_takers_have_the_state_that_donors_had_before_and_who_is_revived_is_parked_no_more():
    whole = {"weights/w": torch.arange(5.0)[:, None] * torch.ones(5, 3), "optimiser/m": torch.arange(5.0)}
    parked = Parked()
    for replica in (3, 1):
        parked.add([replica], whole, torch.tensor([replica]))
    alive = [0, 2, 4]
    rows = torch.tensor(alive)
    revived, state = parked.mix(alive, {name: value[rows] for name, value in whole.items()}, {0: 1, 1: 0, 4: 2})
    assert revived == [0, 1, 2, 4]
    assert state["optimiser/m"].tolist() == [1, 0, 2, 2]
    assert torch.equal(state["weights/w"][:, 0], state["optimiser/m"])
    assert parked.replicas == [3]
    assert parked.state["optimiser/m"].tolist() == [3]


def test_a_replica_put_into_a_metastable_state_rests_there_and_is_undercut(one_mode, make_trainer):
    trained = metastable_trainer(make_trainer, one_mode).run(Controls())
    assert trained.marks == ["converged", "converged"]
    found = envelope([record.line for record in trained.records])
    assert found.excess[0] > 1e-3
    assert found.excess[1] < 0


def test_exchange_leads_it_to_the_equilibrium_and_says_so_in_the_log(one_mode, make_trainer):
    trainer = metastable_trainer(make_trainer, one_mode, {})
    trained = trainer.run(Controls())
    assert trained.marks == ["converged", "converged"]
    found = envelope([record.line for record in trained.records])
    assert (found.excess < 1e-3).all()
    assert trained.records[0].line.slope > 0.1
    taken = [entry for entry in trained.log if "taken_from" in entry]
    assert taken[0]["replica"] == 0
    assert taken[0]["taken_from"] == 1


def test_a_replica_that_has_left_the_stack_is_revived(one_mode, make_trainer):
    """The collapsed replica rests from the start; the other one undercuts it only later."""
    trainer = metastable_trainer(make_trainer, one_mode, {"start": 0.0, "stop": 1.0}, convergence={"checks": 60})
    with torch.no_grad():
        trainer.stack.parameters["decoder.columns.weight"][1] *= 1e-2
    left = []

    def note():
        left.append(0 not in trainer.alive)
        return False

    trained = trainer.run(Controls(stop=note))
    assert True in left
    assert False in left[left.index(True) :]
    assert trained.records[0].line.slope > 0.1


def test_who_has_left_is_undercut_by_less_than_the_noise_of_a_check(one_mode, make_trainer):
    """At 0.785 the active state rests although collapse would cost 0.4 % less; a check draws 512 values of z."""
    limit = float(one_mode.eigenvalues[0] / one_mode.total_variance)
    longer = {**TRAINING, "max_updates": 1500, "convergence": {"checks": 30}}
    options = {"latent_dim": 2, "training": longer, **FIRST_ORDER}
    active = make_trainer(one_mode, [0.5 * limit], **options).run(Controls()).weights

    def marks_and_rates(exchange):
        trainer = make_trainer(
            one_mode, [0.9 * limit, 0.785 * limit], exchange=exchange,
            evaluation={"samples": 512, "cost_samples": 262_144}, **options,
        )  # fmt: skip
        start = trainer.stack.weights()
        for name, value in start.items():
            value[1] = active[name][0]
        trainer.stack.load(start)
        trained = trainer.run(Controls())
        return trained.marks, [record.line.slope for record in trained.records]

    marks, rates = marks_and_rates(None)
    assert marks[1] == "converged"
    assert rates[1] > 0.05 > rates[0]
    marks, rates = marks_and_rates({"stop": 1.0})
    assert marks == ["converged", "converged"]
    assert max(rates) < 0.01


def test_a_cell_is_trained_alike_whatever_the_other_cells_of_its_stack(one_mode, make_trainer):
    """To rounding: the losses to 1e-3, and the same replicas take over weights from the same at the same updates."""
    together = metastable_trainer(make_trainer, one_mode, {}, seeds=(0, 1)).run(Controls())
    for cell in (0, 1):
        alone = metastable_trainer(make_trainer, one_mode, {}, seeds=(cell,)).run(Controls())
        assert alone.losses == pytest.approx(together.losses[2 * cell : 2 * cell + 2], rel=1e-3)
        assert alone.updates == together.updates[2 * cell : 2 * cell + 2]
        log = [
            {**entry, "replica": entry["replica"] - 2 * cell, "taken_from": entry["taken_from"] - 2 * cell}
            for entry in together.log
            if "taken_from" in entry and entry["replica"] // 2 == cell
        ]
        assert [entry for entry in alone.log if "taken_from" in entry] == log


@pytest.mark.parametrize(("use", "stop_at"), [("preconditioned", 60), ("adam", 130), ("preconditioned", 300)])
def test_an_interrupted_exchange_continues_to_the_same_numbers(one_mode, make_trainer, tmp_path, use, stop_at):
    changes = {"optimiser": {"use": use, "learning_rate": 0.01}}
    whole = metastable_trainer(make_trainer, one_mode, {}, **changes).run(Controls())
    first = metastable_trainer(make_trainer, one_mode, {}, **changes)
    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(KeyboardInterrupt):
        first.run(Controls(path, stop=lambda: first.update == stop_at))
    resumed = metastable_trainer(make_trainer, one_mode, {}, **changes).run(Controls(path))
    assert resumed.records == whole.records
    assert resumed.log == whole.log
    assert all(torch.equal(value, whole.weights[name]) for name, value in resumed.weights.items())


def test_a_linear_decoder_has_nothing_to_take_over(gaussian, make_trainer):
    """Its only stable state is the equilibrium, so no replica of a settled scan undercuts another."""
    temperatures = [float(t) for t in np.logspace(-0.2, -2, 8)]
    training = {
        "optimiser": {"use": "preconditioned", "learning_rate": 0.1}, "max_updates": 800,
        "convergence": {"patience": 1},
    }  # fmt: skip
    plain, exchanged = (
        make_trainer(gaussian, temperatures, training=training, exchange=exchange).run(Controls())
        for exchange in (None, {"start": 0.3})
    )
    assert not [entry for entry in exchanged.log if "taken_from" in entry]
    assert (envelope([record.line for record in plain.records]).excess < 1e-4).all()
    for one, two in zip(plain.records, exchanged.records, strict=True):
        assert two.line.slope == pytest.approx(one.line.slope, rel=1e-3, abs=1e-4)


def test_of_a_pool_the_cheapest_of_each_temperature_is_kept_with_its_weights_and_its_log():
    costs = [3.0, 1.0, 2.0, 4.0, 5.0, float("nan"), 6.0, float("nan")]  # two cells, two members, two temperatures
    records = [Record(mark="converged", updates=index, line=Line(0.1, cost, 0.0)) for index, cost in enumerate(costs)]
    log = [{"replica": 6, "update": 7}, {"replica": 3, "update": 8, "taken_from": 0}]
    found = cheapest(Trained({"w": torch.arange(8.0)[:, None]}, records, log), pool=2, temperatures=2)
    assert found.updates == [2, 1, 4, 5]
    assert found.weights["w"][:, 0].tolist() == [2, 1, 4, 5]
    assert found.log == [
        {"replica": 2, "update": 7, "member": 1},
        {"replica": 1, "update": 8, "member": 1, "taken_from": 0, "from_member": 0},
    ]


def test_a_pool_of_two_is_trained_as_one_cell_through_a_job(tmp_path):
    exchange = 'protocol = "exchange"\nexchange = { pool = 2, start = 0.2 }'
    text = TINY.replace("latent_dim = 3", f"latent_dim = 3\n{exchange}").replace(
        "max_updates = 60", "max_updates = 200"
    )
    path = write_suite(tmp_path, text)
    done = invoke("run", path, "--store", tmp_path / "store")
    assert done.exit_code == 0, done.output
    cells = list(Store(tmp_path / "store").cells())
    assert [len(cell.replicas) for cell in cells] == [4] * 4
    logs = [pd.read_parquet(log) for log in (tmp_path / "store").glob("cells/*/*/log.parquet")]
    assert all(set(log["member"]) == {0, 1} and set(log["replica"]) == {0, 1, 2, 3} for log in logs)

    alone = invoke("run", path, "--seeds", "1", "--store", tmp_path / "alone")
    assert alone.exit_code == 0, alone.output
    for cell in Store(tmp_path / "alone").cells():
        whole = next(other for other in cells if other.key == cell.key)
        assert [row["loss"] for row in cell.replicas] == pytest.approx(
            [row["loss"] for row in whole.replicas], rel=1e-3
        )
