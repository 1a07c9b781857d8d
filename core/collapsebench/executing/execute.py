"""Execute one job: train its pieces, store its cells and observe them. Failures become the status of its cells."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from collapsebench.contracts import Progress, Registry, load_registry
from collapsebench.data.standardise import Standardised, standardise
from collapsebench.errors import DataError, StoreError, classify, error_text
from collapsebench.executing.observe import observe_cells
from collapsebench.planning.jobs import Job
from collapsebench.planning.provenance import provenance
from collapsebench.process import keep_freed_memory, matrix_precision
from collapsebench.stack.computation import COMPUTATIONS
from collapsebench.stack.kernel.library import KernelError, load_kernel
from collapsebench.store import FINISHED, CellRecord, Store
from collapsebench.training.build import make_trainer
from collapsebench.training.choose import on_threads
from collapsebench.training.pieces import PieceRun
from collapsebench.training.trainer import Controls, OutOfTimeError
from collapsebench.training.verdict import Record

Report = Callable[[str, Progress], None]


@dataclass
class _Ended:
    """How the training of a job ended. trained: None if there is nothing to store."""

    status: str = "ok"
    reason: str = ""
    data: Standardised | None = None
    trained: PieceRun | None = None


def execute_job(
    path: Path,
    report: Report = lambda name, progress: None,
    stop: Callable[[], bool] = lambda: False,
    registry: Registry | None = None,
) -> dict[str, str]:
    """Execute the job in a file, observe its cells, and return the status of every cell by key.

    registry: by default the installed plugins. Only two exceptions are raised: KeyboardInterrupt, after a checkpoint
    has been written, and StoreError if the store cannot be written. In both cases the job file remains.
    """
    job, store = possible_here(Job.read(path)), Store(path.parent.parent)
    registry = registry or load_registry()
    keep_freed_memory()
    with on_threads(job.threads), matrix_precision(job.scan.precision):
        started = time.monotonic()
        ended = _train(path, job, store, registry, Controls(None, lambda at: report(job.label, at), stop))
        about = {
            **provenance(registry, job.scan.device, job.scan.precision),
            "wall_seconds": round(time.monotonic() - started, 3),
            **_how_computed(job, ended.trained),
        }
        statuses = {}
        for index, cell in enumerate(job.cells):
            stored = store.read_cell(cell.key)
            if stored is not None and stored.status in FINISHED:
                statuses[cell.key] = stored.status
                continue
            statuses[cell.key] = _store_cell(store, job, index, ended, about)
        if ended.data is not None:
            _observe(job, store, ended.data, registry, stop)
    if ended.status != "timeout":
        store.discard_job(path)
    return statuses


def _train(path: Path, job: Job, store: Store, registry: Registry, controls: Controls) -> _Ended:
    ended = _Ended()
    controls.deadline = time.monotonic() + job.time_limit if job.time_limit else math.inf
    computation = COMPUTATIONS[job.computation]
    try:
        data = ended.data = load_data(job, store, registry)
        pieces = PieceRun(
            path, job, lambda piece: make_trainer(job.scan, job.seeds, piece, computation, data, registry)
        )
        pieces.run(controls)
        ended.trained = pieces
    except OutOfTimeError as error:
        ended.status, ended.reason = "timeout", str(error)
    except Exception as error:
        ended.status, ended.reason = classify(error), error_text(error)
        if ended.status != "skipped":  # nothing is wrong that a traceback could show
            ended.reason = f"{ended.reason}\n{traceback.format_exc()}"
    return ended


def _how_computed(job: Job, trained: PieceRun | None) -> dict[str, Any]:
    return {
        "replicas_in_stack": max(len(ended.piece.replicas) for ended in trained.finished) if trained else None,
        "predicted_bytes": job.predicted_bytes,
        "events": list(trained.job.events) if trained else [],
        "computation": job.computation,
        "why_this_computation": job.why_this_computation,
    }


def possible_here(job: Job) -> Job:
    """Return a job with a computation that this machine supports: without kernels or graphs that are not available."""
    computation = COMPUTATIONS[job.computation]
    other = "batched"
    try:
        if computation.engine.by_kernel:
            if job.scan.device != "cpu":
                raise KernelError(f"the kernel computes on the CPU, not on {job.scan.device}")
            load_kernel()
        elif computation.engine.in_one_pass:
            if job.scan.device != "cuda":
                raise KernelError(f"Triton kernels compute on CUDA devices, not on {job.scan.device}")
            other = "graph"
            if find_spec("triton") is None:
                raise KernelError("Triton is not installed")
    except KernelError as error:
        reason = f"{job.computation}, as planned: {error}"
        return job.model_copy(update={"computation": other, "why_this_computation": reason})
    return job


def load_data(job: Job, store: Store, registry: Registry) -> Standardised:
    """Load and standardise a job's dataset, and make sure that it has not changed since the job was planned."""
    name = job.name.dataset
    dataset = job.dataset.create("dataset", registry)
    data = standardise(dataset.load(job.split_seed, store.cache), name)
    planned = job.cells[0].description["dataset"]["data"]
    if data.fingerprint != planned:
        raise DataError(
            f"dataset '{name}': found data with fingerprint {data.fingerprint[:12]}, expected {planned[:12]}, "
            "which the job was planned with. Make its `load` return the same arrays for the same seed."
        )
    return data


def _store_cell(store: Store, job: Job, index: int, ended: _Ended, about: Mapping[str, Any]) -> str:
    cell, trained = job.cells[index], ended.trained
    if trained is None:
        store.write_cell(CellRecord(cell.key, cell.description, ended.status, ended.reason, (), about))
        return ended.status
    count = len(job.scan.temperatures)
    numbers = range(index * count, (index + 1) * count)
    weights = trained.weights(numbers)
    replicas = _replica_rows(job.scan.temperatures, trained.records(numbers), weights)
    diverged = [replica["temperature"] for replica in replicas if replica["mark"] == "diverged"]
    status, reason = ended.status, ended.reason
    if diverged:
        status, reason = "diverged", f"not finite at T = {', '.join(f'{t:.3g}' for t in diverged)}"
    record = CellRecord(cell.key, cell.description, status, reason, replicas, about)
    store.write_cell(record, weights, pd.DataFrame(trained.log(numbers)))
    return status


def _replica_rows(
    temperatures: Sequence[float], records: Sequence[Record], weights: Mapping[str, Tensor]
) -> tuple[dict[str, Any], ...]:
    """Return what the record of a cell says of each replica."""
    states = {name.replace(".", "_"): value for name, value in weights.items() if _is_scalar_state(name, value)}
    return tuple(
        {
            "temperature": temperature,
            "mark": record.mark,
            "updates": record.updates,
            "loss": _finite(record.loss),
            "effective_temperature": _finite(record.effective_temperature),
            **{name: _finite(value) for name, value in record.line._asdict().items()},
            **{name: _finite(float(value[index])) for name, value in states.items()},
        }
        for index, (temperature, record) in enumerate(zip(temperatures, records, strict=True))
    )


def _is_scalar_state(name: str, value: Tensor) -> bool:
    """Return whether a tensor is a state of the objective with one number per replica."""
    return name.startswith("objective.") and value.dim() == 1


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _observe(job: Job, store: Store, data: Standardised, registry: Registry, stop: Callable[[], bool]) -> None:
    """Measure the job's observables on its finished cells, in the process that has loaded the data.

    No more replicas are observed together than were trained together, as far as whole cells allow. What fails is
    measured again when the suite is scored, and scoring reports the reason. Once `stop()` is true, KeyboardInterrupt
    is raised; the cells are stored by then.
    """
    records = [record for cell in job.cells if (record := _observable(store, cell.key)) is not None]
    together = max(1, max(len(piece.replicas) for piece in job.pieces) // len(job.scan.temperatures))
    for start in range(0, len(records) if job.observables else 0, together):
        some = records[start : start + together]
        try:
            observe_cells(store, some, job.scan, data, job.observables, registry, stop)
        except StoreError:
            raise
        except Exception:  # scoring tries again and reports the reason beside the missing scores
            continue


def _observable(store: Store, key: str) -> CellRecord | None:
    """The record of a finished cell whose weights are as they were written; scoring reports those that are not."""
    record = store.read_cell(key)
    if record is None or record.status not in FINISHED:
        return None
    try:
        store.verified_weights(record)
    except StoreError:
        return None
    return record
