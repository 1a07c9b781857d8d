"""The first-party executors, one file per executor."""

from __future__ import annotations

from collapsebench import Component, hookimpl


@hookimpl
def collapsebench_executors() -> list[Component]:
    """Return the descriptors of the first-party executors."""
    return [
        Component(
            "local", "collapsebench_executors.local:Local", "in this process, one job after another", default=True
        ),
    ]
