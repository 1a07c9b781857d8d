"""How the stacks of a scan are computed, and what they take: found out on small ones before anything is trained."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import torch

from collapsebench.contracts import Registry
from collapsebench.data.standardise import Standardised
from collapsebench.planning.cells import Names, Plan, error_text, used
from collapsebench.stack.kernel.chains import covers
from collapsebench.stack.kernel.library import KernelError
from collapsebench.stack.stack import Computation, Stack, why_not
from collapsebench.suite.schema import ComputeSettings
from collapsebench.training import calibrate
from collapsebench.training.build import build_stack, create_used, trainer_of
from collapsebench.training.memory import Footprint, footprint, room
from collapsebench.training.trainer import Trainer

_TIMED = 4


def choose_path(plan: Plan, names: Names, device: str, registry: Registry) -> tuple[Computation, str]:
    """Return how a scan's stacks are computed, and why so."""
    content = _as_job(plan, names, device)
    return find_path(content, plan.data[names[0]], registry, plan.suite.compute)


def find_path(
    content: Mapping[str, Any], data: Standardised, registry: Registry, compute: ComputeSettings
) -> tuple[Computation, str]:
    """Return how stacks of a job are computed, and why so: what stood against another way, or what was measured.

    The compiled kernel comes first where it computes every map, all in one pass or chain by chain, then torch.func;
    each is tried against one replica after the other. On a CPU what is not all the kernel's is timed along every path.
    What cannot even be computed one by one is left to fail so, with the plugin's own error.
    """
    asked, device = compute.path, content["device"]
    wanted: list[Computation] = ["batched"] if asked == "auto" else [asked, "batched"]
    by_kernel = asked == "auto" and device == "cpu" and content["precision"] == "float32"
    if by_kernel:
        wanted[:0] = ["fused", "chained"]
    trial = _few(content, 4)
    reasons: list[str] = []
    for path in wanted:
        if path == "one-by-one":
            return path, ""
        try:
            if by_kernel and path == "fused" and create_used(registry, "decoder", content).linear:
                continue  # its expectation over z has a closed form, which is no reason to wonder
            stack = build_stack({**trial, "path": path}, data, registry)
            reason = why_not(stack, content["latent_dim"])
        except KernelError as error:
            reason = f"{path}: {error}"
        except Exception:
            return "one-by-one", ""  # it will fail, or be skipped, and the row of each run will say why
        if reason is None:
            if asked == "auto" and device == "cpu" and path != "fused" and not _all_chained(stack):
                path, reason = _measured_path(content, data, registry, compute, path)
                reasons.append(reason)
            return path, "; ".join(reasons)
        reasons.append(reason)
    return "one-by-one", "; ".join(dict.fromkeys(reasons))


def _all_chained(stack: Stack) -> bool:
    return stack.path == "chained" and covers(stack.template)


def _as_job(plan: Plan, names: Names, device: str) -> dict[str, Any]:
    """What a job of a scan says, as far as building and training its stacks goes; its temperatures once for a seed."""
    suite = plan.suite
    architecture = next(item for item in suite.architectures if item.id == names[1])
    objective = next(item for item in suite.objectives if item.id == names[2])
    return {
        "encoder": used(architecture.encoder),
        "decoder": used(architecture.decoder),
        "objective": used(objective),
        "latent_dim": architecture.latent_dim,
        "cells": [{"seed": 0}],
        "temperatures": list(suite.scan.temperatures) * len(suite.seeds),
        "device": device,
        "precision": suite.compute.precision,
        "training": suite.training.model_dump(mode="json"),
        "evaluation": suite.evaluation.model_dump(mode="json"),
    }


def _few(content: Mapping[str, Any], replicas: int) -> dict[str, Any]:
    """The job with so many replicas, at its first two temperatures."""
    return {**content, "temperatures": (list(content["temperatures"])[:2] * replicas)[:replicas]}


def _measured_path(
    content: Mapping[str, Any], data: Standardised, registry: Registry, compute: ComputeSettings, whole: Computation
) -> tuple[Computation, str]:
    """Time every path on the batches of a job, with as many of its replicas as calibration needs and memory allows."""
    temperatures = content["temperatures"]
    paths: list[Computation] = list(dict.fromkeys([whole, "batched", "grouped", "side-by-side", "one-by-one"]))
    wanted = min(calibrate.REPLICAS, len(temperatures), compute.max_replicas_per_stack)
    replicas = min(wanted, _that_fit(content, data, registry, compute, wanted, len(paths)))
    rows, size = data.splits["train"].values, content["training"]["batch_size"]
    x = torch.from_numpy(rows if isinstance(size, str) else rows[:size])
    noise: torch.Tensor | None = torch.randn(len(x), content["latent_dim"], generator=torch.Generator())
    stacks, failures = {}, []
    with calibrate.on_threads(compute.threads):
        for path in paths:
            try:
                stack = build_stack(
                    {**content, "temperatures": list(temperatures[:replicas]), "path": path}, data, registry
                )
                x, noise = x.to(stack.dtype), None if stack.linear or noise is None else noise.to(stack.dtype)
                stack.gradients(x, noise, None, 0.0)
                stacks[path] = stack
            except Exception as error:
                failures.append(f"{path}: {error_text(error)}")
        if not stacks:
            return "one-by-one", "; ".join(failures)
        times = calibrate.time_paths(stacks, x, noise)
        return calibrate.fastest(times), "; ".join([calibrate.report(times, replicas), *failures])


def _that_fit(
    content: Mapping[str, Any],
    data: Standardised,
    registry: Registry,
    compute: ComputeSettings,
    wanted: int,
    stacks: int,
) -> int:
    """Return how many of the wanted replicas each of several stacks may have so that they fit into memory at once."""
    found = _footprint(content, data, registry, "batched")
    left = room(content["device"], compute.memory_limit)
    return wanted if found is None else found.most(left / stacks, wanted)


def predict_memory(plan: Plan, names: Names, device: str, path: Computation, registry: Registry) -> Footprint | None:
    """Return what a scan's stacks take on a path, or None where not even a small one can be trained."""
    with calibrate.on_threads(plan.suite.compute.threads):
        return _footprint(_as_job(plan, names, device), plan.data[names[0]], registry, path)


def predict_seconds(
    plan: Plan, names: Names, device: str, path: Computation, registry: Registry, replicas: int
) -> float | None:
    """Return the seconds of an update of one replica, timed on a few of a stack of so many; checks are not counted.

    None where not even that can be trained.
    """
    content = _few(_as_job(plan, names, device), replicas)
    try:
        with calibrate.on_threads(plan.suite.compute.threads):
            trainer = trainer_of(content, plan.data[names[0]], registry, path)
            trainer.advance()
            _wait_for(device)
            started = time.perf_counter()
            for _ in range(_TIMED):
                trainer.advance()
            _wait_for(device)
    except Exception:  # what cannot be trained has its error reported by the job
        return None
    return (time.perf_counter() - started) / (_TIMED * replicas)


def _wait_for(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _footprint(
    content: Mapping[str, Any], data: Standardised, registry: Registry, path: Computation
) -> Footprint | None:
    own, latent_dim = content["training"], content["latent_dim"]

    def make(replicas: int, data: Standardised, changes: Mapping[str, Any]) -> Trainer:
        training = {**own, **changes, "optimiser": dict(own["optimiser"])}
        training["optimiser"] |= {"refresh_every": 1} if "refresh_every" in training["optimiser"] else {}
        return trainer_of({**_few(content, replicas), "training": training}, data, registry, path)

    width, workers = max(4 * latent_dim, math.prod(data.shape)), torch.get_num_threads()
    try:
        if path != "side-by-side":
            return footprint(make, data, own["batch_size"], width, content["device"])
        with calibrate.on_threads(1):  # where the prediction looks on: in this thread, a replica after the other
            found = footprint(make, data, own["batch_size"], width, content["device"])
    except Exception:  # what cannot be trained has its error reported by the job
        return None
    return found.on_cores(workers)
