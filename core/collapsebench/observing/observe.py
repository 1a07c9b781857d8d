"""Measure observables on trained replicas, from weights and data alone: one frame per observable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from collapsebench.contracts import Model, Observable, Samples
from collapsebench.errors import PluginError


def measure(
    observable_id: str,
    observable: Observable[Any],
    model: Model,
    samples: Sequence[Samples],
) -> pd.DataFrame:
    """Return what an observable measures on every replica.

    Columns: replica, split, temperature, the observable's axis if it has one, and its quantities.
    """
    frames = []
    replicas = len(model.temperatures)
    for part in samples:
        if part.name not in observable.splits:
            continue
        arrays = {name: np.asarray(value) for name, value in observable.measure(model, part).items()}
        length = {value.shape[1] if value.ndim == 2 else 1 for value in arrays.values()}
        dimensions = 1 if observable.axis is None else 2
        if len(length) != 1 or any(v.ndim != dimensions or len(v) != replicas for v in arrays.values()):
            shapes = {name: value.shape for name, value in arrays.items()}
            expected = f"({replicas},)" if observable.axis is None else f"({replicas}, one length)"
            raise PluginError(f"observable '{observable_id}': returned shapes {shapes}, expected {expected} for all.")
        count = length.pop()
        columns: dict[str, Any] = {
            "replica": np.repeat(np.arange(replicas), count),
            "split": part.name,
            "temperature": np.repeat(model.temperatures, count),
        }
        if observable.axis is not None:
            columns[observable.axis] = np.tile(np.arange(count), replicas)
        frames.append(pd.DataFrame({**columns, **{name: value.reshape(-1) for name, value in arrays.items()}}))
    return pd.concat(frames, ignore_index=True)
