"""The distortion if only the strongest latents are kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from numpy.typing import NDArray

from collapsebench import Model, Observable, Parameters, Samples


class TruncatedDistortion(Observable[Parameters]):
    """Keep the K latents of largest signal fraction at their posterior mean, set the others to 0, decode:

        D_K = E |x - x_hat^(K)|^2 / V,    K = 0..latent_dim

    Latents are ranked by signal fraction on the same split, ties by index. There is no sampling noise. Source: Hirn
    2026, arXiv 2608.10599.
    """

    published: ClassVar[bool] = True
    axis: ClassVar[Literal["latent", "rank"] | None] = "rank"

    def measure(self, model: Model, samples: Samples) -> Mapping[str, NDArray[Any]]:
        """Return `normalised_distortion` `(replica, latent_dim + 1)`."""
        place = _places(model, samples)
        replicas, latents = place.shape
        totals = torch.zeros(replicas, latents + 1, dtype=torch.float64, device=place.device)
        for x, weights in samples.chunks(values_per_sample=4):
            mean, _ = model.encode(x)
            for kept in range(latents + 1):
                x_hat = model.decode(mean * (place < kept).unsqueeze(1))
                error = (x - x_hat).flatten(2).double().square().sum(2)
                totals[:, kept] += error @ weights.double()
        return {"normalised_distortion": (totals / model.total_variance).cpu().numpy()}


def _places(model: Model, samples: Samples) -> torch.Tensor:
    """Return each latent's position in the order of descending signal fraction, from 0 `(replica, latent)`."""
    square = variance = torch.zeros(())
    for x, weights in samples.chunks():
        mean, log_variance = (part.double() for part in model.encode(x))
        square = square.to(mean.device) + torch.einsum("b,rbk->rk", weights.double(), mean.square())
        variance = variance.to(mean.device) + torch.einsum("b,rbk->rk", weights.double(), log_variance.exp())
    order = (square / (square + variance)).argsort(dim=1, descending=True, stable=True)
    return order.argsort(dim=1)
