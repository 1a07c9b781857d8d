"""The first-party objectives, one file per objective."""

from __future__ import annotations

from collapsebench import Component, hookimpl


@hookimpl
def collapsebench_objectives() -> list[Component]:
    """Return the descriptors of the first-party objectives."""
    return [
        Component(
            "beta-vae",
            "collapsebench_objectives.beta_vae:BetaVae",
            "distortion plus beta times rate",
            parameters="collapsebench_objectives.parameters:BetaVaeParameters",
        )
    ]
