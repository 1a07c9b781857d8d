"""Score trained cells: measure the observables that metrics need and that are missing, then evaluate; train nothing."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from collapsebench.contracts import Curve, Evaluation, Measurement, Metric, Observable, Registry
from collapsebench.data.standardise import Standardised
from collapsebench.errors import PluginError, StoreError, blaming, error_text, unknown
from collapsebench.executing.observe import observable_name, observe_cells
from collapsebench.planning.cells import PROTOCOL_SETTINGS, Cell, Plan, ScanName, create
from collapsebench.planning.jobs import ScanSpec
from collapsebench.planning.provenance import commands, provenance
from collapsebench.scoring.results import RANK, CellResult, Question, SuiteResults
from collapsebench.store import FINISHED, CellRecord, Store
from collapsebench.suite.resolve import Reference, Suite
from collapsebench.training.choose import on_threads


def score_plan(plan: Plan, store: Store, registry: Registry, device: str) -> SuiteResults:
    """Return every planned cell with its scores; cells that are not trained are included."""
    suite = plan.suite
    metrics, observables = open_metrics(suite, registry)
    with on_threads(suite.compute.threads):
        failures = _observe_missing(plan, store, registry, device, observables)
        cells = [_cell_result(plan, cell, store, registry, metrics, observables, failures) for cell in plan.cells]
    declared = {id: tuple(metric.scores) for id, metric in metrics.items()}
    classes = _loaded(observables, registry)
    return SuiteResults(
        suite=suite.id,
        title=suite.title,
        cells=cells,
        declared=declared,
        questions=questions_of(suite, metrics),
        provenance={
            **provenance(registry, device, suite.compute.precision),
            "suite_hash": suite.suite_hash,
            "seeds": list(suite.seeds),
            "split_seed": suite.split_seed,
            "preset": suite.preset,
            "ward_tolerance": suite.training.convergence.ward_residual,
            **({"scores_from": suite.scores_from} if suite.scores_from != "all" else {}),
            "commands": commands(suite),
            "date": datetime.now(UTC).date().isoformat(),
        },
        datasets={id: {**data.about, "left_out": list(data.left_out)} for id, data in plan.data.items()},
        published=("replicas", *(use for use, observable in classes.items() if observable.published)),
        curves=_curves(metrics, classes),
    )


def _loaded(observables: Sequence[Reference], registry: Registry) -> dict[str, type[Observable[Any]]]:
    """The classes of observables by id; one that cannot be loaded has its reason beside the scores that lack it."""
    classes = {}
    for reference in observables:
        try:
            classes[reference.use] = registry.get("observable", reference.qualified).load()
        except Exception:
            continue
    return classes


def _curves(
    metrics: Mapping[str, Metric[Any]], observables: Mapping[str, type[Observable[Any]]]
) -> dict[str, tuple[Curve, ...]]:
    """The curves that components declare, by the table that holds them; a metric's is called `modes-<metric>`."""
    declared = {use: observable.curves for use, observable in observables.items()}
    declared |= {f"modes-{id}": metric.curves for id, metric in metrics.items()}
    return {table: tuple(curves) for table, curves in declared.items() if curves}


def open_metrics(suite: Suite, registry: Registry) -> tuple[dict[str, Metric[Any]], list[Reference]]:
    """Create the metrics of a suite and find what they require; a PluginError names the one that cannot be used."""
    metrics: dict[str, Metric[Any]] = {}
    for reference in suite.metrics:
        try:
            metrics[reference.id] = create(registry, reference)
        except Exception as error:
            raise PluginError(error_text(error)) from error
        known = {component.id for component in registry.components("observable")}
        for name in metrics[reference.id].requires:
            if name.rpartition("/")[2] not in known:
                problem = unknown("observable", name, known)
                raise PluginError(f"metric '{reference.qualified}': requires {problem} Correct its `requires`.")
    return metrics, _observables(metrics, registry)


def questions_of(suite: Suite, metrics: Mapping[str, Metric[Any]]) -> tuple[Question, ...]:
    """Return what a suite asks: its questions, or one that ranks by `rank_by`.

    Without either, by the first score of each metric that has a direction.
    """
    if suite.questions:
        return tuple(Question(one.id, one.title, one.scores, one.better, dict(one.controls)) for one in suite.questions)
    ranking = []
    for id, metric in metrics.items():
        directed = [score.name for score in metric.scores if score.direction != "none"]
        if directed and metric.ranks:
            ranking.append(f"{id}/{directed[0]}")
    return (Question(RANK, "", suite.rank_by or tuple(ranking)),)


def _observables(metrics: Mapping[str, Metric[Any]], registry: Registry) -> list[Reference]:
    """What the metrics require, each once, with default parameters."""
    names = sorted({name for metric in metrics.values() for name in metric.requires})
    references = []
    for name in names:
        registered = registry.find("observable", name)
        parameters = registered.component.parameters_model()().model_dump(mode="json")
        component = registered.component
        references.append(
            Reference("observable", name, component.id, parameters, component.version, registered.owner.distribution)
        )
    return references


def _observe_missing(
    plan: Plan, store: Store, registry: Registry, device: str, observables: Sequence[Reference]
) -> dict[tuple[str, str], str]:
    """Measure what is not stored yet, scan by scan; return (cell key, observable) -> why it failed."""
    failures: dict[tuple[str, str], str] = {}
    records: dict[ScanName, list[CellRecord]] = {}
    for cell in plan.cells:
        if cell.is_finished and cell.record:
            records.setdefault(cell.scan, []).append(cell.record)
    for scan, observable in itertools.product(records, observables):
        name = observable_name(observable, plan.suite.evaluation)
        missing = [record for record in records[scan] if not _is_measured(store, record, name)]
        damaged = _damaged_weights(store, missing)
        failures |= {(key, observable.use): reason for key, reason in damaged.items()}
        missing = [record for record in missing if record.key not in damaged]
        if not missing:
            continue
        spec = ScanSpec.of(plan.suite, scan, device).at(plan.temperatures(scan))
        data = plan.data[scan.dataset]
        try:
            failed = observe_cells(store, missing, spec, data, [observable], registry)
        except Exception as error:
            failed = {observable.use: error_text(error)}
        failures |= {(record.key, id): reason for record in missing for id, reason in failed.items()}
    return failures


def _damaged_weights(store: Store, records: Sequence[CellRecord]) -> dict[str, str]:
    """Return why the weights of cells cannot be read, by key."""
    reasons = {}
    for record in records:
        try:
            store.verified_weights(record)
        except StoreError as error:
            reasons[record.key] = str(error)
    return reasons


def _is_measured(store: Store, record: CellRecord, name: str) -> bool:
    return (store.cell_folder(record.key) / "observables" / f"{name}.parquet").exists()


def _cell_result(
    plan: Plan,
    cell: Cell,
    store: Store,
    registry: Registry,
    metrics: Mapping[str, Metric[Any]],
    observables: Sequence[Reference],
    failures: Mapping[tuple[str, str], str],
) -> CellResult:
    record, data = cell.record, plan.data.get(cell.dataset)
    if record is None or record.status not in FINISHED or data is None:
        reason = record.reason.splitlines()[0] if record and record.reason else _why_absent(plan, cell)
        status = plan.failures[cell.dataset][0] if cell.dataset in plan.failures else cell.status
        return CellResult(cell.key or "", cell.dataset, cell.architecture, cell.objective, cell.seed, status, reason)
    tables, failures = _read_tables(plan.suite, store, record, observables, failures)
    try:
        measurement = measurement_of(plan.suite, cell, data, tables, registry)
        others = {}
        for protocol, other in counterparts(plan, cell).items():
            if other.record is not None and other.is_finished:
                read, _ = _read_tables(plan.suite, store, other.record, observables, {})
                others[protocol] = measurement_of(plan.suite, other, data, read, registry)
        measurement = replace(measurement, counterparts=others)
    except Exception as error:
        reason = f"trained, but cannot be scored: {error_text(error)}"
        return CellResult(record.key, cell.dataset, cell.architecture, cell.objective, cell.seed, "failed", reason)
    evaluations: dict[str, Evaluation] = {}
    metric_failures: dict[str, str] = {}
    at_rest = measurement.converged if plan.suite.scores_from == "converged" else None
    for id, metric in metrics.items():
        lacking = [name for name in metric.requires if name not in tables]
        if lacking:
            reasons = [f"{name}: {failures.get((record.key, name), 'not measured')}" for name in lacking]
            metric_failures[id] = "; ".join(reasons)
            continue
        try:
            evaluations[id] = checked(id, metric, _evaluate(metric, measurement, at_rest))
        except Exception as error:
            metric_failures[id] = error_text(error)
    return CellResult(
        record.key, cell.dataset, cell.architecture, cell.objective, cell.seed, record.status, record.reason,
        measurement, evaluations, metric_failures,
    )  # fmt: skip


def _evaluate(metric: Metric[Any], measurement: Measurement, at_rest: NDArray[np.bool_] | None) -> Evaluation:
    """Evaluate a metric on the replicas at equilibrium `(t,)`; None, or a metric that sees all: on every replica."""
    if at_rest is None or metric.sees_all:
        return metric.evaluate(measurement)
    if not at_rest.any():
        reason = "no replica of the scan is at equilibrium: train longer, or set scores_from to 'all'"
        return Evaluation({}, reasons={score.name: reason for score in metric.scores})
    return metric.evaluate(measurement.only(at_rest))


def _read_tables(
    suite: Suite,
    store: Store,
    record: CellRecord,
    observables: Sequence[Reference],
    failures: Mapping[tuple[str, str], str],
) -> tuple[dict[str, pd.DataFrame], Mapping[tuple[str, str], str]]:
    """Return the stored tables of a cell, and the failures together with those of reading them."""
    tables = {"replicas": pd.DataFrame(list(record.replicas))}
    for reference in observables:
        try:
            frame = store.read_observable(record.key, observable_name(reference, suite.evaluation))
        except StoreError as error:
            failures = {**failures, (record.key, reference.use): str(error)}
            continue
        if frame is not None:
            tables[reference.use] = frame
    return tables, failures


def counterparts(plan: Plan, cell: Cell) -> dict[str, Cell]:
    """Return the cells that differ in nothing but the protocol of their scan, by protocol."""

    def rest(other: Cell) -> dict[str, Any]:
        return {k: v for k, v in other.description.items() if k not in PROTOCOL_SETTINGS}

    own = rest(cell)
    others = (other for other in plan.cells if other.description["protocol"] != cell.description["protocol"])
    return {other.description["protocol"]: other for other in others if rest(other) == own}


def _why_absent(plan: Plan, cell: Cell) -> str:
    if cell.dataset in plan.failures:
        return plan.failures[cell.dataset][1]
    return "its dataset is not prepared" if cell.key is None else "not trained yet"


def measurement_of(
    suite: Suite, cell: Cell, data: Standardised, tables: Mapping[str, pd.DataFrame], registry: Registry
) -> Measurement:
    """Return the measurement of a cell that metrics evaluate."""
    architecture = suite.architecture(cell.architecture)
    objective_reference = suite.objective(cell.objective)
    decoder = create(registry, architecture.decoder)
    objective = create(registry, objective_reference)
    temperatures = np.array(cell.description["temperatures"], dtype=np.float64)
    with blaming(f"objective '{objective_reference.qualified}': prediction"):
        prediction = (
            objective.prediction(temperatures, data.eigenvalues, architecture.latent_dim) if decoder.linear else None
        )
    if prediction is not None and not prediction.any_encoder and not create(registry, architecture.encoder).linear:
        prediction = None
    return Measurement(
        temperatures=temperatures,
        latent_dim=architecture.latent_dim,
        total_variance=data.total_variance,
        tables=tables,
        pca=data.pca,
        second_moments=data.second_moments,
        has_oracle=decoder.linear and objective.has_oracle,
        decoder_variance=objective.decoder_variance,
        protocol=architecture.protocol,
        prediction=prediction,
        shape=data.shape,
    )


def checked(id: str, metric: Metric[Any], evaluation: Evaluation) -> Evaluation:
    """Check that scores are declared, within their bounds, and missing only with a reason; return the evaluation."""
    declared = {score.name: score for score in metric.scores}
    undeclared = sorted({*evaluation.values, *evaluation.reasons} - declared.keys())
    if undeclared:
        raise PluginError(f"metric '{id}': returned undeclared scores {undeclared}; declared: {sorted(declared)}.")
    for name, score in declared.items():
        if name not in evaluation.values:
            if name not in evaluation.reasons:
                raise PluginError(f"metric '{id}': returned neither a value nor a reason for '{name}'.")
            continue
        value = evaluation.values[name]
        if np.isnan(value) or not score.low <= value <= score.high:
            raise PluginError(f"metric '{id}': '{name}' is {value:g}, declared within [{score.low:g}, {score.high:g}].")
    return evaluation
