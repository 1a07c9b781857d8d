"""Jobs are frozen from what is missing, say everything an executor needs, and are never misread."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from flow import invoke, stamps, write_suite
from pydantic import ValidationError

from collapsebench.contracts import load_registry
from collapsebench.errors import StoreError
from collapsebench.planning.cells import Cell, Plan, ScanName, key_of, make_plan
from collapsebench.planning.jobs import SCHEMA_VERSION, Job, StackChoice, adopted_keys, make_jobs
from collapsebench.store import CellRecord, Store
from collapsebench.suite.resolve import Reference, Suite, load_suite

CHOICES = {ScanName("gaussian", name, "beta-vae"): StackChoice("batched") for name in ("linear", "mlp")}
FORMER = Path(__file__).resolve().parents[2] / "data/store-20a43c3"
"""A suite, its data and a store that commit 20a43c3 wrote: four cells that ended, two that ran out of time."""


@pytest.fixture
def suite_file(tmp_path: Path) -> Path:
    return write_suite(tmp_path)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def planned(suite: Path | Suite, store: Store, *overrides: str, **options: Any) -> Plan:
    resolved = suite if isinstance(suite, Suite) else load_suite(suite, overrides=overrides, **options)
    return make_plan(resolved, store, load_registry())


def finish(store: Store, cell: Cell) -> None:
    assert cell.key is not None
    store.write_cell(CellRecord(cell.key, cell.description, "ok"))


def test_jobs_hold_every_missing_cell_once_with_no_more_replicas_than_allowed(suite_file: Path, store: Store) -> None:
    plan = planned(suite_file, store, "compute.max_replicas_per_stack=8", "seeds=5")
    jobs = [Job.read(path) for path in make_jobs(plan, store, "cpu", CHOICES)]
    planned_keys = sorted(str(cell.key) for cell in plan.missing)
    assert sorted(cell.key for job in jobs for cell in job.cells) == planned_keys
    assert [(job.name.architecture, list(job.seeds)) for job in jobs] == [
        (name, seeds) for name in ("linear", "mlp") for seeds in ([0, 1], [2, 3], [4])
    ]


def test_freezing_the_same_plan_twice_gives_the_same_jobs(suite_file: Path, store: Store) -> None:
    plan = planned(suite_file, store)
    first = {path: path.read_text() for path in make_jobs(plan, store, "cpu", CHOICES)}
    again = {path: path.read_text() for path in make_jobs(plan, store, "cpu", CHOICES)}
    assert first == again
    assert sorted(first) == sorted((store.root / "jobs").iterdir())


def test_an_unfinished_job_is_taken_up_with_the_composition_it_had(suite_file: Path, store: Store) -> None:
    first = make_jobs(planned(suite_file, store), store, "cpu", CHOICES)
    more = planned(suite_file, store, seeds=3)
    jobs = [Job.read(path) for path in make_jobs(more, store, "cpu", CHOICES)]
    assert len(jobs) == 4
    assert {job.id for job in jobs} > {path.stem for path in first}
    assert sorted(seed for job in jobs for seed in job.seeds) == [0, 0, 1, 1, 2, 2]


def test_limits_of_this_run_replace_those_of_the_interrupted_one(suite_file: Path, store: Store) -> None:
    make_jobs(planned(suite_file, store, "compute.time_limit=0.1", "compute.threads=2"), store, "cpu", CHOICES)
    now = planned(
        suite_file, store, "compute.time_limit=100.0", "training.checkpoint_every_seconds=5.0", "evaluation.max_rows=10"
    )
    for path in make_jobs(now, store, "cpu", CHOICES):
        job = Job.read(path)
        assert (job.time_limit, job.threads, job.scan.training.checkpoint_every_seconds) == (100.0, 1, 5.0)
        assert job.scan.evaluation.max_rows == 10


def test_an_unfinished_job_of_cells_that_are_not_planned_is_left_alone(suite_file: Path, store: Store) -> None:
    left = make_jobs(planned(suite_file, store), store, "cpu", CHOICES)
    other = planned(suite_file, store, "training.max_updates=10")
    assert not {*make_jobs(other, store, "cpu", CHOICES)} & {*left}
    assert all(path.exists() for path in left)


def test_a_job_that_was_killed_after_its_last_cell_leaves_nothing_behind(suite_file: Path, store: Store) -> None:
    for path in make_jobs(planned(suite_file, store), store, "cpu", CHOICES):
        path.with_suffix(".safetensors").write_bytes(b"a checkpoint")
    for cell in planned(suite_file, store).cells:
        finish(store, cell)
    assert make_jobs(planned(suite_file, store), store, "cpu", CHOICES) == []
    assert list((store.root / "jobs").iterdir()) == []


def test_a_damaged_job_file_is_refused_with_its_place(suite_file: Path, store: Store) -> None:
    store.write_text(store.job_file("torn"), '{"cells": [{"key"')
    with pytest.raises(StoreError, match=r"torn\.json: is not a readable job file.*Remove it"):
        make_jobs(planned(suite_file, store), store, "cpu", CHOICES)


def test_a_job_is_what_its_file_says_and_nothing_else(suite_file: Path, store: Store) -> None:
    observables = [Reference("observable", "losses", "losses", {"a": 1}, 1, "collapsebench")]
    for path in make_jobs(planned(suite_file, store), store, "cpu", CHOICES, observables):
        job, content = Job.read(path), json.loads(path.read_text())
        assert content["schema_version"] == SCHEMA_VERSION
        assert content == job.model_dump(mode="json", by_alias=True)
        assert content["observables"][0]["places"] == []  # files keep the name, and with it the ids of jobs
        assert job.observables == tuple(observables)
        assert [key_of(cell.description) for cell in job.cells] == [cell.key for cell in job.cells]
        with pytest.raises(ValidationError, match="frozen"):
            job.suite = "another"  # type: ignore[misc]
        path.write_text(json.dumps({**content, "a key of tomorrow": 1}))
        with pytest.raises(StoreError, match=r"is not a readable job file \(a key of tomorrow: Extra inputs"):
            Job.read(path)


def test_a_job_of_a_later_schema_is_refused_and_kept(suite_file: Path, store: Store) -> None:
    (path, *_) = make_jobs(planned(suite_file, store), store, "cpu", CHOICES)
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": SCHEMA_VERSION + 1}))
    with pytest.raises(StoreError, match="a later release wrote it"):
        make_jobs(planned(suite_file, store), store, "cpu", CHOICES)
    assert path.exists()


def test_a_job_of_an_earlier_schema_is_planned_anew_with_a_notice(suite_file: Path, store: Store) -> None:
    former = make_jobs(planned(suite_file, store), store, "cpu", CHOICES)
    for path in former:
        path.write_text(path.read_text().replace('"schema_version": 3', '"schema_version": 2'))
        path.with_suffix(".safetensors").write_bytes(b"a checkpoint")
    notices: list[str] = []
    plan = planned(suite_file, store)
    jobs = make_jobs(plan, store, "cpu", CHOICES, notice=notices.append)
    assert [notice.split(":")[0] for notice in notices] == sorted(path.name for path in former)
    assert all("job schema 2, now 3). Its cells are planned and trained anew" in notice for notice in notices)
    assert list((store.root / "jobs").glob("*.safetensors")) == []
    assert sorted(cell.key for path in jobs for cell in Job.read(path).cells) == sorted(
        str(cell.key) for cell in plan.missing
    )


def test_a_job_of_an_earlier_schema_that_belongs_to_another_suite_is_left_alone(
    suite_file: Path, store: Store, tmp_path: Path
) -> None:
    shutil.copytree(FORMER / "store/jobs", store.root / "jobs")
    before = stamps(store.root, "jobs/*")
    notices: list[str] = []
    make_jobs(planned(suite_file, store), store, "cpu", CHOICES, notice=notices.append)
    assert notices == []
    assert before.items() <= stamps(store.root, "jobs/*").items()


def test_an_unfinished_job_of_the_same_cells_under_another_name_is_not_taken_up(suite_file: Path, store: Store) -> None:
    left = make_jobs(planned(suite_file, store), store, "cpu", CHOICES)
    renamed = write_suite(suite_file.parent, suite_file.read_text().replace('id = "mlp"', 'id = "other"'), "renamed")
    choices = {**CHOICES, ScanName("gaussian", "other", "beta-vae"): StackChoice("batched")}
    jobs = {path: Job.read(path) for path in make_jobs(planned(renamed, store), store, "cpu", choices)}
    assert sorted(job.name.architecture for job in jobs.values()) == ["linear", "other"]
    assert len(set(jobs) & set(left)) == 1


def test_planning_alone_discards_no_job_file(suite_file: Path, store: Store) -> None:
    for path in make_jobs(planned(suite_file, store), store, "cpu", CHOICES):
        path.with_suffix(".safetensors").write_bytes(b"a checkpoint")
    for cell in planned(suite_file, store).cells:
        finish(store, cell)
    before = stamps(store.root, "jobs/*")
    assert adopted_keys(planned(suite_file, store), store) == set()
    assert stamps(store.root, "jobs/*") == before


def test_a_computation_that_no_release_knows_is_a_damaged_job_file(suite_file: Path, store: Store) -> None:
    (path, *_) = make_jobs(planned(suite_file, store), store, "cpu", CHOICES)
    path.write_text(path.read_text().replace('"batched"', '"by-magic"'))
    with pytest.raises(StoreError, match=r"is not a readable job file \(computation: Input should be 'kernel'"):
        Job.read(path)


def test_the_cells_of_an_earlier_engine_stay_as_they_are_and_are_trained_anew(tmp_path: Path) -> None:
    folder = shutil.copytree(FORMER, tmp_path / "former")
    before = stamps(folder / "store", "cells/*/*/*")
    arguments = (
        folder / "five.toml",
        "--store",
        folder / "store",
        "--set",
        f"datasets.five.path={folder / 'five.csv'}",
    )
    assert invoke("prepare", *arguments).exit_code == 0
    assert "engine" in invoke("explain", *arguments).output
    done = invoke("run", *arguments)
    assert done.exit_code == 0, done.output
    assert "4 cells: 0 done, 4 to train" in done.output
    assert before.items() <= stamps(folder / "store", "cells/*/*/*").items()
    board = (folder / "store/suites/five/board.csv").read_text()
    assert board.count(",linear,") > 10
