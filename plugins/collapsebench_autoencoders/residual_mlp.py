"""Pre-activation residual perceptrons as encoder and decoder."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from collapsebench import Decoder, Encoder, GaussianHead
from collapsebench_autoencoders.linear import Flat
from collapsebench_autoencoders.mlp import ACTIVATIONS
from collapsebench_autoencoders.parameters import (
    ResidualMlpDecoderParameters,
    ResidualMlpEncoderParameters,
    ResidualMlpParameters,
)


class Residual(nn.Module):
    """y + branch(y). Source: He et al. 2016, arXiv 1603.05027, for the order of activation and affine map."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, y: Tensor) -> Tensor:
        """Map `(batch, ...)` to the same shape."""
        return y + self.branch(y)  # type: ignore[no-any-return]


def affine(features: int, width: int, nonlinearity: str = "relu") -> nn.Linear:
    """Return an affine map, Kaiming-initialised (He et al. 2015) for what comes before it; its bias is zero."""
    made = nn.Linear(features, width)
    nn.init.kaiming_uniform_(made.weight, nonlinearity=nonlinearity)  # type: ignore[arg-type]
    nn.init.zeros_(made.bias)
    return made


def residual_layers(features: int, own: ResidualMlpParameters) -> list[nn.Module]:
    """Return an affine map to `width` units, then `depth` residual blocks of two activations and two affine maps.

    The last map of each branch starts divided by sqrt(depth): the variance of what passes stays of the order of one.
    """
    layers: list[nn.Module] = [affine(features, own.width, "linear")]
    for _ in range(own.depth):
        first, last = affine(own.width, own.width), affine(own.width, own.width)
        with torch.no_grad():
            last.weight /= math.sqrt(own.depth)
        activation = ACTIVATIONS[own.activation]
        layers.append(Residual(nn.Sequential(activation(), first, activation(), last)))
    return layers


class ResidualMlpEncoder(Encoder[ResidualMlpEncoderParameters]):
    """An affine map, residual blocks, then affine heads for mean and log-variance."""

    def build(self, shape: tuple[int, ...], latent_dim: int) -> nn.Module:
        """Return a module that maps x `(batch, *shape)` to (mean, log_variance), each `(batch, latent_dim)`."""
        own = self.parameters
        body = residual_layers(math.prod(shape), own)
        return Flat(nn.Sequential(*body, GaussianHead(own.width, latent_dim, own.log_variance_bias)))


class ResidualMlpDecoder(Decoder[ResidualMlpDecoderParameters]):
    """An affine map, residual blocks, then an affine output."""

    def build(self, latent_dim: int, shape: tuple[int, ...]) -> nn.Module:
        """Return a module that maps z `(batch, latent_dim)` to x_hat `(batch, *shape)`."""
        own = self.parameters
        body = residual_layers(latent_dim, own)
        return nn.Sequential(*body, nn.Linear(own.width, math.prod(shape)), nn.Unflatten(1, torch.Size(shape)))
