"""The generated pages are what the generator gives, and leave out no command, hook, component or key."""

from __future__ import annotations

import re

import click
import generate
import pytest
from markdown_blocks import ROOT

from collapsebench.contracts import HOOKS, KINDS, Registered, hooks
from collapsebench.suite.schema import SuiteFile
from collapsebench.suite.words import parameter_rows, table_sections

SHIPPED = [item for kind in KINDS for item in generate.shipped(kind)]
COMPONENTS = pytest.mark.parametrize("item", SHIPPED, ids=[f"{item.kind}-{item.component.id}" for item in SHIPPED])
COMMANDS = pytest.mark.parametrize(("path", "command"), generate.commands(), ids=lambda value: str(value))


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", generate.PAGES)
def test_a_generated_page_is_up_to_date(name: str) -> None:
    assert page(name) == generate.PAGES[name](), f"docs/{name} is stale: run `{generate.COMMAND}` and commit it"


@COMMANDS
def test_every_command_and_its_parameters_are_documented(path: str, command: click.Command) -> None:
    (section,) = re.findall(rf"^## {path}\n(.*?)(?=^## )", page("commands.md"), flags=re.M | re.S)
    assert (command.help or "").split()
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{path} {parameter.opts[0]} has no help"
            assert f"`{parameter.opts[0]}`" in section
        else:
            name = parameter.metavar or (parameter.name or "").upper()
            assert name in (command.help or ""), f"the help of {path} does not say what {name} is"
            assert f"`{name}`" in section


def test_every_hook_is_documented_with_its_base_class() -> None:
    declared = {name for name in vars(hooks) if name.startswith("collapsebench_")}
    assert declared == set(HOOKS.values())
    for kind, hook in HOOKS.items():
        assert f"Hook `{hook}`, base class `collapsebench.{kind.title()}`" in page("components.md")


@COMPONENTS
def test_every_shipped_component_is_documented_with_its_parameters(item: Registered) -> None:
    text = page("components.md")
    assert f"### {item.kind} `{item.component.id}`\n" in text
    assert item.component.summary
    for row in parameter_rows(item.parameters_model()):
        assert row.description, f"{item.kind} {item.component.id}: parameter {row.name} has no description"
        assert f"| `{row.name}` |" in text


@pytest.mark.parametrize("section", table_sections(SuiteFile), ids=lambda section: f"{section.key_path or 'top'}")
def test_every_key_of_a_suite_has_a_sentence(section: object) -> None:
    assert section.summary  # type: ignore[attr-defined]
    assert [row.name for row in section.rows if not row.description] == []  # type: ignore[attr-defined]


def test_the_pages_are_written_into_the_folder_that_is_named(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main([str(tmp_path / "docs")]) == 0
    assert sorted(path.name for path in (tmp_path / "docs").iterdir()) == sorted(generate.PAGES)
    assert generate.main([]) == 2
    assert generate.COMMAND in capsys.readouterr().err
