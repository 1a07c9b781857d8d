"""A pair of networks as someone writes them who never heard of stacks: what such a module gets of the fast path.

Residual blocks behind layer norms with GELU between their maps, as transformers have them; as many affine maps as the
published network, and its width.
"""

from __future__ import annotations

import math
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn import functional

from collapsebench.contracts import (
    Component,
    Decoder,
    Encoder,
    Parameters,
    Registry,
    Source,
    hookimpl,
    installed_plugins,
)

NAME = "two pre-norm residual blocks of 64 GELU units each way"
FOREIGN = "bench-foreign"
_WIDTH = 64


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, h: Tensor) -> Tensor:
        grown: Tensor = self.second(functional.gelu(self.first(self.norm(h))))
        return h + grown


class _Encode(nn.Module):
    def __init__(self, features: int, latent_dim: int) -> None:
        super().__init__()
        self.inlet = nn.Linear(features, _WIDTH)
        self.blocks = nn.Sequential(_Block(_WIDTH), _Block(_WIDTH))
        self.heads = nn.Linear(_WIDTH, 2 * latent_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        h: Tensor = self.heads(self.blocks(self.inlet(x.reshape(x.size(0), -1))))
        return h.chunk(2, dim=-1)


class _Decode(nn.Module):
    def __init__(self, latent_dim: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape
        self.inlet = nn.Linear(latent_dim, _WIDTH)
        self.blocks = nn.Sequential(_Block(_WIDTH), _Block(_WIDTH))
        self.outlet = nn.Linear(_WIDTH, math.prod(shape))

    def forward(self, z: Tensor) -> Tensor:
        decoded: Tensor = self.outlet(self.blocks(self.inlet(z)))
        return decoded.view(-1, *self.shape)


class ForeignEncoder(Encoder[Parameters]):
    """The encoder, as a component."""

    def build(self, shape: tuple[int, ...], latent_dim: int) -> nn.Module:
        """Return a module that maps x `(batch, *shape)` to (mean, log_variance), each `(batch, latent_dim)`."""
        return _Encode(math.prod(shape), latent_dim)


class ForeignDecoder(Decoder[Parameters]):
    """The decoder, as a component."""

    def build(self, latent_dim: int, shape: tuple[int, ...]) -> nn.Module:
        """Return a module that maps z `(batch, latent_dim)` to x_hat `(batch, *shape)`."""
        return _Decode(latent_dim, tuple(torch.Size(shape)))


@hookimpl
def collapsebench_encoders() -> list[Component]:
    """Provide the encoder."""
    return [Component(FOREIGN, f"{__name__}:ForeignEncoder", NAME)]


@hookimpl
def collapsebench_decoders() -> list[Component]:
    """Provide the decoder."""
    return [Component(FOREIGN, f"{__name__}:ForeignDecoder", NAME)]


def registry_with_foreign() -> Registry:
    """Return the installed plugins with one more, which provides the pair and is installed nowhere."""
    plugin = SimpleNamespace(
        collapsebench_encoders=collapsebench_encoders, collapsebench_decoders=collapsebench_decoders
    )
    return Registry([*installed_plugins(), Source(FOREIGN, FOREIGN, "0", lambda: plugin)])
