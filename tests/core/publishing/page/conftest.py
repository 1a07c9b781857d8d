"""Results with curves and scores that the tests of every part of a page read."""

from __future__ import annotations

from dataclasses import replace

import pytest
from measured_results import SCORED, scored, suite
from scored_results import ranked_by

from collapsebench.publishing.page.numbers import curves_of_cells


@pytest.fixture(scope="session")
def results():
    cells = [
        scored("gap", "linear", 0, 0.4),
        scored("gap", "linear", 1, 0.6),
        scored("gap", "mlp", 0, 0.1, 3.0),
        scored("gap", "mlp", 1, status="failed", reason="OSError: disk full"),
        scored("power-law", "linear", 0, status="diverged", reason="2 of 17 replicas diverged"),
    ]
    made = suite(cells, declared=SCORED, questions=ranked_by("shape/slope"), title="Synthetic & odd 100 %")
    return replace(made, provenance={"date": "2026-03-04", "suite_hash": "ab" * 32, "collapsebench": "0.1.0"})


@pytest.fixture(scope="session")
def curves(results):
    return curves_of_cells(results)
