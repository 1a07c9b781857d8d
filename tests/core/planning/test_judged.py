"""Cells as a plan shows them: each replica compared with all others of its scan."""

from __future__ import annotations

from typing import Any

import pytest

from collapsebench.planning.cells import Cell, judged
from collapsebench.store import CellRecord

COLLAPSED = {"dial": 0.3, "intercept": 0.5, "slope": 0.0, "constant": 0.0, "error": 0.0}
ACTIVE = {"dial": 0.2, "intercept": 0.4, "slope": 0.2, "constant": 0.0, "error": 0.0}


def cell(seed: int, *replicas: dict[str, Any], architecture: str = "mlp", status: str = "ok") -> Cell:
    rows = tuple({"temperature": row.get("dial"), "mark": "converged", **row} for row in replicas)
    record = CellRecord(f"key-{architecture}-{seed}", {}, status, replicas=rows)
    return Cell("digits", architecture, "beta-vae", seed, record.key, {}, record)


def replicas(cells: tuple[Cell, ...]) -> list[tuple[str, float | None]]:
    return [(row["mark"], row.get("envelope_gap")) for one in cells if one.record for row in one.record.replicas]


def test_a_converged_replica_that_another_seed_undercuts_is_metastable() -> None:
    found = judged([cell(0, COLLAPSED), cell(1, ACTIVE)], 1e-3)
    assert replicas(found) == [("metastable", pytest.approx((0.5 - 0.46) / 0.5)), ("converged", 0.0)]
    assert [one.converged for one in found] == [0, 1]


def test_within_the_tolerance_and_three_standard_errors_it_stays_converged() -> None:
    assert replicas(judged([cell(0, COLLAPSED, ACTIVE)], 0.081))[0][0] == "converged"
    noisy = {**ACTIVE, "error": 0.0134}
    assert replicas(judged([cell(0, COLLAPSED, noisy)], 1e-3)) == [("converged", pytest.approx(0.08)), ("converged", 0)]


@pytest.mark.parametrize("mark", ["budget", "unstable", "diverged"])
def test_what_is_not_at_rest_keeps_its_mark_and_has_its_gap(mark: str) -> None:
    found = judged([cell(0, {**COLLAPSED, "mark": mark}, ACTIVE)], 1e-3)
    assert replicas(found)[0] == (mark, pytest.approx(0.08))


def test_scans_are_not_compared_with_each_other_nor_with_cells_that_did_not_end() -> None:
    others = [cell(0, ACTIVE, architecture="linear"), cell(1, ACTIVE, status="failed")]
    assert replicas(judged([cell(0, COLLAPSED), *others], 1e-3))[0] == ("converged", 0.0)


def test_without_a_cost_there_is_no_gap_and_the_mark_stays() -> None:
    """Replicas of an earlier release, and those whose objective is not affine."""
    old: dict[str, Any] = {"dial": 0.1}
    unknown = {**dict.fromkeys(COLLAPSED), "dial": 0.1}
    assert replicas(judged([cell(0, old, unknown, ACTIVE)], 1e-3)) == [("converged", None)] * 2 + [("converged", 0.0)]
