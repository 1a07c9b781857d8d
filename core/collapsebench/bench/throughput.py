"""How fast this machine trains stacks: ratios of interleaved measurements, because absolute times drift.

Source of the network: Hirn 2026, arXiv 2608.10599: 19 inputs, 4 hidden layers of 64 SiLU units, 32 latents, batch 256.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from collapsebench.bench.foreign import FOREIGN, NAME, registry_with_foreign
from collapsebench.bench.pythae import pythae_epoch
from collapsebench.contracts import Data, Registry, Split
from collapsebench.data.standardise import Standardised, standardise
from collapsebench.stack.stack import Computation
from collapsebench.suite.schema import ComputeSettings, EvaluationSettings, Training
from collapsebench.training.allocator import keep_freed_memory
from collapsebench.training.build import build_pair, trainer_of
from collapsebench.training.choose import find_path
from collapsebench.training.trainer import Trainer

if TYPE_CHECKING:
    from collapsebench.contracts import Floats

Parts = tuple[str, Mapping[str, Any]]
INPUTS, DEPTH, WIDTH, LATENTS, BATCH, ROWS = 19, 4, 64, 32, 256, 50_000
_PUBLISHED: Parts = ("mlp", {"depth": DEPTH, "width": WIDTH})
_SECONDS, _SIDE, _EPOCH = 0.3, 2048, 20


@dataclass(frozen=True)
class Spread:
    """Median, lowest and highest of repeated measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarise measurements."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Throughput:
    """What `bench throughput` measures; ratios are taken pair by pair, then summarised.

    path: how a stack of the shipped families is computed here. why_this_path: why not by the compiled kernel, if so.
    replica_update_ms: one update of one replica within the stack, along that path. general_update_ms: the same
    through torch.func alone, the path of a module that the kernel knows nothing of. plain_update_ms: one update of a
    plain PyTorch loop with fused Adam on one model. share_of_matrix_peak: matrix products of the update, 6 per weight
    and sample, over matrix_gflops, the rate of a large square float32 product of PyTorch measured in the same run;
    onednn_gflops: the same product by oneDNN, which can use wider instructions. speedup_over_pythae: an update of
    pythae's own trainer on the CPU over replica_update_ms; None where it was not measured, why_no_pythae says why.
    third_party: a realistic pair that knows nothing of stacks, of about as many weights (`bench_foreign.py`);
    third_party_share: its throughput over that of the fast path, along the path that a run chooses for it.
    """

    replicas: int
    device: str
    path: str
    why_this_path: str
    replica_update_ms: Spread
    general_update_ms: Spread
    plain_update_ms: Spread
    speedup_over_plain_loop: Spread
    general_speedup_over_plain_loop: Spread
    share_of_matrix_peak: Spread
    matrix_gflops: Spread
    onednn_gflops: Spread | None
    pythae_update_ms: Spread | None
    speedup_over_pythae: Spread | None
    why_no_pythae: str
    third_party: str
    third_party_path: str
    why_third_party_path: str
    third_party_update_ms: Spread
    third_party_share: Spread


def bench_throughput(replicas: int = 64, repeats: int = 9, device: str = "cpu") -> Throughput:
    """Time a stack against a plain loop and against the matrix peak, in turn, `repeats` times."""
    keep_freed_memory()
    registry = registry_with_foreign()
    place = torch.device(device)
    data = bench_data()
    pair = bench_pair(registry)
    job = bench_job(_PUBLISHED, np.logspace(0, -6, replicas), LATENTS, _training(), device)
    path, reason = find_path(job, data, registry, ComputeSettings())
    trainer, general = (trainer_of(job, data, registry, way) for way in (path, "batched"))
    stranger = bench_job((FOREIGN, {}), np.logspace(0, -6, replicas), LATENTS, _training(), device)
    strange_path, why_strange = find_path(stranger, data, registry, ComputeSettings())
    foreign = trainer_of(stranger, data, registry, strange_path)
    plain = plain_loop(data, copy.deepcopy(pair).to(place), place)
    theirs = pythae_epoch(data.splits["train"].values[: _EPOCH * BATCH], pair, LATENTS, BATCH)
    if place.type != "cpu":
        theirs = "pythae is timed on the CPU only"
    square = torch.randn(_SIDE, _SIDE, device=place)
    product = _onednn_product(square)
    work = 6 * BATCH * sum(p.numel() for p in pair.parameters() if p.dim() == 2)
    columns: dict[str, list[float]] = {}
    for _ in range(repeats):
        one = milliseconds(plain, place)
        many = milliseconds(trainer.advance, place) / replicas
        unaware = milliseconds(general.advance, place) / replicas
        strange = milliseconds(foreign.advance, place) / replicas
        gflops = _gflops(lambda: square @ square, place)
        found = {
            "stack": many,
            "general": unaware,
            "plain": one,
            "speedup": one / many,
            "general speedup": one / unaware,
            "foreign": strange,
            "foreign share": many / strange,
            "gflops": gflops,
            "share": work / (many * 1e6) / gflops,
            **({} if product is None else {"onednn": _gflops(product, place)}),
            **({} if isinstance(theirs, str) else _over_pythae(theirs, many, place)),
        }
        for name, value in found.items():
            columns.setdefault(name, []).append(value)
    spread = {name: Spread.of(values) for name, values in columns.items()}
    return Throughput(
        replicas=replicas,
        device=device,
        path=path,
        why_this_path=reason,
        replica_update_ms=spread["stack"],
        general_update_ms=spread["general"],
        plain_update_ms=spread["plain"],
        speedup_over_plain_loop=spread["speedup"],
        general_speedup_over_plain_loop=spread["general speedup"],
        share_of_matrix_peak=spread["share"],
        matrix_gflops=spread["gflops"],
        onednn_gflops=spread.get("onednn"),
        pythae_update_ms=spread.get("pythae"),
        speedup_over_pythae=spread.get("speedup over pythae"),
        why_no_pythae=theirs if isinstance(theirs, str) else "",
        third_party=NAME,
        third_party_path=strange_path,
        why_third_party_path=why_strange,
        third_party_update_ms=spread["foreign"],
        third_party_share=spread["foreign share"],
    )


def _over_pythae(epoch: Callable[[], None], replica_update_ms: float, device: torch.device) -> dict[str, float]:
    theirs = milliseconds(epoch, device) / _EPOCH
    return {"pythae": theirs, "speedup over pythae": theirs / replica_update_ms}


def _gflops(product: Callable[[], Any], device: torch.device) -> float:
    return 2 * _SIDE**3 / (milliseconds(product, device) * 1e6)


def _onednn_product(square: Tensor) -> Callable[[], Any] | None:
    """The same product through oneDNN, where this build of PyTorch has it."""

    def product() -> Any:
        return torch.ops.mkldnn._linear_pointwise(square, square, None, "none", [], "")

    try:
        product()
    except (RuntimeError, AttributeError, NotImplementedError):
        return None
    return product


def bench_data(rows: int = ROWS) -> Standardised:
    """Return standard normal data of the published width."""
    generator = np.random.default_rng(0)
    train, validation, test = (
        Split(generator.standard_normal((n, INPUTS)).astype(np.float32)) for n in (rows, 1000, 1000)
    )
    return standardise(Data(train, validation, test, feature_names=tuple(f"x{i}" for i in range(INPUTS))), "bench")


def bench_pair(registry: Registry, width: int = WIDTH) -> nn.ModuleDict:
    """Return the published pair of networks, or one of another width."""
    use, parameters = _PUBLISHED[0], {**_PUBLISHED[1], "width": width}
    encoder = registry.get("encoder", use).create(parameters)
    return build_pair(encoder, registry.get("decoder", use).create(parameters), (INPUTS,), LATENTS, 0)


def bench_job(
    parts: Parts, temperatures: Floats, latent_dim: int, training: Training, device: str = "cpu"
) -> dict[str, Any]:
    """Return what a job of one seed says of its stack, but for its path.

    parts: the id of an encoder, which is that of a decoder too, and the parameters of both.
    """
    coder = {"use": parts[0], "parameters": dict(parts[1])}
    return {
        "encoder": coder,
        "decoder": coder,
        "objective": {"use": "beta-vae", "parameters": {}},
        "latent_dim": latent_dim,
        "cells": [{"seed": 0}],
        "temperatures": temperatures.tolist(),
        "device": device,
        "precision": "float32",
        "training": training.model_dump(mode="json"),
        "evaluation": EvaluationSettings().model_dump(mode="json"),
    }


def bench_trainer(
    registry: Registry, data: Standardised, replicas: int, width: int = WIDTH, device: str = "cpu"
) -> tuple[Trainer, Computation]:
    """Return a stack of the published network, with plain Adam, along the path that a run takes, and that path."""
    parts = (_PUBLISHED[0], {**_PUBLISHED[1], "width": width})
    job = bench_job(parts, np.logspace(0, -6, replicas), LATENTS, _training(), device)
    path, _ = find_path(job, data, registry, ComputeSettings())
    return trainer_of(job, data, registry, path), path


def _training() -> Training:
    return Training.model_validate(
        {"optimiser": {"use": "adam"}, "batch_size": BATCH, "max_updates": 10**9, "schedule": "constant"}
    )


def plain_loop(
    data: Standardised, pair: nn.ModuleDict, device: torch.device, batch_size: int = BATCH
) -> Callable[[], Any]:
    """The loop that everyone writes: one model, mini-batches, fused Adam."""
    x = torch.from_numpy(data.splits["train"].values).to(device)
    optimiser = torch.optim.Adam(pair.parameters(), lr=3e-4, fused=True)
    generator = torch.Generator(device).manual_seed(0)
    beta = 0.1

    def update() -> Tensor:
        batch = x[torch.randint(len(x), (batch_size,), generator=generator, device=device)]
        mean, log_variance = pair["encoder"](batch)
        noise = torch.randn(mean.shape, generator=generator, device=device)
        x_hat = pair["decoder"](mean + (0.5 * log_variance).exp() * noise)
        distortion = 0.5 * (batch - x_hat).flatten(1).square().sum(1)
        rate = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
        loss: Tensor = (distortion + beta * rate).mean()
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        return loss

    return update


def milliseconds(step: Callable[[], Any], device: torch.device) -> float:
    """Return the mean time of a step over about 0.3 seconds, after one step that is not counted."""
    step()
    _wait(device)
    steps, started = 0, time.perf_counter()
    while steps < 2 or time.perf_counter() - started < _SECONDS:
        step()
        steps += 1
    _wait(device)
    return (time.perf_counter() - started) / steps * 1e3


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
