"""Find plugins, register each in isolation, and hand out their components.

A plugin that breaks its contract is reported by `Registry.plugins` with the reason; the others work.
"""

from __future__ import annotations

import difflib
import functools
import importlib.metadata
import re
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, cast

import pluggy

from collapsebench.contracts import hooks
from collapsebench.contracts.component import Component, Kind, Parameters
from collapsebench.contracts.hooks import GROUP, HOOKS
from collapsebench.errors import ComponentError, PluginError, unknown

HEAVY = ("torch", "pandas", "sklearn", "scipy", "matplotlib", "rasterio", "pyarrow")
SLOW_SECONDS = 1.0

_ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


class Source(NamedTuple):
    """Where a plugin comes from: entry-point name, distribution, its version, and what imports the plugin."""

    name: str
    distribution: str
    version: str
    load: Callable[[], Any]


class Owner(NamedTuple):
    """The distribution that provides a component."""

    distribution: str
    version: str


@dataclass(frozen=True)
class Registered:
    """A component of a kind with the distribution that provides it."""

    kind: Kind
    component: Component
    owner: Owner

    def parameters_model(self) -> type[Parameters]:
        """Import the model of the component's parameters; a PluginError names the owner if that fails."""
        try:
            return self.component.parameters_model()
        except Exception as error:
            raise PluginError(
                f"cannot load the parameters of {self.kind} '{self.component.id}' from "
                f"'{self.component.parameters}': {error} "
                f"Repair or reinstall {self.owner.distribution} {self.owner.version}."
            ) from error


@dataclass(frozen=True)
class PluginReport:
    """The health of one plugin; the reason is empty if the status is ok. components: "kind id" for each.

    remarks: one sentence per tolerated problem: a slow or heavy import, or an id that others provide too.
    """

    distribution: str
    version: str
    entry_point: str
    status: Literal["ok", "failed"]
    reason: str = ""
    components: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


class Registry:
    """The components of a set of plugins.

    Plugins are ordered by distribution and entry point, in whatever order they are given.
    """

    def __init__(self, sources: Iterable[Source | tuple[str, str, str, Callable[[], Any]]]) -> None:
        self._registered: dict[tuple[Kind, str], dict[str, Registered]] = {}
        self._reports: list[PluginReport] = []
        ordered = sorted((Source(*source) for source in sources), key=lambda s: (_plain(s.distribution), s.name))
        for source in ordered:
            self._add(source)

    def get(self, kind: Kind, id: str) -> Component:
        """Return the component of a kind called `id`, or `distribution/id` if several distributions provide it."""
        return self.find(kind, id).component

    def owner(self, kind: Kind, id: str) -> Owner:
        """Return the distribution, with its version, that provides a component."""
        return self.find(kind, id).owner

    def find(self, kind: Kind, id: str) -> Registered:
        """Return a component together with its owner; `id` may be qualified as in `get`."""
        distribution, _, plain_id = id.rpartition("/")
        providers = self._registered.get((kind, plain_id), {})
        if distribution:
            providers = {key: value for key, value in providers.items() if key == _plain(distribution)}
        if len(providers) == 1:
            return next(iter(providers.values()))
        if providers:
            owners = [provider.owner for provider in providers.values()]
            names = _listed([f"{owner.distribution} {owner.version}" for owner in owners], "and")
            choices = _listed([f"'{owner.distribution}/{plain_id}'" for owner in owners], "or")
            raise ComponentError(f"{kind} '{plain_id}' is provided by {names}, expected one provider; write {choices}.")
        raise ComponentError(unknown(kind, id, self._names(kind, qualified=bool(distribution))) + self._failures())

    def default(self, kind: Kind) -> str:
        """Return the component that a suite uses if it names none of a kind, as `distribution/id`."""
        declared = [item for item in self.registered(kind) if item.component.default]
        if len(declared) == 1:
            return f"{declared[0].owner.distribution}/{declared[0].component.id}"
        names = [f"{item.owner.distribution}/{item.component.id}" for item in declared]
        claimed = f"{_listed(names, 'and')} declare themselves" if names else "none declares itself"
        raise ComponentError(
            f"{kind}: of those installed, {claimed} the default, expected exactly one. Name one in the suite."
        )

    def components(self, kind: Kind) -> tuple[Component, ...]:
        """Return every component of a kind, ordered by id, then by distribution."""
        return tuple(registered.component for registered in self.registered(kind))

    def registered(self, kind: Kind) -> tuple[Registered, ...]:
        """Return every component of a kind with its owner, ordered by id, then by distribution."""
        keys = sorted(key for key in self._registered if key[0] == kind)
        return tuple(registered for key in keys for registered in self._registered[key].values())

    def plugins(self) -> tuple[PluginReport, ...]:
        """Return the health of every plugin, ordered by distribution, then by entry point."""
        return tuple(
            replace(report, remarks=(*report.remarks, *self._shared(report))) if report.status == "ok" else report
            for report in self._reports
        )

    def _shared(self, report: PluginReport) -> list[str]:
        """Say which components of a plugin have an id that another distribution provides too."""
        remarks = []
        for name in report.components:
            kind, _, id = name.partition(" ")
            providers = self._registered[cast(Kind, kind), id].values()
            others = [r.owner.distribution for r in providers if r.owner.distribution != report.distribution]
            if others:
                remarks.append(
                    f"{kind} '{id}' is provided by {', '.join(others)} too; suites must write "
                    f"'{report.distribution}/{id}', unless one of them renames it."
                )
        return remarks

    def _add(self, source: Source) -> None:
        started, absent = time.perf_counter(), [name for name in HEAVY if name not in sys.modules]
        try:
            components = _components_of(source)
            self._refuse_repeated(source, components)
        except (Exception, SystemExit) as error:  # the other plugins must load, whatever this one does
            reason = str(error) if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"
            self._reports.append(PluginReport(source.distribution, source.version, source.name, "failed", reason))
            return
        owner = Owner(source.distribution, source.version)
        for kind, component in components:
            providers = self._registered.setdefault((kind, component.id), {})
            providers[_plain(source.distribution)] = Registered(kind, component, owner)
        names = tuple(f"{kind} {component.id}" for kind, component in components)
        remarks = _burden(time.perf_counter() - started, [name for name in absent if name in sys.modules])
        self._reports.append(PluginReport(source.distribution, source.version, source.name, "ok", "", names, remarks))

    def _refuse_repeated(self, source: Source, components: list[tuple[Kind, Component]]) -> None:
        seen: set[tuple[Kind, str]] = set()
        for kind, component in components:
            key = (kind, component.id)
            if key in seen or _plain(source.distribution) in self._registered.get(key, {}):
                raise PluginError(
                    f"{kind} '{component.id}' is registered twice by {source.distribution}, expected "
                    "ids unique within a kind; rename one."
                )
            seen.add(key)

    def _names(self, kind: Kind, *, qualified: bool) -> list[str]:
        if not qualified:
            return sorted({registered.component.id for registered in self.registered(kind)})
        return [f"{r.owner.distribution}/{r.component.id}" for r in self.registered(kind)]

    def _failures(self) -> str:
        failed = [report.entry_point for report in self._reports if report.status == "failed"]
        if not failed:
            return ""
        return f" Not loaded: plugin {', '.join(failed)}; see `collapsebench plugins list`."


def installed_plugins() -> list[Source]:
    """Return a source for every entry point of the group `collapsebench` in this environment."""
    return [
        Source(
            entry_point.name,
            entry_point.dist.name if entry_point.dist else "unknown",
            entry_point.dist.version if entry_point.dist else "unknown",
            entry_point.load,
        )
        for entry_point in importlib.metadata.entry_points(group=GROUP)
    ]


@functools.cache
def load_registry() -> Registry:
    """Return the registry of the installed plugins, built once."""
    return Registry(installed_plugins())


def _components_of(source: Source) -> list[tuple[Kind, Component]]:
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hooks)
    plugin = source.load()
    implemented = _check_hook_names(manager, plugin)
    manager.register(plugin, source.name)
    components: list[tuple[Kind, Component]] = []
    for kind, hook in HOOKS.items():
        if hook in implemented:
            components += [(kind, component) for component in _call(manager, hook)]
    return components


def _check_hook_names(manager: pluggy.PluginManager, plugin: Any) -> set[str]:
    legal = set(HOOKS.values())
    implemented: set[str] = set()
    unmarked: list[str] = []
    for name in dir(plugin):
        options = manager.parse_hookimpl_opts(plugin, name)
        if options is not None:
            implemented.add(options.get("specname") or name)
        elif name in legal and callable(getattr(plugin, name)):
            unmarked.append(name)
    for name in sorted(implemented - legal):
        close = difflib.get_close_matches(name, sorted(legal), n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        raise PluginError(f"unknown hook '{name}'.{hint} Hooks: {', '.join(sorted(legal))}.")
    if unmarked:
        raise PluginError(
            f"function '{unmarked[0]}' is not marked as a hook; decorate it with @collapsebench.hookimpl."
        )
    if not implemented:
        raise PluginError(
            "found no hook, expected at least one function marked with @collapsebench.hookimpl; implement "
            f"one of {', '.join(sorted(legal))}."
        )
    return implemented


def _call(manager: pluggy.PluginManager, hook: str) -> list[Component]:
    try:
        results = getattr(manager.hook, hook)()
    except (Exception, SystemExit) as error:
        raise PluginError(f"hook '{hook}' raised {type(error).__name__}: {error}") from error
    if len(results) != 1 or not isinstance(results[0], list | tuple):
        returned = f"{type(results[0]).__name__}" if results else "None"
        raise PluginError(f"hook '{hook}' returned {returned}, expected a list of collapsebench.Component; return one.")
    for item in results[0]:
        if not isinstance(item, Component):
            raise PluginError(f"hook '{hook}' returned {item!r} in its list, expected a collapsebench.Component.")
        if not _ID.fullmatch(item.id):
            raise PluginError(
                f"hook '{hook}' returned a component with id '{item.id}', expected lower-case letters and "
                "digits in words joined by single hyphens; rename it."
            )
    return list(results[0])


def _burden(seconds: float, imported: list[str]) -> tuple[str, ...]:
    """Return sentences on how a plugin slows down every command, if it does so too much."""
    remarks = []
    if seconds > SLOW_SECONDS:
        remarks.append(f"takes {seconds:.1f} s to import, expected at most {SLOW_SECONDS:g} s.")
    if imported:
        remarks.append(f"imports {', '.join(imported)}, expected nothing heavy.")
    if remarks:
        remarks.append("Every command waits for this: import what is heavy in the modules that `target` names.")
    return tuple(remarks)


def _plain(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _listed(items: list[str], conjunction: str) -> str:
    return f"{', '.join(items[:-1])} {conjunction} {items[-1]}"
