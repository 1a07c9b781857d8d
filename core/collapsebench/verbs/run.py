"""The verbs of the command line as Python functions, returning frames and small frozen objects."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from collapsebench.contracts import Progress, Registry, load_registry
from collapsebench.errors import StoreError, UserError, classify, error_text
from collapsebench.planning.cells import Cell, Plan, create, differences, make_plan, nearest, with_records
from collapsebench.planning.jobs import make_jobs
from collapsebench.store import Store
from collapsebench.suite.resolve import Reference, Suite, load_suite

if TYPE_CHECKING:
    import pandas as pd

    from collapsebench.scoring.results import SuiteResults

Say = Callable[[str], None]


@dataclass(frozen=True)
class Session:
    """A suite, resolved, with the store and the components it is run with."""

    suite: Suite
    store: Store
    registry: Registry = field(default_factory=load_registry)

    @property
    def is_elsewhere(self) -> bool:
        """Whether the suite asks for a CUDA device, and there is none here."""
        import torch

        return self.suite.compute.device == "cuda" and not torch.cuda.is_available()

    @cached_property
    def device(self) -> str:
        """The device that the suite asks for; `auto` is CUDA where there is one, else the CPU."""
        import torch

        asked = self.suite.compute.device
        if asked == "auto":
            asked = "cuda" if torch.cuda.is_available() else "cpu"
        available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        if not available[asked]:
            raise UserError(
                f"compute.device: '{asked}' is not available to PyTorch {torch.__version__} here; available: "
                f"{', '.join(name for name, there in available.items() if there)}. Choose one with --device."
            )
        if self.suite.compute.precision == "tf32" and asked != "cuda":
            raise UserError(
                f"compute.precision: found 'tf32' on {asked}, expected a CUDA device. Choose 'float32', or "
                "--device cuda."
            )
        return asked


@dataclass(frozen=True)
class Outcome:
    """What a run, or scoring alone, leaves. folder: where boards, tables and figures were written."""

    results: SuiteResults
    folder: Path
    figures: tuple[Path, ...] = ()

    @cached_property
    def board(self) -> pd.DataFrame:
        """The board as a long table, one row per dataset, architecture, objective and score."""
        from collapsebench.ranking.board import board

        return board(self.results)

    @cached_property
    def ranking(self) -> pd.DataFrame:
        """The rank interval of every architecture, on each dataset and over all of them."""
        from collapsebench.ranking.board import ranking

        return ranking(self.results)

    @cached_property
    def statuses(self) -> pd.DataFrame:
        """Every planned cell with its status."""
        from collapsebench.ranking.board import statuses

        return statuses(self.results)

    @property
    def ok(self) -> bool:
        """Whether every planned cell ended ok, or was skipped because its architecture is not meant for the data."""
        return all(cell.status in ("ok", "skipped") and not cell.metric_failures for cell in self.results.cells)

    @property
    def converged(self) -> bool:
        """Whether every replica of every cell converged."""
        return self.ok and all(
            bool((cell.measurement.tables["replicas"]["mark"] == "converged").all())
            for cell in self.results.cells
            if cell.measurement is not None
        )

    def text(self, format: str = "text", *, standalone: bool = False) -> str:
        """Return the board as text, md, csv, json, tex (with `standalone` a whole document) or html."""
        from collapsebench.publishing.board_report import render

        return render(self.results, format, standalone=standalone)

    def __repr__(self) -> str:
        ended = sum(cell.status == "ok" for cell in self.results.cells)
        return f"Outcome(suite={self.results.suite!r}, ok={ended} of {len(self.results.cells)}, folder={self.folder!r})"

    def _repr_html_(self) -> str:
        from collapsebench.publishing.board_report import board_report
        from collapsebench.publishing.report import html_fragment

        return html_fragment(board_report(self.results))


def open_session(
    suite: str | Path,
    *,
    preset: str | None = None,
    overrides: Sequence[str] = (),
    seeds: int | Sequence[int] | None = None,
    device: str | None = None,
    executor: str | None = None,
    store: str | Path | None = None,
) -> Session:
    """Return a suite, given by id or path, resolved and ready; overrides are `key=value`, as on the command line."""
    extra = [f'compute.device="{device}"'] if device else []
    extra += [f'compute.executor="{executor}"'] if executor else []
    registry = load_registry()
    resolved = load_suite(suite, preset=preset, overrides=(*overrides, *extra), seeds=seeds, registry=registry)
    return Session(resolved, Store(store), registry)


def plan(suite: str | Path, **options: Any) -> Plan:
    """Return every cell of a suite with its key and status; nothing is trained or written. Options: `open_session`.

    >>> import collapsebench
    >>> plan = collapsebench.plan("linear-gaussian", preset="smoke", seeds=1)
    >>> plan
    Plan(suite='linear-gaussian', cells=3, missing=3)
    >>> plan.statuses["status"].tolist()
    ['missing', 'missing', 'missing']
    >>> round(float(plan.data["gap"].pca.eigenvalues[0]), 3)
    0.219
    """
    session = open_session(suite, **options)
    return make_plan(session.suite, session.store, session.registry)


def run(suite: str | Path, *, report: Callable[[str, Progress], None] | None = None, **options: Any) -> Outcome:
    """Train what is missing, observe, score, rank; write board, tables and figures. Options: `open_session`.

    >>> import collapsebench
    >>> options = {"preset": "smoke", "overrides": ['datasets=[{use="gaussian"}]']}
    >>> outcome = collapsebench.run("linear-gaussian", **options)
    >>> outcome.ok
    True
    >>> list(outcome.board.columns[:6])
    ['suite', 'dataset', 'architecture', 'objective', 'metric', 'score']
    >>> len(outcome.statuses)
    2
    """
    return run_session(open_session(suite, **options), report or (lambda name, progress: None), lambda text: None)


def score(suite: str | Path, **options: Any) -> Outcome:
    """Score what has been trained and rank it; nothing is trained. Options: `open_session`.

    >>> import collapsebench
    >>> options = {"preset": "smoke", "overrides": ['datasets=[{use="gaussian"}]']}
    >>> trained = collapsebench.run("linear-gaussian", **options)
    >>> collapsebench.score("linear-gaussian", **options).board.equals(trained.board)
    True
    """
    return score_session(open_session(suite, **options))


def board(suite: str | Path, **options: Any) -> pd.DataFrame:
    """Return the board of what has been trained, as a long table. Options: `open_session`.

    >>> import collapsebench
    >>> options = {"preset": "smoke", "overrides": ['datasets=[{use="gaussian"}]']}
    >>> trained = collapsebench.run("linear-gaussian", **options)
    >>> frame = collapsebench.board("linear-gaussian", **options)
    >>> frame.query("score == 'at-5%'")[["dataset", "architecture", "n_ok"]].values.tolist()
    [['gaussian', 'linear', 2]]
    """
    return score(suite, **options).board


def publish(
    source: str | Path, folder: str | Path, *, lean: bool = False, figures: Sequence[str] | None = None, **options: Any
) -> Outcome:
    """Write board, tables, figures, page and data of a suite into a folder. Options: `open_session`.

    source: a suite, of which what has been trained is scored; or a published folder, from which alone everything is
    made again, byte for byte, and which takes no options of a session (write ./NAME if it is called like a shipped
    suite). lean: for a repository, half of the bytes: no table that repeats data/ or board.csv, and each figure
    once, as a small PNG; publishing that folder again brings back the rest. figures: the kinds to draw, by default all.

    >>> import collapsebench
    >>> options = {"preset": "smoke", "overrides": ['datasets=[{use="gaussian"}]']}
    >>> trained = collapsebench.run("linear-gaussian", **options)
    >>> published = collapsebench.publish("linear-gaussian", "published", **options)
    >>> again = collapsebench.publish("published", "again")
    >>> (again.folder / "index.html").read_bytes() == (published.folder / "index.html").read_bytes()
    True
    """
    from collapsebench.publishing.bundle import is_bundle, read_bundle
    from collapsebench.publishing.folder import copy_outputs
    from collapsebench.suite.file import shipped_suites

    chosen = lean or figures is not None
    if source in shipped_suites() or not is_bundle(source):
        if chosen:
            results = score_only(open_session(source, **options))
            return written(results, Path(folder), lean=lean, figures=figures)
        outcome = score(source, **options)
        copy_outputs(outcome.folder, Path(folder))
        return Outcome(outcome.results, Path(folder), outcome.figures)
    given = sorted(name for name, value in options.items() if value not in (None, (), []))
    if given:
        raise UserError(
            f"{source}: is a published folder, whose results are settled; found the option {', '.join(given)}. "
            "Leave options out, or publish the suite itself."
        )
    return written(read_bundle(source), Path(folder), lean=lean, figures=figures)


def prepare_session(session: Session, say: Say) -> dict[str, tuple[str, str]]:
    """Prepare every dataset that is not ready; return failed dataset -> the status of its cells, and the reason."""
    failures = {}
    for reference in session.suite.datasets:
        try:
            dataset = create(session.registry, reference)
            if dataset.is_prepared(session.store.cache):
                continue
            say(f"preparing {reference.id}")
            session.store.make_writable()
            session.store.cache.mkdir(parents=True, exist_ok=True)
            dataset.prepare(session.store.cache)
        except StoreError:
            raise
        except Exception as error:
            failures[reference.id] = (classify(error), error_text(error))
    return failures


def run_session(session: Session, report: Callable[[str, Progress], None], say: Say) -> Outcome:
    """Do what `run` does, and report progress."""
    from collapsebench.scoring.score import open_metrics

    suite, store, registry = session.suite, session.store, session.registry
    device = session.device
    _, observables = open_metrics(suite, registry)  # what can never be scored is not trained
    store.make_writable()
    unprepared = prepare_session(session, say)
    current = make_plan(suite, store, registry)
    jobs = plan_jobs(session, current, say, observables)
    done = len(current.cells) - len(current.missing) - sum(cell.key is None for cell in current.cells)
    say(f"{len(current.cells)} cells: {done} done, {len(current.missing)} to train in {len(jobs)} jobs on {device}")
    executor = registry.get("executor", suite.executor.qualified).create(suite.executor.parameters)
    with _stop_on_interrupt() as stop:
        executor.run(jobs, report, stop)
    return score_session(session, unprepared, say, with_records(current, store))


def plan_jobs(
    session: Session,
    current: Plan,
    say: Say = lambda text: None,
    observables: Sequence[Reference] | None = None,
) -> list[Path]:
    """Write the missing cells into job files; say how stacks are computed that the kernel does not support, and why.

    observables: what each job measures; by default what the suite's metrics require. An interrupted job keeps the
    computation that was chosen for it, which is not timed again.
    """
    from collapsebench.scoring.score import open_metrics
    from collapsebench.training.choose import plan_stacks

    if observables is None:
        _, observables = open_metrics(session.suite, session.registry)
    stacks = plan_stacks(current, session.store, session.device, session.registry)
    for stack in stacks.values():
        if stack.reason:
            say(f"{stack.label}: {stack.description}: {stack.reason}")
        if stack.replicas < stack.replicas_wanted:
            size = f"{stack.replicas_wanted} replicas are trained {stack.replicas} at a time"
            say(f"{stack.label}: {size}: {stack.memory}")
    return make_jobs(current, session.store, session.device, stacks, observables, say)


def score_session(
    session: Session,
    unprepared: Mapping[str, tuple[str, str]] | None = None,
    say: Say = lambda text: None,
    current: Plan | None = None,
) -> Outcome:
    """Score the trained cells; write board, tables and figures into the store. current: the plan, if already made."""
    from collapsebench.scoring.score import score_plan

    current = current or make_plan(session.suite, session.store, session.registry)
    current = Plan(current.suite, current.cells, current.data, {**current.failures, **(unprepared or {})})
    say("scoring")
    results = score_plan(current, session.store, session.registry, session.device)
    session.store.make_writable()
    say("drawing")
    return written(results, session.store.suite_folder(session.suite.id))


def written(
    results: SuiteResults, folder: Path, *, lean: bool = False, figures: Sequence[str] | None = None
) -> Outcome:
    """Write results as a bundle, and return them with its paths; see `publish`."""
    from collapsebench.publishing.folder import write_everything

    paths = write_everything(results, folder, lean=lean, figures=figures)
    return Outcome(results, folder, tuple(path for path in paths if path.parent.name == "figures"))


def score_only(session: Session) -> SuiteResults:
    """Score the trained cells without writing a board, table or figure."""
    from collapsebench.scoring.score import score_plan

    current = make_plan(session.suite, session.store, session.registry)
    return score_plan(current, session.store, session.registry, session.device)


def explain(session: Session, cell: Cell) -> str:
    """Explain the state of a cell: done, interrupted, failed or new; if new, say how it differs from stored cells."""
    if cell.key is None:
        return f"{cell.name}: its dataset is not prepared, so it has no key yet. Run `collapsebench prepare` first."
    if cell.is_finished:
        return f"{cell.name}: {cell.status}, stored as {cell.key[:12]}; a run would not train it again."
    if cell.record is not None:
        reason = cell.record.reason.splitlines()[0].rstrip(".")
        return f"{cell.name}: {cell.status}: {reason}. A run would {_again(cell.status)}."
    closest = nearest(cell, session.store)
    if closest is None:
        return f"{cell.name}: never trained, and the store holds nothing to compare it with."
    record, fields = closest
    lines = [f"{cell.name}: not trained. It differs from the nearest stored cell {record.key[:12]} in:"]
    lines += [f"  {path}: {here!r} here, {there!r} there" for path, (here, there) in fields.items()]
    return "\n".join(lines)


def _again(status: str) -> str:
    return "ask again whether it takes the samples" if status == "skipped" else "train it again"


@contextmanager
def _stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """Yield a function that is true after the first Ctrl-C; a second Ctrl-C interrupts at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = signal.getsignal(signal.SIGINT)

    def ask(number: int, frame: Any) -> None:
        asked.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, ask)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)


__all__ = ["Outcome", "Session", "board", "differences", "explain", "open_session", "plan", "publish", "run", "score"]
