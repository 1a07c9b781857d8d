"""The objective of the beta-VAE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from collapsebench import Objective
from collapsebench_objectives.parameters import BetaVaeParameters


class BetaVae(Objective[BetaVaeParameters]):
    """Distortion plus beta times rate, L = D + beta R, in nats per sample. Source: Higgins et al. 2017."""

    has_oracle: ClassVar[bool] = True
    affine: ClassVar[bool] = True

    @property
    def decoder_variance(self) -> float:
        """sigma_dec^2, the fixed variance of the decoder's Gaussian."""
        return self.parameters.decoder_variance

    def loss(
        self, distortion: Tensor, rate: Tensor, dial: Tensor, state: Mapping[str, Tensor], progress: Tensor
    ) -> Tensor:
        """Return the loss of each sample `(batch,)`."""
        return distortion + dial * rate.sum(-1)
