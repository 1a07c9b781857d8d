"""The store keeps whole cells or none, notices what was changed behind its back, and never names its own place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import safetensors.torch
import torch

from collapsebench.errors import StoreError
from collapsebench.store import CellRecord, Store

KEY = "ab" + "0" * 62
WEIGHTS = {"encoder.weight": torch.arange(6.0).reshape(2, 3), "steps": torch.tensor([4, 5])}
LOG = pd.DataFrame({"replica": [0, 1], "update": [10, 10], "loss": [0.5, 0.25]})


def record(key: str = KEY, **changes: Any) -> CellRecord:
    replicas = ({"temperature": 0.1, "mark": "converged", "updates": 10, "loss": 0.5},)
    return CellRecord(key, {"seed": 0, "encoder": {"use": "mlp"}}, **{"status": "ok", "replicas": replicas, **changes})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def stored(store: Store) -> Store:
    store.write_cell(record(), WEIGHTS, LOG)
    return store


def files_of(store: Store) -> list[str]:
    return sorted(path.relative_to(store.root).as_posix() for path in store.root.rglob("*") if path.is_file())


def read(store: Store, key: str = KEY) -> CellRecord:
    found = store.read_cell(key)
    assert found is not None
    return found


def test_a_cell_is_read_back_as_it_was_written(stored: Store) -> None:
    found = read(stored)
    assert {**vars(found), "files": {}} == vars(record())
    assert set(found.files) == {"weights.safetensors", "log.parquet"}
    weights = stored.read_weights(found)
    assert weights.keys() == WEIGHTS.keys()
    assert all(
        torch.equal(weights[name], value) and weights[name].dtype == value.dtype for name, value in WEIGHTS.items()
    )
    pd.testing.assert_frame_equal(pd.read_parquet(stored.cell_folder(KEY) / "log.parquet"), LOG)


def test_a_cell_that_was_never_stored_is_none(store: Store) -> None:
    assert store.read_cell(KEY) is None
    assert list(store.cells()) == []
    assert not store.root.exists()


def test_a_cell_without_weights_keeps_its_status_and_reason(store: Store) -> None:
    store.write_cell(record(status="failed", reason="ValueError: no\nTraceback", replicas=()))
    assert (read(store).status, read(store).reason, dict(read(store).files)) == (
        "failed",
        "ValueError: no\nTraceback",
        {},
    )


def test_writing_a_cell_again_leaves_nothing_of_the_one_before(stored: Store) -> None:
    stored.write_observable(KEY, "losses.0", LOG)
    stored.write_cell(record(status="timeout", reason="late"))
    assert files_of(stored) == [f"cells/ab/{KEY}/cell.json"]


def test_cells_come_in_the_order_of_their_keys(store: Store) -> None:
    keys = [letter * 64 for letter in "e1c0"]
    for key in keys:
        store.write_cell(record(key))
    assert [found.key for found in store.cells()] == sorted(keys)


def test_what_a_killed_process_was_writing_is_no_cell(stored: Store) -> None:
    left = stored.cell_folder(KEY).with_name(f".{KEY[:12]}-4711")
    left.mkdir()
    (left / "cell.json").write_text(json.dumps(vars(record("ab" + "1" * 62))))
    assert [found.key for found in stored.cells()] == [KEY]


@pytest.mark.parametrize("damage", ["changed", "truncated", "missing", "replaced"])
def test_damaged_weights_are_refused_with_the_file_and_what_to_do(stored: Store, damage: str) -> None:
    path = stored.cell_folder(KEY) / "weights.safetensors"
    content = bytearray(path.read_bytes())
    if damage == "changed":
        content[-1] ^= 1
        path.write_bytes(content)
    elif damage == "truncated":
        path.write_bytes(content[:-4])
    elif damage == "missing":
        path.unlink()
    else:
        safetensors.torch.save_file({name: value + 1 for name, value in WEIGHTS.items()}, path)
    with pytest.raises(StoreError, match=r"missing or changed since it was written.*SHA-256.*run again") as error:
        stored.read_weights(read(stored))
    assert str(path) in str(error.value)


def test_a_damaged_description_is_refused_with_its_place(stored: Store) -> None:
    path = stored.cell_folder(KEY) / "cell.json"
    path.write_text(path.read_text()[:40])
    with pytest.raises(StoreError, match=r"cell\.json: cannot be read.*Remove the folder"):
        stored.read_cell(KEY)


def test_a_failed_write_says_so_and_leaves_the_cell_before_it(stored: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files_of(stored)

    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(StoreError, match=r"could not be written.*No space left.*checkpoint is kept"):
        stored.write_cell(record(status="diverged"), WEIGHTS)
    assert files_of(stored) == before
    assert read(stored).status == "ok"


def test_a_place_that_cannot_hold_cells_is_an_error_not_a_silence(store: Store) -> None:
    store.root.mkdir()
    (store.root / "cells").write_text("in the way")
    with pytest.raises(StoreError, match="could not be written"):
        store.write_cell(record())


def test_observables_are_kept_apart_by_name_and_absent_until_measured(stored: Store) -> None:
    assert stored.read_observable(KEY, "losses.0") is None
    stored.write_observable(KEY, "losses.0", LOG)
    stored.write_observable(KEY, "losses.1", LOG.head(1))
    found = stored.read_observable(KEY, "losses.0")
    assert found is not None
    pd.testing.assert_frame_equal(found, LOG)
    assert sorted(path.name for path in (stored.cell_folder(KEY) / "observables").iterdir()) == [
        "losses.0.parquet", "losses.1.parquet",
    ]  # fmt: skip


def test_a_store_may_be_moved(stored: Store, tmp_path: Path) -> None:
    assert str(stored.root).encode() not in b"".join(
        path.read_bytes() for path in stored.root.rglob("*") if path.is_file()
    )
    stored.root.rename(tmp_path / "elsewhere")
    moved = Store(tmp_path / "elsewhere")
    assert torch.equal(moved.read_weights(read(moved))["steps"], WEIGHTS["steps"])


def test_the_root_is_what_was_given_else_the_environment_s_else_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLLAPSEBENCH_STORE", raising=False)
    monkeypatch.delenv("COLLAPSEBENCH_CACHE", raising=False)
    assert (Store().root, Store().cache) == (Path(".collapsebench"), Path(".collapsebench/cache"))
    monkeypatch.setenv("COLLAPSEBENCH_STORE", "from-environment")
    monkeypatch.setenv("COLLAPSEBENCH_CACHE", "shared")
    assert (Store().root, Store().cache, Store("given").root) == (
        Path("from-environment"),
        Path("shared"),
        Path("given"),
    )


def test_making_writable_creates_the_store_and_leaves_no_trace_of_the_probe(store: Store) -> None:
    store.make_writable()
    assert store.root.is_dir()
    assert list(store.root.iterdir()) == []


@pytest.mark.parametrize("below", ["", "deeper/still"])
def test_a_file_in_the_way_of_the_store_is_refused(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreError, match=r"cannot be written.*COLLAPSEBENCH_STORE or --store"):
        Store(tmp_path / "file" / below).make_writable()
    assert (tmp_path / "file").read_text() == "mine"


def test_a_file_in_place_of_the_store_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreError, match="cannot be read as a folder"):
        Store(tmp_path / "file").make_readable()
    Store(tmp_path / "absent").make_readable()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_text_is_written_whole_under_its_final_name_only(store: Store) -> None:
    store.write_text(store.job_file("one"), "first")
    store.write_text(store.job_file("one"), "second")
    assert files_of(store) == ["jobs/one.json"]
    assert store.job_file("one").read_text() == "second"
