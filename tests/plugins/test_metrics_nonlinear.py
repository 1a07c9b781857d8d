"""Metrics of nonlinear spectroscopy: closed forms on the exact solution, invariances, and what they must notice."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from test_metrics import LATENTS, RESOLVED, SHARES, TEMPERATURES, evaluate, measurement

from collapsebench import CRITERIA, Pca
from collapsebench_metrics.crosswalk import flips_at
from collapsebench_metrics.subspace_angles import block_ends
from collapsebench_metrics.traversals import curvature_of

SPAN = ("span-angle", "max-span-angle", "block-angle")


def with_tables(measured, **tables):
    """Return a measurement with tables changed by functions of them."""
    changed = {name.replace("_", "-"): table for name, table in tables.items()}
    return replace(
        measured, tables={**measured.tables, **{n: f(measured.tables[n].copy()) for n, f in changed.items()}}
    )


def relabelled(measured):
    """Return the same measurement with its latents numbered backwards and their signs turned."""

    def turn(table):
        features = [column for column in table if column.startswith("feature_")]
        table["latent"] = LATENTS - 1 - table["latent"]
        table[features] *= -1
        return table

    return with_tables(measured, latent_moments=turn, decoder_directions=turn, decoder_origin_directions=turn)


METRICS = ("subspace-angles", "one-shot-spectrum", "crosswalk", "onset-jump")


@pytest.mark.parametrize("metric", METRICS)
def test_numbering_and_signs_of_latents_do_not_matter(metric):
    measured = measurement(tilt=0.2, thresholds=1.3 * SHARES)
    expected, found = evaluate(metric, measured), evaluate(metric, relabelled(measured))
    assert found.values == pytest.approx(expected.values, abs=1e-12)
    assert found.reasons == expected.reasons


def test_an_exact_scan_spans_what_pca_spans():
    found = evaluate("subspace-angles", measurement()).values
    for place in ("", "-at-origin"):
        for name in SPAN:
            assert found[f"{name}{place}"] == pytest.approx(0, abs=1e-7)


def test_a_direction_tilted_out_of_the_span_shows_as_its_angle():
    found = evaluate("subspace-angles", measurement(tilt=0.3))
    assert found.values["span-angle"] == pytest.approx(0.3)
    assert found.values["max-span-angle"] == pytest.approx(0.3)
    assert found.modes["block_angle"][0] == pytest.approx(0.3)
    assert found.modes["block_angle"][1] == pytest.approx(0, abs=1e-7)


def turned_latents(measured, angle, first=0):
    """Return a measurement whose two latents from rank `first` on are rotated into each other where both are known."""
    components = measured.pca.components
    turn = np.eye(len(components))
    turn[first : first + 2, first : first + 2] = [
        [math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)],
    ]  # fmt: skip

    def rotate(table):
        features = [f"feature_{d}" for d in range(len(components))]
        # A latent along component k becomes one along row k of the rotation.
        table[features] = table[features].to_numpy() @ components.T @ turn @ components
        return table

    return with_tables(measured, decoder_directions=rotate, decoder_origin_directions=rotate)


def test_rotating_active_latents_among_themselves_moves_blocks_and_no_span():
    found = evaluate("subspace-angles", turned_latents(measurement(), 0.4)).values
    assert found["span-angle"] == pytest.approx(0, abs=1e-7)
    assert found["max-span-angle"] == pytest.approx(0.4)  # where only the first of the two is active
    assert evaluate("subspace-angles", turned_latents(measurement(), 0.4)).modes["block_angle"][1] == pytest.approx(0.4)


def test_repeated_eigenvalues_are_compared_as_one_block():
    spectrum = np.array([6.0, 3.0, 3.0, 0.7, 0.3, 0.1, 0.03, 0.01])
    measured = turned_latents(measurement(spectrum=spectrum), 0.7, first=1)
    found = evaluate("subspace-angles", measured).values
    for name in SPAN:
        assert found[name] == pytest.approx(0, abs=1e-7)
    apart = evaluate("subspace-angles", measured, gap=0.0)
    assert apart.modes["block_angle"][1] == pytest.approx(0.7) or "block" in str(apart.reasons)


def test_blocks_end_at_gaps_and_leave_out_what_is_roundoff():
    assert block_ends(np.array([3.0, 2.0, 2.0, 1.0, 1e-12]), 1e-2) == [1, 3, 4]
    assert block_ends(np.array([1.0, 0.995, 0.99]), 1e-2) == [3]


def test_a_jacobian_that_vanishes_at_the_origin_is_a_right_angle_away_there_only():
    def vanish(table):
        table.loc[:, table.columns.str.startswith("feature_")] = 0.0
        return table

    found = evaluate("subspace-angles", with_tables(measurement(), decoder_origin_directions=vanish)).values
    assert found["span-angle-at-origin"] == pytest.approx(math.pi / 2)
    assert found["span-angle"] == pytest.approx(0, abs=1e-7)


def test_an_exact_scan_leaves_what_pca_leaves():
    found = evaluate("rank-distortion-ratio", measurement())
    assert found.values["min"] >= 1 - 1e-9
    assert found.values["geometric-mean"] == pytest.approx(1, abs=1e-3)
    # D(K) = sum of T^2 / T_k over the kept + sum of T_k over the others, at the lowest T.
    kept, lowest = 5, TEMPERATURES.min()
    expected = ((lowest**2 / SHARES[:kept]).sum() + SHARES[kept:].sum()) / SHARES[kept:].sum()
    assert found.modes["ratio"][kept - 1] == pytest.approx(expected)


def test_the_ratio_to_pca_is_by_rank_and_counts_the_ranks_that_beat_it():
    tail = np.concatenate([[1.0], 1 - np.cumsum(SHARES), [0.0, 0.0]])
    factors = np.concatenate([[1.0], [0.5, 0.5, 1.0, 2.0, 2.0, 2.0, 2.0], np.ones(3)])
    found = evaluate("rank-distortion-ratio", measurement(curve=tail * factors, has_oracle=False))
    assert found.modes["ratio"].to_numpy()[:7] == pytest.approx(factors[1:8])
    assert found.values["min"] == pytest.approx(0.5)
    assert found.values["max"] == pytest.approx(2.0)
    assert found.values["ranks-better"] == pytest.approx(2 / 7)
    assert found.values["geometric-mean"] == pytest.approx(2 ** (2 / 7))


def test_the_head_and_tail_of_an_exact_scan_are_those_of_pca():
    found = evaluate("head-tail", measurement()).values
    assert found["pca-head-share"] == pytest.approx(SHARES[:4].sum())
    assert found["head-share"] == pytest.approx(SHARES[:4].sum(), abs=1e-4)
    assert found["pca-tail-floor"] == pytest.approx(SHARES[7])
    assert found["head-gain"] == pytest.approx(0, abs=1e-3)
    assert found["tail-loss"] == pytest.approx(0, abs=0.02)
    assert found["crossover-rank"] in (7.0, math.inf)


def test_a_steeper_head_with_a_higher_floor_has_both_signs_positive_and_a_crossover():
    tail = np.concatenate([[1.0], 1 - np.cumsum(SHARES), [0.0, 0.0]])
    curve = np.minimum(np.maximum(0.5 * tail, 0.005), tail[0])
    curve[0] = 1.0
    found = evaluate("head-tail", measurement(curve=curve), head=2).values
    assert found["head-gain"] == pytest.approx(math.log(2))
    assert found["tail-floor"] == pytest.approx(0.005)
    assert found["tail-loss"] == pytest.approx(math.log(0.005 / SHARES[7]))
    first = next(k for k in range(3, 8) if tail[k] / 0.99 < 0.005)
    assert found["crossover-rank"] == first


def test_a_head_as_long_as_the_scan_gets_a_reason():
    found = evaluate("head-tail", measurement(), head=9)
    assert not found.values
    assert "set `head` below" in found.reasons["head-gain"]


def test_one_temperature_of_an_exact_scan_tells_every_threshold():
    found = evaluate("one-shot-spectrum", measurement())
    for name in ("median-log-error", "max-log-error", "coldest-log-error", "drift", "max-drift"):
        assert found.values[name] == pytest.approx(0, abs=1e-9)
    assert found.modes["one_shot_coldest"].to_numpy()[:RESOLVED] == pytest.approx(SHARES[:RESOLVED])


def test_a_spectrum_that_depends_on_the_temperature_it_is_read_at_drifts():
    def steeper(table):
        """M^2 / (1 - M^2) = (T_k / T)^1.2 - 1: one-shot thresholds go as T^-0.2."""
        active = table["signal_fraction"] > 0
        table.loc[active, "snr"] = (1 + table.loc[active, "snr"]) ** 1.2 - 1
        return table

    found = evaluate("one-shot-spectrum", with_tables(measurement(), latent_moments=steeper)).values
    assert found["drift"] == pytest.approx(-0.2)
    assert found["max-drift"] == pytest.approx(0.2)
    assert found["coldest-log-error"] == pytest.approx(0.2 * math.log(SHARES[0] / TEMPERATURES.min()), rel=1e-6)


def test_criteria_flip_where_the_linear_equilibrium_says():
    rng = np.random.default_rng(0)
    fractions = np.sort(rng.uniform(0, 1, (31, LATENTS)), axis=1)

    def at(table):
        table["signal_fraction"] = table["mean_square"] = np.tile(fractions.ravel(), 3)
        table["variance"] = 1 - table["signal_fraction"]
        table["rate"] = -0.5 * np.log1p(-table["signal_fraction"])
        return table

    found = evaluate("crosswalk", with_tables(measurement(), latent_moments=at)).values
    for criterion in CRITERIA:
        assert found[f"error-of-{criterion.name}"] == 0 or criterion.name == "not-vanished"
        if math.isfinite(criterion.flips_at):
            assert found[f"flips-at-{criterion.name}"] == pytest.approx(criterion.flips_at, abs=0.01)


def test_by_rank_a_criterion_gives_up_at_the_last_temperature_below_its_share_of_the_threshold():
    modes = evaluate("crosswalk", measurement()).modes
    expected = [TEMPERATURES[0.5 * share > TEMPERATURES].max() for share in SHARES]
    assert modes["posterior_variance"].to_numpy()[:8] == pytest.approx(expected)
    assert np.isnan(modes["posterior_variance"].to_numpy()[8:]).all()


def test_the_flip_is_the_threshold_with_the_fewest_errors():
    flip, error = flips_at(np.array([0.1, 0.2, 0.4, 0.6, 0.7]), np.array([False, True, False, True, True]))
    assert flip == pytest.approx(0.15) or flip == pytest.approx(0.5)
    assert error == pytest.approx(0.2)
    assert flips_at(np.array([0.3, 0.9]), np.array([False, True])) == (pytest.approx(0.6), 0.0)


def test_a_continuous_onset_has_no_jump_on_any_grid():
    found = evaluate("onset-jump", measurement())
    assert found.values["largest-jump"] <= 1e-12
    assert found.values["jumping-ranks"] == 0
    assert found.values["persistence"] == 0
    step = TEMPERATURES[0] / TEMPERATURES[1]
    assert abs(math.log(found.values["onset-ratio"])) < math.log(step)
    onsets = found.modes["onset"].to_numpy()[:RESOLVED]
    assert (np.abs(np.log(onsets / SHARES[:RESOLVED])) < math.log(step)).all()


def test_an_order_parameter_that_jumps_is_seen_with_the_size_of_its_jump():
    def jump(table):
        """Below 0.2 latents are off: M^2 falls from there to 0 at once, as at a first-order transition."""
        return table.assign(signal_fraction=table["signal_fraction"].where(table["signal_fraction"] > 0.6, 0.0))

    found = evaluate("onset-jump", with_tables(measurement(), latent_moments=jump))
    allowed = 1 - TEMPERATURES[1] / TEMPERATURES[0]
    assert found.values["largest-jump"] > 0.6 - allowed
    assert found.values["jumping-ranks"] >= RESOLVED - 1
    assert found.values["onset-ratio"] == pytest.approx(0.4, rel=0.3)


def test_latents_that_never_reach_the_prior_persist_above_their_threshold():
    def fade(table):
        return table.assign(signal_fraction=np.maximum(table["signal_fraction"], 0.3))

    assert evaluate("onset-jump", with_tables(measurement(), latent_moments=fade)).values["persistence"] == 0.3


def test_the_edge_of_an_exact_scan_predicts_every_rank_that_it_can():
    found = evaluate("residual-edge", measurement())
    assert found.values["max-log-error"] == pytest.approx(0, abs=1e-9)
    assert found.values["predicted-ranks"] >= 4
    rows = found.modes[found.modes["edge"].notna()]
    assert rows["edge"].to_numpy() == pytest.approx(SHARES[rows["rank"].to_numpy() - 1])


def test_latents_that_stay_collapsed_below_the_edge_are_unstable():
    late = evaluate("residual-edge", measurement(thresholds=np.full(8, 1e-7))).values
    below = SHARES[0] / 1.1 > TEMPERATURES
    assert late["unstable-share"] == pytest.approx(below.mean())
    assert evaluate("residual-edge", measurement()).values["unstable-share"] < late["unstable-share"] / 3


def test_the_gain_is_what_a_linear_readout_misses():
    def half(table):
        return table.assign(residual_edge=0.5 * measurement().tables["residual-edge"]["edge"])

    found = evaluate("residual-edge", with_tables(measurement(), equilibrium=half)).values
    assert found["nonlinear-gain"] == pytest.approx(math.log(2))


def test_an_affine_decoder_has_straight_traversals():
    found = evaluate("traversals", measurement()).values
    assert found["curvature"] == pytest.approx(0, abs=1e-12)
    assert found["max-curvature"] == pytest.approx(0, abs=1e-12)


def test_curvature_is_the_share_that_no_straight_line_explains():
    values, along, across = np.arange(-3, 4)[:, None, None], np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    square, quartic = 28.0, 2 * (1 + 16 + 81)
    assert curvature_of(1.0 + values * along) == pytest.approx(0)
    assert curvature_of(values**2 * along) == pytest.approx(1)
    assert curvature_of(values * along + values**2 * across) == pytest.approx(quartic / (square + quartic))
    assert np.isnan(curvature_of(0.0 * values * along)).all()


def test_degenerate_spectra_give_values_or_reasons_everywhere():
    for spectrum in (np.array([2.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0]), np.array([3.0, 2.0, 1.0, 0.5, 0, 0, 0, 0])):
        measured = measurement(spectrum=np.maximum(spectrum, 0))
        for metric in (*METRICS, "rank-distortion-ratio", "head-tail"):
            found = evaluate(metric, measured)
            assert not any(math.isnan(value) for value in found.values.values()), metric
        angles = evaluate("subspace-angles", measured).values
        assert angles.get("max-span-angle", 0.0) == pytest.approx(0, abs=1e-6)


def test_the_basis_that_pca_chose_within_a_block_does_not_matter():
    spectrum = np.array([6.0, 3.0, 3.0, 0.7, 0.3, 0.1, 0.03, 0.01])
    measured = measurement(spectrum=spectrum)
    turn = np.eye(8)
    turn[1:3, 1:3] = [[math.cos(1.1), math.sin(1.1)], [-math.sin(1.1), math.cos(1.1)]]
    pca = Pca(measured.pca.eigenvalues, turn @ measured.pca.components, measured.pca.rank_distortion)
    found = evaluate("subspace-angles", replace(measured, pca=pca)).values
    assert max(found[name] for name in SPAN) == pytest.approx(0, abs=1e-7)
