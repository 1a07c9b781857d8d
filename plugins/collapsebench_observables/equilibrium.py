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
    ward_residual: the largest of those that the decoder obeys (all four, unless it declares fewer); r = x - x_hat,
    sampled decoding
    residual_edge: top eigenvalue of the covariance of x - x_hat(mu), divided by V; a replica with spare latents is
    stable up to T, up to T / kappa behind a decoder whose `collapse_limit` is kappa
    spare_latents: number of latents with signal fraction at most 0.01
    """

    splits: ClassVar[tuple[SplitName, ...]] = ("train",)
    exhaustive: ClassVar[bool] = True

    def measure(self, model: Model, samples: Samples) -> Mapping[str, NDArray[Any]]:
        """Return every residual `(replica,)`."""
        found = measure_equilibrium(model, samples)
        return {
            "ward_residual": found.ward_residual,
            "ward_mean": np.abs(found.mean).max(1),
            "ward_scale": np.abs(found.scale - 1).max(1),
            "ward_residual_mean": found.residual_mean,
            "ward_orthogonality": np.abs(found.orthogonality),
            "residual_edge": found.residual_edge,
            "spare_latents": found.spare_latents,
        }
