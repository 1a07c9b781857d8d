"""A job ends with a status for each of its cells, or leaves a checkpoint from which it ends with the same weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import safetensors.torch
from flow import digests, stamps, weights, without, write_suite

import collapsebench.executing.execute as execute
import collapsebench.training.build as build
from collapsebench.contracts import Progress, load_registry
from collapsebench.errors import StoreError
from collapsebench.executing.execute import execute_job
from collapsebench.planning.cells import Plan, ScanName, make_plan
from collapsebench.planning.jobs import Job, StackChoice, make_jobs
from collapsebench.stack.kernel.library import KernelError
from collapsebench.store import CellRecord, Store, read_checkpoint
from collapsebench.suite.resolve import load_suite

MLP = ScanName("gaussian", "mlp", "beta-vae")
QUICK = ("training.max_updates=16", "training.convergence.checks=4", "scan.temperatures.count=3")


@pytest.fixture
def freeze(tmp_path: Path) -> Callable[..., tuple[Store, Path]]:
    """Return a function that freezes the mlp's cells into one job in a fresh store."""
    suite = write_suite(tmp_path, without("linear"))
    numbers = count()

    def freeze(*overrides: str) -> tuple[Store, Path]:
        store = Store(tmp_path / f"store-{next(numbers)}")
        (job,) = make_jobs(plan_of(suite, store, *overrides), store, "cpu", {MLP: StackChoice("batched")})
        return store, job

    return freeze


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Plan]:
    """A store with both cells of the mlp, never interrupted; not to be changed."""
    folder = tmp_path_factory.mktemp("trained")
    suite, store = write_suite(folder, without("linear")), Store(folder / "store")
    (job,) = make_jobs(plan_of(suite, store), store, "cpu", {MLP: StackChoice("batched")})
    assert set(execute_job(job).values()) == {"ok"}
    return store, plan_of(suite, store)


def plan_of(suite: Path, store: Store, *overrides: str) -> Plan:
    return make_plan(load_suite(suite, overrides=[*QUICK, *overrides]), store, load_registry())


def plan_again(store: Store) -> Plan:
    return plan_of(store.root.with_name("tiny.toml"), store)


def stop_after(updates: int) -> Callable[[], bool]:
    asked: Iterator[int] = count(1)
    return lambda: next(asked) >= updates


def cells(store: Store) -> list[CellRecord]:
    return sorted(store.cells(), key=lambda record: record.description["seed"])


def update_of(job: Path) -> int:
    import torch

    return int(read_checkpoint(job.with_suffix(".safetensors"), torch.device("cpu"))[1]["update"])


def test_a_job_that_ended_leaves_its_cells_and_neither_job_nor_checkpoint(trained: tuple[Store, Plan]) -> None:
    store, plan = trained
    assert list((store.root / "jobs").iterdir()) == []
    assert [record.key for record in cells(store)] == [cell.key for cell in plan.cells]
    for record in cells(store):
        assert [replica["temperature"] for replica in record.replicas] == list(plan.suite.scan.temperatures)
        assert {replica["mark"] for replica in record.replicas} <= {"converged", "budget", "unstable"}
        assert digests(store.cell_folder(record.key), "weights.*", "log.*") == dict(record.files)
        log = pd.read_parquet(store.cell_folder(record.key) / "log.parquet")
        assert set(log["replica"]) == {0, 1, 2}
        assert set(log["update"]) == {4, 8, 12, 16}
        assert {"wall_seconds", "torch", "device", "plugins", "computation"} <= record.provenance.keys()


def test_progress_is_reported_at_every_check_under_the_job_s_name(freeze: Any) -> None:
    _, job = freeze()
    seen: list[tuple[str, Progress]] = []
    execute_job(job, lambda name, progress: seen.append((name, progress)))
    assert {name for name, _ in seen} == {"gaussian/mlp/beta-vae"}
    assert [(progress.update, progress.budget) for _, progress in seen] == [(update, 16) for update in (4, 8, 12, 16)]
    assert (seen[-1][1].settled, seen[-1][1].replicas) == (6, 6)


@pytest.mark.parametrize("updates", [1, 4, 7, 16])
def test_a_job_stopped_after_any_update_ends_with_the_weights_it_would_have_had(
    freeze: Any, trained: tuple[Store, Plan], updates: int
) -> None:
    store, job = freeze()
    with pytest.raises(KeyboardInterrupt):
        execute_job(job, stop=stop_after(updates))
    assert update_of(job) == updates
    assert list(store.cells()) == []
    assert set(execute_job(job).values()) == {"ok"}
    assert weights(store.root) == weights(trained[0].root)
    assert list((store.root / "jobs").iterdir()) == []


def test_a_job_stopped_again_and_again_never_does_an_update_twice(freeze: Any, trained: tuple[Store, Plan]) -> None:
    store, job = freeze()
    for updates in (3, 6, 9):
        with pytest.raises(KeyboardInterrupt):
            execute_job(job, stop=stop_after(3))
        assert update_of(job) == updates
    execute_job(job)
    assert weights(store.root) == weights(trained[0].root)


def test_a_job_frozen_with_the_kernel_goes_on_from_its_checkpoint_where_there_is_none(
    freeze: Any, trained: tuple[Store, Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise KernelError("no C compiler (cc) on the path")

    store, job = freeze()
    job.write_text(json.dumps({**json.loads(job.read_text()), "computation": "kernel"}))
    with pytest.raises(KeyboardInterrupt):
        execute_job(job, stop=stop_after(8))
    monkeypatch.setattr(execute, "load_kernel", missing)
    seen: list[int] = []
    assert set(execute_job(job, lambda name, progress: seen.append(progress.update)).values()) == {"ok"}
    assert seen == [12, 16]
    for record, reference in zip(cells(store), cells(trained[0]), strict=True):
        assert record.provenance["computation"] == "batched"
        assert record.provenance["why_this_computation"] == "kernel, as planned: no C compiler (cc) on the path"
        ours, theirs = ([replica["loss"] for replica in each.replicas] for each in (record, reference))
        assert ours == pytest.approx(theirs, rel=1e-4)


def test_a_computation_of_the_kernel_is_left_for_a_job_that_goes_on_elsewhere_than_on_the_cpu(freeze: Any) -> None:
    _, path = freeze()
    job = Job.read(path)
    elsewhere = job.model_copy(
        update={"scan": job.scan.model_copy(update={"device": "cuda"}), "computation": "kernel-chains"}
    )
    assert execute.possible_here(elsewhere).computation == "batched"
    kept = elsewhere.model_copy(update={"computation": "groups-on-cores"})
    assert execute.possible_here(kept).computation == "groups-on-cores"


@pytest.mark.parametrize(
    ("device", "triton", "expected"),
    [("cpu", True, "batched"), ("cuda", False, "graph"), ("cuda", True, "graph-of-kernels")],
)
def test_what_was_planned_for_triton_goes_on_without_it(
    freeze: Any, monkeypatch: pytest.MonkeyPatch, device: str, triton: bool, expected: str
) -> None:
    job = Job.read(freeze()[1])
    scan = job.scan.model_copy(update={"device": device})
    monkeypatch.setattr(execute, "find_spec", lambda name: object() if triton else None)
    found = execute.possible_here(job.model_copy(update={"scan": scan, "computation": "graph-of-kernels"}))
    assert found.computation == expected


def test_out_of_time_is_a_status_that_keeps_the_checkpoint_and_continues(
    freeze: Any, trained: tuple[Store, Plan]
) -> None:
    store, job = freeze("compute.time_limit=1e-6")
    for updates in (1, 2):
        assert set(execute_job(job).values()) == {"timeout"}
        assert update_of(job) == updates
        assert {record.reason for record in cells(store)} == {
            f"{updates} of 16 updates done when the time limit passed"
        }
    job.write_text(json.dumps({**json.loads(job.read_text()), "time_limit": None}))
    assert set(execute_job(job).values()) == {"ok"}
    assert weights(store.root) == weights(trained[0].root)


def test_a_cell_that_has_ended_is_not_written_again_with_the_rest_of_its_job(freeze: Any) -> None:
    store, job = freeze()
    content = job.read_text()
    execute_job(job)
    first, second = (store.cell_folder(record.key).relative_to(store.root) for record in cells(store))
    for path in (store.root / second).iterdir():
        path.unlink()
    before = stamps(store.root, f"{first}/*")
    store.write_text(job, content)
    assert set(execute_job(job).values()) == {"ok"}
    assert stamps(store.root, f"{first}/*") == before
    assert (store.root / second / "cell.json").exists()


FAILURES = {
    "failed": (ZeroDivisionError("no width"), "ZeroDivisionError: no width"),
    "out-of-memory": (MemoryError("unable to allocate"), "MemoryError: unable to allocate"),
    "not-installed": (ModuleNotFoundError("No module named 'absent'"), "No module named 'absent'"),
}


@pytest.mark.parametrize("status", FAILURES)
def test_a_job_that_breaks_gives_every_cell_the_status_the_reason_and_the_traceback(
    freeze: Any, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    error, reason = FAILURES[status]

    def broken(*arguments: Any) -> None:
        raise error

    monkeypatch.setattr(build, "build_stack", broken)
    store, job = freeze()
    assert list(execute_job(job).values()) == [status] * 2
    for record in cells(store):
        assert record.status == status
        assert reason in record.reason.splitlines()[0]
        assert "Traceback (most recent call last)" in record.reason
    assert not job.exists()


def test_a_replica_that_is_no_longer_finite_makes_its_cell_diverged_and_says_at_which_temperature(freeze: Any) -> None:
    store, job = freeze("training.optimiser.learning_rate=1e30", "training.warm_up=0")
    assert set(execute_job(job).values()) == {"diverged"}
    for record in cells(store):
        assert record.reason == "not finite at T = 1, 0.1, 0.01"
        assert [replica["mark"] for replica in record.replicas] == ["diverged"] * 3
        assert json.loads(json.dumps(record.replicas, allow_nan=False))


def test_data_that_are_not_the_planned_ones_are_never_trained_on(freeze: Any) -> None:
    store, job = freeze()
    content = json.loads(job.read_text())
    content["dataset"]["parameters"]["samples"] = 65
    job.write_text(json.dumps(content))
    assert set(execute_job(job).values()) == {"failed"}
    reason = cells(store)[0].reason.splitlines()[0]
    assert "dataset 'gaussian': found data with fingerprint" in reason
    assert "planned with" in reason


def test_a_store_that_can_no_longer_be_written_ends_the_run_and_keeps_the_job(
    freeze: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    store, job = freeze()
    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(StoreError, match=r"could not be written.*No space left on device"):
        execute_job(job)
    assert job.exists()
    assert list(store.cells()) == []
