"""Fits recover exact curves and cover at their nominal rate; reductions follow their definitions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from collapsebench.errors import DataError
from collapsebench.theory import spectrum
from collapsebench.theory.scaling import tail_exponent

COARSE = np.logspace(0, -4, 25)
"""Six temperatures a decade."""

THRESHOLDS = np.exp(np.random.default_rng(7).uniform(np.log(2e-3), np.log(0.9), 60))


def moments(fractions, temperatures, split="train", **quantities):
    """Return a latent-moments table of arrays `(t, latent)`."""
    t, latent = np.indices(fractions.shape)
    columns = {"signal_fraction": fractions, **quantities}
    return pd.DataFrame(
        {"split": split, "temperature": np.asarray(temperatures)[t.ravel()], "latent": latent.ravel()}
        | {name: np.asarray(values).ravel() for name, values in columns.items()}
    )


def distortions(curves, temperatures):
    """Return a truncated-distortion table of {split: `(t, K)`}."""
    frames = []
    for split, values in curves.items():
        t, rank = np.indices(values.shape)
        frames.append(
            pd.DataFrame(
                {
                    "split": split,
                    "temperature": np.asarray(temperatures)[t.ravel()],
                    "rank": rank.ravel(),
                    "normalised_distortion": values.ravel(),
                }
            )
        )
    return pd.concat(frames)


def test_ranking_follows_the_signal_fraction_with_ties_by_index_and_missing_last():
    fractions = np.array([[0.2, 0.9, 0.9, np.nan], [0.5, 0.1, 0.7, 0.6]])
    table = moments(fractions, [0.1, 0.01], rate=np.arange(8.0).reshape(2, 4)).sample(frac=1, random_state=0)
    found = spectrum.ranked_signal_fraction(table, "train", [0.1, 0.01])
    assert found[0, :3] == pytest.approx([0.9, 0.9, 0.2])
    assert np.isnan(found[0, 3])
    assert found[1] == pytest.approx([0.7, 0.6, 0.5, 0.1])
    rates = spectrum.ranked(table, "train", [0.1, 0.01], "rate")
    assert rates == pytest.approx(np.array([[1, 2, 0, 3], [6, 7, 4, 5]]))


def test_rows_follow_the_order_of_the_temperatures_that_are_passed():
    table = moments(np.array([[0.2], [0.5], [0.9]]), [0.3, 0.2, 0.1])
    assert spectrum.ranked_signal_fraction(table, "train", [0.1, 0.3, 0.2]).ravel() == pytest.approx([0.9, 0.2, 0.5])


def test_a_temperature_without_rows_is_missing_and_a_split_without_rows_is_an_error():
    table = moments(np.array([[0.2, 0.1]]), [0.3])
    assert np.isnan(spectrum.ranked_signal_fraction(table, "train", [0.3, 0.1])[1]).all()
    with pytest.raises(DataError, match=r"split 'test'.*splits are train"):
        spectrum.ranked_signal_fraction(table, "test", [0.3])
    with pytest.raises(DataError, match="no column rate"):
        spectrum.ranked(table, "train", [0.3], "rate")


def test_the_temperature_of_each_rank_is_chosen_on_validation_and_evaluated_everywhere():
    validation = np.array([[1.0, 0.5, 0.4], [1.0, 0.6, 0.2], [np.nan, np.nan, np.nan]])
    test = np.array([[1.1, 0.7, 0.1], [1.1, 0.3, 0.3], [np.nan, np.nan, np.nan]])
    t = [0.1, 0.01, 1e-3]
    found = spectrum.rank_distortion(distortions({"validation": validation, "test": test}, t), t)
    assert found.temperature == pytest.approx([0.1, 0.1, 0.01])
    assert found.curves["validation"] == pytest.approx([1.0, 0.5, 0.2])
    assert found.curves["test"] == pytest.approx([1.1, 0.7, 0.3])


def test_on_the_train_split_each_rank_takes_its_own_least_distortion():
    validation = np.array([[1.0, 0.5], [1.0, 0.6]])
    train = np.array([[1.0, 0.55], [1.0, 0.45]])
    t = [0.1, 0.01]
    found = spectrum.rank_distortion(distortions({"validation": validation, "train": train}, t), t)
    assert found.curves["train"] == pytest.approx([1.0, 0.45])
    assert found.temperature == pytest.approx([0.1, 0.1])


def test_a_scan_that_diverged_everywhere_has_a_missing_curve():
    nothing = np.full((2, 3), np.nan)
    t = [0.1, 0.01]
    found = spectrum.rank_distortion(distortions({"validation": nothing, "test": nothing}, t), t)
    assert np.isnan(found.curves["test"]).all()
    assert np.isnan(found.temperature).all()


def test_utilities_are_drops_and_sum_to_what_all_ranks_save():
    curve = np.array([1.0, 0.4, 0.1, 0.15])
    assert spectrum.utilities(curve) == pytest.approx([0.6, 0.3, -0.05])
    assert spectrum.utilities(curve).sum() == pytest.approx(curve[0] - curve[-1])


def test_the_effective_dimension_is_the_first_rank_within_tolerance_or_infinite():
    curve = [2.0, 0.3, 0.1, 0.01]
    assert [spectrum.effective_dimension(curve, tolerance) for tolerance in (1.0, 0.2, 0.05, 0.01, 1e-3)] == [
        0, 1, 2, 3, np.inf,
    ]  # fmt: skip


def test_a_rank_is_resolved_from_ten_times_the_lowest_temperature_and_within_the_latents():
    found = spectrum.resolved_ranks([0.5, 1e-3, 0.9e-3, 0.0, np.nan, 0.4], [1e-4, 1.0], 5)
    assert found.tolist() == [True, True, False, False, False, False]


def test_a_fixed_exponent_fit_recovers_every_threshold_exactly():
    for threshold in THRESHOLDS:
        curve = np.maximum(1 - COARSE / threshold, 0)
        assert spectrum.fixed_exponent_threshold(COARSE, curve) == pytest.approx(threshold, rel=1e-12)


def test_a_fixed_exponent_fit_is_the_global_least_squares_minimum():
    rng = np.random.default_rng(3)
    candidates = np.logspace(-4.5, 0.5, 20_001)
    models = np.maximum(1 - COARSE / candidates[:, None], 0)
    for threshold in THRESHOLDS[:20]:
        curve = np.clip(np.maximum(1 - COARSE / threshold, 0) + 0.1 * rng.normal(size=COARSE.size), 0, 1)
        found = spectrum.fixed_exponent_threshold(COARSE, curve)
        best = np.square(models - curve).sum(axis=1).min()
        assert np.square(np.maximum(1 - COARSE / found, 0) - curve).sum() <= best + 1e-12


def test_fits_ignore_the_order_of_temperatures_and_missing_values():
    curve = np.maximum(1 - COARSE / 0.03, 0)
    curve[[3, 12]] = np.nan
    order = np.random.default_rng(0).permutation(COARSE.size)
    assert spectrum.fixed_exponent_threshold(COARSE[order], curve[order]) == pytest.approx(0.03)
    assert spectrum.free_exponent_fit(COARSE[order], curve[order]).exponent == pytest.approx(0.5)


def test_a_mode_that_is_never_active_has_no_threshold_and_no_exponent():
    for curve in (np.zeros(25), np.full(25, 0.02), np.full(25, np.nan)):
        assert np.isnan(spectrum.fixed_exponent_threshold(COARSE, curve))
        fit = spectrum.free_exponent_fit(COARSE, curve)
        assert np.isnan([fit.exponent, fit.threshold, fit.low, fit.high]).all()
    assert spectrum.fixed_exponent_threshold(COARSE, np.ones(25)) == np.inf


@pytest.mark.parametrize("exponent", [0.25, 0.5, 0.75, 1.0, 2.0])
def test_a_free_exponent_fit_recovers_exponent_and_threshold_of_exact_curves_on_coarse_grids(exponent):
    for threshold in THRESHOLDS:
        fit = spectrum.free_exponent_fit(COARSE, np.maximum(1 - COARSE / threshold, 0) ** (2 * exponent))
        assert fit.exponent == pytest.approx(exponent, abs=1e-3)
        assert fit.threshold == pytest.approx(threshold, rel=1e-3)
        assert fit.low <= fit.exponent <= fit.high


def test_the_interval_of_the_exponent_covers_at_its_nominal_rate():
    rng = np.random.default_rng(11)
    covered = []
    for threshold in np.exp(rng.uniform(np.log(2e-3), np.log(0.5), 1500)):
        curve = np.maximum(1 - COARSE / threshold, 0) + 0.01 * rng.normal(size=COARSE.size)
        fit = spectrum.free_exponent_fit(COARSE, curve)
        covered.append(fit.low <= 0.5 <= fit.high)
    assert np.mean(covered) == pytest.approx(0.95, abs=0.025)


def test_the_interval_is_undefined_with_fewer_than_four_temperatures():
    t = np.array([0.01, 0.03, 0.1])
    fit = spectrum.free_exponent_fit(t, 1 - t / 0.2)
    assert fit.exponent == pytest.approx(0.5, abs=1e-3)
    assert np.isnan([fit.low, fit.high]).all()
    assert fit.n == 3


def test_a_fixed_slope_fit_of_the_rate_recovers_its_threshold_in_its_window():
    rate = np.maximum(-0.5 * np.log(COARSE / 0.02), 0)
    rate[COARSE < 2e-4] = 99.0
    assert spectrum.fixed_slope_rate_threshold(COARSE, rate, 0.02) == pytest.approx(0.02)
    assert np.isnan(spectrum.fixed_slope_rate_threshold(COARSE, rate, 1e-4))
    assert np.isnan(spectrum.fixed_slope_rate_threshold(COARSE, rate, -1.0))


def test_one_temperature_gives_every_threshold_of_the_linear_solution():
    thresholds, temperature = np.array([0.5, 0.3, 0.02]), 0.01
    snr = thresholds / temperature - 1
    assert spectrum.one_shot_thresholds(snr, temperature) == pytest.approx(thresholds)


def test_the_identity_is_not_a_correlation_an_offset_counts():
    reference = np.array([1.0, 0.1, 0.01])
    assert spectrum.identity_r2(reference, reference) == 1.0
    spread = np.square(np.log(reference) - np.log(reference).mean()).sum()
    assert spectrum.identity_r2(2 * reference, reference) == pytest.approx(1 - 3 * np.log(2) ** 2 / spread)
    assert spectrum.max_log_error([1.0, 0.05, 0.01], reference) == pytest.approx(np.log(2))


def test_comparisons_leave_out_what_is_missing_and_are_undefined_without_a_pair():
    assert spectrum.identity_r2([1.0, np.nan, 0.01], [1.0, 0.1, 0.01]) == 1.0
    assert np.isnan(spectrum.identity_r2([1.0], [1.0]))
    assert np.isnan(spectrum.max_log_error([np.nan], [1.0]))


def test_one_eigenspace_has_no_identity_though_rounding_tells_its_eigenvalues_apart():
    reference = 0.12 * (1 + 1e-9 * np.arange(4))
    assert np.isnan(spectrum.identity_r2([0.13, 0.12, 0.11, 0.1], reference))
    assert spectrum.identity_r2([*reference, 0.1], [*reference, 0.1]) == 1.0


def test_the_first_swapped_rank_is_where_thresholds_first_rise():
    assert spectrum.first_swapped_rank([5, 4, 3]) == 4
    assert spectrum.first_swapped_rank([5, 3, 4, 1]) == 3
    assert spectrum.first_swapped_rank([5, np.nan, 1]) == 3
    assert spectrum.first_swapped_rank([5, 4, np.nan, np.nan]) == 5
    assert spectrum.first_swapped_rank([5, 5 + 1e-9, 4]) == 2
    assert spectrum.first_swapped_rank([5, 5 + 1e-9, 4], tolerance=1e-6) == 4


def test_a_power_law_tail_has_its_exponent_within_the_window_only():
    ranks = np.arange(1, 21)
    curve = np.concatenate([[1.0], np.where(ranks < 4, 0.9, ranks**-4.0)])
    exponent, low, high = tail_exponent(curve, (4, 17))
    assert [exponent, low, high] == pytest.approx([4.0] * 3)
    assert np.isnan(tail_exponent(curve, (4, 5))).all()
    noisy = curve * np.exp(0.05 * np.random.default_rng(0).normal(size=curve.size))
    exponent, low, high = tail_exponent(noisy, (4, 17))
    assert low < 4.0 < high
