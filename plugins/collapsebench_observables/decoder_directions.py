"""The direction of each latent in data space: the decoder's mean Jacobian."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from collapsebench import Model, Observable, Parameters, Samples, SplitName

_ROWS = 256
_STEP = 1e-2


class DecoderDirections(Observable[Parameters]):
    """Column k of the decoder's Jacobian, averaged over posterior means:

        J_k = E_x [ f(mu(x) + h e_k) - f(mu(x) - h e_k) ] / (2 h),    h = 0.01 prior standard deviations

    over the first 256 rows. For a linear decoder one row is enough, and J_k = f(e_k) - f(0) exactly.
    """

    axis: ClassVar[Literal["latent", "rank"] | None] = "latent"
    splits: ClassVar[tuple[SplitName, ...]] = ("train",)

    def measure(self, model: Model, samples: Samples) -> Mapping[str, NDArray[Any]]:
        """Return one quantity per feature, `feature_0`, `feature_1` ..., each `(replica, latent)`."""
        step, rows = (1.0, 1) if model.linear_decoder else (_STEP, _ROWS)
        parts: list[torch.Tensor] = []
        for x, _ in samples.chunks(values_per_sample=4):
            parts.append(model.encode(x)[0])
            if sum(part.shape[1] for part in parts) >= rows:
                break
        mean = torch.cat(parts, dim=1)[:, :rows]
        return by_feature(mean_jacobian(model, mean, step))


def mean_jacobian(model: Model, z: torch.Tensor, step: float) -> NDArray[np.float32]:
    """Return the decoder's Jacobian by central differences, averaged over z `(r or 1, b, k) -> (r, k, d)`."""
    columns = []
    for latent in range(model.latent_dim):
        shift = torch.zeros_like(z[:1, :1])
        shift[..., latent] = step
        ends = model.decode(z + shift) - model.decode(z - shift)
        columns.append(ends.flatten(2).double().mean(1) / (2 * step))
    return np.asarray(torch.stack(columns, dim=1).float().cpu().numpy())


def by_feature(jacobian: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """Return one quantity per feature, `feature_0`, `feature_1` ..., each `(replica, latent)`."""
    return {f"feature_{d}": jacobian[:, :, d] for d in range(jacobian.shape[2])}
