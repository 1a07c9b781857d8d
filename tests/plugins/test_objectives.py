"""Each objective against what it predicts for the linear Gaussian case, and as one replica of many."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from flow import TINY, without, write_suite
from scipy import stats

from collapsebench import DataError, fixed_exponent_threshold, oracle
from collapsebench.contracts import load_registry
from collapsebench.executing.execute import execute_job
from collapsebench.planning.cells import make_plan, with_records
from collapsebench.planning.jobs import StackChoice, make_jobs
from collapsebench.scoring.score import score_plan
from collapsebench.stack.stack import StackModel
from collapsebench.store import Store
from collapsebench.suite.resolve import load_suite
from collapsebench.theory.equilibrium import measure_equilibrium
from collapsebench.training.trainer import Controls

LATENTS, SEEDS = 6, (0, 1, 2)
TEMPERATURES = [float(f"{t:.6g}") for t in np.geomspace(0.8, 6e-3, 9)]
OBJECTIVES = {
    "beta-vae": {},
    "warm-up": {},
    "annealing": {"cycles": 4, "rise": 0.5},
    "free-bits": {"kappa": 0.2},
    "capacity": {},
    "learned-variance": {},
    "weight-decay": {"omega": 0.002},
}
NULL = ("warm-up", "annealing")
MLP = {"encoder": ("mlp", {"depth": 1, "width": 8}), "decoder": ("mlp", {"depth": 1, "width": 8})}


@pytest.fixture(scope="module")
def data(make_gaussian):
    return make_gaussian(samples=32, spectrum={"kind": "power-law", "exponent": 1.5})


@pytest.fixture(scope="module")
def make(component):
    """Return an objective by its name in OBJECTIVES."""

    def objective(name, **changes):
        use = "warm-up" if name == "annealing" else name
        return component("objective", use, **{**OBJECTIVES[name], **changes})

    return objective


@pytest.fixture(scope="module")
def train(data, make, make_stack, make_trainer, make_samples):
    """Train linear scans with an objective to equilibrium, three seeds together.

    Return M^2 `(seed, t, rank)`, effective temperatures and rates `(seed, t)`, and what training left.
    """
    done = {}

    def scan(name):
        if name not in done:
            stacking = {"seeds": SEEDS, "latent_dim": LATENTS, "objective": make(name)}
            stack = make_stack(data, TEMPERATURES, computation="kernel-chains", **stacking)
            training = {
                "optimiser": {"use": "preconditioned", "learning_rate": 0.1}, "max_updates": 800,
                "convergence": {"checks": 16, "ward_residual": 1e-3, "drift": 2e-3},
            }  # fmt: skip
            trainer = make_trainer(data, TEMPERATURES, stack=stack, seeds=SEEDS, latent_dim=LATENTS, training=training)
            trained = trainer.run(Controls())
            solved = make_stack(data, TEMPERATURES, **stacking)
            solved.load(trainer.finished)
            model = StackModel(solved, TEMPERATURES * len(SEEDS), LATENTS)
            found = measure_equilibrium(model, make_samples(data, replicas=len(solved)))
            fractions = -np.sort(-found.signal_fraction, axis=1)
            parts = (fractions, np.array(trained.effective_temperatures), found.rate)
            done[name] = *(part.reshape(len(SEEDS), len(TEMPERATURES), *part.shape[1:]) for part in parts), trained
        return done[name]

    return scan


def prediction(make, data, name):
    return make(name).prediction(np.array(TEMPERATURES), data.eigenvalues, LATENTS)


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name != "free-bits"])
def test_a_linear_scan_lands_on_what_its_objective_predicts(train, make, data, name):
    """Every signal fraction to 0.01, every effective temperature to 2 %."""
    fractions, effective, *_ = train(name)
    expected = prediction(make, data, name)
    known = np.isfinite(expected.temperature)
    assert known.sum() >= len(TEMPERATURES) - 1
    for seed in range(len(SEEDS)):
        assert fractions[seed] == pytest.approx(expected.signal_fraction, abs=0.01)
        assert effective[seed][known] == pytest.approx(expected.temperature[known], rel=0.02)


@pytest.mark.parametrize("name", NULL)
def test_a_null_intervention_moves_no_threshold_beyond_its_interval(train, name):
    """The 95 % t-interval over three seeds of the shift of each log T_c contains zero, or is within 1e-3 of it."""
    moved, still = (
        np.log([[fixed_exponent_threshold(TEMPERATURES, rank) for rank in scan.T] for scan in train(which)[0]])
        for which in (name, "beta-vae")
    )
    shifts = moved - still
    half = stats.t.ppf(0.975, 2) * np.std(shifts, axis=0, ddof=1) / math.sqrt(len(SEEDS))
    assert np.all(np.abs(np.mean(shifts, axis=0)) <= np.maximum(half, 1e-3))


def test_free_bits_leave_no_latent_below_the_floor_and_so_no_threshold(train):
    """M^2 >= 1 - exp(-2 kappa), reached where nothing else is worth its price; to 0.01."""
    fractions, *_ = train("free-bits")
    floor = 1 - math.exp(-2 * 0.2)
    assert fractions.min() >= floor - 0.01
    assert fractions[:, 0] == pytest.approx(np.full((len(SEEDS), LATENTS), floor), abs=0.01)


def test_free_bits_for_one_mode_and_one_latent_are_the_larger_of_plain_and_floor(
    make_gaussian, make, make_stack, make_trainer, make_samples
):
    data = make_gaussian(dimension=1, samples=64, spectrum={"kind": "power-law", "exponent": 1.0})
    temperatures = [1.5, 0.9, 0.5, 0.1]
    stack = make_stack(data, temperatures, latent_dim=1, objective=make("free-bits"))
    training = {"max_updates": 400, "convergence": {"checks": 1}}
    trainer = make_trainer(data, temperatures, stack=stack, latent_dim=1, training=training)
    trainer.run(Controls())
    solved = make_stack(data, temperatures, latent_dim=1, objective=make("free-bits"))
    solved.load(trainer.finished)
    found = measure_equilibrium(StackModel(solved, temperatures, 1), make_samples(data, replicas=4))
    expected = np.maximum(1 - np.array(temperatures), 1 - math.exp(-0.4))
    assert found.signal_fraction[:, 0] == pytest.approx(expected, abs=0.01)


def test_a_capacity_is_the_rate_that_the_exact_solution_has_at_its_temperature(train, make, data):
    capacities = make("capacity").dials(np.array(TEMPERATURES), data.eigenvalues, LATENTS)
    exact = oracle(data.second_moments["train"], TEMPERATURES, LATENTS)
    assert capacities == pytest.approx(exact.total_rate, abs=1e-6)
    assert train("capacity")[2] == pytest.approx(np.tile(capacities, (len(SEEDS), 1)), abs=0.01)


def test_a_learned_variance_is_self_consistent(train, make, data):
    """gamma = sum_{i > q} lambda_i / (d - q beta), q active; to 1 %."""
    objective, eigenvalues = make("learned-variance"), data.eigenvalues
    beta = objective.dials(np.array(TEMPERATURES), eigenvalues, LATENTS)
    gamma = train("learned-variance")[1][0] * data.total_variance / beta
    for own_beta, own_gamma in zip(beta, gamma, strict=True):
        active = int((eigenvalues[:LATENTS] > own_beta * own_gamma).sum())
        expected = eigenvalues[active:].sum() / (len(eigenvalues) - active * own_beta)
        assert own_gamma == pytest.approx(expected, rel=0.01)


def test_a_learned_variance_without_a_minimum_is_refused_with_the_way_out(make, data):
    objective, eigenvalues = make("learned-variance"), np.array([4.0, 2.0, 1.0, 0.0])
    with pytest.raises(
        DataError, match=r"3 latents for data of rank 3.*below T = 0\.143.*d / rank = 1\.333.*at most 2"
    ):
        objective.dials(np.array([0.5, 0.1]), eigenvalues, 3)
    assert objective.dials(np.array([0.5, 0.1]), eigenvalues, 2)[1] < 4 / 3
    assert objective.dials(np.array([0.5, 0.15]), eigenvalues, 3)[1] > 4 / 3


def test_weight_decay_lowers_thresholds_by_the_formula(train, make, data):
    """(beta lambda + omega)(1 + omega) = lambda^2; fitted thresholds of the strongest modes to 3 %."""
    expected = prediction(make, data, "weight-decay").thresholds
    beta, eigenvalues = expected * data.total_variance, data.eigenvalues[:LATENTS]
    assert (beta * eigenvalues + 0.002) * 1.002 == pytest.approx(eigenvalues**2)
    fractions, *_ = train("weight-decay")
    plain = data.pca.eigenvalues[:LATENTS]
    for rank in range(3):
        fitted = fixed_exponent_threshold(TEMPERATURES[:6], fractions[0, :6, rank])
        assert abs(math.log(fitted / expected[rank])) < 0.03
    assert np.all(expected < plain)


@pytest.mark.parametrize("omega", [0.002, 0.02])
def test_the_prediction_under_weight_decay_is_the_least_cost_of_a_mode(make, omega):
    eigenvalues = np.array([1.0, 0.5, 0.25, 0.1])
    predicted = make("weight-decay", omega=omega).prediction(np.array([0.2, 0.05]), eigenvalues, 4)
    assert np.isfinite(predicted.signal_fraction[:, 0]).all()
    for row, beta in enumerate(np.array([0.2, 0.05]) * eigenvalues.sum()):
        for mode, value in enumerate(eigenvalues):
            v = np.linspace(0, 1.2, 400_001)
            a = value * v / (value * (v * v + beta) + omega)
            cost = (
                value * (1 - a * v) ** 2 + beta * np.log1p(v * v / beta) + beta * value * a**2 + omega * (a**2 + v**2)
            )
            best = int(cost.argmin())
            signal = value * a[best] ** 2
            expected = signal / (signal + beta / (beta + v[best] ** 2))
            if not math.isnan(predicted.signal_fraction[row, mode]):
                assert predicted.signal_fraction[row, mode] == pytest.approx(expected, abs=1e-4)
    assert math.isnan(predicted.thresholds[3]) == (0.1**2 * (1 + 2 * omega) <= 2 * omega * (1 + omega) ** 2)


def test_the_share_of_beta_rises_in_cycles_and_stays_whole(make):
    objective = make("annealing", share=0.5, cycles=2, rise=0.5)
    nothing, one = torch.zeros(1), torch.ones(1, 1)
    paid = [
        float(objective.loss(nothing, one, torch.tensor(1.0), {}, torch.tensor(progress)))
        for progress in (0.0, 0.0625, 0.125, 0.2, 0.25, 0.3125, 0.5, 0.9, 1.0)
    ]
    assert paid == pytest.approx([0.0, 0.5, 1.0, 1.0, 0.0, 0.5, 1.0, 1.0, 1.0])


def test_no_replica_is_called_converged_before_its_objective_has_settled(train):
    trained = train("warm-up")[3]
    assert "converged" in trained.marks
    assert min(trained.updates) >= 400


SHORT = {"batch_size": 64, "max_updates": 20, "convergence": {"checks": 3}}


@pytest.fixture(params=OBJECTIVES)
def make_short(request, data, make, make_stack, make_trainer):
    """Return a factory of trainers of a sampled decoder on mini-batches, one objective at a time."""

    def trainer(temperatures, computation="batched"):
        stack = make_stack(
            data, temperatures, latent_dim=4, objective=make(request.param), computation=computation, **MLP
        )
        return make_trainer(data, temperatures, stack=stack, latent_dim=4, training=SHORT, evaluation={"samples": 64})

    return trainer


def same(one, two, place=slice(None), *, exactly):
    for name, value in one.weights.items():
        other = two.weights[name][place]
        assert torch.equal(value, other) if exactly else torch.allclose(value, other, rtol=1e-3, atol=1e-3), name


def test_a_replica_alone_ends_as_in_a_stack(make_short):
    stacked, alone = make_short([0.3, 0.1, 0.02]).run(Controls()), make_short([0.1]).run(Controls())
    same(alone, stacked, slice(1, 2), exactly=False)
    assert alone.effective_temperatures[0] == pytest.approx(stacked.effective_temperatures[1], rel=1e-3)


@pytest.mark.parametrize("computation", ["kernel-chains", "one-by-one"])
def test_every_path_ends_alike(make_short, computation):
    same(make_short([0.3, 0.02]).run(Controls()), make_short([0.3, 0.02], computation).run(Controls()), exactly=False)


def test_an_interrupted_run_ends_with_the_same_numbers_and_the_same_state(make_short, tmp_path):
    whole = make_short([0.3, 0.02]).run(Controls())
    checkpoint = tmp_path / "job.safetensors"
    asked = itertools.count(1)
    with pytest.raises(KeyboardInterrupt):
        make_short([0.3, 0.02]).run(Controls(checkpoint=checkpoint, stop=lambda: next(asked) == 9))
    resumed = make_short([0.3, 0.02]).run(Controls(checkpoint=checkpoint))
    same(whole, resumed, exactly=True)
    assert whole.effective_temperatures == resumed.effective_temperatures


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_diverged_neighbour_changes_nothing(make_short):
    healthy, sick = make_short([0.3, 0.1, 0.02]), make_short([0.3, 0.1, 0.02])
    with torch.no_grad():
        for value in sick.stack.parameters.values():
            value[1] = math.nan
    expected, found = healthy.run(Controls()), sick.run(Controls())
    assert found.marks[1] == "diverged"
    assert math.isnan(found.effective_temperatures[1]) or found.effective_temperatures[1] == pytest.approx(0.1)
    for replica in (0, 2):
        assert found.effective_temperatures[replica] == pytest.approx(
            expected.effective_temperatures[replica], rel=1e-4
        )
        for name, value in expected.weights.items():
            assert torch.allclose(found.weights[name][replica], value[replica], rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def run_suite(tmp_path_factory):
    """Return a function that runs one tiny scan per objective and returns the results and the store."""
    folder = tmp_path_factory.mktemp("suite")

    def run(*objectives, latent_dim=3, store="store"):
        tables = "".join(f'[[objectives]]\nuse = "{use}"\n' for use in objectives)
        text = without("mlp", TINY).replace('["effective-dimension"]', '["intervention-agreement", "equilibrium"]')
        text = text.replace("latent_dim = 3", f"latent_dim = {latent_dim}") + tables
        suite, own = load_suite(write_suite(folder, text, store)), Store(folder / store)
        registry = load_registry()
        plan = make_plan(suite, own, registry)
        for job in make_jobs(
            plan, own, "cpu", dict.fromkeys((cell.scan for cell in plan.cells), StackChoice("batched"))
        ):
            execute_job(job)
        return score_plan(with_records(plan, own), own, registry, "cpu"), own

    return run


def test_the_state_and_the_effective_temperature_of_a_replica_are_stored_and_reach_the_metrics(run_suite):
    results, store = run_suite("beta-vae", "capacity", "learned-variance")
    for record in store.cells():
        for replica in record.replicas:
            if record.description["objective"]["use"] == "beta-vae":
                assert replica["effective_temperature"] == pytest.approx(replica["temperature"])
                assert not any(name.startswith("objective_") for name in replica)
            if record.description["objective"]["use"] == "capacity":
                expected = 1 / (1 + math.exp(-0.2 * replica["objective_multiplier"]))
                assert replica["effective_temperature"] == pytest.approx(expected, rel=1e-5)
            if record.description["objective"]["use"] == "learned-variance":
                assert replica["objective_features"] == 4
                assert math.isfinite(replica["objective_log_variance"])
    for cell in results.cells:
        assert cell.status == "ok"
        assert np.isfinite(cell.measurement.effective_temperatures).all()
        values = cell.evaluations["intervention-agreement"].values
        assert ("temperature-max-log-error" in values) == (cell.objective != "beta-vae")


def test_a_learned_variance_with_too_many_latents_is_a_failed_cell_with_the_sentence(run_suite):
    results, _ = run_suite("learned-variance", latent_dim=4, store="flat")
    assert {cell.status for cell in results.cells} == {"failed"}
    for cell in results.cells:
        assert "'collapsebench/learned-variance': with 4 latents for data of rank 4" in cell.reason
        assert cell.reason.endswith("set latent_dim to at most 3.")
