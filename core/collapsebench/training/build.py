"""Build what a job describes: pairs of encoder and decoder, stacks of pairs, and their trainers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from collapsebench.contracts import Decoder, Encoder, Registry
from collapsebench.data.standardise import Standardised
from collapsebench.errors import PluginError, blaming
from collapsebench.planning.jobs import ScanSpec
from collapsebench.planning.order import Piece
from collapsebench.seeds import seed_of
from collapsebench.stack.computation import Computation
from collapsebench.stack.stack import Stack
from collapsebench.training.trainer import Trainer


def build_pair(
    encoder: Encoder[Any],
    decoder: Decoder[Any],
    shape: tuple[int, ...],
    latent_dim: int,
    seed: int,
    names: tuple[str, str] = ("encoder", "decoder"),
) -> nn.ModuleDict:
    """Build an encoder and a decoder with the initial weights of a seed, and check what they return.

    names: the names of the two in error messages.
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
    shapes = [tuple(part.shape) for part in encoded] if isinstance(encoded, (tuple, list)) else type(encoded).__name__
    if shapes != [(3, latent_dim)] * 2:
        raise PluginError(f"{names[0]}: returned {shapes}, expected (mean, log_variance), each {(3, latent_dim)}.")
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


def build_stack(
    scan: ScanSpec,
    seeds: Sequence[int],
    computation: Computation,
    data: Standardised,
    registry: Registry,
    replicas: Sequence[int] | None = None,
) -> Stack:
    """Build the stack of a scan with initial weights. Replicas are ordered by seed, then by temperature.

    replicas: the replicas to include, as indices in this order; None for all of them.
    """
    encoder, decoder, objective = (
        scan.encoder.create("encoder", registry),
        scan.decoder.create("decoder", registry),
        scan.objective.create("objective", registry),
    )
    names = (f"encoder '{scan.encoder.use}'", f"decoder '{scan.decoder.use}'")
    temperatures = np.array(scan.temperatures, dtype=np.float64)
    count = len(temperatures)
    chosen = range(len(seeds) * count) if replicas is None else replicas
    needed = sorted({replica // count for replica in chosen})
    with blaming(f"objective '{scan.objective.use}'"):
        dials = torch.from_numpy(objective.dials(temperatures, data.eigenvalues, scan.latent_dim))
    return Stack(
        [build_pair(encoder, decoder, data.shape, scan.latent_dim, seeds[index], names) for index in needed],
        objective,
        dials[[replica % count for replica in chosen]],
        torch.tensor([needed.index(replica // count) for replica in chosen]),
        data.total_variance,
        data.shape,
        decoder=decoder,
        computation=computation,
        device=torch.device(scan.device),
        dtype=torch.float64 if scan.precision == "float64" else torch.float32,
    )


def make_trainer(
    scan: ScanSpec,
    seeds: Sequence[int],
    piece: Piece,
    computation: Computation,
    data: Standardised,
    registry: Registry,
) -> Trainer:
    """Return a newly initialised trainer for a piece of a job.

    If a cell has a pool of initialisations, its replicas come once for each, and all of them exchange weights.
    """
    count, pool = len(scan.temperatures), scan.exchange.pool if scan.exchange else 1
    members = [_seed_of_member(seed, member) for seed in seeds for member in range(pool)]
    chosen = [
        (cell * pool + member) * count + replica % count
        for cell in sorted({replica // count for replica in piece.replicas})
        for member in range(pool)
        for replica in piece.replicas
        if replica // count == cell
    ]
    # A price below that of the parents would lose the equilibrium from which a replica starts.
    training = scan.training.model_copy(update={"price_warm_up": 0.0}) if piece.parents else scan.training
    return Trainer(
        build_stack(scan, members, computation, data, registry, chosen),
        data,
        [scan.temperatures[replica % count] for replica in chosen],
        [members[index] for index in sorted({replica // count for replica in chosen})],
        scan.latent_dim,
        training,
        scan.evaluation,
        [replica // (count * pool) for replica in chosen],
        scan.exchange,
    )


def _seed_of_member(seed: int, member: int) -> int:
    """Return the seed of a member of a pool; the first one is trained as without a pool."""
    return seed_of(use="pool", seed=seed, member=member) if member else seed


def trainer_of(scan: ScanSpec, computation: Computation, data: Standardised, registry: Registry) -> Trainer:
    """Return a trainer for a whole scan with seed 0."""
    return make_trainer(scan, (0,), Piece(0, tuple(range(len(scan.temperatures)))), computation, data, registry)
