"""The verb that measures a table of one's own: scan."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--columns", multiple=True, metavar="NAME", help="Use this column only; may be repeated.")
@click.option("--leave-out", multiple=True, metavar="NAME", help="Leave this column out; may be repeated.")
@click.option(
    "--missing",
    type=click.Choice(["error", "drop-rows"]),
    default="error",
    show_default=True,
    help="What a missing or infinite value does.",
)
@click.option("--max-rows", type=click.IntRange(min=6), help="Rows to use at most, a uniform sample. [default: 50000]")
@click.option("--latent-dim", type=click.IntRange(min=1), help="Number of latents. [default: from the PCA spectrum]")
@click.option("--temperatures", type=click.IntRange(min=2), help="Number of temperatures. [default: 5 a decade]")
@click.option("--seeds", type=click.IntRange(min=1), help="Number of training seeds. [default: 3 up to 100 columns]")
@click.option(
    "--max-updates", type=click.IntRange(min=1), help="Budget of every replica. [default: 1200 up to 300 columns]"
)
@click.option("--device", help="auto, cpu, cuda or mps.")
@click.option("--store", type=click.Path(), help="Folder of the store, instead of COLLAPSEBENCH_STORE.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for a copy of report, tables and figures.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def scan(file: Path, out: Path | None, as_json: bool, **options: Any) -> None:
    """Measure the latent spectrum of the table in FILE: CSV, TSV, Parquet, Arrow, Feather, NPY or NPZ."""
    from collapsebench.cli.progress import ProgressLines
    from collapsebench.verbs.scan import scan as scan_table

    given = {name: value for name, value in options.items() if value not in (None, ())}
    with ProgressLines() as progress:
        found = scan_table(file, report=progress.report, say=progress.say, **given)
    click.echo(found.json() if as_json else found.text())
    folder = found.folder
    if out is not None:
        from collapsebench.publishing.folder import copy_outputs

        copy_outputs(folder, out)
        folder = out
    click.echo(f"Report, tables and {len(found.outcome.figures)} figure files: {folder}", err=as_json)
    sys.exit(0 if found.outcome.ok else 1)
