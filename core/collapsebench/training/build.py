"""From what a job file says to the stacks and trainers that it means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from collapsebench.contracts.component import Kind
from collapsebench.contracts.registry import Registry
from collapsebench.data.standardise import Standardised
from collapsebench.errors import blaming
from collapsebench.planning.waves import Piece
from collapsebench.stack.stack import Computation, Stack
from collapsebench.suite.resolve import EvaluationSettings, Training
from collapsebench.training.pairs import build_pair
from collapsebench.training.trainer import Trainer


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
