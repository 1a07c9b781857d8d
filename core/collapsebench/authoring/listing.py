"""Laws of every component: it is light to list, its parameters validate, its class keeps the contract's signature."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from functools import cache
from typing import Any

from pydantic import ValidationError

from collapsebench import contracts
from collapsebench.authoring.law import BrokenLawError, Law, Subject, require
from collapsebench.contracts import HEAVY, SLOW_SECONDS, Kind

CLASSES: dict[Kind, type[Any]] = {
    "dataset": contracts.Dataset,
    "encoder": contracts.Encoder,
    "decoder": contracts.Decoder,
    "objective": contracts.Objective,
    "observable": contracts.Observable,
    "metric": contracts.Metric,
    "executor": contracts.Executor,
}

_PROBE = """
import json, sys, time
from collapsebench.contracts import HEAVY, Registry, installed_plugins
distribution, entry_point, *names = sys.argv[1:]
sources = [s for s in installed_plugins() if (s.distribution, s.name) == (distribution, entry_point)]
started = time.perf_counter()
registry = Registry(sources)
for kind, id in (name.split(" ", 1) for name in names):
    registry.find(kind, f"{distribution}/{id}").component.parameters_model().model_json_schema()
print(json.dumps([time.perf_counter() - started, [name for name in HEAVY if name in sys.modules]]))
"""


@cache
def _probe(path: str, *arguments: str) -> tuple[float, tuple[str, ...]]:
    """Load a plugin and its components' parameters in a fresh process; return the seconds and the heavy imports.

    A slow plugin is loaded again, so that a busy machine is not mistaken for a slow plugin.
    """
    times, heavy = [], []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", _PROBE, *arguments],
            capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip
        lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
        require(done.returncode == 0, f"a fresh process cannot list it: {lines[-1] if lines else 'it ended silently'}")
        seconds, heavy = json.loads(lines[-1])
        times.append(seconds)
        if seconds <= SLOW_SECONDS:
            break
    return min(times), tuple(heavy)


def _probed(subject: Subject) -> tuple[float, tuple[str, ...]]:
    kind, component, owner = subject.registered.kind, subject.registered.component, subject.registered.owner
    name = f"{kind} {component.id}"
    (plugin,) = [
        report
        for report in subject.registry.plugins()
        if report.distribution == owner.distribution and name in report.components
    ]
    where = (os.pathsep.join(filter(None, sys.path)), owner.distribution, plugin.entry_point)
    return _probed_together(*where, *plugin.components) or _probe(*where, name)


@cache
def _probed_together(path: str, *arguments: str) -> tuple[float, tuple[str, ...]] | None:
    """Probe all components of a plugin at once: if they are quick and light together, so is each of them."""
    try:
        seconds, heavy = _probe(path, *arguments)
    except BrokenLawError:
        return None
    return None if heavy or seconds > SLOW_SECONDS else (seconds, heavy)


def _light(subject: Subject) -> str:
    _, heavy = _probed(subject)
    require(
        not heavy,
        f"listing it imports {', '.join(heavy)}, expected none of {', '.join(HEAVY)}; import them in the module that "
        "`target` names, and keep the parameters in one of their own.",
    )
    return ""


def _quick(subject: Subject) -> str:
    seconds, _ = _probed(subject)
    require(
        seconds <= SLOW_SECONDS,
        f"takes {seconds:.1f} s, expected at most {SLOW_SECONDS:g} s; move slow imports and work out of the modules "
        "of the hook and of the parameters.",
    )
    return ""


def _defaults(subject: Subject) -> str:
    model = subject.registered.component.parameters_model()
    try:
        made = model.model_validate(dict(subject.parameters))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'all'}: {e['msg']}" for e in error.errors())
        given = "without any given" if not subject.parameters else f"with {dict(subject.parameters)}"
        raise BrokenLawError(f"{given}: {problems}. Give each a default, or pass values to the check.") from error
    model.model_json_schema()
    again = model.model_validate(json.loads(made.model_dump_json()))
    require(again == made, f"{again!r} came back from JSON, expected {made!r}; job files carry them as JSON.")
    return ""


def _closed(subject: Subject) -> str:
    model = subject.registered.component.parameters_model()
    try:
        model.model_validate({**subject.parameters, "no_such_parameter": 1})
    except ValidationError:
        return ""
    raise BrokenLawError("takes the unknown key 'no_such_parameter'; leave `extra` of its model_config at \"forbid\".")


def _constructs(subject: Subject) -> str:
    kind, component = subject.registered.kind, subject.registered.component
    component_class, expected = component.load(), CLASSES[kind]
    require(
        inspect.isclass(component_class) and issubclass(component_class, expected),
        f"{component.target} is not a subclass of collapsebench.{expected.__name__}; derive it from that.",
    )
    subject.create()
    return ""


PRESUPPOSED = (
    Law("light", "listing it and its parameters imports nothing heavy", _light),
    Law("quick", f"its plugin is imported in at most {SLOW_SECONDS:g} s", _quick),
    Law("defaults", "its parameters validate and survive JSON", _defaults, presupposed=True),
    Law("closed", "parameters that do not exist are refused", _closed),
    Law("constructs", "its class is of its kind and takes its parameters", _constructs, presupposed=True),
)


def _idle(subject: Subject) -> str:
    subject.create().run([], lambda name, progress: None, lambda: False)
    return ""


EXECUTOR = (Law("idle", "given no jobs it ends", _idle),)
