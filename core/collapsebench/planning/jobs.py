"""Write the missing cells of a plan into jobs: files that hold everything an executor needs, wherever it runs.

A `ScanSpec` says what is trained and measured; a `Job` adds cells, data, order of training and computation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from collapsebench.contracts import Kind, Registry
from collapsebench.errors import StoreError, blaming
from collapsebench.planning.cells import Cell, Plan, ScanName, key_of
from collapsebench.planning.order import Piece, make_pieces, make_waves
from collapsebench.store import FINISHED, Store
from collapsebench.suite.resolve import Reference, Suite
from collapsebench.suite.schema import ComputationName, EvaluationSettings, Exchange, Precision, Training

SCHEMA_VERSION = 3
"""To be raised when the meaning of job files changes; jobs of an earlier version are planned again."""


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ComponentSpec(_Spec):
    """A component and its parameters. use: `distribution/id`."""

    use: str
    parameters: dict[str, Any] = {}

    @classmethod
    def of(cls, reference: Reference) -> ComponentSpec:
        """Return what a job needs to create the component that a suite refers to."""
        return cls(use=reference.qualified, parameters=dict(reference.parameters))

    def create(self, kind: Kind, registry: Registry) -> Any:
        """Create the component; errors name it."""
        with blaming(f"{kind} '{self.use}'"):
            return registry.get(kind, self.use).create(self.parameters)


class ScanSpec(_Spec):
    """What is trained and measured, apart from data and seeds: components, temperatures, settings.

    temperatures: T, in descending order. perturbation: the share of its initial weights that is added to a replica at
    each start of a down scan. exchange: None unless replicas take over the weights of others. device: as PyTorch names
    it.
    """

    encoder: ComponentSpec
    decoder: ComponentSpec
    objective: ComponentSpec
    latent_dim: int
    temperatures: tuple[float, ...]
    training: Training
    evaluation: EvaluationSettings
    perturbation: float = 0.0
    exchange: Exchange | None = None
    precision: Precision = "float32"
    device: str = "cpu"

    @classmethod
    def of(cls, suite: Suite, name: ScanName, device: str) -> ScanSpec:
        """Return the scan with a name of a suite, to be run on a device, without temperatures if data decide them."""
        architecture = suite.architecture(name.architecture)
        return cls(
            encoder=ComponentSpec.of(architecture.encoder),
            decoder=ComponentSpec.of(architecture.decoder),
            objective=ComponentSpec.of(suite.objective(name.objective)),
            latent_dim=architecture.latent_dim,
            temperatures=tuple(suite.scan.temperatures),
            training=suite.training_of(architecture),
            evaluation=suite.evaluation,
            perturbation=suite.scan.perturbation if architecture.protocol == "down" else 0.0,
            exchange=suite.scan.exchange if architecture.protocol == "exchange" else None,
            precision=suite.compute.precision,
            device=device,
        )

    def at(self, temperatures: Sequence[float]) -> ScanSpec:
        """Return the same scan at other temperatures."""
        return self.model_copy(update={"temperatures": tuple(temperatures)})


class JobCell(_Spec):
    """A cell that a job trains: its key, its seed, and the description whose hash is the key."""

    key: str
    seed: int
    description: dict[str, Any]


class Job(_Spec):
    """Everything that an executor receives: what to train, on which data, in which order, and what to observe.

    pieces: the replicas that are trained together, in order of training; replicas are numbered cell by cell, with
    temperatures in descending order within a cell. observables: what is measured right after training, by the same
    process. computation: the name of the way stacks are computed (`stack/computation.py`). why_this_computation: why
    others were rejected, or what was measured. threads, time_limit: None for no limit. predicted_bytes: of the largest
    piece. events: pieces that did not fit into memory and were split.
    """

    schema_version: Literal[3] = 3
    id: str = ""
    suite: str
    name: ScanName
    dataset: ComponentSpec
    split_seed: int
    scan: ScanSpec
    cells: tuple[JobCell, ...]
    pieces: tuple[Piece, ...]
    observables: tuple[Reference, ...] = ()
    computation: ComputationName
    why_this_computation: str = ""
    threads: int | None = None
    time_limit: float | None = None
    predicted_bytes: int | None = None
    events: tuple[dict[str, Any], ...] = ()

    @classmethod
    def read(cls, path: Path) -> Job:
        """Read a job file; raise OutdatedJobError if its schema is older, StoreError if it is not a job file."""
        try:
            content = TypeAdapter(dict[str, Any]).validate_json(path.read_bytes())
            version = content.get("schema_version", 1)
            if version == SCHEMA_VERSION:
                return cls.model_validate(content)
        except (OSError, ValidationError) as error:
            reason = str(error) if isinstance(error, OSError) else _first_problem(error)
            raise StoreError(
                f"{path}: is not a readable job file ({reason}), expected one as `collapsebench run` writes it. Remove "
                "it and run again."
            ) from error
        if not isinstance(version, int) or version > SCHEMA_VERSION:
            raise StoreError(
                f"{path}: has job schema {version!r}, expected at most {SCHEMA_VERSION}: a later release wrote it. Run "
                "that release again, or remove the file."
            )
        raise OutdatedJobError(path, version, _keys_of(content))

    def write(self, path: Path, store: Store) -> None:
        """Write the job file atomically."""
        store.write_text(path, self.model_dump_json(indent=1, by_alias=True))

    @property
    def label(self) -> str:
        """The readable name of the scan: dataset/architecture/objective."""
        return "/".join(self.name)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seed of each cell, in order."""
        return tuple(cell.seed for cell in self.cells)


class OutdatedJobError(StoreError):
    """A job file of an earlier schema version. keys: of the cells that it would have trained."""

    def __init__(self, path: Path, version: int, keys: frozenset[str]) -> None:
        self.path, self.version, self.keys = path, version, keys
        super().__init__(
            f"{path}: was planned by an earlier release (job schema {version}, expected {SCHEMA_VERSION}). "
            "`collapsebench run` plans its cells anew."
        )


@dataclass(frozen=True)
class StackChoice:
    """How the stacks of a scan are computed. reason: why other computations were rejected, or what was measured.

    max_replicas: given the number of replicas wanted, returns how many may share a stack. predicted_bytes: returns the
    peak memory of a stack with a number of replicas; None if it cannot be predicted.
    """

    computation: ComputationName
    reason: str = ""
    max_replicas: Callable[[int], int] = lambda wanted: wanted
    predicted_bytes: Callable[[int], int] | None = None


def make_jobs(
    plan: Plan,
    store: Store,
    device: str,
    choices: Mapping[ScanName, StackChoice],
    observables: Sequence[Reference] = (),
    notice: Callable[[str], None] = lambda text: None,
) -> list[Path]:
    """Write job files for the missing cells and return their paths, those of unfinished jobs first.

    observables: what each job measures. notice: called with a sentence for every job file that is planned again.
    """
    missing = {cell.key: cell for cell in plan.missing if cell.key}
    _clear(store, missing, notice)
    unfinished, adopted = _unfinished(store, missing)
    for path, job in unfinished:
        _refreshed(job, plan.suite, device, observables).write(path, store)
    files = [path for path, _ in unfinished]
    groups: dict[ScanName, list[Cell]] = {}
    for key, cell in missing.items():
        if key not in adopted:
            groups.setdefault(cell.scan, []).append(cell)
    for name, cells in groups.items():
        for job in _jobs_of(plan.suite, name, cells, device, choices[name], observables):
            files.append(store.job_file(job.id))
            job.write(files[-1], store)
    return files


def _clear(store: Store, missing: Mapping[str, Cell], notice: Callable[[str], None]) -> None:
    """Discard the files of jobs that have ended, or that an earlier release planned; raise for a damaged one."""
    for path, job in _stored_jobs(store):
        if isinstance(job, OutdatedJobError):
            if job.keys & missing.keys() or all(_is_finished(store, key) for key in job.keys):
                notice(
                    f"{path.name}: was planned by an earlier release (job schema {job.version}, now {SCHEMA_VERSION}). "
                    "Its cells are planned and trained anew, from their first update."
                )
                store.discard_job(path)
        elif isinstance(job, StoreError):
            raise job
        elif all(_is_finished(store, cell.key) for cell in job.cells):  # killed after its last cell had been stored
            store.discard_job(path)


def _jobs_of(
    suite: Suite,
    name: ScanName,
    cells: Sequence[Cell],
    device: str,
    choice: StackChoice,
    observables: Sequence[Reference],
) -> Iterator[Job]:
    waves = waves_of(suite, name.architecture)
    pool = pool_of(suite, name.architecture)
    scans = max(1, suite.compute.max_replicas_per_stack // (len(waves[0]) * pool))
    for start in range(0, len(cells), scans):
        job_cells = cells[start : start + scans]
        pieces = make_pieces(
            waves,
            len(job_cells),
            lambda wanted: choice.max_replicas(wanted * pool) // pool,
            whole_cells=suite.architecture(name.architecture).protocol == "exchange",
        )
        predict = choice.predicted_bytes
        job = Job(
            suite=suite.id,
            name=name,
            dataset=ComponentSpec.of(suite.dataset(name.dataset)),
            split_seed=suite.split_seed,
            scan=ScanSpec.of(suite, name, device).at(cells[0].description["temperatures"]),
            cells=tuple(
                JobCell(key=cell.key or "", seed=cell.seed, description=dict(cell.description)) for cell in job_cells
            ),
            pieces=tuple(pieces),
            observables=tuple(observables),
            computation=choice.computation,
            why_this_computation=choice.reason,
            threads=suite.compute.threads,
            time_limit=suite.compute.time_limit,
            predicted_bytes=predict(pool * max(len(piece.replicas) for piece in pieces)) if predict else None,
        )
        yield job.model_copy(update={"id": key_of(job.model_dump(mode="json", by_alias=True))[:16]})


def _refreshed(job: Job, suite: Suite, device: str, observables: Sequence[Reference]) -> Job:
    """Return an interrupted job with the settings of the current run that no key depends on."""
    training = suite.training_of(suite.architecture(job.name.architecture))
    return job.model_copy(
        update={
            "scan": job.scan.model_copy(
                update={"training": training, "evaluation": suite.evaluation, "device": device}
            ),
            "threads": suite.compute.threads,
            "time_limit": suite.compute.time_limit,
            "observables": tuple(observables),
        }
    )


def waves_of(suite: Suite, architecture: str) -> list[list[int]]:
    """Return the waves in which an architecture's scans are trained, as positions in the list of temperatures."""
    return make_waves(suite.architecture(architecture).protocol, suite.scan.count, suite.scan.wave_size)


def pool_of(suite: Suite, architecture: str) -> int:
    """Return how many initialisations of each temperature a cell of an architecture trains together."""
    return suite.scan.exchange.pool if suite.architecture(architecture).protocol == "exchange" else 1


def frozen_computations(store: Store) -> dict[str, str]:
    """Return the computation of every cell of an interrupted job, by key; files that cannot be read are skipped."""
    jobs = [job for _, job in _stored_jobs(store) if isinstance(job, Job)]
    return {cell.key: job.computation for job in jobs for cell in job.cells}


def adopted_keys(plan: Plan, store: Store) -> set[str]:
    """Return the keys of the missing cells that belong to interrupted jobs."""
    return _unfinished(store, {cell.key: cell for cell in plan.missing if cell.key})[1]


def _unfinished(store: Store, missing: Mapping[str, Cell]) -> tuple[list[tuple[Path, Job]], set[str]]:
    """Return interrupted jobs whose unfinished cells are all planned, under the job's own name, with their keys."""
    jobs: list[tuple[Path, Job]] = []
    adopted: set[str] = set()
    for path, job in _stored_jobs(store):
        if isinstance(job, StoreError):
            continue
        keys = {cell.key for cell in job.cells}
        left = {key for key in keys if not _is_finished(store, key)}
        planned = all(key in missing and missing[key].scan == job.name for key in left)
        if left and planned and not keys & adopted:
            jobs.append((path, job))
            adopted |= keys
    return jobs, adopted


def _is_finished(store: Store, key: str) -> bool:
    record = store.read_cell(key)
    return record is not None and record.status in FINISHED


def _keys_of(stored: Mapping[str, Any]) -> frozenset[str]:
    """The keys of the cells in a job file of any schema, as far as they can be told."""
    cells = stored.get("cells")
    return frozenset(str(cell["key"]) for cell in cells if "key" in cell) if isinstance(cells, list) else frozenset()


def _stored_jobs(store: Store) -> list[tuple[Path, Job | StoreError]]:
    """Return every job file of a store with its job, or with the reason why it cannot be read."""
    return [(path, _job_or_reason(path)) for path in sorted((store.root / "jobs").glob("*.json"))]


def _job_or_reason(path: Path) -> Job | StoreError:
    try:
        return Job.read(path)
    except StoreError as error:
        return error


def _first_problem(error: ValidationError) -> str:
    detail = error.errors()[0]
    return f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}".removeprefix(": ")
