"""Scoring measures what is lacking and evaluates; it trains nothing, and what goes wrong is a row with a reason."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pandas as pd
import pytest
from flow import stamps, write_suite

from collapsebench.contracts import Evaluation, Metric, Score, load_registry
from collapsebench.executing.execute import execute_job
from collapsebench.planning.cells import make_plan
from collapsebench.planning.jobs import StackChoice, make_jobs
from collapsebench.scoring.results import CellResult, SuiteResults
from collapsebench.scoring.score import questions_of, score_plan
from collapsebench.store import CellRecord, Store
from collapsebench.suite.resolve import load_suite
from collapsebench_objectives.beta_vae import BetaVae

QUICK = ("training.max_updates=16", "scan.temperatures.count=3")
WEIGHTS, OBSERVABLES = "cells/*/*/weights.safetensors", "cells/*/*/observables/*"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a suite and a store in which it is trained; not to be changed."""
    folder = tmp_path_factory.mktemp("trained")
    write_suite(folder)
    store = Store(folder / "store")
    plan = make_plan(load_suite(folder / "tiny.toml", overrides=QUICK), store, load_registry())
    for job in make_jobs(plan, store, "cpu", dict.fromkeys((cell.scan for cell in plan.cells), StackChoice("batched"))):
        execute_job(job)
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    """A copy of the trained folder, to be changed."""
    return shutil.copytree(trained, tmp_path / "copy")


def scored(folder: Path, *overrides: str, **options: Any) -> SuiteResults:
    suite = load_suite(folder / "tiny.toml", overrides=[*QUICK, *overrides], **options)
    store = Store(folder / "store")
    return score_plan(make_plan(suite, store, load_registry()), store, load_registry(), "cpu")


def cell(results: SuiteResults, architecture: str, seed: int) -> CellResult:
    (found,) = [one for one in results.cells if (one.architecture, one.seed) == (architecture, seed)]
    return found


def measured(folder: Path) -> list[str]:
    return sorted({Path(path).name.partition(".")[0] for path in stamps(folder / "store", OBSERVABLES)})


def test_a_new_metric_measures_what_it_needs_and_touches_no_model(folder: Path) -> None:
    models = stamps(folder / "store", WEIGHTS)
    scored(folder, 'metrics=["effective-dimension"]')
    assert measured(folder) == ["truncated-distortion"]
    before = stamps(folder / "store", OBSERVABLES)
    results = scored(folder, 'metrics=["effective-dimension", "equilibrium"]')
    assert measured(folder) == ["equilibrium", "losses", "truncated-distortion"]
    assert before.items() <= stamps(folder / "store", OBSERVABLES).items()
    assert stamps(folder / "store", WEIGHTS) == models
    assert all(set(one.evaluations) == {"effective-dimension", "equilibrium"} for one in results.cells)


def test_scoring_twice_measures_once_and_gives_the_same(folder: Path) -> None:
    first = scored(folder)
    before = stamps(folder / "store", OBSERVABLES)
    again = scored(folder)
    assert stamps(folder / "store", OBSERVABLES) == before
    for one, other in zip(first.cells, again.cells, strict=True):
        assert one.evaluations["effective-dimension"].values == other.evaluations["effective-dimension"].values


def test_other_draws_are_measured_anew_beside_the_old_ones(folder: Path) -> None:
    scored(folder)
    before = stamps(folder / "store", OBSERVABLES)
    scored(folder, "evaluation.max_rows=10")
    after = stamps(folder / "store", OBSERVABLES)
    assert before.items() < after.items()
    assert len(after) == 2 * len(before)


def test_a_cell_that_is_not_trained_is_a_row_that_says_so(trained: Path, tmp_path: Path) -> None:
    suite = load_suite(trained / "tiny.toml", overrides=QUICK)
    store = Store(tmp_path / "empty")
    results = score_plan(make_plan(suite, store, load_registry()), store, load_registry(), "cpu")
    assert [(one.status, one.reason, one.measurement) for one in results.cells] == [
        ("missing", "not trained yet", None)
    ] * 4
    assert not store.root.exists()


def test_a_failed_cell_is_a_row_with_the_first_line_of_its_reason(folder: Path) -> None:
    store = Store(folder / "store")
    plan = make_plan(load_suite(folder / "tiny.toml", overrides=QUICK), store, load_registry())
    lost = plan.cells[0]
    assert lost.key is not None
    store.write_cell(CellRecord(lost.key, lost.description, "failed", "ValueError: no such layer\nTraceback ..."))
    results = scored(folder)
    found = cell(results, "linear", 0)
    assert (found.status, found.reason) == ("failed", "ValueError: no such layer")
    assert [one.status for one in results.cells].count("ok") == 3


def test_a_prediction_that_fails_is_a_row_with_the_reason_and_leaves_the_others_their_scores(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> None:
        raise ZeroDivisionError("no such law")

    monkeypatch.setattr(BetaVae, "prediction", broken)
    results = scored(folder)
    found = cell(results, "linear", 0)
    assert found.status == "failed"
    assert found.reason.startswith(
        "trained, but cannot be scored: objective 'collapsebench/beta-vae': prediction: Zero"
    )
    assert cell(results, "mlp", 0).status == "ok"  # its decoder is not linear: nothing is predicted
    assert cell(results, "mlp", 0).evaluations


def test_damaged_weights_are_a_row_with_the_reason_and_no_number(folder: Path) -> None:
    path = Store(folder / "store").cell_folder(cell(scored(folder), "mlp", 0).key)
    (path / "weights.safetensors").write_bytes(b"\0" * 400)
    results = scored(folder, 'metrics=["effective-dimension", "equilibrium"]')
    found = cell(results, "mlp", 0)
    assert set(found.evaluations) == {"effective-dimension"}
    assert "SHA-256 differs" in found.metric_failures["equilibrium"]
    assert str(path) in found.metric_failures["equilibrium"]
    assert cell(results, "linear", 0).metric_failures == {}


def test_the_neighbours_of_damaged_weights_keep_their_scores(folder: Path) -> None:
    path = Store(folder / "store").cell_folder(cell(scored(folder), "mlp", 0).key)
    (path / "weights.safetensors").unlink()
    results = scored(folder, 'metrics=["equilibrium"]')
    assert set(cell(results, "mlp", 0).metric_failures) == {"equilibrium"}
    assert cell(results, "mlp", 1).metric_failures == {}


def test_a_damaged_observable_is_measured_again_or_a_row_never_a_crash(folder: Path) -> None:
    expected = cell(scored(folder), "mlp", 0)
    (path,) = (Store(folder / "store").cell_folder(expected.key) / "observables").iterdir()
    path.write_bytes(path.read_bytes()[:60])
    results = scored(folder)
    found = cell(results, "mlp", 0)
    values = found.evaluations.get("effective-dimension")
    assert values == expected.evaluations["effective-dimension"] or "effective-dimension" in found.metric_failures
    assert [one.status for one in results.cells] == ["ok"] * 4


def test_a_metric_sees_the_scan_its_reference_and_every_replica(trained: Path, tmp_path: Path) -> None:
    results = scored(shutil.copytree(trained, tmp_path / "copy"))
    for one in results.cells:
        seen = one.measurement
        assert seen is not None
        assert list(seen.temperatures) == [1.0, 0.1, 0.01]
        assert seen.latent_dim == 3
        assert seen.total_variance == pytest.approx(seen.covariance.trace())
        assert seen.has_oracle == (one.architecture == "linear")
        assert list(seen.tables["replicas"]["temperature"]) == [1.0, 0.1, 0.01]
        assert isinstance(seen.tables["truncated-distortion"], pd.DataFrame)


class Two(Metric[Any]):
    """A metric with one score that has a direction and one that has none."""

    scores: ClassVar[tuple[Score, ...]] = (
        Score("aimless", ""),
        Score("gap", "", "lower"),
        Score("later", "", "higher"),
    )

    def evaluate(self, measurement: Any) -> Evaluation:
        return Evaluation({})


class Aside(Two):
    """A metric by which nothing is ranked unless a suite asks for it."""

    ranks: ClassVar[bool] = False


def test_without_a_choice_the_first_directed_score_of_each_metric_that_ranks_is_taken(make: Callable[[], Any]) -> None:
    suite: Any = SimpleNamespace(questions=(), rank_by=None)
    (asked,) = questions_of(suite, {"one": make(), "aside": Aside(None), "two": make()})
    assert asked.scores == ("one/gap", "two/gap")
    assert not asked.title


@pytest.fixture
def make() -> Callable[[], Any]:
    return lambda: Two(None)


def test_provenance_names_the_suite_the_seeds_and_the_device(folder: Path) -> None:
    results = scored(folder)
    found = results.provenance
    assert (found["seeds"], found["split_seed"], found["device"], found["precision"]) == ([0, 1], 0, "cpu", "float32")
    assert len(found["suite_hash"]) == 64
    assert found["packages"].keys() >= {"torch", "numpy"}
    assert results.datasets["gaussian"]["rows"] == {"train": 64, "validation": 64, "test": 64}
