"""KL warm-up and cyclical annealing: beta rises to its final value during training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from collapsebench import Objective
from collapsebench_objectives.parameters import WarmUpParameters


class WarmUp(Objective[WarmUpParameters]):
    """Distortion plus a growing share of beta times rate; the equilibrium is that of the beta-VAE.

        L = D + min(1, phase / rise) beta R    until `share` of the budget,    L = D + beta R    afterwards

    phase: position within the current one of `cycles` equal cycles, from 0 to 1. No threshold is predicted to move.
    Source: Bowman et al. 2016 (one cycle), Fu et al. 2019 (several).
    """

    has_oracle: ClassVar[bool] = True
    affine: ClassVar[bool] = True

    @property
    def settles_at(self) -> float:
        """The share of the budget after which beta has its final value."""
        return self.parameters.share

    def loss(
        self, distortion: Tensor, rate: Tensor, dial: Tensor, state: Mapping[str, Tensor], progress: Tensor
    ) -> Tensor:
        """Return the loss of each sample `(batch,)`."""
        settings = self.parameters
        phase = (progress / settings.share * settings.cycles).remainder(1.0)
        paid = (phase / settings.rise).clamp(max=1.0).where(progress < settings.share, 1.0)
        return distortion + paid * dial * rate.sum(-1)
