"""Run one job: train its stack, store its cells, observe them. Whatever goes wrong becomes the status of its cells."""

from __future__ import annotations

import json
import math
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from collapsebench import calibrate
from collapsebench.chains import covers
from collapsebench.components import Kind, Observable, Progress
from collapsebench.data import Standardised, standardise
from collapsebench.errors import DataError, blaming
from collapsebench.kernel import KernelError
from collapsebench.observe import SplitSamples, measure
from collapsebench.pairs import build_pair
from collapsebench.planning import Plan, classify, error_text, key_of, used
from collapsebench.process import keep_freed_memory
from collapsebench.provenance import provenance
from collapsebench.registry import Registry, load_registry
from collapsebench.side_by_side import GROUPS
from collapsebench.stack import Computation, Stack, StackModel, why_not
from collapsebench.store import FINISHED, CellRecord, Store
from collapsebench.suite import EvaluationSettings, Reference, Training
from collapsebench.train import Controls, OutOfTimeError, Trained, Trainer

Report = Callable[[str, Progress], None]


@dataclass(frozen=True)
class Job:
    """A job file, read."""

    path: Path
    content: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> Job:
        """Read a job file."""
        return cls(path, json.loads(path.read_text()))

    @property
    def name(self) -> str:
        """What the job trains: dataset/architecture/objective."""
        return "/".join(self.content["names"])

    @property
    def seeds(self) -> list[int]:
        """The seed of each cell, in order."""
        return [cell["seed"] for cell in self.content["cells"]]


def execute_job(
    path: Path,
    report: Report = lambda name, progress: None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, str]:
    """Run the job in a file to its end and return the status of each of its cells, by key.

    KeyboardInterrupt leaves through here, with the checkpoint written and the job file kept; so does a store that
    cannot be written. Nothing else does.
    """
    job, store = Job.read(path), Store(path.parent.parent)
    content = job.content
    keep_freed_memory()
    if content["threads"]:
        torch.set_num_threads(content["threads"])
    registry = load_registry()
    checkpoint = path.with_suffix(".safetensors")
    started = time.monotonic()
    limit = content["time_limit"]
    trained: Trained | None = None
    status, reason = "ok", ""
    try:
        data = load_data(content, store, registry)
        trainer = _trainer(content, data, registry)
        controls = Controls(
            checkpoint, lambda progress: report(job.name, progress), stop, started + limit if limit else math.inf
        )
        trained = trainer.run(controls)
    except OutOfTimeError as error:
        status, reason = "timeout", str(error)
    except Exception as error:
        status, reason = classify(error), f"{error_text(error)}\n{traceback.format_exc()}"
    about = {
        **provenance(registry, content["device"], content["precision"]),
        "wall_seconds": round(time.monotonic() - started, 3),
        "replicas_in_stack": len(content["cells"]) * len(content["temperatures"]),
        "path": content["path"],
        "why_this_path": content["why_this_path"],
    }
    statuses = {}
    for index, cell in enumerate(content["cells"]):
        stored = store.read_cell(cell["key"])
        if stored is not None and stored.status in FINISHED:
            statuses[cell["key"]] = stored.status
            continue
        statuses[cell["key"]] = _store_cell(store, content, index, trained, status, reason, about)
    if status != "timeout":
        checkpoint.unlink(missing_ok=True)
        path.unlink()
    return statuses


def _store_cell(
    store: Store,
    content: Mapping[str, Any],
    index: int,
    trained: Trained | None,
    status: str,
    reason: str,
    about: Mapping[str, Any],
) -> str:
    cell, temperatures = content["cells"][index], content["temperatures"]
    if trained is None:
        store.write_cell(CellRecord(cell["key"], cell["description"], status, reason, (), about))
        return status
    own = slice(index * len(temperatures), (index + 1) * len(temperatures))
    weights = {name: value[own] for name, value in trained.weights.items()}
    states = {name.replace(".", "_"): value for name, value in weights.items() if _is_scalar_state(name, value)}
    replicas = tuple(
        {
            "temperature": temperature,
            "mark": trained.marks[own][place],
            "updates": trained.updates[own][place],
            "loss": _finite(trained.losses[own][place]),
            "effective_temperature": _finite(trained.effective_temperatures[own][place]),
            **{name: _finite(float(value[place])) for name, value in states.items()},
        }
        for place, temperature in enumerate(temperatures)
    )
    lost = [replica["temperature"] for replica in replicas if replica["mark"] == "diverged"]
    if lost:
        status, reason = "diverged", f"not finite at T = {', '.join(f'{t:.3g}' for t in lost)}"
    log = pd.DataFrame(trained.log)
    log = log[log["replica"].between(own.start, own.stop - 1)].assign(replica=lambda f: f["replica"] - own.start)
    store.write_cell(CellRecord(cell["key"], cell["description"], status, reason, replicas, about), weights, log)
    return status


def _is_scalar_state(name: str, value: Tensor) -> bool:
    """Whether it is a number of the objective's own, one a replica."""
    return name.startswith("objective.") and value.dim() == 1


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def load_data(content: Mapping[str, Any], store: Store, registry: Registry) -> Standardised:
    """Load and standardise a job's dataset, and make sure that it is still the one that was planned with."""
    dataset = _used(registry, "dataset", content)
    data = standardise(dataset.load(content["split_seed"], store.cache), content["names"][0])
    planned = content["cells"][0]["description"]["dataset"]["data"]
    if data.fingerprint != planned:
        raise DataError(
            f"dataset '{content['names'][0]}': loaded with fingerprint {data.fingerprint[:12]}, planned with "
            f"{planned[:12]}. The same seed must give the same arrays; make its `load` deterministic."
        )
    return data


def _used(registry: Registry, kind: Kind, content: Mapping[str, Any]) -> Any:
    with blaming(f"{kind} '{content[kind]['use']}'"):
        return registry.get(kind, content[kind]["use"]).create(content[kind]["parameters"])


def build_stack(content: Mapping[str, Any], data: Standardised, registry: Registry) -> Stack:
    """Build a job's stack with fresh weights: cells one after the other, temperatures in their order within each."""
    encoder, decoder, objective = (_used(registry, kind, content) for kind in ("encoder", "decoder", "objective"))
    names = (f"encoder '{content['encoder']['use']}'", f"decoder '{content['decoder']['use']}'")
    seeds = [cell["seed"] for cell in content["cells"]]
    temperatures = np.array(content["temperatures"], dtype=np.float64)
    with blaming(f"objective '{content['objective']['use']}'"):
        dials = torch.from_numpy(objective.dials(temperatures, data.eigenvalues, content["latent_dim"]))
    return Stack(
        [build_pair(encoder, decoder, data.shape, content["latent_dim"], seed, names) for seed in seeds],
        objective,
        dials.repeat(len(seeds)),
        torch.arange(len(seeds)).repeat_interleave(len(temperatures)),
        data.total_variance,
        data.shape,
        linear=decoder.linear,
        path=content["path"],
        device=torch.device(content["device"]),
        dtype=torch.float64 if content["precision"] == "float64" else torch.float32,
    )


def _trainer(content: Mapping[str, Any], data: Standardised, registry: Registry) -> Trainer:
    return Trainer(
        build_stack(content, data, registry),
        data,
        content["temperatures"] * len(content["cells"]),
        [cell["seed"] for cell in content["cells"]],
        content["latent_dim"],
        Training.model_validate(content["training"]),
        EvaluationSettings.model_validate(content["evaluation"]),
    )


def choose_path(plan: Plan, names: tuple[str, str, str], device: str, registry: Registry) -> tuple[Computation, str]:
    """Return how a scan's stacks are computed, and why so: what stood against another way, or what was measured.

    The compiled kernel comes first where it computes every map, all in one pass or chain by chain, then torch.func;
    each is tried against one replica after the other. On a CPU what is not all the kernel's is timed along every path.
    What cannot even be computed one by one is left to fail so, with the plugin's own error.
    """
    suite, data = plan.suite, plan.data[names[0]]
    content = _trial(plan, names, device)
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


def _trial(plan: Plan, names: tuple[str, str, str], device: str) -> dict[str, Any]:
    """A job of two temperatures, as far as building its stack goes."""
    architecture = next(item for item in plan.suite.architectures if item.id == names[1])
    objective = next(item for item in plan.suite.objectives if item.id == names[2])
    return {
        "encoder": used(architecture.encoder),
        "decoder": used(architecture.decoder),
        "objective": used(objective),
        "latent_dim": architecture.latent_dim,
        "cells": [{"seed": 0}],
        "temperatures": list(plan.suite.scan.temperatures)[:2] * 2,
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


def observable_name(reference: Reference, evaluation: EvaluationSettings) -> str:
    """Return the name an observable is stored under: its id and a digest of what decides its numbers."""
    digest = key_of(
        {
            "use": reference.qualified,
            "version": reference.version,
            "parameters": dict(reference.parameters),
            "evaluation": evaluation.model_dump(mode="json"),
        }
    )
    return f"{reference.use}.{digest[:12]}"


def observe_cells(
    store: Store,
    records: Sequence[CellRecord],
    content: Mapping[str, Any],
    data: Standardised,
    observables: Sequence[Reference],
    registry: Registry,
) -> dict[str, str]:
    """Measure observables on stored cells of one scan, all replicas together; return the failures by observable.

    content: what a job holds of the scan (components, temperatures, device ...); its cells are those of `records`.
    """
    evaluation = EvaluationSettings.model_validate(content["evaluation"])
    device = torch.device(content["device"])
    trained = {record.provenance.get("path") for record in records}
    path = next((path for path in GROUPS if path in trained), "batched")
    stack = build_stack({**content, "cells": [{"seed": 0}], "path": path}, data, registry)
    weights = [store.read_weights(record) for record in records]
    _fill(stack, {name: torch.cat([part[name] for part in weights]) for name in weights[0]})
    temperatures = list(content["temperatures"])
    model = StackModel(stack, temperatures * len(records), content["latent_dim"])
    failures: dict[str, str] = {}
    for reference in observables:
        try:
            observable: Observable[Any] = registry.get("observable", reference.qualified).create(reference.parameters)
            samples = [
                SplitSamples(
                    data, split, replicas=len(model.temperatures), width=4 * content["latent_dim"], device=device,
                    dtype=stack.dtype, max_rows=None if observable.exhaustive else evaluation.max_rows,
                )
                for split in observable.splits
            ]  # fmt: skip
            frame = measure(reference.use, observable, model, samples)
        except Exception as error:
            failures[reference.use] = error_text(error)
            continue
        for index, record in enumerate(records):
            first = index * len(temperatures)
            own = frame[frame["replica"].between(first, first + len(temperatures) - 1)]
            store.write_observable(record.key, observable_name(reference, evaluation), own.drop(columns="replica"))
    return failures


def _fill(stack: Stack, weights: Mapping[str, Tensor]) -> None:
    """Give a stack, built for one cell, the weights of all."""
    stack.load(weights)
    replicas = len(next(iter(weights.values())))
    stack.dials = stack.dials[:1].expand(replicas)
    stack.seeds = torch.zeros(replicas, dtype=torch.long, device=stack.device)
