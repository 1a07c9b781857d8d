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
    """Return an affine map, Kaiming-initialised (He et al. 2015) for the preceding nonlinearity; its bias is zero."""
    layer = nn.Linear(features, width)
    nn.init.kaiming_uniform_(layer.weight, nonlinearity=nonlinearity)  # type: ignore[arg-type]
    nn.init.zeros_(layer.bias)
    return layer


def residual_layers(features: int, settings: ResidualMlpParameters) -> list[nn.Module]:
    """Return an affine map to `width` units, then `depth` residual blocks of two activations and two affine maps.

    The initial weights of each branch's last map are divided by sqrt(depth), so that the variance stays near 1.
    """
    layers: list[nn.Module] = [affine(features, settings.width, "linear")]
    for _ in range(settings.depth):
        first, last = affine(settings.width, settings.width), affine(settings.width, settings.width)
        with torch.no_grad():
            last.weight /= math.sqrt(settings.depth)
        activation = ACTIVATIONS[settings.activation]
        layers.append(Residual(nn.Sequential(activation(), first, activation(), last)))
    return layers


class ResidualMlpEncoder(Encoder[ResidualMlpEncoderParameters]):
    """An affine map, residual blocks, then affine heads for mean and log-variance."""

    def build(self, shape: tuple[int, ...], latent_dim: int) -> nn.Module:
        """Return a module that maps x `(batch, *shape)` to (mean, log_variance), each `(batch, latent_dim)`."""
        settings = self.parameters
        body = residual_layers(math.prod(shape), settings)
        return Flat(nn.Sequential(*body, GaussianHead(settings.width, latent_dim, settings.log_variance_bias)))


class ResidualMlpDecoder(Decoder[ResidualMlpDecoderParameters]):
    """An affine map, residual blocks, then an affine output."""

    def build(self, latent_dim: int, shape: tuple[int, ...]) -> nn.Module:
        """Return a module that maps z `(batch, latent_dim)` to x_hat `(batch, *shape)`."""
        settings = self.parameters
        body = residual_layers(latent_dim, settings)
        return nn.Sequential(*body, nn.Linear(settings.width, math.prod(shape)), nn.Unflatten(1, torch.Size(shape)))
