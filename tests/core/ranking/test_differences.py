"""Differences: their intervals cover, and what is not decided is not called decided."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from collapsebench.ranking.differences import holm, paired_difference, unpaired_difference
from collapsebench.ranking.ranks import t_interval


def test_a_paired_difference_is_students_paired_test():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 6))
    found = paired_difference([first], [second])
    test = stats.ttest_rel(first, second)
    ends = test.confidence_interval(0.95)
    assert (found.value, found.low, found.high, found.p) == pytest.approx(
        ((first - second).mean(), ends.low, ends.high, test.pvalue)
    )
    assert found.decided == (test.pvalue < 0.05)


def test_an_unpaired_difference_is_welchs_test_recovered_from_two_intervals():
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=5), 1 + 3 * rng.normal(size=4)
    found = unpaired_difference((*t_interval(first), 5), (*t_interval(second), 4))
    test = stats.ttest_ind(first, second, equal_var=False)
    ends = test.confidence_interval(0.95)
    assert (found.value, found.low, found.high, found.p) == pytest.approx(
        (first.mean() - second.mean(), ends.low, ends.high, test.pvalue)
    )


@pytest.mark.parametrize("datasets", [1, 4])
def test_paired_intervals_cover_the_difference_as_often_as_they_say(datasets):
    rng, held = np.random.default_rng(2), []
    for _ in range(1000):
        shared = rng.normal(size=(datasets, 5)) * 5
        first = shared + rng.normal(size=(datasets, 5)) + 0.3
        found = paired_difference(list(first), list(shared + rng.normal(size=(datasets, 5))))
        held.append(found.low <= 0.3 <= found.high)
    assert np.mean(held) == pytest.approx(0.95, abs=0.02)


def test_whole_numbers_that_differ_by_one_in_three_seeds_are_not_decided_and_by_three_are():
    assert not paired_difference([[11.0, 11.0, 11.0]], [[12.0, 12.0, 12.0]]).decided
    found = paired_difference([[9.0, 9.0, 9.0]], [[12.0, 12.0, 12.0]])
    assert found.decided
    assert "rounding" in found.note
    assert found.high - found.low == pytest.approx(2 * stats.t.ppf(0.975, 2) * math.sqrt(1 / 6 / 3))


@pytest.mark.parametrize("value", [math.inf, 0.1])
def test_without_an_interval_signs_decide_and_need_six_pairs(value):
    for n in (3, 5, 6):
        found = paired_difference([[value + 0.2] * n], [[0.2] * n])
        assert math.isnan(found.low)
        assert found.p == 2.0 ** (1 - n)
        assert found.decided == (n >= 6)


def test_equal_values_differ_by_nothing_and_one_seed_has_no_interval():
    found = paired_difference([[0.1, 0.2]], [[0.1, 0.2]])
    assert (found.value, found.low, found.high, found.decided) == (0.0, 0.0, 0.0, False)
    alone = paired_difference([[0.1]], [[0.4]])
    assert math.isnan(alone.low)
    assert not alone.decided
    assert "fewer than two" in alone.note
    nothing = paired_difference([[]], [[]])
    assert (nothing.n, nothing.decided) == (0, False)


def test_infinite_in_both_is_no_difference_and_infinite_in_one_is_no_interval():
    both = unpaired_difference((math.inf, math.nan, math.nan, 3), (math.inf, math.nan, math.nan, 3))
    assert (both.value, both.decided) == (0.0, False)
    one = unpaired_difference((math.inf, math.nan, math.nan, 3), (4.0, 3.0, 5.0, 3))
    assert (one.value, one.decided) == (math.inf, False)
    assert not unpaired_difference((4.0, 4.0, 4.0, 3), (5.0, 5.0, 5.0, 3)).decided


def test_holms_adjustment_is_that_of_his_paper():
    assert holm([0.01, 0.04, 0.03, math.nan, 0.005]).tolist() == pytest.approx(
        [0.03, 0.06, 0.06, math.nan, 0.02], nan_ok=True
    )
