"""A tiny suite that was run once, as people run it, for the tests that only look."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from flow import script, write_suite


@pytest.fixture(scope="session")
def run_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny suite and the store that a process left; not to be changed."""
    folder = tmp_path_factory.mktemp("run-once")
    done = script("run", write_suite(folder), "--store", folder / "store")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def ran(run_once: Path, tmp_path: Path) -> Path:
    """A copy of that folder, to be changed."""
    return shutil.copytree(run_once, tmp_path / "ran")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the tiny suite, never run."""
    write_suite(tmp_path)
    return tmp_path
