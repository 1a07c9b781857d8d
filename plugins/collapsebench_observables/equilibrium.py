"""How far each replica is from equilibrium."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from collapsebench import Model, Observable, Parameters, Samples, SplitName, measure_equilibrium


class Equilibrium(Observable[Parameters]):
    """The residuals of the four Ward identities and the edge of stability, on the train split.

    ward_mean = max_k |E mu_k|                         ward_scale = max_k |E mu_k^2 + E sigma_k^2 - 1|
    ward_residual_mean = |E r| / sqrt(E |r|^2)         ward_orthogonality = |E x_hat . r| / E |r|^2
    ward_residual: the largest of those that hold for the decoder (all four, unless it declares fewer); r = x - x_hat
    with sampled decoding
    residual_edge: top eigenvalue of the covariance of x - x_hat(mu), divided by V; a replica with spare latents is
    stable if it is at most T, or T / kappa for a decoder whose `collapse_limit` is kappa
    spare_latents: number of latents with signal fraction at most 0.01
    """

    published: ClassVar[bool] = True
    splits: ClassVar[tuple[SplitName, ...]] = ("train",)
    exhaustive: ClassVar[bool] = True

    def measure(self, model: Model, samples: Samples) -> Mapping[str, NDArray[Any]]:
        """Return every residual `(replica,)`."""
        state = measure_equilibrium(model, samples)
        return {
            "ward_residual": state.ward_residual,
            "ward_mean": np.abs(state.mean).max(1),
            "ward_scale": np.abs(state.scale - 1).max(1),
            "ward_residual_mean": state.residual_mean,
            "ward_orthogonality": np.abs(state.orthogonality),
            "residual_edge": state.residual_edge,
            "spare_latents": state.spare_latents,
        }
