"""The verb that measures a model trained elsewhere: measure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from collapsebench.errors import DataError, UserError
from collapsebench.theory.conventions import CONVENTIONS, SCALINGS


@click.command()
@click.argument("model")
@click.option("--decoder", help="File of the decoder, where MODEL is the encoder alone.")
@click.option("--dataset", help="Id of a dataset.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="A parameter of the dataset; repeatable.")
@click.option("--data", "file", type=click.Path(path_type=Path), help="NPY or NPZ (train, validation, test) instead.")
@click.option("--scaling", type=click.Choice(SCALINGS), help="How the model was trained to see the data.")
@click.option("--temperature", type=float, help="T = beta sigma_dec^2 / V.")
@click.option("--beta", type=float, help="The beta of its author's loss, with --convention.")
@click.option("--convention", type=click.Choice(tuple(CONVENTIONS)), help="Whose loss it is.")
@click.option("--kl-weight", type=float, help="The weight beside beta of pytorch-vae-h (M_N).")
@click.option("--eta", type=float, help="The eta of linear-vae.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the report and one CSV per table.")
@click.option("--store", type=click.Path(), help="Folder of the store, instead of COLLAPSEBENCH_STORE.")
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
    """Measure MODEL, a trained VAE: a TorchScript or torch.export file, or module:attribute. No pickle is executed.

    The scaling is the dataset's own by default, and none for a file of arrays.
    """
    if (dataset is None) == (file is None):
        raise UserError("data: expected either --dataset ID or --data FILE; found both or neither. Give one.")
    if overrides and dataset is None:
        raise UserError("--set: found with --data, expected with --dataset, whose parameters it changes. Leave it out.")
    parameters = parameters_of(overrides)
    data: Any = dataset if file is None else _arrays(file)
    from collapsebench.observing.model_file import load_model
    from collapsebench.verbs.measure import measure as measure_model

    found = measure_model(load_model(model, decoder), data, parameters=parameters, **options)
    click.echo(found.json() if as_json else found.text(), nl=as_json)
    if out is not None:
        paths = found.write(out)
        click.echo(f"{len(paths)} files in {out}", err=True)


def parameters_of(overrides: tuple[str, ...]) -> dict[str, Any]:
    """Return a dataset's parameters from KEY=VALUE texts."""
    from collapsebench.suite.file import parsed_value

    parameters: dict[str, Any] = {}
    for text in overrides:
        dotted, equals, value = text.partition("=")
        *path, last = (key.strip() for key in dotted.split("."))
        place: Any = parameters
        for key in path:
            place = place.setdefault(key, {})
            if not isinstance(place, dict):
                raise UserError(
                    f"--set {dotted}: found a value at '{key}' already, expected a table. Set one of the two."
                )
        if not equals or not last:
            raise UserError(f"--set: found '{text}', expected KEY=VALUE, as in dimension=8. Correct it.")
        place[last] = parsed_value(value)
    return parameters


def _arrays(path: Path) -> Any:
    """Return the array of an NPY file, or the arrays of an NPZ by split; pickled objects are refused."""
    import numpy as np

    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found
        with found:
            arrays = {name: found[name] for name in found.files}
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}). Expected an NPY or NPZ file.") from error
    except Exception as error:
        raise DataError(
            f"{path}: not an NPY or NPZ file of numbers ({error}). Expected one written by numpy.save or numpy.savez; "
            "pickled objects are not read."
        ) from error
    return next(iter(arrays.values())) if len(arrays) == 1 else arrays
