"""The lower envelope of costs: who is undercut by whom."""

from __future__ import annotations

import math

import numpy as np
import pytest

from collapsebench.theory.envelope import Line, envelope
from collapsebench.theory.oracle import oracle

TEMPERATURES = np.logspace(0.1, -3, 40)


@pytest.fixture(scope="module")
def exact_lines():
    """The lines of the exact solution of a linear decoder: V = 1, beta = T."""
    exact = oracle(np.diag([0.5, 0.3, 0.15, 0.05]), TEMPERATURES, 4)
    rate = exact.rate.sum(1)
    distortion = exact.loss - TEMPERATURES * rate
    return [Line(*row) for row in zip(TEMPERATURES, distortion, rate, strict=True)]


def test_exact_solutions_lie_on_their_envelope(exact_lines):
    found = envelope(exact_lines)
    assert found.gap == pytest.approx(np.zeros(40), abs=1e-12)
    assert (found.excess < 1e-12).all()


def test_a_replica_at_a_saddle_is_undercut_by_exactly_what_it_misses(exact_lines):
    """Total collapse costs V / 2; below lambda_1 / V the solution at the same temperature costs less."""
    lines = [
        Line(t, 0.5, 0.0) if index == 20 else line
        for index, (t, line) in enumerate(zip(TEMPERATURES, exact_lines, strict=True))
    ]
    found = envelope([*lines, exact_lines[20]])
    best = exact_lines[20].intercept + TEMPERATURES[20] * exact_lines[20].slope
    assert found.gap[20] == pytest.approx((0.5 - best) / 0.5)
    assert found.cheapest[20] == 40
    assert found.gap[:20] == pytest.approx(np.zeros(20), abs=1e-12)


def test_the_gap_does_not_depend_on_the_unit_of_cost_nor_on_constants(exact_lines):
    collapsed = [*exact_lines, Line(0.1, 0.5, 0.0)]
    rescaled = [Line(line.dial, 7 * line.intercept - 3, 7 * line.slope, -3.0) for line in collapsed]
    assert envelope(rescaled).gap == pytest.approx(envelope(collapsed).gap, abs=1e-12)


def test_a_difference_within_three_standard_errors_is_no_excess():
    dear, cheap = Line(0.1, 1.0, 0.0, error=0.003), Line(0.1, 0.99, 0.0, error=0.004)
    found = envelope([dear, cheap])
    assert found.gap == pytest.approx([0.01, 0.0])
    assert found.excess[0] == pytest.approx(0.01 - 3 * 0.005)
    assert found.excess[1] < 0


def test_groups_are_compared_within_themselves_only():
    lines = [Line(0.1, 1.0, 0.0), Line(0.1, 0.5, 0.0), Line(0.1, 0.7, 0.0), Line(0.1, 0.6, 0.0)]
    found = envelope(lines, [0, 1, 0, 1])
    assert found.gap == pytest.approx([0.3, 0.0, 0.0, 0.1 / 0.6])
    assert found.cheapest.tolist() == [2, 1, 2, 1]
    assert envelope(lines).cheapest.tolist() == [1, 1, 1, 1]


def test_replicas_without_a_line_are_not_compared():
    found = envelope([Line(0.1), Line(0.1, 1.0, 0.0), Line(0.2, 0.9, 0.0)])
    assert math.isnan(found.gap[0])
    assert math.isnan(found.excess[0])
    assert found.gap[1:] == pytest.approx([0.1, 0.0])
    assert found.cheapest.tolist() == [0, 2, 2]
    assert envelope([]).gap.size == 0
