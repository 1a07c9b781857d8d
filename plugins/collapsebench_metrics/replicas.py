"""Quantities with one value per replica, in the order of a measurement's temperatures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    from collapsebench import Measurement
    from collapsebench_metrics.comparison import Floats


def by_replica(table: pd.DataFrame, split: str, measurement: Measurement, quantity: str) -> Floats:
    """Return a quantity of an observable without an axis `(t,)`, NaN if it was not measured."""
    rows = table[table["split"] == split].set_index("temperature")[quantity]
    return rows.reindex(measurement.temperatures).to_numpy(dtype=np.float64)
