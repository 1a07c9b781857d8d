"""Stored cells are observed as one model, in the job that trained them or later."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from flow import without, write_suite

import collapsebench.executing.observe as observing
from collapsebench.contracts import load_registry
from collapsebench.errors import StoreError
from collapsebench.executing.execute import execute_job
from collapsebench.executing.observe import observable_name, observe_cells
from collapsebench.observing.observe import measure
from collapsebench.planning.cells import Plan, ScanName, make_plan
from collapsebench.planning.jobs import ScanSpec, StackChoice, make_jobs
from collapsebench.store import CellRecord, Store
from collapsebench.suite.resolve import EvaluationSettings, Reference, load_suite

MLP = ScanName("gaussian", "mlp", "beta-vae")
QUICK = ("training.max_updates=16", "training.convergence.checks=4", "scan.temperatures.count=3")


def plan_of(suite: Path, store: Store) -> Plan:
    return make_plan(load_suite(suite, overrides=QUICK), store, load_registry())


def train(folder: Path, *observables: str) -> tuple[Store, Plan]:
    """Train both cells of the mlp in a fresh store, observing what is named."""
    suite, store = write_suite(folder, without("linear")), Store(folder / "store")
    references = [Reference("observable", name, name, {}, 1, "collapsebench") for name in observables]
    (job,) = make_jobs(plan_of(suite, store), store, "cpu", {MLP: StackChoice("batched")}, references)
    assert set(execute_job(job).values()) == {"ok"}
    return store, plan_of(suite, store)


@pytest.fixture
def trained(tmp_path: Path) -> tuple[Store, Plan]:
    """A store with both cells of the mlp, not observed."""
    return train(tmp_path)


def cells(store: Store) -> list[CellRecord]:
    return sorted(store.cells(), key=lambda record: record.description["seed"])


def test_what_a_job_asks_for_is_observed_where_it_was_trained(tmp_path: Path) -> None:
    store, plan = train(tmp_path, "losses", "no-such-thing")
    by_job = frames(store)
    assert {Path(name).name.partition(".")[0] for name in by_job} == {"losses"}
    assert len(by_job) == 2
    assert observe(store, plan, cells(store), "losses") == {}
    for name, frame in frames(store).items():
        pd.testing.assert_frame_equal(frame, by_job[name])


def test_an_observable_s_name_changes_with_what_decides_its_numbers_only() -> None:
    reference = Reference("observable", "losses", "losses", {"a": 1, "b": 2}, 1, "collapsebench")
    settings = EvaluationSettings()
    name = observable_name(reference, settings)
    assert name.startswith("losses.")
    assert observable_name(replace(reference, parameters={"b": 2, "a": 1}, id="renamed"), settings) == name
    changed = [
        observable_name(replace(reference, version=2), settings),
        observable_name(replace(reference, parameters={"a": 1, "b": 3}), settings),
        observable_name(replace(reference, distribution="elsewhere"), settings),
        observable_name(reference, EvaluationSettings(samples=10)),
    ]
    assert len({name, *changed}) == 5


def observe(store: Store, plan: Plan, records: list[CellRecord], *names: str) -> dict[str, str]:
    scan = ScanSpec.of(plan.suite, MLP, "cpu")
    references = [Reference("observable", name, name, {}, 1, "collapsebench") for name in names]
    return observe_cells(store, records, scan, plan.data["gaussian"], references, load_registry())


def test_a_cell_observed_alone_equals_the_same_cell_observed_with_others(trained: tuple[Store, Plan]) -> None:
    store, plan = trained
    assert observe(store, plan, cells(store), "losses", "latent-moments") == {}
    together = frames(store)
    for record in cells(store):
        assert observe(store, plan, [record], "losses", "latent-moments") == {}
    for name, frame in frames(store).items():
        pd.testing.assert_frame_equal(frame, together[name], rtol=1e-5, atol=1e-7)
        assert list(frame["split"].unique()) == ["train", "validation", "test"]
        assert set(frame["temperature"]) == {1.0, 0.1, 0.01}


def frames(store: Store) -> dict[str, pd.DataFrame]:
    paths = store.root.glob("cells/*/*/observables/*.parquet")
    return {path.relative_to(store.root).as_posix(): pd.read_parquet(path) for path in paths}


def test_an_observable_that_does_not_exist_is_a_failure_of_its_own(trained: tuple[Store, Plan]) -> None:
    store, plan = trained
    failures = observe(store, plan, cells(store), "no-such-thing", "losses")
    assert failures.keys() == {"no-such-thing"}
    assert "unknown observable" in failures["no-such-thing"]
    assert len(frames(store)) == 2


def test_damaged_weights_are_never_observed(trained: tuple[Store, Plan]) -> None:
    store, plan = trained
    path = store.cell_folder(cells(store)[0].key) / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match="SHA-256 differs"):
        observe(store, plan, cells(store), "losses")
    assert frames(store) == {}


def test_ctrl_c_while_a_job_observes_stops_the_run_with_the_cells_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def measured(name: str, *arguments: Any) -> pd.DataFrame:
        asked.append(name)
        return measure(name, *arguments)

    monkeypatch.setattr(observing, "measure", measured)
    suite, store = write_suite(tmp_path, without("linear")), Store(tmp_path / "store")
    references = [Reference("observable", name, name, {}, 1, "collapsebench") for name in ("losses", "latent-moments")]
    (job,) = make_jobs(plan_of(suite, store), store, "cpu", {MLP: StackChoice("batched")}, references)
    with pytest.raises(KeyboardInterrupt):
        execute_job(job, stop=lambda: bool(asked))
    assert asked == ["losses"]
    assert {record.status for record in store.cells()} == {"ok"}
    assert make_jobs(plan_of(suite, store), store, "cpu", {MLP: StackChoice("batched")}, references) == []
    assert not job.exists()


def test_a_damaged_cell_of_a_resumed_job_stops_neither_its_other_cells_nor_the_run(
    trained: tuple[Store, Plan], tmp_path: Path
) -> None:
    store, _ = trained
    first, second = cells(store)
    references = [Reference("observable", "losses", "losses", {}, 1, "collapsebench")]
    fresh = Store(tmp_path / "fresh")
    suite = tmp_path / "tiny.toml"
    (job,) = make_jobs(plan_of(suite, fresh), fresh, "cpu", {MLP: StackChoice("batched")}, references)
    shutil.copytree(store.cell_folder(first.key), fresh.cell_folder(first.key))
    with (fresh.cell_folder(first.key) / "weights.safetensors").open("ab") as file:
        file.write(b"damage")
    assert set(execute_job(job).values()) == {"ok"}
    assert {Path(name).parts[2] for name in frames(fresh)} == {second.key}


def test_no_more_replicas_are_observed_together_than_were_trained_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = []

    def measured(name: str, observable: Any, model: Any, samples: Any) -> pd.DataFrame:
        together.append(len(model.temperatures))
        return measure(name, observable, model, samples)

    monkeypatch.setattr(observing, "measure", measured)
    suite, store = write_suite(tmp_path, without("linear")), Store(tmp_path / "store")
    references = [Reference("observable", "losses", "losses", {}, 1, "collapsebench")]
    choice = StackChoice("batched", max_replicas=lambda wanted: 3)
    (job,) = make_jobs(plan_of(suite, store), store, "cpu", {MLP: choice}, references)
    execute_job(job)
    assert together == [3, 3]
    assert len(frames(store)) == 2
