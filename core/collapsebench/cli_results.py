"""The later stages alone: score, board, publish."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from collapsebench.cli_run import suite_options
from collapsebench.verbs import Outcome, open_session, score_session

FORMATS = ("text", "md", "csv", "json")


def _scored(options: dict[str, Any]) -> Outcome:
    return score_session(open_session(**options), say=lambda text: click.echo(text, err=True))


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
    "--format", "format_", type=click.Choice(FORMATS), default="text", show_default=True, help="How it is written."
)
def board(format_: str, **options: Any) -> None:
    """Print the board of SUITE."""
    outcome = _scored(options)
    click.echo(outcome.text(format_))
    sys.exit(0 if outcome.ok else 1)


def _index(context: click.Context, parameter: click.Parameter, folder: Path | None) -> None:
    if folder is None or context.resilient_parsing:
        return
    from collapsebench.pages import write_index

    click.echo(write_index(folder))
    context.exit()


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
def publish(suite: str, folder: Path, **options: Any) -> None:
    """Write board, tables, figures, page and data of SUITE into FOLDER. SUITE may be a published folder itself."""
    from collapsebench.verbs import publish as publish_suite

    outcome = publish_suite(suite, folder, **options)
    click.echo(f"{sum(path.is_file() for path in folder.rglob('*'))} files in {folder}")
    sys.exit(0 if outcome.ok else 1)
