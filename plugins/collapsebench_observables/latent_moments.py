"""The moments of each latent's posterior, and the order parameter computed from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from collapsebench import Model, Observable, Parameters, Samples


class LatentMoments(Observable[Parameters]):
    """Per latent k, averaged over the split in float64:

        mean_square = E mu^2    mean = E mu    variance = E sigma^2    log_variance = E log sigma^2
        rate = 1/2 E [mu^2 + sigma^2 - 1 - log sigma^2]                              nats
        signal_fraction = M^2 = E mu^2 / (E mu^2 + E sigma^2)      snr = E mu^2 / E sigma^2
        posterior_scale = A^2 = E mu^2 + E sigma^2                 jensen_gap = log E sigma^2 - E log sigma^2

    and largest_mean = max |mu| over the evaluated rows, which grows with their number.

    Source: Hirn 2026, arXiv 2605.22691.
    """

    published: ClassVar[bool] = True
    axis: ClassVar[Literal["latent", "rank"] | None] = "latent"

    def measure(self, model: Model, samples: Samples) -> Mapping[str, NDArray[Any]]:
        """Return every moment `(replica, latent)`."""
        sums: dict[str, torch.Tensor] = {}
        largest = torch.zeros(())
        for x, weights in samples.chunks():
            mean, log_variance = (part.double() for part in model.encode(x))
            terms = {
                "mean_square": mean.square(),
                "mean": mean,
                "variance": log_variance.exp(),
                "log_variance": log_variance,
            }
            for name, term in terms.items():
                total = torch.einsum("b,rbk->rk", weights.double(), term)
                sums[name] = sums[name] + total if name in sums else total
            largest = torch.maximum(largest.to(mean.device), mean.abs().amax(1))
        moments = {name: value.cpu().numpy() for name, value in sums.items()}
        square, variance = moments["mean_square"], moments["variance"]
        with np.errstate(all="ignore"):
            return {
                **moments,
                "rate": 0.5 * (square + variance - 1 - moments["log_variance"]),
                "signal_fraction": square / (square + variance),
                "snr": square / variance,
                "posterior_scale": square + variance,
                "jensen_gap": np.log(variance) - moments["log_variance"],
                "largest_mean": largest.cpu().numpy(),
            }
