"""Reconstructions as each latent alone moves from -3 to 3 prior standard deviations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool1d, avg_pool2d

from collapsebench import Model, Observable, Parameters, Samples, SplitName

_VALUES = range(-3, 4)
_MOST = 784
_ROWS = 2048
_ACTIVE = 0.1


class Traversals(Observable[Parameters]):
    """Decode z = v e_k, all other latents at 0, for v = -3 .. 3:

        at_v_i = f(v e_k)_i, the i-th value of the sample, in standardised units

    Latents of signal fraction at most 0.1 are not decoded; their values are 0, the train mean. Samples `(h, w)` or
    `(c, h, w)` are averaged over blocks of s x s pixels, vectors over s neighbours, with the smallest s that leaves at
    most 784 values. The last blocks are smaller if s does not divide the side.
    """

    axis: ClassVar[Literal["latent", "rank"] | None] = "latent"
    splits: ClassVar[tuple[SplitName, ...]] = ("train",)

    def measure(self, model: Model, samples: Samples) -> Mapping[str, NDArray[Any]]:
        """Return `at_-3_0`, `at_-3_1` ... `at_3_0` ..., each `(replica, latent)`."""
        active, origin = _active(model, samples)
        steps = torch.eye(model.latent_dim, dtype=origin.dtype, device=origin.device)
        quantities: dict[str, NDArray[Any]] = {}
        for value in _VALUES:
            decoded = model.decode(origin + value * steps)
            smaller = shrink(decoded, samples.shape) * active[..., None]
            for place, column in enumerate(smaller.float().cpu().numpy().transpose(2, 0, 1)):
                quantities[f"at_{value}_{place}"] = np.ascontiguousarray(column)
        return quantities


def shrink(samples: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Average samples `(..., *shape)` over blocks until at most 784 values are left `(..., values)`."""
    channels, sides = (1, shape) if len(shape) < 3 else (math.prod(shape[:-2]), shape[-2:])
    block = next(s for s in range(1, max(shape) + 1) if channels * math.prod(-(-n // s) for n in sides) <= _MOST)
    pool = avg_pool1d if len(sides) == 1 else avg_pool2d
    flat = samples.reshape(-1, channels, *sides)
    small: Tensor = pool(flat, block, ceil_mode=True) if block > 1 else flat
    return small.reshape(*samples.shape[: samples.dim() - len(shape)], -1)


def _active(model: Model, samples: Samples) -> tuple[Tensor, Tensor]:
    """Return which latents are active `(r, k)`, and an origin of z `(r, 1, k)`."""
    means, variances, shares = [], [], []
    for x, weights in samples.chunks(values_per_sample=4):
        mean, log_variance = model.encode(x)
        means.append(mean)
        variances.append(log_variance.exp())
        shares.append(weights.to(mean.dtype))
        if sum(map(len, shares)) >= _ROWS:
            break
    share = torch.cat(shares)[:_ROWS]
    square, variance = (
        torch.einsum("b,rbk->rk", share, part) for part in (torch.cat(means, 1)[:, :_ROWS].square(),
                                                           torch.cat(variances, 1)[:, :_ROWS])
    )  # fmt: skip
    active = (square > _ACTIVE * (square + variance)).to(means[0].dtype)
    lost = torch.where(torch.isfinite(square + variance), 1.0, torch.nan)
    return active * lost, torch.zeros_like(means[0][:, :1])
