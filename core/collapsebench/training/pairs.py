"""An encoder and a decoder with the initial weights of a seed, checked before anything is trained."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from collapsebench.contracts.component import Decoder, Encoder
from collapsebench.errors import PluginError, blaming
from collapsebench.seeds import seed_of


def build_pair(
    encoder: Encoder[Any],
    decoder: Decoder[Any],
    shape: tuple[int, ...],
    latent_dim: int,
    seed: int,
    names: tuple[str, str] = ("encoder", "decoder"),
) -> nn.ModuleDict:
    """Build one encoder and one decoder with the initial weights that belong to a seed, and check what they return.

    names: what errors call the two.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(use="encoder", seed=seed))
        with blaming(names[0]):
            built_encoder = encoder.build(shape, latent_dim)
        torch.manual_seed(seed_of(use="decoder", seed=seed))
        with blaming(names[1]):
            built_decoder = decoder.build(latent_dim, shape)
    pair = nn.ModuleDict({"encoder": built_encoder, "decoder": built_decoder})
    _check_outputs(pair.eval(), shape, latent_dim, names, linear=decoder.linear)
    return pair.train()


@torch.no_grad()
def _check_outputs(
    pair: nn.ModuleDict, shape: tuple[int, ...], latent_dim: int, names: tuple[str, str], *, linear: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    x, z = torch.randn(3, *shape, generator=generator), torch.randn(3, latent_dim, generator=generator)
    with blaming(names[0]):
        encoded = pair["encoder"](x)
    found = [tuple(part.shape) for part in encoded] if isinstance(encoded, (tuple, list)) else type(encoded).__name__
    if found != [(3, latent_dim)] * 2:
        raise PluginError(f"{names[0]}: returned {found}, expected (mean, log_variance), each {(3, latent_dim)}.")
    with blaming(names[1]):
        decoded = pair["decoder"](z)
    given = f"shape {tuple(decoded.shape)}" if isinstance(decoded, Tensor) else type(decoded).__name__
    if given != f"shape {(3, *shape)}":
        raise PluginError(f"{names[1]}: returned {given}, expected {(3, *shape)}.")
    for name, value in ((names[0], torch.cat(list(encoded))), (names[1], decoded)):
        if not torch.isfinite(value).all():
            raise PluginError(f"{name}: returned NaN or infinity for standard normal input before any training.")
    if linear:
        ends = pair["decoder"](torch.stack([z[0] + z[1], torch.zeros_like(z[0])]))
        gap = (ends[0] + ends[1] - decoded[0] - decoded[1]).abs().max()
        if gap > 1e-4 * (1 + decoded.abs().max()):
            raise PluginError(
                f"{names[1]}: declares itself linear, but f(a + b) + f(0) differs from f(a) + f(b) by {gap:.2g}. "
                "Remove `linear = True`."
            )
