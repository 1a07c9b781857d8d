"""The later stages alone: score, board, publish."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from collapsebench.cli_run import suite_options
from collapsebench.verbs import Outcome, open_session, score_session

FORMATS = ("text", "md", "csv", "json", "tex", "html")


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
@click.option("--standalone", is_flag=True, help="With --format tex: a document that compiles by itself.")
def board(format_: str, standalone: bool, **options: Any) -> None:
    """Print the board of SUITE."""
    if standalone and format_ != "tex":
        raise click.UsageError(f"--standalone makes a document of --format tex; found --format {format_}.")
    outcome = _scored(options)
    click.echo(outcome.text(format_, standalone=standalone), nl=False)
    sys.exit(0 if outcome.ok else 1)


@click.command()
@suite_options
@click.argument("folder", type=click.Path(path_type=Path))
def publish(folder: Path, **options: Any) -> None:
    """Write the board, tables, figures and manifest of SUITE into FOLDER."""
    from collapsebench.outputs import publish_outputs

    outcome = _scored(options)
    paths = publish_outputs(outcome.folder, folder)
    click.echo(f"{len(paths)} files in {folder}")
    sys.exit(0 if outcome.ok else 1)
