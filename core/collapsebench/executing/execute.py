"""Run one job: train its stacks, store its cells, observe them. Whatever goes wrong becomes the status of its cells."""

from __future__ import annotations

import json
import math
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from collapsebench.contracts import Observable, Progress, Registry, load_registry
from collapsebench.data.samples import SplitSamples
from collapsebench.data.standardise import Standardised, standardise
from collapsebench.errors import DataError
from collapsebench.observing.observe import measure
from collapsebench.planning.cells import classify, error_text, key_of
from collapsebench.planning.provenance import provenance
from collapsebench.stack.groups import GROUPS
from collapsebench.stack.kernel.library import KernelError, load_kernel
from collapsebench.stack.stack import Stack, StackModel
from collapsebench.store import FINISHED, CellRecord, Store
from collapsebench.suite.resolve import EvaluationSettings, Reference
from collapsebench.training.allocator import keep_freed_memory
from collapsebench.training.build import build_stack, create_used, make_trainer
from collapsebench.training.pieces import PieceRun
from collapsebench.training.trainer import Controls, OutOfTimeError

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
    content = possible_here(job.content)
    keep_freed_memory()
    if content["threads"]:
        torch.set_num_threads(content["threads"])
    registry = load_registry()
    started = time.monotonic()
    limit = content["time_limit"]
    trained: PieceRun | None = None
    status, reason = "ok", ""
    try:
        data = load_data(content, store, registry)
        pieces = PieceRun(path, content, lambda piece: make_trainer(content, piece, data, registry))
        deadline = started + limit if limit else math.inf
        pieces.run(Controls(None, lambda progress: report(job.name, progress), stop, deadline))
        trained = pieces
    except OutOfTimeError as error:
        status, reason = "timeout", str(error)
    except Exception as error:
        status, reason = classify(error), error_text(error)
        if status != "skipped":  # nothing is wrong that a traceback could show
            reason = f"{reason}\n{traceback.format_exc()}"
    about = {
        **provenance(registry, content["device"], content["precision"]),
        "wall_seconds": round(time.monotonic() - started, 3),
        "replicas_in_stack": max(len(ended.piece.replicas) for ended in trained.finished) if trained else None,
        "predicted_bytes": content.get("predicted_bytes"),
        "events": trained.events if trained else [],
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
        store.discard_job(path)
    return statuses


def possible_here(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a job whose path this machine can take: what was frozen with the kernel goes on without it elsewhere."""
    path = content["path"]
    if path not in ("fused", "chained"):
        return content
    try:
        if content["device"] != "cpu":
            raise KernelError(f"the kernel computes on the CPU, not on {content['device']}")
        load_kernel()
    except KernelError as error:
        return {**content, "path": "batched", "why_this_path": f"{path}, as planned: {error}"}
    return content


def _store_cell(
    store: Store,
    content: Mapping[str, Any],
    index: int,
    trained: PieceRun | None,
    status: str,
    reason: str,
    about: Mapping[str, Any],
) -> str:
    cell, temperatures = content["cells"][index], content["temperatures"]
    if trained is None:
        store.write_cell(CellRecord(cell["key"], cell["description"], status, reason, (), about))
        return status
    own = range(index * len(temperatures), (index + 1) * len(temperatures))
    weights = trained.weights(own)
    states = {name.replace(".", "_"): value for name, value in weights.items() if _is_scalar_state(name, value)}
    replicas = tuple(
        {
            "temperature": temperature,
            "mark": mark,
            "updates": updates,
            "loss": _finite(loss),
            "effective_temperature": _finite(price),
            **{name: _finite(float(value[place])) for name, value in states.items()},
        }
        for place, (temperature, (mark, updates, loss, price)) in enumerate(
            zip(temperatures, trained.each(own), strict=True)
        )
    )
    lost = [replica["temperature"] for replica in replicas if replica["mark"] == "diverged"]
    if lost:
        status, reason = "diverged", f"not finite at T = {', '.join(f'{t:.3g}' for t in lost)}"
    record = CellRecord(cell["key"], cell["description"], status, reason, replicas, about)
    store.write_cell(record, weights, pd.DataFrame(trained.log(own)))
    return status


def _is_scalar_state(name: str, value: Tensor) -> bool:
    """Whether it is a number of the objective's own, one a replica."""
    return name.startswith("objective.") and value.dim() == 1


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def load_data(content: Mapping[str, Any], store: Store, registry: Registry) -> Standardised:
    """Load and standardise a job's dataset, and make sure that it is still the one that was planned with."""
    dataset = create_used(registry, "dataset", content)
    data = standardise(dataset.load(content["split_seed"], store.cache), content["names"][0])
    planned = content["cells"][0]["description"]["dataset"]["data"]
    if data.fingerprint != planned:
        raise DataError(
            f"dataset '{content['names'][0]}': loaded with fingerprint {data.fingerprint[:12]}, planned with "
            f"{planned[:12]}. The same seed must give the same arrays; make its `load` deterministic."
        )
    return data


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
