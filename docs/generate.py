"""The reference pages of the documentation, made from what they describe: suite files, commands, components.

python docs/generate.py docs        writes every generated page into that folder
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import architecture
import click

from collapsebench.cli.main import main as command_line
from collapsebench.contracts import HOOKS, KINDS, Kind, Registered, hooks, load_registry
from collapsebench.suite.schema import SuiteFile
from collapsebench.suite.words import OWN, ParameterRow, TableSection, parameter_rows, table_sections

COMMAND = "python docs/generate.py docs"
"""What regenerates the pages, from the root of a checkout."""

DISTRIBUTION = "collapsebench"
"""Only what this distribution ships stands in the pages, whatever else is installed."""

_NOTE = f"This page is generated: `{COMMAND}` writes it anew."


def suites_page() -> str:
    """Return the reference of suite files, from the models that validate them."""
    blocks = [
        "# Suite files",
        _NOTE,
        "A suite is a TOML file. Unknown keys are mistakes, and so are infinities and NaN. `collapsebench check SUITE` "
        "reports every mistake at once; `collapsebench check --schema` prints the JSON Schema, for editors. `--set "
        "KEY=VALUE` overrides any key by its dotted path, and a preset overrides several.",
    ]
    for section in table_sections(SuiteFile):
        blocks += [f"## {_section_title(section)}", section.summary or "The keys of this table."]
        if section.is_open:
            blocks.append("Further keys are the parameters of the component, see [components.md](components.md).")
        blocks.append(_parameter_table(section.rows, "key"))
    return _page(blocks)


def commands_page() -> str:
    """Return the reference of the command line, from the commands themselves."""
    blocks = ["# Commands", _NOTE]
    context = click.Context(command_line, info_name=DISTRIBUTION)
    for command, inner in _commands(command_line, context):
        usage = " ".join([inner.command_path, *command.collect_usage_pieces(inner)])
        blocks += [f"## {inner.command_path}", f"```text\n{usage}\n```", _help(command)]
        if isinstance(command, click.Group):
            names = command.list_commands(inner)
            links = (f"[{name}](#{f'{inner.command_path} {name}'.replace(' ', '-')})" for name in names)
            blocks.append(f"Commands: {', '.join(links)}.")
        rows = [_parameter(parameter) for parameter in command.params if not getattr(parameter, "hidden", False)]
        if rows:
            blocks.append(_table(("argument or option", "value", "default", "meaning"), rows))
    blocks += [
        "## Exit codes",
        "0 all good; 1 some cell not ok (with `--strict`: or not converged); 2 a mistake in what was given; "
        "130 interrupted.",
    ]
    return _page(blocks)


def components_page() -> str:
    """Return the reference of the shipped components, from the registry."""
    blocks = [
        "# Components",
        _NOTE,
        "What the project ships, kind by kind. `collapsebench list` shows what is installed, other people's plugins "
        "included; `collapsebench info ID` describes one component. A plugin provides components of a kind by "
        "implementing its hook and subclassing its base class; `import collapsebench` exports both.",
    ]
    for kind in KINDS:
        described = " ".join((getattr(hooks, HOOKS[kind]).__doc__ or "").split())
        blocks += [
            f"## {kind.title()}s",
            f"Hook `{HOOKS[kind]}`, base class `collapsebench.{kind.title()}`. {described}",
        ]
        for item in shipped(kind):
            blocks += _component(item)
    return _page(blocks)


PAGES: dict[str, Callable[[], str]] = {
    "suites.md": suites_page,
    "commands.md": commands_page,
    "components.md": components_page,
    "architecture.md": architecture.page,
    "architecture.svg": architecture.picture,
}


def shipped(kind: Kind) -> list[Registered]:
    """Return the components of a kind that this distribution ships."""
    return [item for item in load_registry().registered(kind) if item.owner.distribution == DISTRIBUTION]


def commands() -> list[tuple[str, click.Command]]:
    """Return every command with its path, groups before what they hold."""
    context = click.Context(command_line, info_name=DISTRIBUTION)
    return [(inner.command_path, command) for command, inner in _commands(command_line, context)]


def write_pages(folder: Path) -> list[Path]:
    """Write every page into a folder and return the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        (folder / name).write_text(page(), encoding="utf-8")
    return [folder / name for name in PAGES]


def _commands(command: click.Command, context: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    yield command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None and not inner.hidden:
                yield from _commands(inner, click.Context(inner, info_name=name, parent=context))


def _help(command: click.Command) -> str:
    return "\n\n".join(" ".join(part.split()) for part in (command.help or "").split("\n\n"))


def _parameter(parameter: click.Parameter) -> tuple[str, str, str, str]:
    if isinstance(parameter, click.Option):
        name = ", ".join(f"`{option}`" for option in (*parameter.opts, *parameter.secondary_opts))
        meaning = parameter.help or ""
        value = "flag" if parameter.is_flag else parameter.metavar or _value(parameter.type)
    else:
        name = f"`{parameter.metavar or (parameter.name or '').upper()}`"
        meaning, value = "see above", _value(parameter.type)
    if parameter.multiple if isinstance(parameter, click.Option) else parameter.nargs == -1:
        value += ", repeatable"
    plain = isinstance(parameter.default, str | int | float) and not isinstance(parameter.default, bool)
    default = "required" if parameter.required else f"`{parameter.default}`" if plain else ""
    return name, value, default, meaning


def _value(kind: click.ParamType[Any]) -> str:
    if isinstance(kind, click.Choice):
        return ", ".join(f"`{choice}`" for choice in kind.choices)
    if isinstance(kind, click.IntRange | click.FloatRange):
        signs = (f">{'=' * (not kind.min_open)} {kind.min}" if kind.min is not None else "",
                 f"<{'=' * (not kind.max_open)} {kind.max}" if kind.max is not None else "")  # fmt: skip
        return " ".join([kind.name.removesuffix(" range"), *(sign for sign in signs if sign)])
    return kind.name


def _component(item: Registered) -> list[str]:
    component = item.component
    facts = [component.summary[:1].upper() + component.summary[1:].rstrip(".") + ".", f"Version {component.version}."]
    if component.requires:
        facts.append(f"Needs {', '.join(component.requires)}.")
    blocks = [f"### {item.kind} `{component.id}`"]
    scores: Sequence[Any] = ()
    if item.kind == "metric":
        metric = component.load()
        facts.append(f"Reads {', '.join(f'`{name}`' for name in metric.requires) or 'no observable'}.")
        scores = metric.scores
    elif item.kind == "observable":
        observable = component.load()
        axis = f"One value per {observable.axis}" if observable.axis else "One value per replica"
        facts.append(f"{axis}, on {', '.join(observable.splits)}.")
    rows = parameter_rows(item.parameters_model())
    blocks.append(" ".join(facts + ["No parameters."] * (not rows)))
    if rows:
        blocks.append(_parameter_table(rows, "parameter"))
    if scores:
        blocks.append(_table(("score", "better", "unit", "bounds", "meaning"), [_score(score) for score in scores]))
    return blocks


def _score(score: Any) -> tuple[str, ...]:
    ends = [f">= {score.low:g}"] * math.isfinite(score.low) + [f"<= {score.high:g}"] * math.isfinite(score.high)
    return f"`{score.name}`", score.direction, score.unit, ", ".join(ends), score.summary


def _parameter_table(rows: Sequence[ParameterRow], name: str) -> str:
    variants = any(row.where for row in rows) and len({row.where for row in rows}) > 1
    header = (name, "type", "default", "meaning")
    body = [
        (
            f"`{row.name}`",
            row.type,
            row.default if row.default in ("required", OWN) else f"`{row.default}`",
            row.description + (f" (where {row.where})" if variants and row.where else ""),
        )
        for row in rows
    ]
    return _table(header, body)


def _section_title(section: TableSection) -> str:
    if not section.key_path:
        return "Top level"
    names = section.key_path.split(".")
    path = ".".join(name.removesuffix("[]") for name in names)
    title = f"`[[{path}]]`" if names[-1].endswith("[]") else f"`[{path}]`"
    return f"{title} with `{section.where}`" if section.where else title


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _page(blocks: Iterable[str]) -> str:
    return "\n\n".join(block for block in blocks if block) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pages into the folder that is named, and say what was written."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if len(given) != 1:
        sys.stderr.write(f"usage: {COMMAND}\n")
        return 2
    for path in write_pages(Path(given[0])):
        sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
