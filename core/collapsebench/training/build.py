"""From what a job file says to the stacks and trainers that it means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from collapsebench.contracts import Decoder, Encoder, Kind, Registry
from collapsebench.data.standardise import Standardised
from collapsebench.errors import PluginError, blaming
from collapsebench.planning.waves import Piece
from collapsebench.seeds import seed_of
from collapsebench.stack.stack import Computation, Stack
from collapsebench.suite.resolve import EvaluationSettings, Training
from collapsebench.training.trainer import Trainer


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


def create_used(registry: Registry, kind: Kind, content: Mapping[str, Any]) -> Any:
    """Create the component of a kind that a job uses."""
    with blaming(f"{kind} '{content[kind]['use']}'"):
        return registry.get(kind, content[kind]["use"]).create(content[kind]["parameters"])


def build_stack(
    content: Mapping[str, Any], data: Standardised, registry: Registry, replicas: Sequence[int] | None = None
) -> Stack:
    """Build a job's stack with fresh weights: cells one after the other, temperatures in their order within each.

    replicas: only these, by their number in that order.
    """
    encoder, decoder, objective = (create_used(registry, kind, content) for kind in ("encoder", "decoder", "objective"))
    names = (f"encoder '{content['encoder']['use']}'", f"decoder '{content['decoder']['use']}'")
    temperatures = np.array(content["temperatures"], dtype=np.float64)
    count = len(temperatures)
    chosen = range(len(content["cells"]) * count) if replicas is None else replicas
    own = sorted({replica // count for replica in chosen})
    with blaming(f"objective '{content['objective']['use']}'"):
        dials = torch.from_numpy(objective.dials(temperatures, data.eigenvalues, content["latent_dim"]))
    return Stack(
        [
            build_pair(encoder, decoder, data.shape, content["latent_dim"], content["cells"][index]["seed"], names)
            for index in own
        ],
        objective,
        dials[[replica % count for replica in chosen]],
        torch.tensor([own.index(replica // count) for replica in chosen]),
        data.total_variance,
        data.shape,
        decoder=decoder,
        path=content["path"],
        device=torch.device(content["device"]),
        dtype=torch.float64 if content["precision"] == "float64" else torch.float32,
    )


def make_trainer(content: Mapping[str, Any], piece: Piece, data: Standardised, registry: Registry) -> Trainer:
    """Return a trainer of a piece of a job, freshly initialised."""
    temperatures = content["temperatures"]
    own = sorted({replica // len(temperatures) for replica in piece.replicas})
    # A start from an equilibrium must not be lost to a price below the one it was found at.
    warm = {"price_warm_up": 0.0} if piece.parents else {}
    return Trainer(
        build_stack(content, data, registry, piece.replicas),
        data,
        [temperatures[replica % len(temperatures)] for replica in piece.replicas],
        [content["cells"][index]["seed"] for index in own],
        content["latent_dim"],
        Training.model_validate({**content["training"], **warm}),
        EvaluationSettings.model_validate(content["evaluation"]),
    )


def trainer_of(job: Mapping[str, Any], data: Standardised, registry: Registry, path: Computation) -> Trainer:
    """Return a trainer of the whole of a job of one cell, computed along a path."""
    return make_trainer({**job, "path": path}, Piece(0, tuple(range(len(job["temperatures"])))), data, registry)
