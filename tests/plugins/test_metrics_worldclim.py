"""The metrics of both papers' figures, on measurements made from the exact solution and on ones that depart from it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from collapsebench import SPLITS, Measurement, Pca, oracle, tail_law
from collapsebench.theory.scaling import TAIL_WINDOW
from collapsebench_metrics import collapsebench_metrics

SPECTRUM = np.array([6.0, 3.0, 1.5, 0.7, 0.3, 0.1, 0.03, 0.01])
SHARES = SPECTRUM / SPECTRUM.sum()
TEMPERATURES = np.logspace(0, -5, 61)
LATENTS = 20
RESOLVED = int((SHARES >= 1e-4).sum())
METRICS = {component.id: component for component in collapsebench_metrics()}
NEW = (
    "rate-overlay", "rate-thresholds", "tail-exponent", "posterior-scale", "jensen-gap", "rate-distortion-gap",
    "landau-onset",
)  # fmt: skip


def table(axis, arrays):
    """Return a table of {column: `(t, axis)`}, the same on every split."""
    t, index = np.indices(next(iter(arrays.values())).shape)
    columns = {"temperature": TEMPERATURES[t.ravel()], axis: index.ravel()}
    columns |= {name: values.ravel() for name, values in arrays.items()}
    return pd.concat([pd.DataFrame({"split": split, **columns}) for split in SPLITS], ignore_index=True)


def measurement(*, stretch=1.0, curve=None, scale=None, gap=None, extra_rate=0.0, diverged=(), decoder_variance=1.0):
    """Return what an exact linear scan would measure, its latents in another order at every temperature.

    stretch: by how much the latents' thresholds exceed lambda_k / V, while distortions and residuals stay exact. curve:
    D(K) in place of the exact one. scale, gap: A^2 and J `(t, mode)`. extra_rate: nats beyond the exact total rate.
    """
    rng = np.random.default_rng(0)
    covariance = np.diag(SPECTRUM)
    exact = oracle(covariance, TEMPERATURES, LATENTS, decoder_variance=decoder_variance)
    seen = oracle(covariance, TEMPERATURES / stretch, LATENTS)
    order = np.array([rng.permutation(LATENTS) for _ in TEMPERATURES])
    moments = {
        "signal_fraction": seen.signal_fraction,
        "rate": seen.rate,
        "posterior_scale": np.ones_like(seen.rate) if scale is None else scale,
        "jensen_gap": np.zeros_like(seen.rate) if gap is None else gap,
    }
    distortion = exact.normalised_distortion if curve is None else np.tile(curve, (TEMPERATURES.size, 1))
    replica = {"split": "train", "temperature": TEMPERATURES}
    tables = {
        "latent-moments": table("latent", {k: np.take_along_axis(v, order, 1) for k, v in moments.items()}),
        "truncated-distortion": table("rank", {"normalised_distortion": distortion}),
        "losses": pd.DataFrame({**replica, "distortion": exact.distortion, "rate": exact.total_rate + extra_rate}),
        "equilibrium": pd.DataFrame({**replica, "residual_edge": exact.mean_distortion.max(axis=1)}),
        "replicas": pd.DataFrame({"temperature": TEMPERATURES, "mark": "converged"}),
    }
    for found in tables.values():
        numbers = [name for name in found if name not in ("split", "temperature", "latent", "rank", "mark")]
        found.loc[found["temperature"].isin(TEMPERATURES[list(diverged)]), numbers] = np.nan
    tail = np.concatenate([[1.0], 1 - np.cumsum(SHARES)])
    return Measurement(
        temperatures=TEMPERATURES,
        latent_dim=LATENTS,
        total_variance=exact.total_variance,
        tables=tables,
        pca=Pca(SHARES, np.eye(SPECTRUM.size), dict.fromkeys(SPLITS, tail)),
        second_moments=dict.fromkeys(SPLITS, covariance),
        has_oracle=True,
        decoder_variance=decoder_variance,
    )


def evaluate(metric, measured, **parameters):
    return METRICS[metric].create(parameters).evaluate(measured)


def rank_by_temperature(values):
    """Return `(t, mode)` ones, but for the given {(mode, place): value}."""
    result = np.ones((TEMPERATURES.size, LATENTS))
    for (mode, place), value in values.items():
        result[place, mode] = value
    return result


@pytest.mark.parametrize("metric", NEW)
def test_diverged_replicas_leave_no_trace_in_an_exact_scan(metric):
    whole, holed = (evaluate(metric, measurement(diverged=lost)) for lost in ((), (7, 33)))
    assert holed.values == pytest.approx(whole.values, abs=0.02)
    assert set(holed.reasons) == set(whole.reasons)


@pytest.mark.parametrize("metric", NEW)
def test_a_scan_that_diverged_everywhere_gets_reasons_not_numbers(metric):
    found = evaluate(metric, measurement(diverged=range(TEMPERATURES.size)))
    counts = {"missed-ranks", "resolved-ranks", "predicted-ranks", "pca-exponent"}
    assert set(found.values) <= counts
    assert all(len(reason) > 20 for reason in found.reasons.values())


def test_the_rates_of_an_exact_scan_lie_on_the_law_of_one_mode():
    found = evaluate("rate-overlay", measurement())
    assert found.values["rms-deviation"] <= found.values["max-deviation"] < 0.006
    assert found.modes["resolved"].sum() == RESOLVED
    assert (found.modes["points"][: RESOLVED - 1] > found.modes["points"][1:RESOLVED].to_numpy()).all()


def test_thresholds_that_exceed_utilities_by_a_factor_raise_every_rate_by_half_its_logarithm():
    found = evaluate("rate-overlay", measurement(stretch=1.5)).values
    assert found["max-deviation"] == pytest.approx(0.5 * math.log(1.5), abs=0.006)
    assert found["rms-deviation"] == pytest.approx(0.5 * math.log(1.5), rel=0.15)


def test_rate_thresholds_of_an_exact_scan_come_in_the_order_of_utilities_and_agree_with_signal_fractions():
    found = evaluate("rate-thresholds", measurement()).values
    assert found == pytest.approx(
        {
            "first-swapped-rank": RESOLVED + 1, "kendall-tau": 1.0, "signal-fraction-max-log-error": 0.0,
            "missed-ranks": 0.0, "resolved-ranks": RESOLVED,
        },
        abs=1e-6,
    )  # fmt: skip


def test_a_utility_out_of_order_is_the_first_swapped_rank():
    worth = SHARES[[0, 1, 2, 4, 3, 5, 6, 7]]
    curve = np.concatenate([[1.0], 1 - np.cumsum(worth), np.full(LATENTS - 8, 1e-9)])
    found = evaluate("rate-thresholds", measurement(curve=curve)).values
    assert found["first-swapped-rank"] == 5
    assert found["kendall-tau"] == pytest.approx(1 - 4 / (RESOLVED * (RESOLVED - 1)))


def power_law_with_head(exponent):
    ranks = np.arange(1.0, LATENTS + 1)
    curve = 0.3 * ranks**-exponent
    curve[:3] *= [0.2, 0.3, 0.5]
    return np.concatenate([[1.0], curve])


def test_an_exact_power_law_has_its_exponent_and_the_rank_at_which_its_head_ends():
    found = evaluate("tail-exponent", measurement(curve=power_law_with_head(4.0)))
    assert found.values["exponent"] == pytest.approx(4)
    assert found.values["exponent-low"] == pytest.approx(4)
    assert found.values["exponent-high"] == pytest.approx(4)
    assert found.values["utility-exponent"] == pytest.approx(5)
    assert found.values["crossover-rank"] == 4
    assert found.modes["in_window"].sum() == 14
    assert found.modes["fit"].to_numpy()[3:] == pytest.approx(found.modes["distortion"].to_numpy()[3:])


def test_the_interval_of_a_rough_tail_contains_the_estimate_and_widens_with_confidence():
    rough = power_law_with_head(2.0) * np.exp(0.1 * np.random.default_rng(1).normal(size=LATENTS + 1))
    wide = evaluate("tail-exponent", measurement(curve=rough), confidence=0.99).values
    narrow = evaluate("tail-exponent", measurement(curve=rough), confidence=0.5).values
    assert wide["exponent-low"] < narrow["exponent-low"] < narrow["exponent"]
    assert narrow["exponent"] < narrow["exponent-high"] < wide["exponent-high"]


def test_a_window_past_the_last_latent_is_a_reason_and_one_with_fewer_than_three_ranks_is_refused():
    found = evaluate("tail-exponent", measurement(), window=[4, 30])
    assert not found.values
    assert "20 latents" in found.reasons["exponent"]
    for window in ([0, 5], [4, 5]):
        with pytest.raises(ValidationError, match="expected"):
            METRICS["tail-exponent"].create({"window": window})


def test_the_figure_and_the_metric_fit_the_same_window():
    assert METRICS["tail-exponent"].parameters_model()().window == TAIL_WINDOW


def test_a_tail_without_distortion_left_has_no_law():
    curve = np.concatenate([[1.0, 0.5, 0.1], np.full(LATENTS - 2, 1e-17)])
    assert math.isnan(tail_law(curve).exponent)
    assert "above zero" in evaluate("tail-exponent", measurement(curve=curve)).reasons["exponent"]


def test_posterior_scale_tells_active_from_collapsed_latents():
    assert evaluate("posterior-scale", measurement()).values == {"max-deviation-active": 0, "max-deviation": 0}
    scale = rank_by_temperature({(0, -1): 1.2, (LATENTS - 1, -1): 0.5})
    found = evaluate("posterior-scale", measurement(scale=scale))
    assert found.values["max-deviation-active"] == pytest.approx(0.2)
    assert found.values["max-deviation"] == pytest.approx(0.5)
    assert found.modes["max_deviation_active"][0] == pytest.approx(0.2)
    assert math.isnan(found.modes["max_deviation_active"].iloc[-1])


def test_jensen_gap_tells_active_from_collapsed_latents_and_takes_roundoff_as_zero():
    assert evaluate("jensen-gap", measurement(gap=np.full((TEMPERATURES.size, LATENTS), -1e-16))).values == {
        "max-active": 0,
        "max": 0,
    }
    gap = rank_by_temperature({(1, -1): 1.1, (LATENTS - 1, 0): 3.0}) - 1
    assert evaluate("jensen-gap", measurement(gap=gap)).values == pytest.approx({"max-active": 0.1, "max": 2.0})


@pytest.mark.parametrize("decoder_variance", [1.0, 0.25])
def test_the_linear_optimum_lies_on_the_gaussian_rate_distortion_function(decoder_variance):
    found = evaluate("rate-distortion-gap", measurement(decoder_variance=decoder_variance)).values
    assert found == pytest.approx({"median": 0, "max": 0, "below-share": 0}, abs=1e-9)


def test_nats_spent_or_saved_against_the_gaussian_function_are_the_gap():
    spent = evaluate("rate-distortion-gap", measurement(extra_rate=0.3)).values
    assert spent == pytest.approx({"median": 0.3, "max": 0.3, "below-share": 0})
    saved = evaluate("rate-distortion-gap", measurement(extra_rate=-0.3)).values
    assert saved == pytest.approx({"median": -0.3, "max": -0.3, "below-share": 1})


def test_the_residual_edge_of_an_exact_scan_is_the_threshold_of_the_next_rank():
    found = evaluate("landau-onset", measurement())
    assert found.values["predicted-ranks"] == RESOLVED
    assert found.values["max-log-error"] < 1e-9 + 2 * 0.01
    rows = found.modes[:RESOLVED]
    assert (rows["edge_temperature"] >= 0.99 * rows["threshold"]).all()


def test_latents_that_wake_before_the_residual_calls_them_are_seen():
    found = evaluate("landau-onset", measurement(stretch=1.3)).values
    assert found["median-log-error"] == pytest.approx(math.log(1.3), abs=0.02)


def test_an_edge_that_an_active_latent_leaves_is_no_prediction():
    measured = measurement()
    fractions = oracle(np.diag(SPECTRUM), TEMPERATURES, LATENTS).signal_fraction
    left = TEMPERATURES * np.where(fractions > 0.01, 1 - fractions, 0).max(axis=1)
    tables = {**measured.tables, "equilibrium": measured.tables["equilibrium"].assign(residual_edge=left)}
    found = evaluate("landau-onset", replace(measured, tables=tables))
    assert found.values == {"predicted-ranks": 0}
    assert "edge of its own" in found.reasons["max-log-error"]


def test_on_a_split_that_was_not_observed_replica_metrics_give_reasons():
    for metric in ("rate-distortion-gap", "landau-onset"):
        found = evaluate(metric, measurement(), split="test")
        assert set(found.values) <= {"predicted-ranks"}
        assert found.reasons
