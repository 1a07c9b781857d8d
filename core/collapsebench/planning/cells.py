"""Turn a suite into cells with content keys.

A cell's key is the SHA-256 of everything that decides its numbers and of nothing else: paths, the order in the file and
the device are left out.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from collapsebench.contracts import Registry
from collapsebench.data.standardise import Standardised, standardise
from collapsebench.errors import blaming, classify, error_text
from collapsebench.store import FINISHED, CellRecord, Store
from collapsebench.suite.resolve import Architecture, Reference, Suite
from collapsebench.suite.schema import Protocol
from collapsebench.theory.envelope import Line, envelope

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1
ENGINE, ENGINE_OF_SMALL_BATCHES = 5, 4
"""What decides the numbers of a cell beyond its description. Engine 5 tries what is left to gain with batches of up to
1,024 rows; where training has at most 256, nothing changed since engine 4."""
_SMALL_BATCH = 256
PROTOCOL_SETTINGS = ("protocol", "wave_size", "perturbation", "exchange")
"""The fields of a description that say in which order a scan is trained, and how its replicas start."""


class ScanName(NamedTuple):
    """The ids that name a scan within a suite."""

    dataset: str
    architecture: str
    objective: str


@dataclass(frozen=True)
class Cell:
    """One scan with one seed. key: None until its dataset is prepared. record: the stored record, if there is one."""

    dataset: str
    architecture: str
    objective: str
    seed: int
    key: str | None
    description: Mapping[str, Any]
    record: CellRecord | None

    @property
    def name(self) -> str:
        """The readable name of the cell: dataset/architecture/objective/seed."""
        return f"{self.dataset}/{self.architecture}/{self.objective}/{self.seed}"

    @property
    def scan(self) -> ScanName:
        """The scan that the cell belongs to."""
        return ScanName(self.dataset, self.architecture, self.objective)

    @property
    def status(self) -> str:
        """The stored status, "missing" without a record, or "pending" without a key."""
        if self.key is None:
            return "pending"
        return "missing" if self.record is None else self.record.status

    @property
    def converged(self) -> float:
        """The share of its replicas that converged, NaN if no replica is stored."""
        replicas = self.record.replicas if self.record else ()
        return sum(replica["mark"] == "converged" for replica in replicas) / len(replicas) if replicas else math.nan

    @property
    def is_finished(self) -> bool:
        """Whether the cell needs no further training."""
        return self.status in FINISHED


@dataclass(frozen=True)
class Plan:
    """Every cell of a suite, with the data of the datasets that are prepared.

    failures: dataset id -> the status of its cells, and the reason why the dataset cannot be prepared or loaded.
    """

    suite: Suite
    cells: tuple[Cell, ...]
    data: Mapping[str, Standardised]
    failures: Mapping[str, tuple[str, str]]

    def temperatures(self, name: ScanName) -> list[float]:
        """Return the temperatures T of a scan in descending order; none while data that decide them are not loaded."""
        own = (cell.description["temperatures"] for cell in self.cells if cell.scan == name)
        found: list[float] = next(own, self.suite.scan.temperatures)
        return found

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
        sentences = [
            f"{len(self.cells)} cells, {len(self.missing)} to train, {self.suite.scan.text}, at most "
            f"{self.suite.training.rounds[-1]} updates each.",
            *(f"Dataset {name} cannot be loaded: {reason}" for name, (_, reason) in self.failures.items()),
        ]
        shown = self.statuses.assign(
            # Rounded down, so that 100 % means every replica.
            converged=lambda frame: frame["converged"].map(lambda share: f"{math.floor(100 * share)} %", "ignore"),
            key=lambda frame: frame["key"].str[:12],
        )
        table = shown.to_html(index=False, border=0, na_rep="", max_rows=60)
        paragraphs = "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)
        return f"<div><h4>{escape(self.suite.title or self.suite.id)}</h4>{paragraphs}{table}</div>"


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
    return Plan(suite, judged(cells, suite.training.convergence.envelope_gap), data, failures)


def judged(cells: Sequence[Cell], tolerance: float) -> tuple[Cell, ...]:
    """Return the cells with each replica compared to all others of its scan, whatever their seeds.

    Replicas get the `envelope_gap` of `theory/envelope`, None where it is unknown. One that was marked converged and
    costs more than the weights of another would, by more than the tolerance, is marked metastable.
    """
    scans: dict[ScanName, list[tuple[int, CellRecord]]] = {}
    for index, cell in enumerate(cells):
        if cell.record is not None and cell.is_finished:
            scans.setdefault(cell.scan, []).append((index, cell.record))
    compared = list(cells)
    for members in scans.values():
        replicas = [replica for _, record in members for replica in record.replicas]
        found = envelope([Line.of(replica) for replica in replicas])
        rows = iter(zip(replicas, found.gap.tolist(), found.excess.tolist(), strict=True))
        for index, record in members:
            judged_rows = tuple(
                {
                    **replica,
                    "envelope_gap": None if math.isnan(gap) else gap,
                    "mark": "metastable" if replica["mark"] == "converged" and excess > tolerance else replica["mark"],
                }
                for replica, gap, excess in islice(rows, len(record.replicas))
            )
            compared[index] = replace(cells[index], record=replace(record, replicas=judged_rows))
    return tuple(compared)


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
    if data is not None:
        description["temperatures"] = suite.scan.temperatures_for(data.pca.eigenvalues.tolist())
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
    training = suite.training_of(architecture).model_dump(mode="json", exclude={"checkpoint_every_seconds"})
    return {
        "schema": SCHEMA,
        "engine": ENGINE_OF_SMALL_BATCHES if _is_small(suite.training.batch_size) else ENGINE,
        "dataset": {**_identity(dataset), "data": fingerprint, "split_seed": suite.split_seed},
        "encoder": _identity(architecture.encoder),
        "decoder": _identity(architecture.decoder),
        "latent_dim": architecture.latent_dim,
        "objective": _identity(objective),
        **_protocol(suite, architecture.protocol),
        "temperatures": list(suite.scan.temperatures),
        "training": training,
        "equilibrium": suite.evaluation.model_dump(mode="json", exclude={"max_rows"}),
        "precision": suite.compute.precision,
        "seed": seed,
    }


def _is_small(batch_size: int | str) -> bool:
    return isinstance(batch_size, int) and batch_size <= _SMALL_BATCH


def _protocol(suite: Suite, protocol: Protocol) -> dict[str, Any]:
    """Return the settings of the order of training that decide the numbers of a scan."""
    settings = {"up": {"wave_size"}, "down": {"wave_size", "perturbation"}, "exchange": {"exchange"}}
    included = settings.get(protocol, set())
    return {"protocol": protocol, **suite.scan.model_dump(mode="json", include=included)}


def _identity(reference: Reference) -> dict[str, Any]:
    parameters = {key: value for key, value in reference.parameters.items() if key not in reference.location_parameters}
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


def create(registry: Registry, reference: Reference) -> Any:
    """Create the component that a reference describes."""
    with blaming(f"{reference.kind} '{reference.qualified}'"):
        return registry.get(reference.kind, reference.qualified).create(reference.parameters)


def with_records(plan: Plan, store: Store) -> Plan:
    """Return a plan with the records that the store holds now; data are not loaded again."""
    cells = tuple(replace(cell, record=store.read_cell(cell.key) if cell.key else None) for cell in plan.cells)
    return replace(plan, cells=judged(cells, plan.suite.training.convergence.envelope_gap))


def differences(first: Mapping[str, Any], second: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Return the fields in which two descriptions differ: dotted key -> (value in the first, value in the second)."""
    fields: dict[str, tuple[Any, Any]] = {}
    for key in sorted({*first, *second}):
        a, b = first.get(key), second.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            fields |= differences(a, b, f"{prefix}{key}.")
        elif a != b:
            fields[f"{prefix}{key}"] = (a, b)
    return fields


def nearest(cell: Cell, store: Store) -> tuple[CellRecord, dict[str, tuple[Any, Any]]] | None:
    """Return the stored cell whose description differs in the fewest fields, with those fields."""
    ranked = [
        (len(fields), record.key, record, fields)
        for record in store.cells()
        if record.key != cell.key and (fields := differences(cell.description, record.description))
    ]
    if not ranked:
        return None
    _, _, record, fields = min(ranked, key=lambda entry: entry[:2])
    return record, fields
