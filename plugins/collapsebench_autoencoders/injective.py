"""A decoder that is one-to-one for all weights, so that no latent can be switched off."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from collapsebench import Decoder, UserError, WardIdentity
from collapsebench_autoencoders.parameters import InjectiveDecoderParameters


class Monotone(nn.Module):
    """x_hat = b + Q (g z + W^T tanh(W z + c)), with Q's columns orthonormal, g fixed and Q, W, b, c free.

    W^T tanh(W z + c) is the gradient of the convex function sum log cosh(W z + c), so that z -> Q^T x_hat is a Brenier
    map and |x_hat(z) - x_hat(y)| >= g |z - y| for all weights.
    """

    def __init__(self, latent_dim: int, shape: tuple[int, ...], gain: float, width: int) -> None:
        super().__init__()
        self.frame = nn.Parameter(torch.randn(math.prod(shape), latent_dim))
        self.offset = nn.Parameter(torch.zeros(math.prod(shape)))
        self.bend = nn.Linear(latent_dim, width)
        self.shape, self.gain = shape, gain

    def forward(self, z: Tensor) -> Tensor:
        """Map z `(batch, latent)` to x_hat `(batch, *shape)`."""
        ahead = self.gain * z + torch.tanh(self.bend(z)) @ self.bend.weight
        x_hat: Tensor = ahead @ torch.linalg.qr(self.frame).Q.mT + self.offset
        return x_hat.reshape(-1, *self.shape)


class InjectiveDecoder(Decoder[InjectiveDecoderParameters]):
    """A counter-example to collapse as spectral pruning: a likelihood that identifies every latent.

    Without the bend (W = 0), latents lie along principal components and, at every temperature and with beta = T V,

        mean slope a = g sqrt(lambda) / (g^2 + beta)     variance s^2 = beta / (g^2 + beta)
        M^2 = g^2 lambda / (g^2 lambda + beta (g^2 + beta))

    This is smooth in T, also above lambda / V, where it falls as g^2 lambda / beta^2: there is no threshold, and no
    latent is ever at the prior. No scale is free, so neither E mu^2 + E sigma^2 = 1 nor E x_hat . (x - x_hat) = 0
    holds. After the injective decoders of Wang, Blei and Cunningham 2021, Posterior collapse and latent variable
    non-identifiability, which are Brenier maps made of input-convex networks.
    """

    ward_identities: ClassVar[tuple[WardIdentity, ...]] = ("mean", "residual-mean")

    def build(self, latent_dim: int, shape: tuple[int, ...]) -> nn.Module:
        """Return a module that maps z `(batch, latent_dim)` to x_hat `(batch, *shape)`."""
        features = math.prod(shape)
        if latent_dim > features:
            raise UserError(
                f"decoder 'injective': {latent_dim} latents for {features} features, expected at most {features}: no "
                "smooth map from more dimensions to fewer is one-to-one. Lower scan.latent_dim."
            )
        return Monotone(latent_dim, shape, self.parameters.gain, self.parameters.width)
