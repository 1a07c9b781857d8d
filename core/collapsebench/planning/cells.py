"""Turn a suite into cells with content keys, and what is missing into frozen jobs.

A cell's key is the SHA-256 of everything that decides its numbers, and of nothing else: no path, no order, no device.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from collapsebench.contracts import Registry
from collapsebench.data.standardise import Standardised, standardise
from collapsebench.errors import CollapsebenchError, StoreError, UnsuitableError, blaming, is_out_of_memory
from collapsebench.planning.waves import Piece, make_pieces, make_waves
from collapsebench.publishing import notebook
from collapsebench.store import FINISHED, CellRecord, Store
from collapsebench.suite.resolve import Architecture, Reference, Suite
from collapsebench.suite.schema import Protocol

if TYPE_CHECKING:
    import pandas as pd

Names = tuple[str, str, str]
SCHEMA = 1
ENGINE = 1


@dataclass(frozen=True)
class Cell:
    """One scan with one seed. key: None while its dataset is not prepared. record: what the store holds of it."""

    dataset: str
    architecture: str
    objective: str
    seed: int
    key: str | None
    description: Mapping[str, Any]
    record: CellRecord | None

    @property
    def name(self) -> str:
        """The cell as people call it: dataset/architecture/objective/seed."""
        return f"{self.dataset}/{self.architecture}/{self.objective}/{self.seed}"

    @property
    def status(self) -> str:
        """The stored status, "missing", or "pending" while there is no key."""
        if self.key is None:
            return "pending"
        return "missing" if self.record is None else self.record.status

    @property
    def converged(self) -> float:
        """The share of its replicas that converged, NaN where none is stored."""
        replicas = self.record.replicas if self.record else ()
        return sum(replica["mark"] == "converged" for replica in replicas) / len(replicas) if replicas else math.nan

    @property
    def is_finished(self) -> bool:
        """Whether training it again would give nothing new."""
        return self.status in FINISHED


@dataclass(frozen=True)
class Plan:
    """Every cell of a suite, with its data where they are prepared.

    failures: dataset id -> the status that gives its cells, and why it cannot be prepared or loaded.
    """

    suite: Suite
    cells: tuple[Cell, ...]
    data: Mapping[str, Standardised]
    failures: Mapping[str, tuple[str, str]]

    @property
    def missing(self) -> list[Cell]:
        """The cells that a run would train."""
        return [cell for cell in self.cells if cell.key is not None and not cell.is_finished]

    @cached_property
    def statuses(self) -> pd.DataFrame:
        """One row per cell: dataset, architecture, objective, seed, status, converged (share of replicas), key."""
        import pandas as pd

        columns = ("dataset", "architecture", "objective", "seed", "status", "converged", "key")
        rows = [
            (cell.dataset, cell.architecture, cell.objective, cell.seed, cell.status, cell.converged, cell.key or "")
            for cell in self.cells
        ]
        return pd.DataFrame(rows, columns=pd.Index(columns))

    def __repr__(self) -> str:
        return f"Plan(suite={self.suite.id!r}, cells={len(self.cells)}, missing={len(self.missing)})"

    def _repr_html_(self) -> str:
        temperatures = self.suite.scan.temperatures
        sentences = [
            f"{len(self.cells)} cells, {len(self.missing)} to train, {len(temperatures)} temperatures from "
            f"{temperatures[0]:g} to {temperatures[-1]:g}, at most {self.suite.training.rounds[-1]} updates each.",
            *(f"Dataset {name} cannot be loaded: {reason}" for name, (_, reason) in self.failures.items()),
        ]
        header = ("dataset", "architecture", "objective", "seed", "status", "converged", "key")
        rows = [
            (
                cell.dataset, cell.architecture, cell.objective, str(cell.seed), cell.status,
                "" if math.isnan(cell.converged) else f"{math.floor(100 * cell.converged)} %", (cell.key or "")[:12],
            )
            for cell in self.cells
        ]  # fmt: skip
        return notebook.fragment(self.suite.title or self.suite.id, sentences, [("", notebook.table(header, rows))])


def make_plan(suite: Suite, store: Store, registry: Registry) -> Plan:
    """Return the plan of a suite; nothing is prepared, trained or written."""
    store.make_readable()
    data: dict[str, Standardised] = {}
    failures: dict[str, tuple[str, str]] = {}
    for reference in suite.datasets:
        try:
            dataset = create(registry, reference)
            if dataset.is_prepared(store.cache):
                data[reference.id] = standardise(dataset.load(suite.split_seed, store.cache), reference.id)
        except Exception as error:
            failures[reference.id] = (classify(error), error_text(error))
    cells = tuple(
        _cell(suite, store, dataset, architecture, objective, seed, data.get(dataset.id))
        for dataset in suite.datasets
        for architecture in suite.architectures
        for objective in suite.objectives
        for seed in suite.seeds
    )
    return Plan(suite, cells, data, failures)


def _cell(
    suite: Suite,
    store: Store,
    dataset: Reference,
    architecture: Architecture,
    objective: Reference,
    seed: int,
    data: Standardised | None,
) -> Cell:
    description = describe(suite, dataset, architecture, objective, seed, data.fingerprint if data else None)
    key = key_of(description) if data else None
    record = store.read_cell(key) if key else None
    return Cell(dataset.id, architecture.id, objective.id, seed, key, description, record)


def describe(
    suite: Suite,
    dataset: Reference,
    architecture: Architecture,
    objective: Reference,
    seed: int,
    fingerprint: str | None,
) -> dict[str, Any]:
    """Return everything that decides a cell's numbers, as JSON values."""
    training = suite.training_of(architecture)
    del training["checkpoint_every_seconds"]
    return {
        "schema": SCHEMA,
        "engine": ENGINE,
        "dataset": {**_identity(dataset), "data": fingerprint, "split_seed": suite.split_seed},
        "encoder": _identity(architecture.encoder),
        "decoder": _identity(architecture.decoder),
        "latent_dim": architecture.latent_dim,
        "objective": _identity(objective),
        **_protocol(suite, architecture.protocol),
        "temperatures": list(suite.scan.temperatures),
        "training": training,
        "equilibrium": suite.evaluation.model_dump(mode="json", include={"samples", "active_threshold"}),
        "precision": suite.compute.precision,
        "seed": seed,
    }


def _protocol(suite: Suite, protocol: Protocol) -> dict[str, Any]:
    """What decides the numbers of a scan about its order of training."""
    settings = {"fresh": set(), "up": {"wave_size"}, "down": {"wave_size", "perturbation"}}[protocol]
    return {"protocol": protocol, **suite.scan.model_dump(mode="json", include=settings)}


def _identity(reference: Reference) -> dict[str, Any]:
    parameters = {key: value for key, value in reference.parameters.items() if key not in reference.places}
    return {
        "use": reference.use,
        "distribution": reference.distribution,
        "version": reference.version,
        "parameters": parameters,
    }


def key_of(description: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a description as canonical JSON."""
    text = json.dumps(description, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def frozen_paths(store: Store) -> dict[str, str]:
    """Return how the cells of jobs that an interrupted run left are computed, by key; damaged files are passed over."""
    found: dict[str, str] = {}
    for path in sorted((store.root / "jobs").glob("*.json")):
        try:
            job = json.loads(path.read_text())
            found |= {cell["key"]: job["path"] for cell in job["cells"]}
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found


def adopted_keys(plan: Plan, store: Store) -> set[str]:
    """Return the cells that are missing and belong to a job which an interrupted run left."""
    return _unfinished(store, {cell.key for cell in plan.missing if cell.key})[1]


def make_jobs(
    plan: Plan,
    store: Store,
    device: str,
    paths: Mapping[Names, tuple[str, str]],
    most: Mapping[Names, Callable[[int], int]] | None = None,
    predicted: Mapping[Names, Callable[[int], int] | None] | None = None,
) -> list[Path]:
    """Freeze the missing cells into job files and return them, unfinished ones of an earlier run first.

    paths: (dataset, architecture, objective) -> how its stacks are computed, and why not otherwise. most: the same ->
    how many replicas may share a stack of which so many are wanted; by default all. predicted: the same -> the peak
    memory of a stack of so many replicas, in bytes.
    """
    missing = {cell.key: cell for cell in plan.missing if cell.key}
    files, adopted = _unfinished(store, set(missing))
    for path in files:
        job = json.loads(path.read_text())
        store.write_text(
            path, json.dumps({**job, **_manner(plan.suite, job["names"][1], device)}, indent=1, sort_keys=True)
        )
    groups: dict[Names, list[Cell]] = {}
    for key, cell in missing.items():
        if key not in adopted:
            groups.setdefault((cell.dataset, cell.architecture, cell.objective), []).append(cell)
    for names, cells in groups.items():
        waves = waves_of(plan.suite, names[1])
        scans = max(1, plan.suite.compute.max_replicas_per_stack // len(waves[0]))
        for start in range(0, len(cells), scans):
            some = cells[start : start + scans]
            pieces = make_pieces(waves, len(some), (most or {}).get(names, lambda wanted: wanted))
            job = _job(plan.suite, names, some, pieces, device, paths[names])
            peak = (predicted or {}).get(names)
            job["predicted_bytes"] = peak(max(len(piece.replicas) for piece in pieces)) if peak else None
            files.append(store.job_file(job["id"]))
            store.write_text(files[-1], json.dumps(job, indent=1, sort_keys=True))
    return files


def _unfinished(store: Store, missing: set[str]) -> tuple[list[Path], set[str]]:
    """The job files that an interrupted run left, if their cells are all planned and some still missing."""
    files: list[Path] = []
    adopted: set[str] = set()
    for path in sorted((store.root / "jobs").glob("*.json")):
        try:
            keys = {cell["key"] for cell in json.loads(path.read_text())["cells"]}
        except (OSError, ValueError, KeyError) as error:
            raise StoreError(f"{path}: is not a readable job file ({error}). Remove it and run again.") from error
        done = {key for key in keys if (record := store.read_cell(key)) and record.status in FINISHED}
        if not keys - done:  # killed after its last cell was stored
            store.discard_job(path)
        elif keys - done <= missing and not keys & adopted:
            files.append(path)
            adopted |= keys
    return files, adopted


def _job(
    suite: Suite,
    names: Names,
    cells: Sequence[Cell],
    pieces: Sequence[Piece],
    device: str,
    path: tuple[str, str],
) -> dict[str, Any]:
    dataset = next(item for item in suite.datasets if item.id == names[0])
    architecture = next(item for item in suite.architectures if item.id == names[1])
    objective = next(item for item in suite.objectives if item.id == names[2])
    job = {
        "suite": suite.id,
        "names": list(names),
        "cells": [{"key": cell.key, "seed": cell.seed, "description": cell.description} for cell in cells],
        "dataset": used(dataset),
        "encoder": used(architecture.encoder),
        "decoder": used(architecture.decoder),
        "objective": used(objective),
        "latent_dim": architecture.latent_dim,
        "temperatures": list(suite.scan.temperatures),
        "perturbation": suite.scan.perturbation if architecture.protocol == "down" else 0.0,
        "pieces": [piece.entry for piece in pieces],
        "split_seed": suite.split_seed,
        "evaluation": suite.evaluation.model_dump(mode="json"),
        "precision": suite.compute.precision,
        **_manner(suite, architecture.id, device),
        "path": path[0],
        "why_this_path": path[1],
    }
    return {"id": key_of(job)[:16], **job}


def waves_of(suite: Suite, architecture: str) -> list[list[int]]:
    """Return the waves in which an architecture's scans are trained, as places in the list of temperatures."""
    protocol = next(item for item in suite.architectures if item.id == architecture).protocol
    return make_waves(protocol, len(suite.scan.temperatures), suite.scan.wave_size)


def _manner(suite: Suite, architecture: str, device: str) -> dict[str, Any]:
    """What a job takes from the run that executes it, also where an earlier run froze it; no key holds any of it."""
    return {
        "training": suite.training_of(next(item for item in suite.architectures if item.id == architecture)),
        "device": device,
        "threads": suite.compute.threads,
        "time_limit": suite.compute.time_limit,
    }


def used(reference: Reference) -> dict[str, Any]:
    """Return what a job needs to create a component."""
    return {"use": reference.qualified, "parameters": dict(reference.parameters)}


def create(registry: Registry, reference: Reference) -> Any:
    """Create the component that a reference describes."""
    with blaming(f"{reference.kind} '{reference.qualified}'"):
        return registry.get(reference.kind, reference.qualified).create(reference.parameters)


def with_records(plan: Plan, store: Store) -> Plan:
    """Return a plan with what the store holds of its cells now; no data are loaded again."""
    cells = tuple(replace(cell, record=store.read_cell(cell.key) if cell.key else None) for cell in plan.cells)
    return replace(plan, cells=cells)


def classify(error: Exception) -> str:
    """Return the status of a cell that an exception ended."""
    if isinstance(error, UnsuitableError):
        return "skipped"
    if is_out_of_memory(error):
        return "out-of-memory"
    return "not-installed" if isinstance(error, ModuleNotFoundError) else "failed"


def error_text(error: BaseException) -> str:
    """Return an error as one line: its own message for ours, with its type for others, after the notes on it."""
    text = " ".join(str(error).split())
    text = text if isinstance(error, CollapsebenchError) else f"{type(error).__name__}: {text}"
    return ": ".join([*getattr(error, "__notes__", [])[::-1], text])


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Return the fields in which two descriptions differ: dotted path -> (ours, theirs)."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in sorted({*ours, *theirs}):
        a, b = ours.get(key), theirs.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found |= differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found[f"{prefix}{key}"] = (a, b)
    return found


def nearest(cell: Cell, store: Store) -> tuple[CellRecord, dict[str, tuple[Any, Any]]] | None:
    """Return the stored cell whose description differs in the fewest fields, with those fields."""
    ranked = [
        (len(found), record.key, record, found)
        for record in store.cells()
        if record.key != cell.key and (found := differences(cell.description, record.description))
    ]
    if not ranked:
        return None
    _, _, record, found = min(ranked, key=lambda entry: entry[:2])
    return record, found
