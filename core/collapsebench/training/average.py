"""Weights averaged over the last updates: what batches and noise do to single updates cancels.

Averaging moves no stationary point; at the same learning rate it comes closer to one. Source: Polyak and Juditsky
1992; with a horizon that grows with the number of updates, so that what lies far behind is forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class Average:
    """A running mean of stacked parameters `(r, ...)` over the last share of the updates, exponentially weighted."""

    def __init__(self, parameters: Mapping[str, Tensor], share: float) -> None:
        self.share = share
        self.weights = {name: value.detach().clone() for name, value in parameters.items()}

    @torch.no_grad()
    def add(self, parameters: Mapping[str, Tensor], update: int) -> None:
        """Take in the parameters as they are after an update, counted from one."""
        newest = 1 / (1 + self.share * (update - 1))
        for name, value in self.weights.items():
            value.lerp_(parameters[name].detach(), newest)

    def keep(self, replicas: Tensor) -> None:
        """Drop every replica whose index is not listed."""
        self.weights = {name: value[replicas] for name, value in self.weights.items()}
