"""The end of an encoder: from features to a diagonal Gaussian posterior."""

from __future__ import annotations

from torch import Tensor, nn


class GaussianHead(nn.Module):
    """Two affine maps from features to the mean and the log-variance of a diagonal Gaussian posterior.

    Free affine heads are what the Ward identities of an equilibrium presuppose. log_variance_bias: where the
    log-variance starts.
    """

    def __init__(self, features: int, latent_dim: int, log_variance_bias: float = 0.0) -> None:
        super().__init__()
        self.mean = nn.Linear(features, latent_dim)
        self.log_variance = nn.Linear(features, latent_dim)
        nn.init.constant_(self.log_variance.bias, log_variance_bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Map features `(batch, features)` to mean and log_variance, each `(batch, latent)`."""
        return self.mean(features), self.log_variance(features)
