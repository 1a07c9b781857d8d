"""Scaling laws: the rate law is the exact one, and the tail law of a power law is that law."""

from __future__ import annotations

import numpy as np
import pytest
from measured_results import POWER_LAW, SHARES, TEMPERATURES

from collapsebench import crossover_rank, oracle, rate_law, tail_law


def test_the_rate_law_is_the_exact_rate_of_a_linear_decoder():
    exact = oracle(np.diag(POWER_LAW), TEMPERATURES)
    assert rate_law(TEMPERATURES[:, None], SHARES) == pytest.approx(exact.rate)
    assert np.isnan(rate_law(0.1, [-1.0, 0.0])).all()


def test_the_tail_law_of_a_power_law_is_that_law_and_its_crossover_the_end_of_the_head():
    ranks = np.arange(1.0, 33)
    curve = np.append(1.0, 0.2 * ranks**-3.0)
    law = tail_law(curve, (5, 20))
    assert (law.exponent, law.prefactor) == pytest.approx((3.0, 0.2))
    assert law.at(ranks) == pytest.approx(curve[1:])
    assert crossover_rank(curve, law) == 1
    curve[1:4] *= 0.1
    assert crossover_rank(curve, law) == 4
    curve[20] = 1.0
    assert np.isnan(crossover_rank(curve, law))
