"""What every component has: an id, a version and validated parameters.

A plugin describes what it offers with light `Component` descriptors and implements the abstract classes of this room.
Every component class is constructed with its validated parameters, `Class(parameters)`, and nothing else. The room
imports neither torch nor pandas nor NumPy at run time, so that listing and checking stay fast.

Axis order everywhere: replica, batch, latent (or feature).
"""

from __future__ import annotations

import importlib
from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict

from collapsebench.errors import PluginError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.float64]
    Tensors: TypeAlias = dict[str, torch.Tensor]

Kind = Literal["dataset", "encoder", "decoder", "objective", "observable", "metric", "executor"]
KINDS: tuple[Kind, ...] = ("dataset", "encoder", "decoder", "objective", "observable", "metric", "executor")


class Parameters(BaseModel):
    """The base of every component's parameters: frozen, and strict about unknown keys.

    location_parameters: names of the parameters that say where data lie (a path, an address); they are part of no key.
    """

    location_parameters: ClassVar[tuple[str, ...]] = ()

    model_config = ConfigDict(extra="forbid", frozen=True)


P = TypeVar("P", bound=Parameters)


@dataclass(frozen=True)
class Curve:
    """A quantity that figures and the page plot: against T for an observable, against rank for a metric's `modes`.

    quantity: the column to plot. label: the text of its axis, as in "posterior entropy, nats". logarithmic: whether
    that axis is logarithmic. split: the split of an observable that is shown.
    """

    quantity: str
    label: str
    logarithmic: bool = False
    split: Literal["train", "validation", "test"] = "train"


@dataclass(frozen=True)
class Component:
    """Describe one component without importing it.

    id: lower case, hyphenated, unique within its kind. target: `module:Class`, imported when the component is used.
    parameters: `module:Model`, a `Parameters` subclass in a module that imports no torch; None for no parameters.
    version: raise it when the same parameters give different numbers; it is part of every key that depends on it.
    requires: distributions beyond collapsebench's own that the component needs, as in pyproject.toml.
    default: whether a suite that names no component of this kind uses this one; only one installed component may be it.

    >>> moons = Component("two-moons", "two_moons:TwoMoons", "two interleaved half circles")
    >>> moons.id, moons.version, moons.requires
    ('two-moons', 1, ())
    """

    id: str
    target: str
    summary: str
    parameters: str | None = None
    version: int = 1
    requires: tuple[str, ...] = ()
    default: bool = False

    def load(self) -> type[Any]:
        """Import and return the component's class."""
        component_class: type[Any] = _import(self.target, self.id)
        return component_class

    def parameters_model(self) -> type[Parameters]:
        """Import and return the model of the component's parameters."""
        model = Parameters if self.parameters is None else _import(self.parameters, self.id)
        if not (isinstance(model, type) and issubclass(model, Parameters)):
            raise PluginError(
                f"component '{self.id}': {self.parameters} is not a subclass of collapsebench.Parameters."
            )
        return model

    def create(self, parameters: Mapping[str, Any] | None = None) -> Any:
        """Return the component, constructed with validated parameters."""
        return self.load()(self.parameters_model().model_validate(dict(parameters or {})))


def _import(target: str, owner: str) -> Any:
    module, _, name = target.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except AttributeError as error:
        raise PluginError(f"component '{owner}': module {module} has no {name}; correct its target.") from error


class Configured(ABC, Generic[P]):
    """A component that keeps the parameters it was constructed with."""

    def __init__(self, parameters: P) -> None:
        self.parameters = parameters
