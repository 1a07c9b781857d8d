"""Commands that look and do not run: check, list, info, plugins. None imports torch or pandas."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click

from collapsebench.components import KINDS, Kind
from collapsebench.errors import ComponentError, SuiteError, UserError, unknown
from collapsebench.registry import Registered, Registry, load_registry
from collapsebench.schema_text import parameter_rows

AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
LISTED = ("suite", *KINDS)


@click.command("check")
@click.argument("suite", required=False)
@click.option("--preset", help="Check only this preset's version of the suite.")
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Change a value; repeatable.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of suite files, for editors.")
@AS_JSON
def check(suite: str | None, preset: str | None, overrides: tuple[str, ...], schema: bool, as_json: bool) -> None:
    """Validate SUITE, a shipped id or a path; without --preset, all of its presets too."""
    from collapsebench.suite import check_presets, json_schema, load_suite

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
    temperatures = resolved.scan.temperatures
    click.echo(f"{suite}: ok")
    rows = [
        ("title", resolved.title),
        ("datasets", ", ".join(item.id for item in resolved.datasets)),
        ("architectures", ", ".join(item.id for item in resolved.architectures)),
        ("objectives", ", ".join(item.id for item in resolved.objectives)),
        ("metrics", ", ".join(item.id for item in resolved.metrics)),
        ("temperatures", f"{len(temperatures)}, from {temperatures[0]:g} to {temperatures[-1]:g}"),
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
    found = [
        registered
        for registered in everything
        if registered.component.id == plain_id and distribution in ("", registered.owner.distribution)
    ]
    if not found:
        raise ComponentError(unknown(kind or "component", id, {item.component.id for item in everything}))
    if as_json:
        described = [{**_summary(item), "parameters": item.parameters_model().model_json_schema()} for item in found]
        click.echo(json.dumps(described, indent=2))
        return
    for i, item in enumerate(found):
        if i:
            click.echo()
        _echo_component(item)


@click.group("plugins")
def plugins() -> None:
    """Inspect the installed plugins."""


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
    if not reports:
        click.echo("no plugins: no installed distribution has entry points in the group 'collapsebench'.")


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
    from collapsebench.suite_file import find_suite, read_suite, shipped_suites

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
