"""The core names no component: what a component contributes, the component declares."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import architecture
import pytest

from collapsebench.contracts import KINDS, load_registry

OTHER_MEANINGS = {
    "authoring/networks.py": {"linear"},  # the name of a law
    "bench/gpu.py": {"linear"},  # a part of the benchmark
    "bench/equilibrium.py": {"linear", "mlp"},  # architectures of the shipped suite `bench`
    "cli/bench.py": {"linear", "conv", "equilibrium", "mlp"},  # benchmarks, and words of their options
    "planning/cells.py": {"equilibrium"},  # in what is trained, the settings that decide convergence
    # Figures, which have names of their own.
    "publishing/figures/draw.py": {"posterior-scale", "truncated-distortion", "rate-overlay", "traversals"},
    "publishing/page/page.py": {"equilibrium"},  # a section
    "suite/words.py": {"table"},  # of TOML
    "verbs/measure.py": {"losses", "equilibrium", "crosswalk", "linear"},  # fields of what it returns; a decoder's kind
    "verbs/scan.py": {"table"},  # what is scanned, and a shipped suite of that name
}
"""Words that are the id of a component, and mean something else in these modules."""

PARTY = "collapsebench"
"""The distribution of the first-party components."""


@pytest.fixture(scope="module")
def ids() -> set[str]:
    registry = load_registry()
    return {
        item.component.id for kind in KINDS for item in registry.registered(kind) if item.owner.distribution == PARTY
    }


def literals(tree: ast.Module) -> Iterator[str]:
    """Yield every text in a module that is no docstring."""
    said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said:
            yield node.value


def named(text: str, ids: set[str]) -> set[str]:
    """Return the components that Python text names: by their id, or by one of their scores."""
    found = literals(ast.parse(text))
    return {id for word in found for id in ids if word == id or word.startswith(f"{id}/")}


def modules() -> dict[str, Path]:
    return {path.relative_to(architecture.CORE).as_posix(): path for path in sorted(architecture.CORE.rglob("*.py"))}


def test_the_core_names_no_first_party_component(ids: set[str]) -> None:
    found = {
        name: named(path.read_text(encoding="utf-8"), ids) - OTHER_MEANINGS.get(name, set())
        for name, path in modules().items()
    }
    assert {name: words for name, words in found.items() if words} == {}


def test_every_word_with_another_meaning_is_still_there(ids: set[str]) -> None:
    for name, words in OTHER_MEANINGS.items():
        assert words <= named(modules()[name].read_text(encoding="utf-8"), ids), name


def test_the_search_finds_ids_and_scores_but_no_docstrings(ids: set[str]) -> None:
    assert {"beta-vae", "latent-moments", "pca-agreement", "gaussian", "local"} <= ids
    assert named('"""latent-moments"""\nrank_by = ["pca-agreement/subspace-angle", "mlp"]\n"gaussian"\n', ids) == {
        "pca-agreement",
        "mlp",
    }
