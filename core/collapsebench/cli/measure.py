"""The verbs that measure your own work: `measure` takes a trained model, and `scan` takes a table of data."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from collapsebench.cli.options import AS_JSON, STORE, parameters_from
from collapsebench.errors import DataError, UserError
from collapsebench.theory.conventions import CONVENTIONS, SCALINGS


@click.command()
@click.argument("model")
@click.option("--decoder", help="The decoder, if MODEL is the encoder alone.")
@click.option("--dataset", help="Id of a dataset.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="A parameter of the dataset; repeatable.")
@click.option(
    "--data",
    "file",
    type=click.Path(path_type=Path),
    help="NPY or NPZ file (train, validation, test) instead of a dataset.",
)
@click.option("--scaling", type=click.Choice(SCALINGS), help="How the data were scaled when the model was trained.")
@click.option("--temperature", type=float, help="T = beta sigma_dec^2 / V.")
@click.option("--beta", type=float, help="The beta of your loss; needs --convention.")
@click.option("--convention", type=click.Choice(tuple(CONVENTIONS)), help="The codebase whose loss was used.")
@click.option("--kl-weight", type=float, help="The KL weight M_N of pytorch-vae-h.")
@click.option("--eta", type=float, help="The eta of linear-vae.")
@AS_JSON
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the report and one CSV per table.")
@STORE
def measure(
    model: str,
    decoder: str | None,
    dataset: str | None,
    overrides: tuple[str, ...],
    file: Path | None,
    as_json: bool,
    out: Path | None,
    **options: Any,
) -> None:
    """Measure MODEL, a trained VAE: module:attribute, or a TorchScript file. No pickle is executed.

    By default a dataset is scaled as it asks for, and a file of arrays not at all.
    """
    if (dataset is None) == (file is None):
        raise UserError("data: expected either --dataset ID or --data FILE; found both or neither. Give one.")
    if overrides and dataset is None:
        raise UserError("--set: found with --data, expected with --dataset, whose parameters it changes. Leave it out.")
    parameters = parameters_from(overrides)
    data: Any = dataset if file is None else _arrays(file)
    from collapsebench.observing.model_file import load_model
    from collapsebench.verbs.measure import measure as measure_model

    measurement = measure_model(load_model(model, decoder), data, parameters=parameters, **options)
    click.echo(measurement.json() if as_json else measurement.text(), nl=as_json)
    if out is not None:
        paths = measurement.write(out)
        click.echo(f"{len(paths)} files in {out}", err=True)


def _arrays(path: Path) -> Any:
    """Return the array of an NPY file, or the arrays of an NPZ by split; pickled objects are refused."""
    import numpy as np

    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            arrays = {name: loaded[name] for name in loaded.files}
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}). Expected an NPY or NPZ file.") from error
    except Exception as error:
        raise DataError(
            f"{path}: not an NPY or NPZ file of numbers ({error}). Expected one written by numpy.save or numpy.savez; "
            "pickled objects are not read."
        ) from error
    return next(iter(arrays.values())) if len(arrays) == 1 else arrays


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
@STORE
@click.option("--out", type=click.Path(path_type=Path), help="Folder for a copy of report, tables and figures.")
@AS_JSON
def scan(file: Path, out: Path | None, as_json: bool, **options: Any) -> None:
    """Measure the latent spectrum of the table in FILE: CSV, TSV, Parquet, Arrow, Feather, NPY or NPZ."""
    from collapsebench.cli.run import ProgressLines
    from collapsebench.verbs.scan import scan as scan_table

    given = {name: value for name, value in options.items() if value not in (None, ())}
    with ProgressLines() as progress:
        result = scan_table(file, report=progress.report, say=progress.say, **given)
    click.echo(result.json() if as_json else result.text())
    folder = result.folder
    if out is not None:
        from collapsebench.publishing.folder import copy_outputs

        copy_outputs(folder, out)
        folder = out
    click.echo(f"Report, tables and {len(result.outcome.figures)} figure files: {folder}", err=as_json)
    sys.exit(0 if result.outcome.ok else 1)
