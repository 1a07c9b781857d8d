"""The whole plugin contract: one hook per kind of component, each returning light descriptors.

A plugin is a module (or package) that implements any of these with `@hookimpl`, declared under the entry-point group
`collapsebench` of its distribution.
"""

from __future__ import annotations

import pluggy

from collapsebench.contracts.component import Component, Kind

GROUP = "collapsebench"

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


@hookspec
def collapsebench_datasets() -> list[Component]:  # type: ignore[empty-body]
    """Return the datasets this plugin provides; each target is a subclass of `Dataset`."""


@hookspec
def collapsebench_encoders() -> list[Component]:  # type: ignore[empty-body]
    """Return the encoders this plugin provides; each target is a subclass of `Encoder`."""


@hookspec
def collapsebench_decoders() -> list[Component]:  # type: ignore[empty-body]
    """Return the decoders this plugin provides; each target is a subclass of `Decoder`."""


@hookspec
def collapsebench_objectives() -> list[Component]:  # type: ignore[empty-body]
    """Return the objectives this plugin provides; each target is a subclass of `Objective`."""


@hookspec
def collapsebench_observables() -> list[Component]:  # type: ignore[empty-body]
    """Return the observables this plugin provides; each target is a subclass of `Observable`."""


@hookspec
def collapsebench_metrics() -> list[Component]:  # type: ignore[empty-body]
    """Return the metrics this plugin provides; each target is a subclass of `Metric`."""


@hookspec
def collapsebench_executors() -> list[Component]:  # type: ignore[empty-body]
    """Return the executors this plugin provides; each target is a subclass of `Executor`."""


HOOKS: dict[Kind, str] = {
    "dataset": "collapsebench_datasets",
    "encoder": "collapsebench_encoders",
    "decoder": "collapsebench_decoders",
    "objective": "collapsebench_objectives",
    "observable": "collapsebench_observables",
    "metric": "collapsebench_metrics",
    "executor": "collapsebench_executors",
}
