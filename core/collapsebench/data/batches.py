"""Draw the batches and the noise of every update as pure functions of seed and update number.

For one seed, all architectures and temperatures see the same batches and the same noise, so comparisons are paired.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from collapsebench.data.standardise import Standardised
from collapsebench.seeds import seed_of


class Batches:
    """Draw x `(s, b, *shape)`, noise `(s, b, k)` and weights `(s, b)` for the seeds of a stack.

    A full batch is the same for all seeds, so its x and weights have no seed axis. An epoch is a permutation of the
    rows, cut into batches; rows that do not fill a batch are left out.

    noisy: whether the decoder is sampled. antithetic: whether every row of a noisy batch appears twice, with noise eps
    in the first half and -eps in the second, so that odd powers of the noise cancel in loss and gradient. size: number
    of different rows in a batch.
    """

    def __init__(
        self,
        data: Standardised,
        seeds: Sequence[int],
        batch_size: int | str,
        latent_dim: int,
        *,
        device: torch.device,
        dtype: torch.dtype,
        noisy: bool,
        antithetic: bool = False,
    ) -> None:
        split = data.splits["train"]
        self._device, self._dtype = device, dtype
        self._x = torch.from_numpy(split.values).to(self._device, self._dtype)
        self._weights = None if split.weights is None else torch.from_numpy(split.weights).to(self._device, self._dtype)
        rows = len(self._x)
        self.size = rows if isinstance(batch_size, str) else min(batch_size, rows)
        self._seeds, self._latent_dim, self._noisy = list(seeds), latent_dim, noisy
        self._antithetic = noisy and antithetic
        self._epoch: tuple[int, Tensor] | None = None

    def draw(self, update: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return (x, noise or None, weights or None) of an update, counted from zero."""
        noise = self._noise(update) if self._noisy else None
        x, weights = self._rows(update)
        if not self._antithetic or noise is None:
            return x, noise, weights
        twice = None if weights is None else torch.cat([weights, weights], -1)
        return torch.cat([x, x], int(self.size < len(self._x))), torch.cat([noise, -noise], 1), twice

    def _rows(self, update: int) -> tuple[Tensor, Tensor | None]:
        if self.size == len(self._x):
            return self._x, self._weights
        per_epoch = len(self._x) // self.size
        order = self._order(update // per_epoch)
        start = update % per_epoch * self.size
        rows = order[:, start : start + self.size]
        return self._x[rows], None if self._weights is None else self._weights[rows]

    def _order(self, epoch: int) -> Tensor:
        if self._epoch is None or self._epoch[0] != epoch:
            orders = [
                torch.randperm(
                    len(self._x),
                    generator=torch.Generator().manual_seed(seed_of(use="batches", seed=seed, epoch=epoch)),
                )
                for seed in self._seeds
            ]
            self._epoch = (epoch, torch.stack(orders).to(self._device))
        return self._epoch[1]

    def _noise(self, update: int) -> Tensor:
        shape = (self.size, self._latent_dim)
        device = self._device if self._device.type == "cuda" else torch.device("cpu")
        draws = [
            torch.randn(
                shape,
                device=device,
                generator=torch.Generator(device).manual_seed(seed_of(use="noise", seed=seed, update=update)),
            )
            for seed in self._seeds
        ]
        return torch.stack(draws).to(self._device, self._dtype)
