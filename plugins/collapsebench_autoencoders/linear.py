"""Linear encoder and decoder: the pair for which the exact theory holds."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from collapsebench import Decoder, Encoder, GaussianHead, Parameters
from collapsebench_autoencoders.parameters import LinearEncoderParameters


class Flat(nn.Module):
    """An encoder that flattens samples of any shape."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map x `(batch, *shape)` to mean and log_variance, each `(batch, latent)`."""
        mean, log_variance = self.body(x.flatten(1))
        return mean, log_variance


class LinearEncoder(Encoder[LinearEncoderParameters]):
    """Mean and log-variance are affine in x."""

    linear: ClassVar[bool] = True

    def build(self, shape: tuple[int, ...], latent_dim: int) -> nn.Module:
        """Return a module that maps x `(batch, *shape)` to (mean, log_variance), each `(batch, latent_dim)`."""
        return Flat(GaussianHead(math.prod(shape), latent_dim, self.parameters.log_variance_bias))


class LinearDecoder(Decoder[Parameters]):
    """x_hat is affine in z."""

    linear: ClassVar[bool] = True

    def build(self, latent_dim: int, shape: tuple[int, ...]) -> nn.Module:
        """Return a module that maps z `(batch, latent_dim)` to x_hat `(batch, *shape)`."""
        return nn.Sequential(nn.Linear(latent_dim, math.prod(shape)), nn.Unflatten(1, torch.Size(shape)))
