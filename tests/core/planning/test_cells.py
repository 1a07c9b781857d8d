"""Keys hold everything that decides a cell's numbers and nothing else; jobs are frozen from what is missing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flow import TINY, invoke, write_suite

from collapsebench.contracts import load_registry
from collapsebench.errors import StoreError
from collapsebench.planning.cells import (
    Cell,
    Plan,
    describe,
    differences,
    error_text,
    key_of,
    make_jobs,
    make_plan,
    nearest,
)
from collapsebench.store import CellRecord, Store
from collapsebench.suite.resolve import Suite, load_suite
from collapsebench.training import planned_stacks
from collapsebench.training.choose import predict_seconds
from collapsebench.verbs.run import open_session

WORLDCLIM = TINY + '[[datasets]]\nuse = "worldclim"\n'
PATHS = {("gaussian", name, "beta-vae"): (True, "") for name in ("linear", "mlp")}


@pytest.fixture
def suite_file(tmp_path: Path) -> Path:
    return write_suite(tmp_path)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def planned(suite: Path | Suite, store: Store, *overrides: str, **options: Any) -> Plan:
    resolved = suite if isinstance(suite, Suite) else load_suite(suite, overrides=overrides, **options)
    return make_plan(resolved, store, load_registry())


def keys(plan: Plan) -> dict[str, str | None]:
    return {cell.name: cell.key for cell in plan.cells}


def finish(store: Store, cell: Cell, status: str = "ok", **description: Any) -> None:
    assert cell.key is not None
    described = {**cell.description, **description}
    store.write_cell(CellRecord(key_of(described), described, status, "" if status == "ok" else "a reason"))


@pytest.mark.parametrize(
    "override",
    [
        'title = "Another"', "training.checkpoint_every_seconds=0.1", "compute.threads=2", "compute.device='auto'",
        "compute.time_limit=3.0", "compute.max_replicas_per_stack=4", "evaluation.max_rows=10",
        'metrics=["pca-agreement", "equilibrium"]', 'rank_by=["effective-dimension/at-5%"]',
        "compute.executor={ use = 'local' }", "sweep.scan.latent_dim=[3]",
    ],
)  # fmt: skip
def test_what_decides_no_number_is_in_no_key(suite_file: Path, store: Store, override: str) -> None:
    changed = keys(planned(suite_file, store, override))
    assert list(changed.values()) == list(keys(planned(suite_file, store)).values())


CHANGES = {
    "architectures.mlp.encoder.width=16": {"encoder.parameters.width"},
    "architectures.mlp.decoder.depth=2": {"decoder.parameters.depth"},
    "architectures.mlp.latent_dim=2": {"latent_dim"},
    "architectures.mlp.learning_rate=0.7": {"training.optimiser.learning_rate"},
    "scan.latent_dim=2": {"latent_dim"},
    "scan.temperatures.count=5": {"temperatures"},
    "split_seed=1": {"dataset.split_seed", "dataset.data"},
    "datasets.gaussian.samples=65": {"dataset.parameters.samples", "dataset.data"},
    "training.batch_size='full'": {"training.batch_size"},
    "training.max_updates=61": {"training.max_updates"},
    "training.optimiser.learning_rate=2e-2": {"training.optimiser.learning_rate"},
    "training.convergence.drift=0.1": {"training.convergence.drift"},
    "evaluation.samples=65": {"equilibrium.samples"},
    "evaluation.active_threshold=0.2": {"equilibrium.active_threshold"},
    "compute.precision='float64'": {"precision"},
    "objectives.beta-vae.decoder_variance=2.0": {"objective.parameters.decoder_variance"},
}


@pytest.mark.parametrize("override", CHANGES)
def test_what_decides_numbers_changes_the_key_and_is_named_as_the_difference(
    suite_file: Path, store: Store, override: str
) -> None:
    before, after = planned(suite_file, store), planned(suite_file, store, override)
    ours, theirs = after.cells[-1], before.cells[-1]
    assert ours.name == theirs.name == "gaussian/mlp/beta-vae/1"
    assert ours.key != theirs.key
    assert set(differences(ours.description, theirs.description)) == CHANGES[override]


def test_a_new_parameter_of_one_architecture_leaves_the_others_their_keys(suite_file: Path, store: Store) -> None:
    before = keys(planned(suite_file, store))
    after = keys(planned(suite_file, store, "architectures.mlp.encoder.width=16"))
    assert {name.split("/")[1] for name in before if before[name] != after[name]} == {"mlp"}


def test_a_new_seed_leaves_the_others_their_keys(suite_file: Path, store: Store) -> None:
    two, three = keys(planned(suite_file, store)), keys(planned(suite_file, store, seeds=3))
    assert two.items() < three.items()
    assert {name.rpartition("/")[2] for name in three.keys() - two.keys()} == {"2"}


def test_keys_do_not_depend_on_the_order_or_the_names_in_the_suite(tmp_path: Path, store: Store) -> None:
    head, *tables = TINY.split("[[architectures]]")
    turned = "[[architectures]]".join([head, *reversed([f"{table}\n" for table in tables])])
    turned = turned.replace('"linear"\nencoder', '"straight"\nencoder').replace("seeds = 2", "seeds = [1, 0]")
    before = keys(planned(write_suite(tmp_path), store))
    after = keys(planned(write_suite(tmp_path, turned, "turned"), store))
    assert {name.replace("straight", "linear"): key for name, key in after.items()} == before
    assert list(after) != list(before)


def test_a_version_and_an_owner_of_a_component_are_part_of_the_key(suite_file: Path) -> None:
    suite = load_suite(suite_file)
    dataset, architecture, objective = suite.datasets[0], suite.architectures[0], suite.objectives[0]
    plain = key_of(describe(suite, dataset, architecture, objective, 0, "data"))
    raised = replace(architecture, encoder=replace(architecture.encoder, version=2))
    foreign = replace(architecture, decoder=replace(architecture.decoder, distribution="elsewhere"))
    others = [
        describe(suite, replace(dataset, version=2), architecture, objective, 0, "data"),
        describe(suite, dataset, raised, objective, 0, "data"),
        describe(suite, dataset, foreign, objective, 0, "data"),
        describe(suite, dataset, architecture, replace(objective, version=2), 0, "data"),
        describe(suite, dataset, architecture, objective, 1, "data"),
        describe(suite, dataset, architecture, objective, 0, "other data"),
    ]
    assert len({plain, *map(key_of, others)}) == 1 + len(others)


def test_where_data_lie_is_in_no_key_and_no_absolute_path_is(tmp_path: Path) -> None:
    path = write_suite(tmp_path, WORLDCLIM)
    described = []
    for place in ("/here/archive.zip", "/there/layers"):
        suite = load_suite(path, overrides=[f'datasets.worldclim.path="{place}"'])
        described.append(describe(suite, suite.datasets[1], suite.architectures[0], suite.objectives[0], 0, "data"))
    assert key_of(described[0]) == key_of(described[1])
    assert not [text for text in strings(described) if text.startswith("/") or str(tmp_path) in text]


def strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for key, each in value.items() for text in (key, *strings(each))]
    if isinstance(value, list):
        return [text for each in value for text in strings(each)]
    return [value] if isinstance(value, str) else []


def test_a_key_does_not_depend_on_the_order_of_a_description_and_knows_no_nan() -> None:
    assert key_of({"a": 1, "b": {"c": 2, "d": 3.0}}) == key_of({"b": {"d": 3.0, "c": 2}, "a": 1})
    assert key_of({"a": 1}) != key_of({"a": "1"})
    with pytest.raises(ValueError, match="not JSON compliant"):
        key_of({"a": float("nan")})


def test_planning_writes_nothing_and_repeats_itself(suite_file: Path, store: Store) -> None:
    first = planned(suite_file, store)
    assert keys(first) == keys(planned(suite_file, store))
    assert [cell.status for cell in first.cells] == ["missing"] * 4
    assert not store.root.exists()


def test_a_dataset_that_is_not_prepared_leaves_its_cells_pending_without_a_key(tmp_path: Path, store: Store) -> None:
    plan = planned(write_suite(tmp_path, WORLDCLIM), store)
    pending = [cell for cell in plan.cells if cell.dataset == "worldclim"]
    assert {(cell.key, cell.status) for cell in pending} == {(None, "pending")}
    assert {cell.dataset for cell in plan.missing} == {"gaussian"}
    assert plan.failures == {}


@pytest.mark.parametrize(("status", "again"), [("ok", False), ("diverged", False), ("failed", True), ("timeout", True)])
def test_only_what_ended_is_not_trained_again(suite_file: Path, store: Store, status: str, again: bool) -> None:
    cell = planned(suite_file, store).cells[0]
    finish(store, cell, status)
    found = planned(suite_file, store)
    assert found.cells[0].status == status
    assert (found.cells[0] in found.missing) == again


def test_jobs_hold_every_missing_cell_once_with_no_more_replicas_than_allowed(suite_file: Path, store: Store) -> None:
    plan = planned(suite_file, store, "compute.max_replicas_per_stack=8", "seeds=5")
    jobs = [json.loads(path.read_text()) for path in make_jobs(plan, store, "cpu", PATHS)]
    planned_keys = sorted(str(cell.key) for cell in plan.missing)
    assert sorted(cell["key"] for job in jobs for cell in job["cells"]) == planned_keys
    assert [(job["names"][1], [cell["seed"] for cell in job["cells"]]) for job in jobs] == [
        (name, seeds) for name in ("linear", "mlp") for seeds in ([0, 1], [2, 3], [4])
    ]


def test_freezing_the_same_plan_twice_gives_the_same_jobs(suite_file: Path, store: Store) -> None:
    plan = planned(suite_file, store)
    first = {path: path.read_text() for path in make_jobs(plan, store, "cpu", PATHS)}
    again = {path: path.read_text() for path in make_jobs(plan, store, "cpu", PATHS)}
    assert first == again
    assert sorted(first) == sorted((store.root / "jobs").iterdir())


def test_an_unfinished_job_is_taken_up_with_the_composition_it_had(suite_file: Path, store: Store) -> None:
    first = make_jobs(planned(suite_file, store), store, "cpu", PATHS)
    more = planned(suite_file, store, seeds=3)
    jobs = [json.loads(path.read_text()) for path in make_jobs(more, store, "cpu", PATHS)]
    assert len(jobs) == 4
    assert {job["id"] for job in jobs} > {path.stem for path in first}
    assert sorted(cell["seed"] for job in jobs for cell in job["cells"]) == [0, 0, 1, 1, 2, 2]


def test_limits_of_this_run_replace_those_of_the_interrupted_one(suite_file: Path, store: Store) -> None:
    make_jobs(planned(suite_file, store, "compute.time_limit=0.1", "compute.threads=2"), store, "cpu", PATHS)
    now = planned(suite_file, store, "compute.time_limit=100.0", "training.checkpoint_every_seconds=5.0")
    for path in make_jobs(now, store, "cpu", PATHS):
        job = json.loads(path.read_text())
        assert (job["time_limit"], job["threads"], job["training"]["checkpoint_every_seconds"]) == (100.0, 1, 5.0)


def test_an_unfinished_job_of_cells_that_are_not_planned_is_left_alone(suite_file: Path, store: Store) -> None:
    left = make_jobs(planned(suite_file, store), store, "cpu", PATHS)
    other = planned(suite_file, store, "training.max_updates=10")
    assert not {*make_jobs(other, store, "cpu", PATHS)} & {*left}
    assert all(path.exists() for path in left)


def test_a_job_that_was_killed_after_its_last_cell_leaves_nothing_behind(suite_file: Path, store: Store) -> None:
    for path in make_jobs(planned(suite_file, store), store, "cpu", PATHS):
        path.with_suffix(".safetensors").write_bytes(b"a checkpoint")
    for cell in planned(suite_file, store).cells:
        finish(store, cell)
    assert make_jobs(planned(suite_file, store), store, "cpu", PATHS) == []
    assert list((store.root / "jobs").iterdir()) == []


def test_a_damaged_job_file_is_refused_with_its_place(suite_file: Path, store: Store) -> None:
    store.write_text(store.job_file("torn"), '{"cells": [{"key"')
    with pytest.raises(StoreError, match=r"torn\.json: is not a readable job file.*Remove it"):
        make_jobs(planned(suite_file, store), store, "cpu", PATHS)


def test_the_nearest_cell_is_the_one_with_the_fewest_differences(suite_file: Path, store: Store) -> None:
    cell = planned(suite_file, store).cells[0]
    assert nearest(cell, store) is None
    finish(store, cell, latent_dim=2, precision="float64")
    finish(store, cell, latent_dim=2)
    found = nearest(cell, store)
    assert found is not None
    assert found[1] == {"latent_dim": (3, 2)}


def test_differences_are_none_for_equals_and_swap_with_their_arguments() -> None:
    ours, theirs = {"a": {"b": 1, "c": [1]}, "d": 2}, {"a": {"b": 3, "c": [1]}, "e": None}
    assert differences(ours, ours) == {}
    assert differences(ours, theirs) == {"a.b": (1, 3), "d": (2, None)}
    assert differences(theirs, ours) == {key: (b, a) for key, (a, b) in differences(ours, theirs).items()}


def test_an_error_is_one_line_with_its_type_unless_it_is_one_of_ours() -> None:
    assert error_text(ValueError("two\n  lines")) == "ValueError: two lines"
    assert error_text(StoreError("says what\nto do")) == "says what to do"


def test_a_plan_says_how_long_training_takes_at_most(tmp_path, monkeypatch):
    """Seconds of an update of a replica, times replicas, times the budget; a scan that cannot be timed counts none."""
    monkeypatch.setattr(
        planned_stacks, "predict_seconds", lambda plan, names, *rest: None if names[1] == "linear" else 0.5
    )
    shown = invoke("plan", write_suite(tmp_path), "--store", tmp_path / "store", "--json")
    said = json.loads(shown.output)
    timed = [row for row in said["plan"] if "/mlp/" in row["cell"]]
    budget = said["updates_at_most"] / said["replicas"]
    temperatures = said["replicas"] / said["to_train"]
    assert said["seconds_at_most"] == pytest.approx(0.5 * len(timed) * temperatures * budget)


def test_the_seconds_of_an_update_are_timed_on_a_stack_as_it_would_be_trained(tmp_path):
    session = open_session(write_suite(tmp_path), store=tmp_path / "store")
    planned = make_plan(session.suite, session.store, session.registry)
    names = ("gaussian", "mlp", "beta-vae")
    found = predict_seconds(planned, names, "cpu", "fused", session.registry, 4)
    assert found is not None
    assert 0 < found < 1
    assert predict_seconds(planned, names, "meta", "fused", session.registry, 4) is None
