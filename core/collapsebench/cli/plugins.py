"""Commands that look and do not run: check, list, info, plugins. Only `plugins check` imports torch or pandas."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from collapsebench.cli.options import AS_JSON, parameters_from
from collapsebench.contracts import KINDS, Kind, Registered, Registry, load_registry
from collapsebench.errors import ComponentError, PluginError, SuiteError, UserError, unknown
from collapsebench.suite.words import parameter_rows

LISTED = ("suite", *KINDS)


@click.command("check")
@click.argument("suite", required=False)
@click.option("--preset", help="Check only this preset's version of the suite.")
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Change a value; repeatable.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of suite files, for editors.")
@AS_JSON
def check(suite: str | None, preset: str | None, overrides: tuple[str, ...], schema: bool, as_json: bool) -> None:
    """Validate SUITE, a shipped id or a path; without --preset, all of its presets too."""
    from collapsebench.suite.json_schema import json_schema
    from collapsebench.suite.resolve import check_presets, load_suite

    if schema:
        click.echo(json.dumps(json_schema(), indent=2))
        return
    if suite is None:
        raise click.UsageError("Missing argument 'SUITE'.")
    problems: list[str] = []
    presets: list[str] = []
    try:
        resolved = load_suite(suite, preset=preset, overrides=overrides)
    except SuiteError as error:
        problems += error.problems
    if preset is None:
        try:
            presets = check_presets(suite)
        except SuiteError as error:
            problems += error.problems
    if problems:
        raise SuiteError(list(dict.fromkeys(problems)))
    if as_json:
        click.echo(json.dumps({**resolved.describe(), "suite_hash": resolved.suite_hash}, indent=2))
        return
    scans = len(resolved.datasets) * len(resolved.architectures) * len(resolved.objectives)
    click.echo(f"{suite}: ok")
    rows = [
        ("title", resolved.title),
        ("datasets", ", ".join(item.id for item in resolved.datasets)),
        ("architectures", ", ".join(item.id for item in resolved.architectures)),
        ("objectives", ", ".join(item.id for item in resolved.objectives)),
        ("metrics", ", ".join(item.id for item in resolved.metrics)),
        ("temperatures", resolved.scan.text.replace(" temperatures", ",")),
        ("cells", f"{scans * len(resolved.seeds)} = {scans} scans x {len(resolved.seeds)} seeds"),
        ("presets", ", ".join(presets) if preset is None else f"{preset} (applied)"),
        ("hash", resolved.suite_hash[:16]),
    ]
    _echo_table([row for row in rows if row[1]])


@click.command("list")
@click.argument("kind", required=False)
@AS_JSON
def list_components(kind: str | None, as_json: bool) -> None:
    """List the components of KIND, of every kind if none is given, and the suites."""
    registry = load_registry()
    kinds = LISTED if kind is None else (_kind(kind),)
    rows: list[dict[str, Any]] = []
    for component_kind in KINDS:
        if component_kind in kinds:
            rows += [_summary(registered) for registered in registry.registered(component_kind)]
    if "suite" in kinds:
        rows += _suite_rows()
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for each in (*KINDS, "suite"):
        group = [row for row in rows if row["kind"] == each]
        if group:
            click.echo(f"{each}s")
            _echo_table([(row["id"], row["summary"], row["distribution"]) for row in group])
    _warn_of_failures(registry)


@click.command("info")
@click.argument("id")
@click.option("--kind", help="Only the component of this kind.")
@AS_JSON
def info(id: str, kind: str | None, as_json: bool) -> None:
    """Describe the component ID: its parameters, its owner, its version."""
    registry = load_registry()
    distribution, _, plain_id = id.rpartition("/")
    kinds: Sequence[Kind] = KINDS if kind is None else [each for each in KINDS if each == _kind(kind)]
    everything = [registered for each in kinds for registered in registry.registered(each)]
    matches = [
        registered
        for registered in everything
        if registered.component.id == plain_id and distribution in ("", registered.owner.distribution)
    ]
    if not matches:
        raise ComponentError(unknown(kind or "component", id, {item.component.id for item in everything}))
    if as_json:
        described = [{**_summary(item), "parameters": item.parameters_model().model_json_schema()} for item in matches]
        click.echo(json.dumps(described, indent=2))
        return
    for i, item in enumerate(matches):
        if i:
            click.echo()
        _echo_component(item)


@click.group("plugins")
def plugins() -> None:
    """Inspect the installed plugins, check one, or write a new one."""


@plugins.command("list")
@AS_JSON
def list_plugins(as_json: bool) -> None:
    """Show the health of every plugin: its distribution, entry point, components, or why it failed."""
    reports = load_registry().plugins()
    if as_json:
        click.echo(json.dumps([asdict(report) for report in reports], indent=2))
        return
    for report in reports:
        text = ", ".join(report.components) if report.status == "ok" else report.reason
        click.echo(f"{report.status:6}  {report.distribution} {report.version}  {report.entry_point}: {text}")
        for remark in report.remarks:
            click.echo(f"        {report.distribution} {report.entry_point}: {remark}")
    if not reports:
        click.echo("no plugins: no installed distribution has entry points in the group 'collapsebench'.")


@plugins.command("check")
@click.argument("name")
@click.option("--kind", help="Only the component of this kind.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A parameter to check it with; repeatable.")
@click.option("--shape", metavar="1x8x8", help="Samples to build models for, instead of the component's example.")
@click.option("--store", type=click.Path(), help="Folder of the store, whose cache datasets prepare into.")
@AS_JSON
def check_plugin(
    name: str, kind: str | None, settings: tuple[str, ...], shape: str | None, store: str | None, as_json: bool
) -> None:
    """Check the conformance laws of NAME: a component, a plugin or a distribution. Exits with 1 if any is broken."""
    components = _named(load_registry(), name, None if kind is None else _kind(kind))
    parameters, sizes = parameters_from(settings), None if shape is None else _shape(shape)

    from collapsebench.authoring.check import check_component
    from collapsebench.store import Store

    cache = Store(store).cache
    rows: list[dict[str, Any]] = []
    for item in components:
        findings = check_component(item, load_registry(), cache, parameters, sizes)
        owner, label = item.owner, f"{item.kind} {item.component.id}"
        rows += [{"kind": item.kind, "id": item.component.id, "holds": f.holds, **asdict(f)} for f in findings]
        if as_json:
            continue
        click.echo(f"{label}, version {item.component.version}, from {owner.distribution} {owner.version}")
        width = max(len(finding.law) for finding in findings)
        for finding in findings:
            word = "pass" if finding.holds else "FAIL"
            reason = f": {finding.reason}" if finding.reason else ""
            unchecked = "not checked, " if finding.status == "not checked" else ""
            click.echo(f"  {word}  {finding.law:{width}}  {unchecked}{finding.sentence}{reason}")
        click.echo(f"  {sum(finding.holds for finding in findings)} of {len(findings)} laws hold for {label}")
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    if not all(row["holds"] for row in rows):
        raise click.exceptions.Exit(1)


@plugins.command("new")
@click.argument("kind", type=click.Choice([kind for kind in KINDS if kind != "executor"]))
@click.argument("name")
@click.option("--folder", type=click.Path(path_type=Path), help="The folder to write; ./NAME if not given.")
def new_plugin(kind: Kind, name: str, folder: Path | None) -> None:
    """Write an installable plugin with one component of KIND called NAME, its tests and its README."""
    from collapsebench.authoring.scaffold import write_plugin

    taken = [item.owner.distribution for item in load_registry().registered(kind) if item.component.id == name]
    if taken:
        raise UserError(f"{kind} '{name}': found in {', '.join(taken)} already, expected a new id; choose another.")
    target = folder or Path(name)
    for path in write_plugin(kind, name, target):
        click.echo(path)
    click.echo(f"Next: pip install -e {target} && collapsebench plugins check {name} --kind {kind}")


def _named(registry: Registry, name: str, kind: str | None) -> list[Registered]:
    """Return the components that a name means: those with that id, else those of that plugin or distribution."""
    distribution, _, id = name.rpartition("/")
    everything = [item for each in KINDS if kind in (None, each) for item in registry.registered(each)]
    matches = [i for i in everything if i.component.id == id and distribution in ("", i.owner.distribution)]
    if matches:
        return matches
    reports = [report for report in registry.plugins() if name in (report.distribution, report.entry_point)]
    failed = [f"plugin {r.entry_point} of {r.distribution} {r.version}: {r.reason}" for r in reports if r.reason]
    if failed:
        raise PluginError("\n".join(failed))
    members = {(report.distribution, member) for report in reports for member in report.components}
    matches = [i for i in everything if (i.owner.distribution, f"{i.kind} {i.component.id}") in members]
    if matches:
        return matches
    ids = {item.component.id for item in everything} | {report.distribution for report in registry.plugins()}
    problem = unknown(kind or "component or plugin", name, ids)
    broken = [report for report in registry.plugins() if report.status == "failed"]
    reasons = [f"not loaded: plugin {r.entry_point} of {r.distribution} {r.version}: {r.reason}" for r in broken]
    raise ComponentError("\n".join([problem, *reasons]))


def _shape(text: str) -> tuple[int, ...]:
    sizes = text.lower().split("x")
    if not all(size.isdecimal() and int(size) > 0 for size in sizes):
        raise UserError(f"--shape: found '{text}', expected positive sizes joined by x, as in 8 or 1x8x8.")
    return tuple(map(int, sizes))


def _kind(text: str) -> str:
    kind = text.lower().removesuffix("s")
    if kind not in LISTED:
        raise UserError(unknown("kind", text, [f"{each}s" for each in LISTED]).replace("Installed", "Legal"))
    return kind


def _summary(registered: Registered) -> dict[str, Any]:
    component, owner = registered.component, registered.owner
    return {
        "kind": registered.kind,
        "id": component.id,
        "summary": component.summary,
        "version": component.version,
        "requires": list(component.requires),
        "distribution": owner.distribution,
        "distribution_version": owner.version,
    }


def _suite_rows() -> list[dict[str, Any]]:
    from collapsebench.suite.file import find_suite, read_suite, shipped_suites

    return [
        {
            "kind": "suite",
            "id": id,
            "summary": str(read_suite(find_suite(id)).get("title", id)),
            "distribution": "collapsebench",
        }
        for id in shipped_suites()
    ]


def _echo_component(item: Registered) -> None:
    component, owner = item.component, item.owner
    click.echo(f"{item.kind} {component.id}, version {component.version}, from {owner.distribution} {owner.version}")
    click.echo(f"  {component.summary}")
    if component.requires:
        click.echo(f"  requires {', '.join(component.requires)}")
    rows = parameter_rows(item.parameters_model())
    if not rows:
        click.echo("  no parameters")
        return
    for row in rows:
        where = f" where {row.where}" if row.where else ""
        words = f"; {row.description}" if row.description else ""
        default = ", required" if row.default == "required" else f" = {row.default}"
        click.echo(f"  {row.name}{default}")
        click.echo(f"      {row.type}{where}{words}")


def _echo_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (f"{cell:{width}}" for cell, width in zip(row, widths, strict=True))
        click.echo(f"  {'  '.join(cells)}".rstrip())


def _warn_of_failures(registry: Registry) -> None:
    failed = [report.entry_point for report in registry.plugins() if report.status == "failed"]
    if failed:
        click.echo(f"not loaded: plugin {', '.join(failed)}; see `collapsebench plugins list`.", err=True)
