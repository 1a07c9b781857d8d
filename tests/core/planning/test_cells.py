"""Keys hold everything that decides a cell's numbers and nothing else; jobs are frozen from what is missing."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flow import TINY, write_suite

import collapsebench
from collapsebench.contracts import load_registry
from collapsebench.planning.cells import (
    ENGINE,
    ENGINE_OF_SMALL_BATCHES,
    Cell,
    Plan,
    describe,
    differences,
    key_of,
    make_plan,
    nearest,
)
from collapsebench.store import CellRecord, Store
from collapsebench.suite.resolve import Suite, load_suite

WORLDCLIM = TINY + '[[datasets]]\nuse = "worldclim"\n'


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
    "training.batch_size='full'": {"training.batch_size", "engine"},
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


def test_a_plan_shows_every_cell_in_a_notebook_and_escapes_its_title(tmp_path: Path) -> None:
    hostile = "<script>alert('x')</script>"
    suite = write_suite(tmp_path)
    suite.write_text(suite.read_text().replace('title = "Tiny"', f'title = "{hostile}"'))
    plan = collapsebench.plan(suite, store=tmp_path / "store")
    html = plan._repr_html_()
    assert html.count("<td>missing</td>") == len(plan.cells) == 4
    assert "4 cells, 4 to train" in html
    assert "<script" not in html
    assert list(plan.statuses["status"]) == ["missing"] * 4
    assert all(math.isnan(share) for share in plan.statuses["converged"])
    assert "nan" not in html.lower()
    assert repr(plan) == f"Plan(suite={plan.suite.id!r}, cells=4, missing=4)"
    broken = replace(plan, failures={"digits": ("failed", hostile)})._repr_html_()
    assert "Dataset digits cannot be loaded: &lt;script&gt;" in broken
    assert "<script" not in broken


def test_only_cells_that_train_with_larger_batches_are_of_the_newest_engine() -> None:
    engines = {}
    for size in ("256", "257", '"full"'):
        suite = load_suite("linear-gaussian", overrides=[f"training.batch_size={size}"])
        first = suite.datasets[0], suite.architectures[0], suite.objectives[0]
        engines[size] = describe(suite, *first, 0, "data")["engine"]
    assert engines == {"256": ENGINE_OF_SMALL_BATCHES, "257": ENGINE, '"full"': ENGINE}
