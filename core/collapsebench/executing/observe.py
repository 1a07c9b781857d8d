"""Observe stored cells: rebuild the stack, load the stored weights, and store what the observables measure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from collapsebench.contracts import Observable, Registry
from collapsebench.data.samples import SplitSamples
from collapsebench.data.standardise import Standardised
from collapsebench.errors import error_text
from collapsebench.observing.observe import measure
from collapsebench.planning.cells import key_of
from collapsebench.planning.jobs import ScanSpec
from collapsebench.process import matrix_precision
from collapsebench.stack.computation import observing_computation
from collapsebench.stack.stack import Stack, StackModel
from collapsebench.store import CellRecord, Store
from collapsebench.suite.resolve import Reference
from collapsebench.suite.schema import EvaluationSettings
from collapsebench.training.build import build_stack

if TYPE_CHECKING:
    from collapsebench.contracts import Tensors


def observable_name(reference: Reference, evaluation: EvaluationSettings) -> str:
    """Return the name under which an observable is stored: its id and a digest of all that decides its numbers."""
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
    scan: ScanSpec,
    data: Standardised,
    observables: Sequence[Reference],
    registry: Registry,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, str]:
    """Measure observables on stored cells of one scan, all replicas together; return why observables failed, by id.

    KeyboardInterrupt is raised before the next observable once `stop()` is true.
    """
    with matrix_precision(scan.precision):
        return _observe(store, records, scan, data, observables, registry, stop)


def _observe(
    store: Store,
    records: Sequence[CellRecord],
    scan: ScanSpec,
    data: Standardised,
    observables: Sequence[Reference],
    registry: Registry,
    stop: Callable[[], bool],
) -> dict[str, str]:
    model = _model_of(store, records, scan, data, registry)
    evaluation, count = scan.evaluation, len(scan.temperatures)
    failures: dict[str, str] = {}
    for reference in observables:
        if stop():
            raise KeyboardInterrupt
        try:
            observable: Observable[Any] = registry.get("observable", reference.qualified).create(reference.parameters)
            samples = [
                SplitSamples(
                    data, split, replicas=len(model.temperatures), width=4 * scan.latent_dim, device=model.device,
                    dtype=model.dtype, max_rows=None if observable.exhaustive else evaluation.max_rows,
                )
                for split in observable.splits
            ]  # fmt: skip
            frame = measure(reference.use, observable, model, samples)
        except Exception as error:
            failures[reference.use] = error_text(error)
            continue
        for index, record in enumerate(records):
            first = index * count
            rows = frame[frame["replica"].between(first, first + count - 1)]
            store.write_observable(record.key, observable_name(reference, evaluation), rows.drop(columns="replica"))
    return failures


def _model_of(
    store: Store, records: Sequence[CellRecord], scan: ScanSpec, data: Standardised, registry: Registry
) -> StackModel:
    """Return the replicas of all records as one model, in the order of the records."""
    computation = observing_computation({_computed(record.provenance) for record in records})
    stack = build_stack(scan, (0,), computation, data, registry)
    weights = [store.read_weights(record) for record in records]
    _fill(stack, {name: torch.cat([part[name] for part in weights]) for name in weights[0]})
    return StackModel(stack, list(scan.temperatures) * len(records), scan.latent_dim)


def _computed(provenance: Mapping[str, Any]) -> str:
    """Return the name of a cell's computation, which releases before the second job schema stored as `path`."""
    return str(provenance.get("computation", provenance.get("path", "")))


def _fill(stack: Stack, weights: Tensors) -> None:
    """Load the weights of all cells into a stack that was built for one."""
    stack.load(weights)
    replicas = len(next(iter(weights.values())))
    stack.dials = stack.dials[:1].expand(replicas)
    stack.seeds = torch.zeros(replicas, dtype=torch.long, device=stack.device)
