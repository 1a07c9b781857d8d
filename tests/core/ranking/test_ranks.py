"""Intervals and ranks: they cover the truth as often as they say, and never claim what the seeds do not decide."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

import collapsebench.ranking.ranks as ranking
from collapsebench.ranking.ranks import paired_ranks, stratified_mean, t_interval


@pytest.mark.parametrize("count", [2, 3, 10])
def test_the_interval_is_students(count):
    values = np.random.default_rng(count).normal(size=count)
    expected = stats.t.interval(0.9, count - 1, loc=values.mean(), scale=stats.sem(values))
    assert t_interval(values, 0.9) == pytest.approx((values.mean(), *expected))


@pytest.mark.parametrize(
    ("values", "mean"),
    [
        ([], math.nan),
        ([2.0], 2.0),
        ([1.0, math.inf], math.inf),
        ([math.inf], math.inf),
        ([-math.inf, math.inf], math.nan),
    ],
)
def test_too_few_or_infinite_values_have_no_interval(values, mean):
    found, low, high = t_interval(values)
    assert found == pytest.approx(mean, nan_ok=True)
    assert math.isnan(low)
    assert math.isnan(high)


def test_equal_values_have_an_interval_of_no_width_and_missing_ones_do_not_count():
    assert t_interval([0.1, 0.1, math.nan, 0.1]) == (0.1, 0.1, 0.1)


def test_intervals_of_three_seeds_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(0)
    intervals = [t_interval(rng.normal(loc=1.0, size=3)) for _ in range(3000)]
    covered = np.mean([low <= 1.0 <= high for _, low, high in intervals])
    assert covered == pytest.approx(0.95, abs=0.015)


def test_ranks_follow_the_direction_of_each_score():
    noise = np.random.default_rng(0).normal(scale=1e-4, size=(3, 3, 2))
    values = np.array([[[0.9, 5.0]], [[0.8, 3.0]], [[0.7, 1.0]]]) + noise
    assert [rank.text for rank in paired_ranks([values[:, :, :1]], [True])] == ["1", "2", "3"]
    assert [rank.text for rank in paired_ranks([values[:, :, 1:]], [False])] == ["3", "2", "1"]
    assert [rank.text for rank in paired_ranks([values], [True, False])] == ["1-3"] * 3
    assert [rank.mean for rank in paired_ranks([values], [True, False])] == [2.0] * 3


def test_equal_architectures_are_tied():
    same = np.random.default_rng(0).normal(size=(1, 5, 2)).repeat(3, axis=0)
    assert {(rank.text, rank.mean) for rank in paired_ranks([same], [True, False])} == {("1-3", 2.0)}


def test_architectures_that_differ_by_noise_alone_are_told_apart_no_more_often_than_the_confidence_allows():
    rng = np.random.default_rng(1)
    for scores in (1, 3):
        drawn = [paired_ranks([rng.normal(size=(2, 3, scores))], [True] * scores) for _ in range(800)]
        assert np.mean([ranks[0].text != "1-2" for ranks in drawn]) < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 800)


def test_a_difference_that_hardly_varies_decides_although_seeds_vary():
    rng = np.random.default_rng(2)
    seeds, own = rng.normal(scale=5.0, size=(1, 3, 1)), rng.normal(scale=1e-4, size=(3, 3, 1))
    values = seeds + own - np.array([0.0, 0.1, 0.2])[:, None, None]
    assert [rank.text for rank in paired_ranks([values], [True])] == ["1", "2", "3"]


def test_one_seed_decides_nothing():
    (first, second) = paired_ranks([[[[1.0]], [[2.0]]]], [True])
    assert first.text == second.text == "1-2"
    assert (first.mean, second.mean) == (2.0, 1.0)


def test_not_reached_in_every_of_five_seeds_ranks_below_reached_and_ties_with_itself():
    never, reached = [[math.inf]] * 5, [[3.0], [4.0], [3.0], [4.0], [3.0]]
    assert [rank.text for rank in paired_ranks([[reached, never, never]], [False])] == ["1", "2-3", "2-3"]
    assert [rank.text for rank in paired_ranks([[reached[:2], never[:2], never[:2]]], [False])] == ["1-3"] * 3


def test_whole_numbers_that_differ_by_one_in_three_seeds_are_tied_and_by_many_are_not():
    values = [[[4.0]] * 3, [[5.0]] * 3]
    assert [rank.text for rank in paired_ranks([values], [False])] == ["1-2", "1-2"]
    assert [rank.text for rank in paired_ranks([[values[0], [[9.0]] * 3]], [False])] == ["1", "2"]


def simulated(rng, truth, datasets=10, seeds=5, scores=1, spread=None):
    """Return scores with a known order: what a dataset and a seed add is shared, as in a paired benchmark."""
    scale = np.ones(len(truth)) if spread is None else np.asarray(spread)
    own = rng.normal(size=(datasets, len(truth), seeds, scores)) * scale[:, None, None]
    shared = rng.normal(size=(datasets, 1, seeds, scores)) * 3 + rng.normal(size=(datasets, 1, 1, 1)) * 10
    return list(np.asarray(truth)[:, None, None] + own + shared)


def coverage(truth, repetitions, seed=0, questions=1, **options):
    """Return how often all rank intervals of a board hold the true ranks, less being better: together, and of each one.

    questions: how many are asked, each with its part of the scores, sharing the doubt of the board.
    """
    rng, cost = np.random.default_rng(seed), np.asarray(truth, dtype=float)
    best = 1 + (cost[:, None] > cost).sum(axis=1)
    worst = cost.size - (cost[:, None] < cost).sum(axis=1)
    held = []
    for _ in range(repetitions):
        drawn = simulated(rng, cost, **options)
        asked = np.split(np.arange(drawn[0].shape[2]), questions)
        held.append([])
        for part in asked:
            ranks = paired_ranks([values[..., part] for values in drawn], [False] * len(part), 1 - 0.05 / questions)
            right = [r.best <= b and r.worst >= w for r, b, w in zip(ranks, best, worst, strict=True)]
            held[-1].append(all(right))
    return float(np.mean([all(row) for row in held])), *np.mean(held, axis=0).tolist()


def test_rank_intervals_of_equal_architectures_cover_at_their_nominal_rate():
    assert coverage([0, 0], 1000)[0] == pytest.approx(0.95, abs=0.02)
    assert coverage([0, 0, 0, 0, 0], 400)[0] == pytest.approx(0.95, abs=0.02)


def test_rank_intervals_of_several_questions_cover_together_at_their_nominal_rate_and_each_at_least_at_it():
    together, *each = coverage([0, 0, 0], 500, questions=4, scores=4)
    assert together == pytest.approx(0.95, abs=0.02)
    assert min(each) > 0.95


def test_rank_intervals_of_a_known_order_cover_at_least_at_their_nominal_rate_and_decide_it():
    assert coverage([0, 0, 0.3, 0.3, 1], 300)[0] > 0.93
    rng = np.random.default_rng(3)
    drawn = [paired_ranks(simulated(rng, [0, 2, 4, 6]), [False]) for _ in range(50)]
    assert np.mean([[rank.text for rank in ranks] == ["1", "2", "3", "4"] for ranks in drawn]) > 0.95


def test_signs_of_twenty_blocks_are_drawn_and_those_of_fewer_are_all():
    assert np.unique(ranking._signs(6), axis=1).shape == (6, 2**5)
    flips = ranking._signs(20)
    assert (flips[:, 0] == 1).all()
    assert abs(float(flips[:, 1:].mean())) < 0.01
    assert ranking._share_as_large(np.ones((1, 20))) < 2.0**-16
    assert ranking._share_as_large(np.tile([1.0, -1.0], 10)[None]) == 1.0


def test_where_the_bootstrap_is_not_used_signs_are_flipped_with_twenty_blocks_too(monkeypatch):
    """Five architectures, one dataset, 20 seeds: 19 degrees of freedom, one too few for the bootstrap."""
    board = simulated(np.random.default_rng(0), [0, 5, 10, 15, 20], datasets=1, seeds=20)
    assert [rank.text for rank in paired_ranks(board, [False])] == ["1", "2", "3", "4", "5"]
    monkeypatch.setattr(ranking, "_share_as_large", lambda blocks: np.ones(len(blocks)))
    assert {rank.text for rank in paired_ranks(board, [False])} == {"1-5"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("truth", "options"),
    [
        ([0] * 3, {}),
        ([0] * 5, {}),
        ([0] * 10, {}),
        ([0] * 5, {"scores": 3}),
        ([0] * 5, {"spread": [1, 1, 1, 3, 10]}),
    ],
)
def test_rank_intervals_of_equal_architectures_cover_at_their_nominal_rate_whatever_their_number_and_spread(
    truth, options
):
    assert coverage(truth, 2000, seed=1, **options)[0] == pytest.approx(0.95, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("truth", [[0, 0.2, 0.4, 0.6, 0.8], [0, 0, 0.5, 0.5, 0.5], [0, 0.01, 0.02, 1, 5]])
@pytest.mark.parametrize(
    ("datasets", "seeds"), [(10, 5), (1, 3), (2, 3), (3, 3), (1, 10), (4, 4), (1, 16), (1, 20), (2, 10)]
)
def test_rank_intervals_never_cover_less_than_they_say(truth, datasets, seeds):
    assert coverage(truth, 1000, seed=2, datasets=datasets, seeds=seeds)[0] > 0.93
    assert coverage(np.zeros(len(truth)), 1000, seed=2, datasets=datasets, seeds=seeds)[0] > 0.93


def test_simultaneous_intervals_of_scores_over_datasets_and_seeds_cover_at_their_nominal_rate():
    rng, held = np.random.default_rng(4), []
    for _ in range(1000):
        values = rng.normal(size=(10, 5)) * np.linspace(0.5, 3, 10)[:, None] + np.arange(10)[:, None]
        mean, error, df = stratified_mean(list(values))
        held.append(abs(mean - 4.5) <= stats.t.ppf(0.975, df) * error)
    assert np.mean(held) == pytest.approx(0.95, abs=0.02)


def test_one_stratum_gives_students_interval_and_more_give_welchs():
    rng = np.random.default_rng(5)
    one, other = rng.normal(size=6), 3 * rng.normal(size=4)
    mean, error, df = stratified_mean([one])
    assert (mean, error, df) == pytest.approx((one.mean(), stats.sem(one), 5))
    mean, error, df = stratified_mean([one, -other])
    welch = stats.ttest_ind(one, other, equal_var=False)
    assert float(mean / error) == pytest.approx(float(welch.statistic))
    assert float(df) == pytest.approx(float(welch.df))


def test_what_differs_between_datasets_is_no_error():
    values = np.random.default_rng(6).normal(size=(4, 5))
    far = values + 100.0 * np.arange(4)[:, None]
    assert float(stratified_mean(list(values))[1]) == pytest.approx(float(stratified_mean(list(far))[1]))


def test_a_few_seeds_that_agree_decide_nothing_by_agreeing():
    rng = np.random.default_rng(7)
    drawn = [paired_ranks(simulated(rng, [0, 0], datasets=1, seeds=3), [False]) for _ in range(800)]
    agreed = np.mean([rank[0].mean in (1.0, 2.0) for rank in drawn])
    assert agreed == pytest.approx(0.25, abs=0.05)
    assert np.mean([rank[0].text != "1-2" for rank in drawn]) < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 800)


def test_scores_that_contradict_each_other_in_every_seed_are_a_tie():
    noise = np.random.default_rng(8).normal(size=(2, 3, 3)) * 1e-3
    values = noise + np.array([[[0.0, 9.0, 5.0]], [[9.0, 0.0, 5.0]]])
    assert {rank.text for rank in paired_ranks([values], [False] * 3)} == {"1-2"}


def test_ranks_do_not_depend_on_the_order_or_the_unit_of_scores():
    rng = np.random.default_rng(9)
    drawn = simulated(rng, [0, 0.5, 1, 3], datasets=4, seeds=3)
    found = paired_ranks(drawn, [False])
    assert paired_ranks([part[::-1] for part in drawn], [False]) == found[::-1]
    assert paired_ranks([-1000 * part for part in drawn], [True]) == found
    assert paired_ranks(drawn[::-1], [False]) == found


def test_ranks_by_the_largest_t_of_all_pairs_do_not_depend_on_the_order_and_decide_more_than_pair_by_pair(monkeypatch):
    rng = np.random.default_rng(10)
    decided = []
    for _ in range(40):
        drawn = simulated(rng, [0, 0, 0.3, 0.6, 0.9])
        found = paired_ranks(drawn, [False])
        assert paired_ranks([part[::-1] for part in drawn], [False]) == found[::-1]
        assert [rank.text for rank in paired_ranks(drawn[::-1], [False])] == [rank.text for rank in found]
        with monkeypatch.context() as patched:
            patched.setattr(ranking, "PER_ARCHITECTURE", math.inf)
            alone = paired_ranks(drawn, [False])
        assert all(a.best <= r.best and r.worst <= a.worst for r, a in zip(found, alone, strict=True))
        decided.append([sum(rank.worst - rank.best for rank in ranks) for ranks in (alone, found)])
    assert np.subtract(*np.transpose(decided)).sum() > 0


def test_one_architecture_alone_is_first():
    (rank,) = paired_ranks([np.ones((1, 3, 2))], [True, False])
    assert (rank.text, rank.mean) == ("1", 1.0)
