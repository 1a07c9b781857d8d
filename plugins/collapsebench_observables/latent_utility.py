"""What the reconstruction loses if one latent is silenced and all others are kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from numpy.typing import NDArray

from collapsebench import Model, Observable, Parameters, Samples


class LatentUtility(Observable[Parameters]):
    """Keep all latents at their posterior mean, set latent k alone to 0, and compare, as a share of V:

        utility_k = (E |x - f(mu - mu_k e_k)|^2 - E |x - f(mu)|^2) / V

    There is no sampling noise. A linear decoder at equilibrium has T_k - T^2 / T_k, with T_k = lambda_k / V. Utilities
    do not add up if latents share information. They are negative where a latent does harm, for example on unseen
    samples. The utility of a rank, D(k - 1) - D(k), is another quantity: it removes all weaker latents too, and
    chooses T. Costs latent_dim + 1 decoder passes over the split, like `truncated-distortion`.
    """

    published: ClassVar[bool] = True
    axis: ClassVar[Literal["latent", "rank"] | None] = "latent"

    def measure(self, model: Model, samples: Samples) -> Mapping[str, NDArray[Any]]:
        """Return `utility` `(replica, latent)`."""
        latents = model.latent_dim
        totals = torch.zeros(len(model.temperatures), latents, dtype=torch.float64)
        for x, weights in samples.chunks(values_per_sample=4):
            mean, _ = model.encode(x)
            x_hat = model.decode(mean)
            totals = totals.to(x_hat.device)
            for silenced in range(latents):
                kept = (torch.arange(latents, device=mean.device) != silenced).to(mean.dtype)
                lost = x_hat - model.decode(mean * kept)
                # |e + lost|^2 - |e|^2 without the cancellation, so that an ignored latent has exactly 0.
                rise = (lost * (2 * (x - x_hat) + lost)).flatten(2).double().sum(2)
                totals[:, silenced] += rise @ weights.double()
        return {"utility": (totals / model.total_variance).cpu().numpy()}
