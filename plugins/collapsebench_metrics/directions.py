"""The directions in which latents move the reconstruction, and the angle between their span and another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import subspace_angles

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from collapsebench import Measurement


def unit_directions(measurement: Measurement, observable: str = "decoder-directions") -> NDArray[np.float64]:
    """Return each latent's decoder Jacobian column, as a unit vector `(t, latent, d)`.

    Latents are in their raw order and directions are averaged over the train split. NaN if a replica was not observed;
    0 if the decoder ignores the latent.
    """
    table = measurement.tables[observable]
    width = measurement.pca.components.shape[1]
    columns = [f"feature_{index}" for index in range(width)]
    result = np.full((measurement.temperatures.size, measurement.latent_dim, width), np.nan)
    for temperature, rows in table[table["split"] == "train"].groupby("temperature"):
        ordered = rows.sort_values("latent")[columns].to_numpy(dtype=np.float64)
        result[measurement.temperatures == temperature] = ordered
    length = np.linalg.norm(result, axis=-1, keepdims=True)
    np.divide(result, length, out=result, where=length > 0)
    return result


def largest_angle(directions: NDArray[np.float64], components: NDArray[np.float64]) -> float:
    """Return the largest principal angle between the spans of two sets of rows, radians.

    It is pi / 2 if the directions span fewer dimensions than there are components, for example because the decoder
    ignores a latent.
    """
    if np.linalg.matrix_rank(directions) < min(len(components), len(directions)):
        return float(np.pi / 2)
    return float(subspace_angles(directions.T, components.T).max())
