"""The curves behind the figures: those of an exact scan are the theory's, and what diverged is left out."""

from __future__ import annotations

import numpy as np
import pytest
from measured_results import LATENTS, SHARES, SPECTRA, cell, exact_cell, exact_scan, measurement

from collapsebench.publishing.curves import (
    fitted_thresholds,
    rank_distortions,
    rate_thresholds_and_utilities,
    signal_fractions,
    thresholds_and_utilities,
)


def test_a_diverged_replica_leaves_the_mean_of_the_other_runs():
    cells = [cell("gap", "mlp", seed, "diverged" if seed == 1 else "ok") for seed in range(3)]
    scan = signal_fractions(cells, "train")
    assert (np.diff(scan.x) > 0).all()
    lost = np.isnan(scan.y).all(axis=2)
    assert lost.sum(axis=1).tolist() == [0, 2, 0]
    assert scan.mean == pytest.approx(np.nanmean(scan.y, axis=0))
    low, high = scan.extremes
    assert (low <= scan.mean + 1e-12).all()
    assert (scan.mean <= high + 1e-12).all()


def test_an_exact_scan_lies_on_the_diagonal_of_utility_against_threshold():
    made = cell("power-law", "linear", 0, measurement=measurement(SPECTRA["power-law"]))
    thresholds, worth = thresholds_and_utilities([made], "train")
    assert thresholds.y == pytest.approx(worth.y, rel=1e-4)
    curve = rank_distortions([made], "test").y[0]
    assert curve[: LATENTS + 1] == pytest.approx(made.measurement.pca.rank_distortion["test"][: LATENTS + 1], abs=1e-5)


def test_rate_thresholds_and_fitted_thresholds_of_an_exact_scan_are_the_eigenvalues():
    made = [exact_cell(scan=exact_scan())]
    thresholds, worth = rate_thresholds_and_utilities(made, "train")
    assert thresholds.y == pytest.approx(worth.y, rel=0.02, nan_ok=True)
    assert fitted_thresholds(signal_fractions(made, "train"))[:12] == pytest.approx(SHARES[:12], rel=1e-6)
