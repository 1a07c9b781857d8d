"""How the stacks of a scan are computed, and what they take: found out on small ones before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from collapsebench import calibrate
from collapsebench.assembly import build_stack, make_trainer
from collapsebench.chains import covers
from collapsebench.data import Standardised
from collapsebench.kernel import KernelError
from collapsebench.memory import Footprint, footprint
from collapsebench.planning import Names, Plan, used
from collapsebench.registry import Registry
from collapsebench.stack import Computation, Stack, why_not
from collapsebench.train import Trainer
from collapsebench.waves import Piece


def choose_path(plan: Plan, names: Names, device: str, registry: Registry) -> tuple[Computation, str]:
    """Return how a scan's stacks are computed, and why so: what stood against another way, or what was measured.

    The compiled kernel comes first where it computes every map, all in one pass or chain by chain, then torch.func;
    each is tried against one replica after the other. On a CPU what is not all the kernel's is timed along every path.
    What cannot even be computed one by one is left to fail so, with the plugin's own error.
    """
    suite, data = plan.suite, plan.data[names[0]]
    content = _trial(plan, names, device, 4)
    asked = suite.compute.path
    wanted: list[Computation] = ["batched"] if asked == "auto" else [asked, "batched"]
    if asked == "auto" and device == "cpu" and suite.compute.precision == "float32":
        wanted[:0] = ["fused", "chained"]
    reasons: list[str] = []
    for path in wanted:
        if path == "one-by-one":
            return path, ""
        try:
            stack = build_stack({**content, "path": path}, data, registry)
            reason = why_not(stack, content["latent_dim"])
        except KernelError as error:
            reason = f"{path}: {error}"
        except Exception:
            return "one-by-one", ""
        if reason is None:
            if asked == "auto" and device == "cpu" and path != "fused" and not _all_chained(stack):
                path, reason = _measured_path(plan, content, data, registry, path)
                reasons.append(reason)
            return path, "; ".join(reasons)
        if path != "fused" or asked == "fused":  # a linear decoder, say, is no reason to wonder
            reasons.append(reason)
    return "one-by-one", "; ".join(dict.fromkeys(reasons))


def _all_chained(stack: Stack) -> bool:
    return stack.path == "chained" and covers(stack.template)


def _trial(plan: Plan, names: Names, device: str, replicas: int) -> dict[str, Any]:
    """A job of a few replicas, as far as building its stack goes."""
    architecture = next(item for item in plan.suite.architectures if item.id == names[1])
    objective = next(item for item in plan.suite.objectives if item.id == names[2])
    return {
        "encoder": used(architecture.encoder),
        "decoder": used(architecture.decoder),
        "objective": used(objective),
        "latent_dim": architecture.latent_dim,
        "cells": [{"seed": 0}],
        "temperatures": (list(plan.suite.scan.temperatures)[:2] * replicas)[:replicas],
        "device": device,
        "precision": plan.suite.compute.precision,
    }


def _measured_path(
    plan: Plan, content: Mapping[str, Any], data: Standardised, registry: Registry, whole: Computation
) -> tuple[Computation, str]:
    """Time every path on the batches of the suite, with its temperatures as far as calibration needs them."""
    suite = plan.suite
    temperatures = suite.scan.temperatures * len(suite.seeds)
    replicas = min(calibrate.REPLICAS, len(temperatures), suite.compute.max_replicas_per_stack)
    trial = {**content, "temperatures": list(temperatures[:replicas])}
    paths: list[Computation] = list(dict.fromkeys([whole, "batched", "grouped", "side-by-side", "one-by-one"]))
    stacks = {path: build_stack({**trial, "path": path}, data, registry) for path in paths}
    stack = stacks["one-by-one"]
    rows, size = data.splits["train"].values, suite.training.batch_size
    x = torch.from_numpy(rows if isinstance(size, str) else rows[:size]).to(stack.dtype)
    noise = None if stack.linear else torch.randn(len(x), content["latent_dim"], generator=torch.Generator()).to(x)
    with calibrate.on_threads(suite.compute.threads):
        times = calibrate.time_paths(stacks, x, noise)
        return calibrate.fastest(times), calibrate.report(times, replicas)


def predict_memory(plan: Plan, names: Names, device: str, path: Computation, registry: Registry) -> Footprint | None:
    """Return what a scan's stacks take on a path, or None where not even a small one can be trained."""
    suite = plan.suite

    def make(replicas: int, data: Standardised, changes: Mapping[str, Any]) -> Trainer:
        content = {**_trial(plan, names, device, replicas), "path": path}
        training = {**suite.training.model_dump(mode="json"), **changes}
        training["optimiser"] |= {"refresh_every": 1} if "refresh_every" in training["optimiser"] else {}
        content |= {"training": training, "evaluation": suite.evaluation.model_dump(mode="json")}
        return make_trainer(content, Piece(0, tuple(range(replicas))), data, registry)

    latent_dim = next(item for item in suite.architectures if item.id == names[1]).latent_dim
    data = plan.data[names[0]]
    try:
        return footprint(make, data, suite.training.batch_size, max(4 * latent_dim, math.prod(data.shape)), device)
    except Exception:  # what cannot be trained has its error reported by the job
        return None
