"""The conformance laws of every kind of component, and how one is examined.

`collapsebench plugins check` prints the findings; `collapsebench.testing` makes tests of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from collapsebench.authoring import datasets, listing, networks, objectives, observables_and_metrics
from collapsebench.authoring.law import Finding, Law, Subject, examine
from collapsebench.contracts import Kind, Registered, Registry

LAWS: dict[Kind, tuple[Law, ...]] = {
    "dataset": (*listing.PRESUPPOSED, *datasets.DATASET),
    "encoder": (*listing.PRESUPPOSED, *networks.ENCODER),
    "decoder": (*listing.PRESUPPOSED, *networks.DECODER),
    "objective": (*listing.PRESUPPOSED, *objectives.OBJECTIVE),
    "observable": (*listing.PRESUPPOSED, *observables_and_metrics.OBSERVABLE),
    "metric": (*listing.PRESUPPOSED, *observables_and_metrics.METRIC),
    "executor": (*listing.PRESUPPOSED, *listing.EXECUTOR),
}


def check_component(
    registered: Registered,
    registry: Registry,
    cache: Path,
    parameters: Mapping[str, Any] | None = None,
    shape: tuple[int, ...] | None = None,
) -> list[Finding]:
    """Return a finding for every law of a component's kind, in order.

    cache: the folder in which a dataset prepares its files. shape: the shape of the samples that an encoder or decoder
    is built for; by default the component's example.
    """
    observables_and_metrics.forget_scans()
    subject = Subject(registered, registry, cache, dict(parameters or {}), shape or _example_shape(registered))
    return examine(subject, LAWS[registered.kind])


def _example_shape(registered: Registered) -> tuple[int, ...]:
    try:
        return tuple(getattr(registered.component.load(), "example_shape", (8,)))
    except Exception:  # whether it can be imported is a law of its own
        return (8,)
