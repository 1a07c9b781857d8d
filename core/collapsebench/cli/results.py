"""The later stages alone: score, board, compare, publish."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from collapsebench.cli.options import session_options, suite_options
from collapsebench.publishing.report import FORMATS
from collapsebench.verbs.run import Outcome, open_session, score_session


def _scored(options: dict[str, Any]) -> Outcome:
    return score_session(open_session(**options), say=lambda text: click.echo(text, err=True))


def _check_standalone(standalone: bool, format_: str) -> None:
    if standalone and format_ != "tex":
        raise click.UsageError(f"--standalone makes a document of --format tex; found --format {format_}.")


@click.command()
@suite_options
def score(**options: Any) -> None:
    """Score what has been trained of SUITE and rank it; nothing is trained."""
    outcome = _scored(options)
    click.echo(outcome.text())
    click.echo(f"\nBoard, tables and {len(outcome.figures)} figure files: {outcome.folder}")
    sys.exit(0 if outcome.ok else 1)


@click.command()
@suite_options
@click.option(
    "--format",
    "format_",
    type=click.Choice(list(FORMATS)),
    default="text",
    show_default=True,
    help="How it is written.",
)
@click.option("--standalone", is_flag=True, help="With --format tex: a document that compiles by itself.")
def board(format_: str, standalone: bool, **options: Any) -> None:
    """Print the board of SUITE."""
    _check_standalone(standalone, format_)
    outcome = _scored(options)
    click.echo(outcome.text(format_, standalone=standalone), nl=False)
    sys.exit(0 if outcome.ok else 1)


def _index(context: click.Context, parameter: click.Parameter, folder: Path | None) -> None:
    if folder is None or context.resilient_parsing:
        return
    from collapsebench.publishing.page.page import write_index

    click.echo(write_index(folder))
    context.exit()


@click.command()
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@click.option("--suite", help="The suite of which A and B are architectures; without it they are published folders.")
@session_options
@click.option(
    "--format",
    "format_",
    type=click.Choice(list(FORMATS)),
    default="text",
    show_default=True,
    help="How it is written.",
)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option("--standalone", is_flag=True, help="With --format tex: a document that compiles by itself.")
def compare(
    first: str, second: str, suite: str | None, format_: str, as_json: bool, standalone: bool, **options: Any
) -> None:
    """Compare A with B, two architectures of a suite or two published folders: what differs, and is it decided?"""
    from collapsebench.verbs.compare import compare as compare_two

    format_ = "json" if as_json else format_
    _check_standalone(standalone, format_)
    click.echo(compare_two(first, second, suite, **options).text(format_, standalone=standalone), nl=False)


@click.command()
@suite_options
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--index",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    is_eager=True,
    expose_value=False,
    callback=_index,
    help="Write FOLDER/index.html over the suites published in the folders of FOLDER, and nothing else.",
)
@click.option(
    "--lean",
    is_flag=True,
    help="For a repository: no table that repeats data/ or board.csv, each figure once, as a small PNG.",
)
@click.option("--figure", "figures", multiple=True, metavar="KIND", help="Draw this kind of figure; repeatable.")
def publish(suite: str, folder: Path, lean: bool, figures: tuple[str, ...], **options: Any) -> None:
    """Write board, tables, figures, page and data of SUITE into FOLDER. SUITE may be a published folder itself."""
    from collapsebench.verbs.run import publish as publish_suite

    outcome = publish_suite(suite, folder, lean=lean, figures=figures or None, **options)
    click.echo(f"{sum(path.is_file() for path in folder.rglob('*'))} files in {folder}")
    sys.exit(0 if outcome.ok else 1)
