"""The end of an encoder: from features to a diagonal Gaussian posterior."""

from __future__ import annotations

from torch import Tensor, nn


class GaussianHead(nn.Module):
    """Two affine maps from features to the mean and the log-variance of a diagonal Gaussian posterior.

    The Ward identities of an equilibrium assume heads that are affine and unconstrained. log_variance_bias: initial
    bias of the log-variance.

    >>> import torch
    >>> mean, log_variance = GaussianHead(16, latent_dim=4, log_variance_bias=-4.0)(torch.zeros(8, 16))
    >>> tuple(mean.shape), round(float(log_variance.mean().detach()), 3)
    ((8, 4), -4.0)
    """

    def __init__(self, features: int, latent_dim: int, log_variance_bias: float = 0.0) -> None:
        super().__init__()
        self.mean = nn.Linear(features, latent_dim)
        self.log_variance = nn.Linear(features, latent_dim)
        nn.init.constant_(self.log_variance.bias, log_variance_bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Map features `(batch, features)` to mean and log_variance, each `(batch, latent)`."""
        return self.mean(features), self.log_variance(features)
