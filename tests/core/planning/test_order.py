"""Scans up and down: each temperature starts where the one before ended, and only first-order collapse remembers."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from flow import TINY, invoke, without, write_suite
from pydantic import TypeAdapter

from collapsebench.contracts import load_registry
from collapsebench.executing.execute import execute_job
from collapsebench.planning.cells import make_plan
from collapsebench.planning.order import Piece, make_pieces, make_waves
from collapsebench.store import Store
from collapsebench.suite.resolve import load_suite
from collapsebench.verbs.run import open_session, plan_jobs

STILL = (
    without("linear")
    .replace("learning_rate = 1e-2", "learning_rate = 1e-30")
    .replace("max_updates = 60", "max_updates = 60\nsettle_latents = false")
)
MOVING = without("linear").replace("max_updates = 60", "max_updates = 12")


def test_waves_hold_every_temperature_once_in_the_order_of_the_protocol() -> None:
    assert make_waves("fresh", 3) == [[0, 1, 2]]
    assert make_waves("down", 3) == [[0], [1], [2]]
    assert make_waves("up", 5, 2) == [[4, 3], [2, 1], [0]]


def test_pieces_hold_every_replica_once_and_start_from_their_own_cell_in_the_wave_before() -> None:
    for most in (1, 2, 3, 100):
        pieces = make_pieces(make_waves("up", 5, 2), 3, lambda wanted, most=most: min(wanted, most))
        assert sorted(replica for piece in pieces for replica in piece.replicas) == list(range(15))
        assert len({piece.name for piece in pieces}) == len(pieces)
        assert max(len(piece.replicas) for piece in pieces) <= most
        for piece in pieces:
            assert TypeAdapter(Piece).validate_json(TypeAdapter(Piece).dump_json(piece)) == piece
            assert len(piece.parents) == (len(piece.replicas) if piece.wave else 0)
            for replica, parent in zip(piece.replicas, piece.parents, strict=False):
                assert replica // 5 == parent // 5
                assert parent % 5 == {1: 3, 2: 1}[piece.wave]


def frozen(folder: Path, text: str, *overrides: str, store: str = "store") -> tuple[Store, Path]:
    """Freeze the only job of a suite into a fresh store."""
    session = open_session(write_suite(folder, text), overrides=overrides, store=folder / store)
    session.store.make_writable()
    (job,) = plan_jobs(session, make_plan(session.suite, session.store, session.registry))
    return session.store, job


def by_seed(store: Store) -> dict[int, dict[str, torch.Tensor]]:
    return {record.description["seed"]: store.read_weights(record) for record in store.cells()}


def trained(folder: Path, text: str, *overrides: str) -> dict[int, dict[str, torch.Tensor]]:
    """Train a suite and return the weights by seed, temperatures descending."""
    store, job = frozen(folder, text, *overrides)
    assert set(execute_job(job).values()) == {"ok"}
    return by_seed(store)


def test_an_up_scan_starts_each_temperature_from_the_one_below(tmp_path: Path) -> None:
    """Nothing moves, so that every temperature ends with the initial weights of the first."""
    for weights in trained(tmp_path, STILL, "scan.protocol=up").values():
        assert all(torch.allclose(v[place], v[-1], rtol=0, atol=1e-20) for v in weights.values() for place in range(4))


def test_a_down_scan_adds_a_share_of_the_initial_weights_at_every_start(tmp_path: Path) -> None:
    """Nothing moves, so that the k-th temperature ends with 1 + 0.01 k times the initial weights."""
    for weights in trained(tmp_path, STILL, "scan.protocol=down", "scan.perturbation=0.01").values():
        for value in weights.values():
            for place in range(4):
                assert torch.allclose(value[place], (1 + 0.01 * place) * value[0], rtol=1e-5, atol=1e-20)


def test_temperatures_of_one_wave_start_from_the_same_weights(tmp_path: Path) -> None:
    """Nothing moves: three temperatures from the initial weights, the fourth from the third."""
    for weights in trained(tmp_path, STILL, "scan.protocol=down", "scan.wave_size=3").values():
        for value in weights.values():
            for place, share in enumerate((1, 1, 1, 1.001)):
                assert torch.allclose(value[place], share * value[0], rtol=1e-5, atol=1e-20)


def test_the_protocol_and_what_belongs_to_it_are_in_the_key_and_nothing_of_it_in_a_fresh_one(tmp_path: Path) -> None:
    path, store = write_suite(tmp_path, without("linear")), Store(tmp_path / "store")

    def described(*overrides: str) -> dict[str, Any]:
        return dict(make_plan(load_suite(path, overrides=overrides), store, load_registry()).cells[0].description)

    fresh = described()
    assert described("scan.wave_size=2", "scan.perturbation=0.1") == fresh
    assert not {"wave_size", "perturbation"} & fresh.keys()
    up, down = described("scan.protocol=up"), described("scan.protocol=down")
    assert (up["protocol"], down["protocol"], down["perturbation"]) == ("up", "down", 1e-3)
    assert described("scan.protocol=up", "scan.perturbation=0.1") == up
    assert described("scan.protocol=down", "scan.perturbation=0.1") != down
    assert described("scan.protocol=up", "scan.wave_size=2") != up


def test_sweeping_the_protocol_gives_every_architecture_one_row_each(tmp_path: Path) -> None:
    suite = load_suite(write_suite(tmp_path, TINY + '\n[sweep]\n"scan.protocol" = ["up", "down"]\n'))
    assert [(item.id, item.protocol) for item in suite.architectures] == [
        ("linear[protocol=up]", "up"), ("linear[protocol=down]", "down"),
        ("mlp[protocol=up]", "up"), ("mlp[protocol=down]", "down"),
    ]  # fmt: skip


@pytest.mark.parametrize("updates", [1, 12, 13, 30])
def test_an_up_scan_stopped_in_any_wave_ends_with_the_weights_it_would_have_had(tmp_path: Path, updates: int) -> None:
    whole = trained(tmp_path, MOVING, "scan.protocol=up")
    store, job = frozen(tmp_path, MOVING, "scan.protocol=up", store="again")
    asked = count(1)
    with pytest.raises(KeyboardInterrupt):
        execute_job(job, stop=lambda: next(asked) >= updates)
    assert set(execute_job(job).values()) == {"ok"}
    assert list(job.parent.iterdir()) == []
    for seed, weights in by_seed(store).items():
        assert all(torch.equal(value, whole[seed][name]) for name, value in weights.items())


SCAN = """
seeds = 2
metrics = ["hysteresis", "equilibrium"]
[scan]
latent_dim = 1
temperatures = { from = 0.9, to = 0.2, count = COUNT }
[sweep]
"scan.protocol" = ["up", "down"]
[training]
optimiser = { use = "preconditioned", learning_rate = 0.002 }
batch_size = "full"
max_updates = 1000
[evaluation]
samples = 4096
[compute]
device = "cpu"
threads = 1
[[datasets]]
use = "gaussian"
dimension = 2
samples = 1024
evaluation_samples = 64
spectrum = { kind = "power-law", exponent = 1.0 }
[[architectures]]
id = "one"
encoder = { use = "linear" }
decoder = { use = "DECODER" }
"""


def widths(folder: Path, decoder: str) -> pd.DataFrame:
    """Return the hysteresis of the only latent, one row per seed and protocol, with the resolution of the grid."""
    path = write_suite(folder, SCAN.replace("DECODER", decoder).replace("COUNT", "13"))
    done = invoke("run", path, "--store", folder / "store")
    assert done.exit_code == 0, done.output
    long = pd.read_csv(folder / "store/suites/tiny/board.csv")
    frame = pd.read_csv(folder / "store/suites/tiny/tables/hysteresis.csv")
    return frame.assign(resolution=long[long["score"] == "resolution"]["value"].iloc[0])


@pytest.mark.slow
def test_linear_collapse_has_no_hysteresis_beyond_a_third_of_the_grid_s_step(tmp_path: Path) -> None:
    found = widths(tmp_path, "linear")
    assert len(found) == 4
    assert (found["width"].abs() < found["resolution"] / 3).all()
    assert found["up"].to_numpy() == pytest.approx(0.95 * 2 / 3, rel=0.1)


@pytest.mark.slow
def test_first_order_collapse_has_hysteresis_beyond_the_grid_s_step(tmp_path: Path) -> None:
    """T_1 = 2/3. The latent comes on below 0.8 T_1 when T falls, and is still on there when T rises."""
    found = widths(tmp_path, "first-order")
    assert (found["width"] > found["resolution"]).all(), found
    assert (found["down"] < 0.8 * 2 / 3).all()
    assert (found["up"] > 0.8 * 2 / 3).all()
