"""Metrics on measurements made from the exact solution: right there, and able to fail elsewhere."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from collapsebench import SPLITS, Measurement, Pca, Prediction, oracle
from collapsebench_metrics import collapsebench_metrics

SPECTRUM = np.array([6.0, 3.0, 1.5, 0.7, 0.3, 0.1, 0.03, 0.01])
TEMPERATURES = np.logspace(0, -5, 31)
LATENTS = 10
SHARES = SPECTRUM / SPECTRUM.sum()
METRICS = {component.id: component for component in collapsebench_metrics()}


def long(axis, arrays, splits=SPLITS):
    """Return a table of {column: `(t, axis)`}, the same on every split."""
    t, index = np.indices(next(iter(arrays.values())).shape)
    columns = {"temperature": TEMPERATURES[t.ravel()], axis: index.ravel()}
    columns |= {name: values.ravel() for name, values in arrays.items()}
    return pd.concat([pd.DataFrame({"split": split, **columns}) for split in splits], ignore_index=True)


def measurement(*, thresholds=None, curve=None, diverged=(), has_oracle=True, tilt=0.0, spectrum=SPECTRUM):
    """Return what an exact linear scan would measure, its latents in another order at every temperature.

    thresholds: by PCA mode, where they should differ from the eigenvalues. curve: D(K), where it should
    differ from that of the exact solution. tilt: radians by which the first mode's decoder direction turns to
    the last feature.
    """
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.normal(size=(spectrum.size, spectrum.size)))[0]
    covariance = rotation @ np.diag(spectrum) @ rotation.T
    exact = oracle(covariance, TEMPERATURES, LATENTS)
    fractions, rates = exact.signal_fraction.copy(), exact.rate.copy()
    if thresholds is not None:
        ratio = np.minimum(TEMPERATURES[:, None] / thresholds, 1)
        fractions[:, : len(thresholds)], rates[:, : len(thresholds)] = 1 - ratio, -0.5 * np.log(ratio)
    strengths = np.zeros(LATENTS)
    strengths[: spectrum.size] = spectrum / spectrum.sum() if thresholds is None else thresholds
    worth = strengths * (1 - (1 - fractions) ** 2)
    modes = np.zeros((LATENTS, spectrum.size))
    modes[: spectrum.size] = exact.components
    modes[0] = math.cos(tilt) * exact.components[0] + math.sin(tilt) * exact.components[-1]
    order = np.array([rng.permutation(LATENTS) for _ in TEMPERATURES])
    directions = modes[order] * rng.uniform(0.5, 2.0, size=(*order.shape, 1)) * rng.choice([-1, 1], (*order.shape, 1))
    distortion = exact.normalised_distortion if curve is None else np.tile(curve, (TEMPERATURES.size, 1))
    scan = {
        "signal_fraction": np.take_along_axis(fractions, order, 1),
        "rate": np.take_along_axis(rates, order, 1),
        "snr": np.take_along_axis(fractions / (1 - fractions), order, 1),
        "mean_square": np.take_along_axis(fractions, order, 1),
        "mean": np.zeros_like(rates),
        "variance": np.take_along_axis(1 - fractions, order, 1),
        "largest_mean": np.take_along_axis(4 * np.sqrt(fractions), order, 1),
        "posterior_scale": np.ones_like(rates),
        "jensen_gap": np.zeros_like(rates),
    }
    columns = {f"feature_{d}": directions[:, :, d] for d in range(spectrum.size)}
    tables = {
        "latent-moments": long("latent", scan),
        "truncated-distortion": long("rank", {"normalised_distortion": distortion}),
        "latent-utility": long("latent", {"utility": np.take_along_axis(worth, order, 1)}),
        "decoder-directions": long("latent", columns, ("train",)),
        "decoder-origin-directions": long("latent", columns, ("train",)),
        "traversals": long(
            "latent",
            {
                f"at_{v}_{d}": v * directions[:, :, d] * np.take_along_axis(fractions > 0.1, order, 1)
                for v in range(-3, 4)
                for d in range(spectrum.size)
            },
            ("train",),
        ),
        "losses": pd.DataFrame(
            {
                "split": "train", "temperature": TEMPERATURES, "distortion": exact.distortion,
                "rate": exact.total_rate, "loss": exact.loss,
            }
        ),
        "equilibrium": pd.DataFrame(
            {
                "split": "train", "temperature": TEMPERATURES, "ward_residual": 1e-3,
                "residual_edge": np.minimum(TEMPERATURES, SHARES[0]),
                "spare_latents": LATENTS - exact.active_count,
            }
        ),
        "residual-edge": pd.DataFrame(
            {
                "split": "train", "temperature": TEMPERATURES,
                "edge": np.append(SHARES, 0.0)[np.minimum((fractions > 0.1).sum(axis=1), SHARES.size)],
                "active_latents": (fractions > 0.1).sum(axis=1),
            }
        ),
        "replicas": pd.DataFrame({"temperature": TEMPERATURES, "mark": "converged"}),
    }  # fmt: skip
    lost = [TEMPERATURES[index] for index in diverged]
    for table in tables.values():
        numbers = [column for column in table if column not in ("split", "temperature", "latent", "rank", "mark")]
        table.loc[table["temperature"].isin(lost), numbers] = np.nan
    replicas = tables["replicas"]
    replicas.loc[replicas["temperature"].isin(lost), "mark"] = "diverged"
    tail = np.concatenate([[1.0], 1 - np.cumsum(exact.eigenvalues / exact.total_variance)])
    return Measurement(
        temperatures=TEMPERATURES,
        latent_dim=LATENTS,
        total_variance=exact.total_variance,
        tables=tables,
        pca=Pca(exact.eigenvalues / exact.total_variance, exact.components, dict.fromkeys(SPLITS, tail)),
        second_moments=dict.fromkeys(SPLITS, covariance),
        has_oracle=has_oracle,
        prediction=Prediction.linear(TEMPERATURES, exact.eigenvalues, LATENTS) if has_oracle else None,
    )


def evaluate(metric, measured, **parameters):
    return METRICS[metric].create(parameters).evaluate(measured)


RESOLVED = int((SHARES >= 1e-4).sum())


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    "measured",
    [
        measurement(),
        measurement(has_oracle=False),
        measurement(diverged=[3, 17]),
        measurement(diverged=range(31)),
        measurement(thresholds=np.full(8, 1e-7), curve=np.ones(11)),
    ],
    ids=["exact", "nonlinear", "two-diverged", "all-diverged", "collapsed"],
)
def test_every_declared_score_has_a_finite_or_infinite_value_within_bounds_or_a_reason(metric, measured):
    component = METRICS[metric]
    found = evaluate(metric, measured)
    declared = {score.name: score for score in component.load().scores}
    assert set(found.values) | set(found.reasons) == set(declared)
    assert not set(found.values) & set(found.reasons)
    for name, value in found.values.items():
        assert type(value) is float
        assert declared[name].low - 1e-12 <= value <= declared[name].high + 1e-12
    assert all(reason for reason in found.reasons.values())
    if found.modes is not None:
        per_table = found.modes.groupby("temperature") if "temperature" in found.modes else [("", found.modes)]
        assert all(rows["rank"].tolist() == list(range(1, len(rows) + 1)) for _, rows in per_table)


@pytest.mark.parametrize("metric", METRICS)
def test_a_metric_says_what_it_requires_and_reads_nothing_else(metric):
    measured = measurement()
    needed = {*METRICS[metric].load().requires, "replicas"}
    tables = {name: table for name, table in measured.tables.items() if name in needed}
    evaluate(metric, replace(measured, tables=tables))


def test_the_default_split_is_train_except_for_what_is_read_from_distortions_alone():
    defaults = {name: component.parameters_model()().split for name, component in METRICS.items()}
    assert {name for name, split in defaults.items() if split == "test"} == {
        "effective-dimension", "tail-exponent", "rank-distortion-ratio", "head-tail",
    }  # fmt: skip
    assert set(defaults.values()) == {"train", "test"}


def test_listing_the_metrics_imports_nothing_heavy():
    program = (
        "import sys, collapsebench_metrics as m; [c.parameters_model() for c in m.collapsebench_metrics()];"
        "sys.exit(bool({'torch', 'pandas', 'scipy', 'sklearn', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_an_exact_scan_agrees_with_pca():
    found = evaluate("pca-agreement", measurement())
    assert found.values["threshold-identity-r2"] == pytest.approx(1, abs=1e-9)
    assert found.values["threshold-max-log-error"] == pytest.approx(0, abs=1e-9)
    assert found.values["utility-identity-r2"] == pytest.approx(1, abs=1e-4)
    assert found.values["utility-max-log-error"] < 0.011
    assert found.values["signal-fraction-max-error"] == pytest.approx(0, abs=1e-9)
    assert found.values["subspace-angle"] == pytest.approx(0, abs=1e-7)
    assert found.values["missed-ranks"] == 0
    assert found.modes["resolved"].sum() == RESOLVED
    assert found.modes["threshold"].to_numpy()[:RESOLVED] == pytest.approx(SHARES[:RESOLVED])


def test_thresholds_off_by_a_factor_and_a_tilted_direction_show():
    shifted = evaluate("pca-agreement", measurement(thresholds=1.5 * SHARES)).values
    assert shifted["threshold-max-log-error"] == pytest.approx(math.log(1.5))
    assert shifted["threshold-identity-r2"] < 0.999
    assert shifted["signal-fraction-max-error"] > 0.1
    assert evaluate("pca-agreement", measurement(tilt=0.3)).values["subspace-angle"] == pytest.approx(0.3)


def test_an_active_latent_that_the_decoder_ignores_is_a_right_angle_away():
    measured = measurement()
    directions = measured.tables["decoder-directions"]
    directions.loc[:, directions.columns.str.startswith("feature_")] = 0.0
    assert evaluate("pca-agreement", measured).values["subspace-angle"] == pytest.approx(math.pi / 2)


def test_on_another_split_signal_fractions_are_compared_with_the_exact_ones_of_that_split():
    measured = measurement()
    other = np.diag(np.linspace(1, 2, 8)) @ measured.covariance @ np.diag(np.linspace(1, 2, 8))
    exact = oracle(measured.covariance, TEMPERATURES, LATENTS, evaluation=other)
    table = long("latent", {"signal_fraction": exact.signal_fraction}, ("test",))
    train = measured.tables["latent-moments"].query("split == 'train'")
    tables = {**measured.tables, "latent-moments": pd.concat([train, table])}
    moments = {**measured.second_moments, "test": other}
    moved = replace(measured, tables=tables, second_moments=moments)
    assert evaluate("pca-agreement", moved, split="test").values["signal-fraction-max-error"] < 1e-9
    wrong = replace(measured, tables=tables)
    assert evaluate("pca-agreement", wrong, split="test").values["signal-fraction-max-error"] > 1e-3


def test_a_resolved_mode_that_never_becomes_active_is_counted_not_dropped():
    thresholds = SHARES.copy()
    thresholds[4] = 1e-7
    assert evaluate("pca-agreement", measurement(thresholds=thresholds)).values["missed-ranks"] == 1
    assert evaluate("exponent-fit", measurement(thresholds=thresholds)).values["missed-ranks"] == 1


def test_an_exact_scan_collapses_in_the_order_of_pca_and_of_utilities():
    found = evaluate("threshold-ranking", measurement())
    assert found.values == pytest.approx(
        {
            "kendall-tau": 1.0, "kendall-tau-utility": 1.0, "resolved-ranks": RESOLVED,
            "first-swapped-rank": RESOLVED + 1, "first-swapped-mode": RESOLVED + 1,
        }
    )  # fmt: skip
    assert found.modes["mode_threshold"].to_numpy()[:RESOLVED] == pytest.approx(SHARES[:RESOLVED])


def test_two_modes_that_collapse_in_the_wrong_order_are_seen_through_their_directions():
    thresholds = SHARES[[0, 1, 3, 2, 4, 5, 6, 7]]
    found = evaluate("threshold-ranking", measurement(thresholds=thresholds)).values
    pairs = RESOLVED * (RESOLVED - 1) / 2
    assert found["kendall-tau"] == pytest.approx(1 - 2 / pairs)
    assert found["first-swapped-mode"] == 4
    assert found["kendall-tau-utility"] == pytest.approx(1)


def test_utilities_out_of_order_are_seen_by_rank():
    worth = SHARES[[0, 1, 2, 4, 3, 5, 6, 7]]
    curve = np.concatenate([[1.0], 1 - np.cumsum(worth), [1e-9, 1e-9]])
    found = evaluate("threshold-ranking", measurement(curve=curve)).values
    pairs = RESOLVED * (RESOLVED - 1) / 2
    assert found["kendall-tau-utility"] == pytest.approx(1 - 2 / pairs)
    assert found["first-swapped-rank"] == 5
    assert found["kendall-tau"] == pytest.approx(1)


def test_the_basis_of_a_repeated_eigenvalue_does_not_matter():
    spectrum = np.array([6.0, 3.0, 3.0, 0.7, 0.3, 0.1, 0.03, 0.01])
    measured = measurement(spectrum=spectrum)
    turn = np.eye(8)
    turn[1:3, 1:3] = [[math.cos(0.7), math.sin(0.7)], [-math.sin(0.7), math.cos(0.7)]]
    pca = Pca(measured.pca.eigenvalues, turn @ measured.pca.components, measured.pca.rank_distortion)
    turned = replace(measured, pca=pca)
    found = evaluate("threshold-ranking", turned)
    assert found.values["kendall-tau"] == pytest.approx(1)
    assert found.modes["mode_threshold"].to_numpy()[:3] == pytest.approx(spectrum[:3] / spectrum.sum())
    assert evaluate("pca-agreement", turned).values["subspace-angle"] == pytest.approx(0, abs=1e-7)


def test_an_exact_scan_has_the_mean_field_exponent_in_every_resolved_mode():
    found = evaluate("exponent-fit", measurement())
    assert found.values["exponent"] == pytest.approx(0.5, abs=1e-9)
    assert found.values["exponent-max-deviation"] < 1e-9
    assert found.values["threshold-max-log-error"] < 1e-9
    rows = found.modes[found.modes["resolved"]]
    assert (rows["low"] <= rows["exponent"]).all()
    assert (rows["exponent"] <= rows["high"]).all()


def test_exponents_of_a_nonlinear_scan_are_summarised_over_its_own_resolved_ranks():
    thresholds = np.array([0.3, 0.01, 1e-7, 1e-7, 1e-7, 1e-7, 1e-7, 1e-7])
    found = evaluate("exponent-fit", measurement(thresholds=thresholds, has_oracle=False))
    assert found.modes["resolved"].sum() == 2
    assert found.values["missed-ranks"] == 0
    assert found.values["exponent"] == pytest.approx(0.5, abs=1e-6)


def test_effective_dimensions_of_an_exact_scan_are_those_of_pca_until_the_scan_ends():
    found = evaluate("effective-dimension", measurement()).values
    for name in ("5%", "1%", "0.5%"):
        assert found[f"at-{name}"] == found[f"pca-at-{name}"] < 8


def test_a_tolerance_that_is_not_reached_is_infinite():
    curve = np.concatenate([[1.0], np.full(10, 0.02)])
    found = evaluate("effective-dimension", measurement(curve=curve)).values
    assert found["at-5%"] == 1
    assert found["at-1%"] == math.inf
    assert np.isfinite(found["pca-at-1%"])


def test_an_exact_scan_collapses_where_its_utilities_say():
    found = evaluate("utility-threshold-duality", measurement()).values
    assert found["identity-r2"] == pytest.approx(1, abs=1e-4)
    assert found["identity-r2-rate"] == pytest.approx(1, abs=1e-4)
    assert found["max-log-error"] < 0.011
    assert found["max-log-error-rate"] < 0.011


def test_an_exact_scan_is_in_equilibrium():
    found = evaluate("equilibrium", measurement()).values
    assert found["converged-share"] == 1
    assert found["ward-residual"] == pytest.approx(1e-3)
    assert found["residual-edge"] == pytest.approx(1)
    assert found["loss-gap"] == pytest.approx(0, abs=1e-12)
    assert found["derivative-identity"] == pytest.approx(0, abs=1e-9)
    assert found["derivative-violations"] == 0


def test_a_replica_stuck_above_the_minimum_shows_in_the_loss_gap_and_in_the_band_of_its_neighbours():
    measured = measurement()
    table = measured.tables["losses"]
    table.loc[15, ["distortion", "loss"]] *= 1.5
    found = evaluate("equilibrium", measured).values
    assert found["loss-gap"] == pytest.approx(0.5)
    assert found["derivative-violations"] > 0


def test_diverged_replicas_count_against_convergence_and_leave_the_rest_unchanged():
    whole, holed = (evaluate("equilibrium", measurement(diverged=lost)).values for lost in ((), (2, 20)))
    assert holed["converged-share"] == pytest.approx(29 / 31)
    assert {**holed, "converged-share": 1.0} == pytest.approx({**whole, "converged-share": 1.0})
    for metric in ("pca-agreement", "threshold-ranking", "exponent-fit", "utility-threshold-duality"):
        values = evaluate(metric, measurement(diverged=(2, 20))).values
        assert values == pytest.approx(evaluate(metric, measurement()).values, abs=1e-3)


def test_a_scan_that_resolves_nothing_gets_reasons_that_say_what_to_do():
    measured = measurement(thresholds=np.full(8, 1e-7), curve=np.ones(11), has_oracle=False)
    found = evaluate("utility-threshold-duality", measured)
    assert "resolves 0 of 10 ranks" in found.reasons["identity-r2"]
    assert "scan lower" in found.reasons["identity-r2"]
    assert set(evaluate("exponent-fit", measured).reasons) >= {"exponent", "exponent-max-deviation"}
    assert "exact solution" in evaluate("equilibrium", measured).reasons["loss-gap"]


def test_intervention_agreement_is_exact_at_the_predicted_solution_and_sees_a_moved_threshold():
    found = evaluate("intervention-agreement", measurement()).values
    assert found["signal-fraction-max-error"] == pytest.approx(0, abs=1e-9)
    assert found["threshold-max-log-error"] == pytest.approx(0, abs=1e-6)
    assert found["missed-ranks"] == 0
    moved = evaluate("intervention-agreement", measurement(thresholds=SHARES * [1, 1, 1.2, 1, 1, 1, 1, 1])).values
    assert moved["threshold-max-log-error"] == pytest.approx(math.log(1.2), abs=1e-3)
    assert moved["signal-fraction-max-error"] > 0.05


def test_intervention_agreement_measures_the_shortfall_below_a_floor_and_no_excess():
    measured = measurement()
    floor = Prediction(np.full((31, LATENTS), 0.3), np.full(LATENTS, np.nan), TEMPERATURES, exact=False)
    found = evaluate("intervention-agreement", replace(measured, prediction=floor))
    assert found.values["signal-fraction-max-error"] == pytest.approx(0.3)
    assert "no thresholds" in found.reasons["threshold-max-log-error"]
    low = replace(floor, signal_fraction=np.zeros((31, LATENTS)))
    assert evaluate("intervention-agreement", replace(measured, prediction=low)).values == {
        "signal-fraction-max-error": 0.0
    }


def test_intervention_agreement_compares_the_temperatures_that_replicas_end_with():
    measured = measurement()
    assert (
        "does not set the price of a nat itself"
        in evaluate("intervention-agreement", measured).reasons["temperature-max-log-error"]
    )
    replicas = measured.tables["replicas"].assign(effective_temperature=TEMPERATURES * 1.1)
    found = evaluate("intervention-agreement", replace(measured, tables={**measured.tables, "replicas": replicas}))
    assert found.values["temperature-max-log-error"] == pytest.approx(math.log(1.1))


def test_what_replicas_pay_in_the_end_decides_whether_they_are_stable_and_their_slope():
    """A scan whose own price halves the temperature of the grid is judged at what it pays."""
    measured = measurement()
    halved = {
        name: table.assign(temperature=table["temperature"] * 2) if "temperature" in table else table
        for name, table in measured.tables.items()
    }
    halved["replicas"] = halved["replicas"].assign(effective_temperature=TEMPERATURES)
    scan = replace(measured, tables=halved, temperatures=TEMPERATURES * 2, has_oracle=False)
    expected, found = (evaluate("equilibrium", part).values for part in (measured, scan))
    for score in ("residual-edge", "derivative-identity", "derivative-violations"):
        assert found[score] == pytest.approx(expected[score])
