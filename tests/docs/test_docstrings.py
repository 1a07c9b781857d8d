"""The examples in the docstrings of everything public run, and every public function has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
from pathlib import Path
from types import FunctionType

import pytest

import collapsebench

PUBLIC = {name: getattr(collapsebench, name) for name in vars(collapsebench)["__all__"] if name != "__version__"}
MODULES = sorted(
    {item.__module__ for item in PUBLIC.values() if getattr(item, "__module__", "").startswith("collapse")}
)
NEEDS_MORE_THAN_A_LINE = {"execute_job", "load_model", "measure", "measure_equilibrium", "scan"}
EXAMPLES = [
    found
    for module in MODULES
    for found in doctest.DocTestFinder().find(importlib.import_module(module))
    if found.examples
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the examples keep their store, so that one need not train what another has trained."""
    return tmp_path_factory.mktemp("examples")


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_an_example_prints_what_it_says(
    example: doctest.DocTest, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.delenv("COLLAPSEBENCH_STORE", raising=False)
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    runner.run(example, out=said.append)
    assert runner.failures == 0, "".join(said)


def test_every_public_function_has_an_example() -> None:
    functions = {name for name, item in PUBLIC.items() if isinstance(item, FunctionType)}
    without = {name for name in functions if ">>>" not in (inspect.getdoc(PUBLIC[name]) or "")}
    assert without == NEEDS_MORE_THAN_A_LINE


def test_no_example_is_skipped() -> None:
    skipped = [test.name for test in EXAMPLES if any(doctest.SKIP in e.options for e in test.examples)]
    assert skipped == []
