"""How fast this machine trains stacks of convolutions: which path pays, and what it gains over a plain loop."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from collapsebench.bench.throughput import Spread, milliseconds, plain_loop
from collapsebench.contracts import Data, Registry, Split, load_registry
from collapsebench.data.standardise import Standardised, standardise
from collapsebench.stack.stack import Computation, Stack
from collapsebench.suite.schema import EvaluationSettings, Training
from collapsebench.training import calibrate
from collapsebench.training.allocator import keep_freed_memory
from collapsebench.training.build import build_pair
from collapsebench.training.trainer import Trainer

SHAPE, LATENTS, ROWS = (1, 28, 28), 16, 4096
_PARAMETERS = {"channels": 8, "depth": 2}
_PATHS: tuple[Computation, ...] = ("batched", "grouped", "side-by-side", "one-by-one")


@dataclass(frozen=True)
class ImageThroughput:
    """What `bench throughput --network conv` measures for a batch size; ratios are taken pair by pair.

    path: the one that calibration chose. why_this_path: what it measured.
    """

    replicas: int
    batch: int
    device: str
    path: str
    why_this_path: str
    replica_update_ms: Spread
    plain_update_ms: Spread
    speedup_over_plain_loop: Spread


def bench_images(replicas: int = 32, batch: int = 64, repeats: int = 9, device: str = "cpu") -> ImageThroughput:
    """Time a stack of the shipped convolutions, two stages from eight channels on, against a plain loop, in turn."""
    keep_freed_memory()
    registry, place, data = load_registry(), torch.device(device), _data()
    encoder, decoder = (registry.get(kind, "conv").create(_PARAMETERS) for kind in ("encoder", "decoder"))
    pair = build_pair(encoder, decoder, SHAPE, LATENTS, 0)
    path, reason = _chosen_path(registry, data, pair, min(replicas, calibrate.REPLICAS), batch, place)
    training = {"optimiser": {"use": "adam"}, "batch_size": batch, "max_updates": 10**9, "schedule": "constant"}
    trainer = Trainer(
        _stack(registry, data, pair, replicas, place, path), data, list(_temperatures(replicas)), (0,), LATENTS,
        Training.model_validate(training), EvaluationSettings(),
    )  # fmt: skip
    plain = plain_loop(data, copy.deepcopy(pair).to(place), place, batch)
    steps: dict[str, Callable[[], Any]] = {"plain": plain, "stack": trainer.advance}
    times = [{name: milliseconds(step, place) for name, step in steps.items()} for _ in range(repeats)]
    return ImageThroughput(
        replicas,
        batch,
        device,
        path,
        reason,
        replica_update_ms=Spread.of([one["stack"] / replicas for one in times]),
        plain_update_ms=Spread.of([one["plain"] for one in times]),
        speedup_over_plain_loop=Spread.of([one["plain"] * replicas / one["stack"] for one in times]),
    )


def _chosen_path(
    registry: Registry, data: Standardised, pair: nn.ModuleDict, replicas: int, batch: int, device: torch.device
) -> tuple[Computation, str]:
    if device.type != "cpu":
        return "batched", "paths are measured on a CPU only"
    stacks = {path: _stack(registry, data, pair, replicas, device, path) for path in _PATHS}
    x = torch.from_numpy(data.splits["train"].values[:batch])
    times = calibrate.time_paths(stacks, x, torch.randn(batch, LATENTS))
    return calibrate.fastest(times), calibrate.report(times, replicas)


def _stack(
    registry: Registry, data: Standardised, pair: nn.ModuleDict, replicas: int, device: torch.device, path: Computation
) -> Stack:
    return Stack(
        [copy.deepcopy(pair)],
        registry.get("objective", "beta-vae").create(),
        torch.tensor(_temperatures(replicas) * data.total_variance),
        torch.zeros(replicas, dtype=torch.long),
        data.total_variance,
        data.shape,
        decoder=registry.get("decoder", "conv").create(_PARAMETERS),
        path=path,
        device=device,
        dtype=torch.float32,
    )


def _temperatures(replicas: int) -> Any:
    return np.logspace(0, -6, replicas)


def _data() -> Standardised:
    generator = np.random.default_rng(0)
    splits: dict[str, Any] = {
        name: Split(generator.standard_normal((rows, *SHAPE)).astype(np.float32))
        for name, rows in (("train", ROWS), ("validation", 64), ("test", 64))
    }
    names = tuple(f"pixel {i}" for i in range(int(np.prod(SHAPE))))
    return standardise(Data(**splits, feature_names=names, scaling="global"), "bench")
