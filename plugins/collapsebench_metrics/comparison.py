"""Thresholds of all ranks, and their comparison with a reference over the ranks that a scan resolves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from collapsebench import fixed_exponent_threshold, identity_r2, max_log_error
from collapsebench_metrics.outcome import Outcome, value_or

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from collapsebench import Measurement

    Floats = NDArray[np.float64]
    Flags = NDArray[np.bool_]


def fitted_thresholds(temperatures: Floats, signal_fraction: Floats) -> Floats:
    """Return the fixed-exponent T_c of every column `(t, rank) -> (rank,)`, NaN if never active."""
    return np.array([fixed_exponent_threshold(temperatures, column) for column in signal_fraction.T])


def identity(measured: Floats, reference: Floats, resolved: Flags, measurement: Measurement) -> tuple[Outcome, Outcome]:
    """Return identity R^2 and largest log error of measured against reference over the resolved ranks."""
    reason = few_ranks(int(resolved.sum()), measurement)
    return (
        value_or(identity_r2(measured[resolved], reference[resolved]), f"needs two ranks that differ; {reason}"),
        value_or(
            max_log_error(measured[resolved], reference[resolved]),
            f"needs one rank with a threshold; {reason}",
        ),
    )


def missed(measured: Floats, resolved: Flags) -> float:
    """Return how many resolved ranks have no usable measured value; comparisons leave these out."""
    values = measured[resolved]
    return float((~(np.isfinite(values) & (values > 0))).sum())


def few_ranks(count: int, measurement: Measurement) -> str:
    """Return why so few ranks can be compared, and what to do about it."""
    lowest = float(np.min(measurement.temperatures))
    return (
        f"the scan resolves {count} of {measurement.latent_dim} ranks (threshold at least 10 times "
        f"the lowest temperature, {lowest:.3g}) and some may never have become active: "
        "scan lower or train longer"
    )
