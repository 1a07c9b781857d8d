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

import pandas as pd
import torch
from torch import Tensor

from collapsebench.components import Kind, Observable, Progress
from collapsebench.data import Standardised, standardise
from collapsebench.errors import DataError, blaming
from collapsebench.kernel import KernelError
from collapsebench.memory import Footprint, footprint
from collapsebench.observe import SplitSamples, measure
from collapsebench.pieces import PieceRun
from collapsebench.planning import Names, Plan, classify, error_text, key_of, used
from collapsebench.process import keep_freed_memory
from collapsebench.provenance import provenance
from collapsebench.registry import Registry, load_registry
from collapsebench.stack import Computation, Stack, StackModel, build_pair, why_not
from collapsebench.store import FINISHED, CellRecord, Store
from collapsebench.suite import EvaluationSettings, Reference, Training
from collapsebench.train import Controls, OutOfTimeError, Trainer
from collapsebench.waves import Piece

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
    started = time.monotonic()
    limit = content["time_limit"]
    trained: PieceRun | None = None
    status, reason = "ok", ""
    try:
        data = load_data(content, store, registry)
        pieces = PieceRun(path, content, lambda piece: _trainer(content, piece, data, registry))
        deadline = started + limit if limit else math.inf
        pieces.run(Controls(None, lambda progress: report(job.name, progress), stop, deadline))
        trained = pieces
    except OutOfTimeError as error:
        status, reason = "timeout", str(error)
    except Exception as error:
        status, reason = classify(error), f"{error_text(error)}\n{traceback.format_exc()}"
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
    replicas = tuple(
        {
            "temperature": temperature,
            "mark": mark,
            "updates": updates,
            "loss": loss if math.isfinite(loss) else None,
        }
        for temperature, (mark, updates, loss) in zip(temperatures, trained.each(own), strict=True)
    )
    lost = [replica["temperature"] for replica in replicas if replica["mark"] == "diverged"]
    if lost:
        status, reason = "diverged", f"not finite at T = {', '.join(f'{t:.3g}' for t in lost)}"
    record = CellRecord(cell["key"], cell["description"], status, reason, replicas, about)
    store.write_cell(record, trained.weights(own), pd.DataFrame(trained.log(own)))
    return status


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


def build_stack(
    content: Mapping[str, Any], data: Standardised, registry: Registry, replicas: Sequence[int] | None = None
) -> Stack:
    """Build a job's stack with fresh weights: cells one after the other, temperatures in their order within each.

    replicas: only these, by their number in that order.
    """
    encoder, decoder, objective = (_used(registry, kind, content) for kind in ("encoder", "decoder", "objective"))
    names = (f"encoder '{content['encoder']['use']}'", f"decoder '{content['decoder']['use']}'")
    temperatures = torch.tensor(content["temperatures"], dtype=torch.float64)
    count = len(temperatures)
    chosen = range(len(content["cells"]) * count) if replicas is None else replicas
    own = sorted({replica // count for replica in chosen})
    dials = temperatures * data.total_variance / objective.decoder_variance
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
        linear=decoder.linear,
        path=content["path"],
        device=torch.device(content["device"]),
        dtype=torch.float64 if content["precision"] == "float64" else torch.float32,
    )


def _trainer(content: Mapping[str, Any], piece: Piece, data: Standardised, registry: Registry) -> Trainer:
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


def choose_path(plan: Plan, names: Names, device: str, registry: Registry) -> tuple[Computation, str]:
    """Return how a scan's stacks are computed, and why not in the way that was asked for or that comes first.

    The compiled kernel comes first where it applies, then torch.func, then one replica after the other; each is tried
    against the last. What cannot even be computed one by one is left to fail so, with the plugin's own error.
    """
    suite = plan.suite
    content = _small_content(plan, names, device, 4)
    data = plan.data[names[0]]
    asked = suite.compute.path
    wanted: list[Computation] = ["batched"] if asked == "auto" else [asked, "batched"]
    if asked == "auto" and device == "cpu" and suite.compute.precision == "float32":
        wanted.insert(0, "chained")
    reasons: list[str] = []
    for path in wanted:
        if path == "one-by-one":
            return path, ""
        try:
            reason = why_not(build_stack({**content, "path": path}, data, registry), content["latent_dim"])
        except KernelError as error:
            reason = f"{path}: {error}"
        except Exception:
            return "one-by-one", ""
        if reason is None:
            return path, "; ".join(reasons)
        reasons.append(reason)
    return "one-by-one", "; ".join(dict.fromkeys(reasons))


def _small_content(plan: Plan, names: Names, device: str, replicas: int) -> dict[str, Any]:
    """What `build_stack` needs for a few replicas of a scan, apart from the path."""
    suite = plan.suite
    architecture = next(item for item in suite.architectures if item.id == names[1])
    objective = next(item for item in suite.objectives if item.id == names[2])
    temperatures = list(suite.scan.temperatures)
    return {
        "encoder": used(architecture.encoder),
        "decoder": used(architecture.decoder),
        "objective": used(objective),
        "latent_dim": architecture.latent_dim,
        "cells": [{"seed": 0}],
        "temperatures": (temperatures * replicas)[:replicas],
        "device": device,
        "precision": suite.compute.precision,
    }


def predict_memory(plan: Plan, names: Names, device: str, path: Computation, registry: Registry) -> Footprint | None:
    """Return what a scan's stacks take on a path, or None where not even a small one can be trained."""
    suite = plan.suite

    def make(replicas: int, data: Standardised, changes: Mapping[str, Any]) -> Trainer:
        content = {**_small_content(plan, names, device, replicas), "path": path}
        training = {**suite.training.model_dump(mode="json"), **changes}
        training["optimiser"] |= {"refresh_every": 1} if "refresh_every" in training["optimiser"] else {}
        content |= {"training": training, "evaluation": suite.evaluation.model_dump(mode="json")}
        return _trainer(content, Piece(0, tuple(range(replicas))), data, registry)

    latent_dim = next(item for item in suite.architectures if item.id == names[1]).latent_dim
    data = plan.data[names[0]]
    try:
        return footprint(make, data, suite.training.batch_size, max(4 * latent_dim, math.prod(data.shape)), device)
    except Exception:  # what cannot be trained has its error reported by the job
        return None


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
    single = any(record.provenance.get("path") == "one-by-one" for record in records)
    path = "one-by-one" if single else "batched"
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
