"""A job ends with a status for each of its cells, or leaves a checkpoint from which it ends with the same weights."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import safetensors.torch
from flow import digests, stamps, weights, without, write_suite

import collapsebench.executing.execute as execute
import collapsebench.training.build as assembly
import collapsebench.training.choose as paths
from collapsebench.contracts import Progress, load_registry
from collapsebench.errors import StoreError
from collapsebench.executing.execute import execute_job, observable_name, observe_cells
from collapsebench.planning.cells import Plan, make_jobs, make_plan, used
from collapsebench.stack.kernel.library import KernelError
from collapsebench.store import CellRecord, Store, read_checkpoint
from collapsebench.suite.resolve import EvaluationSettings, Reference, load_suite
from collapsebench.training.choose import choose_path

NAMES = ("gaussian", "mlp", "beta-vae")
QUICK = ("training.max_updates=16", "training.convergence.checks=4", "scan.temperatures.count=3")


@pytest.fixture
def freeze(tmp_path: Path) -> Callable[..., tuple[Store, Path]]:
    """Return a function that freezes the mlp's cells into one job in a fresh store."""
    suite = write_suite(tmp_path, without("linear"))
    numbers = count()

    def freeze(*overrides: str) -> tuple[Store, Path]:
        store = Store(tmp_path / f"store-{next(numbers)}")
        (job,) = make_jobs(plan_of(suite, store, *overrides), store, "cpu", {NAMES: (True, "")})
        return store, job

    return freeze


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Plan]:
    """A store with both cells of the mlp, never interrupted; not to be changed."""
    folder = tmp_path_factory.mktemp("trained")
    suite, store = write_suite(folder, without("linear")), Store(folder / "store")
    (job,) = make_jobs(plan_of(suite, store), store, "cpu", {NAMES: (True, "")})
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
        assert {"wall_seconds", "torch", "device", "plugins", "path"} <= record.provenance.keys()


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
    job.write_text(json.dumps({**json.loads(job.read_text()), "path": "fused"}))
    with pytest.raises(KeyboardInterrupt):
        execute_job(job, stop=stop_after(8))
    monkeypatch.setattr(execute, "load_kernel", missing)
    seen: list[int] = []
    assert set(execute_job(job, lambda name, progress: seen.append(progress.update)).values()) == {"ok"}
    assert seen == [12, 16]
    for record, reference in zip(cells(store), cells(trained[0]), strict=True):
        assert record.provenance["path"] == "batched"
        assert record.provenance["why_this_path"] == "fused, as planned: no C compiler (cc) on the path"
        ours, theirs = ([replica["loss"] for replica in each.replicas] for each in (record, reference))
        assert ours == pytest.approx(theirs, rel=1e-4)


def test_a_path_of_the_kernel_is_left_for_a_job_that_goes_on_elsewhere_than_on_the_cpu() -> None:
    job = {"path": "chained", "device": "cuda", "why_this_path": ""}
    assert execute.possible_here(job)["path"] == "batched"
    assert execute.possible_here({**job, "path": "grouped"})["path"] == "grouped"


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

    monkeypatch.setattr(assembly, "build_stack", broken)
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
    assert "dataset 'gaussian': loaded with fingerprint" in reason
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


def test_the_first_party_architectures_are_batched_and_what_cannot_be_built_is_left_to_the_job(
    trained: tuple[Store, Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, plan = trained
    assert choose_path(plan, NAMES, "cpu", load_registry()) == ("fused", "")

    def broken(*arguments: Any) -> None:
        raise ZeroDivisionError("no such layer")

    monkeypatch.setattr(paths, "build_stack", broken)
    assert choose_path(plan, NAMES, "cpu", load_registry()) == ("one-by-one", "")


@pytest.fixture
def convolutions(tmp_path: Path) -> Plan:
    """A plan of the mlp and of conv encoder and decoder on 36 features that are images of 6 x 6."""
    suite = write_suite(tmp_path, without("linear"))
    plan = plan_of(suite, Store(tmp_path / "store"), "datasets.gaussian.dimension=36")
    data = plan.data["gaussian"]
    splits = {name: replace(split, values=split.values.reshape(-1, 1, 6, 6)) for name, split in data.splits.items()}
    mlp = plan.suite.architectures[0]
    conv = {
        kind: Reference(kind, "conv", "conv", {"channels": 4}, 1, "collapsebench") for kind in ("encoder", "decoder")
    }
    suite = replace(plan.suite, architectures=(mlp, replace(mlp, id="conv", **conv)))
    return replace(plan, suite=suite, data={"gaussian": replace(data, shape=(1, 6, 6), splits=splits)})


def test_what_the_kernel_does_not_cover_is_measured_along_every_path(convolutions: Plan) -> None:
    path, reason = choose_path(convolutions, ("gaussian", "conv", "beta-vae"), "cpu", load_registry())
    found = re.fullmatch(
        r"fused: the encoder .*; measured with 6 replicas on \d+ threads, ms per replica-update: (.*)", reason
    )
    assert found is not None
    paths = [part.split()[0] for part in found[1].split(", ")]
    assert sorted(paths) == ["batched", "chained", "grouped", "one-by-one", "side-by-side"]
    assert path in paths[:2]


def test_the_path_that_was_measured_fastest_is_taken(convolutions: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths.calibrate, "time_paths", lambda stacks, x, noise: {"grouped": 2.0, "chained": 2.1})
    path, reason = choose_path(convolutions, ("gaussian", "conv", "beta-vae"), "cpu", load_registry())
    assert (path, reason.endswith("grouped 2, chained 2.1")) == ("grouped", True)


def test_a_path_that_fails_when_measured_is_left_out_with_its_reason(
    convolutions: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = paths.build_stack

    def some(content: dict[str, Any], *arguments: Any) -> Any:
        if content["path"] == "grouped":
            raise MemoryError("no room")
        return build(content, *arguments)

    monkeypatch.setattr(paths, "build_stack", some)
    path, reason = choose_path(convolutions, ("gaussian", "conv", "beta-vae"), "cpu", load_registry())
    assert path != "grouped"
    assert reason.endswith("; grouped: MemoryError: no room")


def test_calibration_takes_no_more_replicas_than_memory_holds_on_every_path(
    convolutions: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("gaussian", "conv", "beta-vae")
    found = paths.predict_memory(convolutions, names, "cpu", "batched", load_registry())
    assert found is not None
    monkeypatch.setattr(paths, "room", lambda device, limit: 5 * found.bytes(2))
    _, reason = choose_path(convolutions, names, "cpu", load_registry())
    assert "measured with 2 replicas" in reason


def test_the_memory_of_one_replica_on_each_core_counts_the_activations_of_every_core(convolutions: Plan) -> None:
    names = ("gaussian", "conv", "beta-vae")
    found = []
    for threads in (1, 3):
        compute = convolutions.suite.compute.model_copy(update={"threads": threads})
        plan = replace(convolutions, suite=replace(convolutions.suite, compute=compute))
        found.append(paths.predict_memory(plan, names, "cpu", "side-by-side", load_registry()))
    alone, three = found
    assert alone is not None
    assert three is not None
    assert three.update.shared == 3 * alone.update.shared > 0
    assert (three.update.each, three.check) == (alone.update.each, alone.check)


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
    architecture = plan.suite.architectures[0]
    content = {
        "encoder": used(architecture.encoder),
        "decoder": used(architecture.decoder),
        "objective": used(plan.suite.objectives[0]),
        "latent_dim": architecture.latent_dim,
        "temperatures": list(plan.suite.scan.temperatures),
        "evaluation": plan.suite.evaluation.model_dump(mode="json"),
        "device": "cpu",
        "precision": "float32",
    }
    references = [Reference("observable", name, name, {}, 1, "collapsebench") for name in names]
    return observe_cells(store, records, content, plan.data["gaussian"], references, load_registry())


def test_a_cell_observed_alone_equals_the_same_cell_observed_with_others(freeze: Any) -> None:
    store, job = freeze()
    execute_job(job)
    plan = plan_again(store)
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


def test_an_observable_that_does_not_exist_is_a_failure_of_its_own(freeze: Any) -> None:
    store, job = freeze()
    execute_job(job)
    plan = plan_again(store)
    failures = observe(store, plan, cells(store), "no-such-thing", "losses")
    assert failures.keys() == {"no-such-thing"}
    assert "unknown observable" in failures["no-such-thing"]
    assert len(frames(store)) == 2


def test_damaged_weights_are_never_observed(freeze: Any) -> None:
    store, job = freeze()
    execute_job(job)
    plan = plan_again(store)
    path = store.cell_folder(cells(store)[0].key) / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match="SHA-256 differs"):
        observe(store, plan, cells(store), "losses")
    assert frames(store) == {}
