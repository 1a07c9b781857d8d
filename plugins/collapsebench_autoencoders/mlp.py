"""Multilayer perceptrons as encoder and decoder."""

from __future__ import annotations

import math

import torch
from torch import nn

from collapsebench import Decoder, Encoder, GaussianHead
from collapsebench_autoencoders.linear import Flat
from collapsebench_autoencoders.parameters import MlpDecoderParameters, MlpEncoderParameters

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "silu": nn.SiLU,
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "elu": nn.ELU,
    "softplus": nn.Softplus,
}


def hidden_layers(features: int, depth: int, width: int, activation: str) -> list[nn.Module]:
    """Return `depth` affine maps of `width` units, Kaiming-initialised (He et al. 2015), each with its activation."""
    layers: list[nn.Module] = []
    for layer in range(depth):
        affine = nn.Linear(features if layer == 0 else width, width)
        nn.init.kaiming_uniform_(affine.weight, nonlinearity="relu")
        nn.init.zeros_(affine.bias)
        layers += [affine, ACTIVATIONS[activation]()]
    return layers


class MlpEncoder(Encoder[MlpEncoderParameters]):
    """Hidden layers, then affine heads for mean and log-variance."""

    def build(self, shape: tuple[int, ...], latent_dim: int) -> nn.Module:
        """Return a module that maps x `(batch, *shape)` to (mean, log_variance), each `(batch, latent_dim)`."""
        settings = self.parameters
        body = hidden_layers(math.prod(shape), settings.depth, settings.width, settings.activation)
        return Flat(nn.Sequential(*body, GaussianHead(settings.width, latent_dim, settings.log_variance_bias)))


class MlpDecoder(Decoder[MlpDecoderParameters]):
    """Hidden layers, then an affine output."""

    def build(self, latent_dim: int, shape: tuple[int, ...]) -> nn.Module:
        """Return a module that maps z `(batch, latent_dim)` to x_hat `(batch, *shape)`."""
        settings = self.parameters
        body = hidden_layers(latent_dim, settings.depth, settings.width, settings.activation)
        return nn.Sequential(*body, nn.Linear(settings.width, math.prod(shape)), nn.Unflatten(1, torch.Size(shape)))
