"""A published folder: write a suite's results as files for people, and read back what a comparison needs."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from collapsebench.errors import DataError, StoreError
from collapsebench.publishing.board_report import read_board, render
from collapsebench.publishing.bundle import is_bundle, read_bundle, read_data, write_bundle
from collapsebench.publishing.figures.draw import check_kinds, draw_figures
from collapsebench.publishing.figures.traversals import with_pictures
from collapsebench.publishing.page.numbers import curve_tables, curves_of_cells
from collapsebench.publishing.page.page import PAGE, suite_page
from collapsebench.publishing.report import FORMATS
from collapsebench.publishing.required_rank import required_rank_csv, required_rank_page, required_ranks
from collapsebench.ranking.board import COLUMNS, ranking, scores, statuses
from collapsebench.scoring.results import SuiteResults

MANIFEST = "manifest.json"
_ROW = ("dataset", "objective", "architecture", "metric", "score")


@dataclass(frozen=True)
class Published:
    """A published folder. scores: the value of every seed, None in folders of an early release, without data."""

    folder: Path
    board: pd.DataFrame
    scores: pd.DataFrame | None
    cells: pd.DataFrame
    provenance: Mapping[str, Any]


def write_everything(
    results: SuiteResults, folder: Path, *, lean: bool = False, figures: Sequence[str] | None = None
) -> list[Path]:
    """Write results as a bundle: data, board, tables, figures, page, manifest; return the paths.

    Everything is made from the data that were written, so that the bundle alone makes it again, byte for byte. Files
    that an earlier manifest of the folder names and that are not written now are removed.

    lean: for a repository, which keeps every version of every file: no table that repeats data/ or board.csv, and each
    figure once, as a small PNG. figures: the kinds to draw, by default all; a UserError names them if one is unknown.
    """
    check_kinds(results, figures)
    before = _listed(folder)
    try:
        data = write_bundle(with_pictures(results), folder)
        held = read_data(folder)
        paths = [*data, *write_outputs(held, folder, lean=lean), *write_page(held, folder, lean=lean)]
        paths += draw_figures(held, folder / "figures", kinds=figures, small=lean)
        for path in before - {path.relative_to(folder).as_posix() for path in paths}:
            (folder / path).unlink(missing_ok=True)
        _write(folder / MANIFEST, json.dumps(manifest(folder, paths), indent=1))
    except OSError as error:
        raise StoreError(f"{folder}: could not be written ({error}). Free some space or choose another.") from error
    return [*paths, folder / MANIFEST]


def write_outputs(results: SuiteResults, folder: Path, *, lean: bool = False) -> list[Path]:
    """Write boards and tables as files; return their paths.

    board.{txt,md,csv,json,tex,html}; ranking.csv; cells.csv; in tables/, scores.csv with every value of every seed,
    required-rank.{csv,md} and one table per metric with its modes; provenance.json. lean: of these, no board.json, and
    in tables/ required-rank.md alone.
    """
    (folder / "tables").mkdir(parents=True, exist_ok=True)
    written = []
    for format, suffix in FORMATS.items():
        if not (lean and format == "json"):
            written.append(_write(folder / f"board.{suffix}", render(results, format)))
    written.append(_write(folder / "cells.csv", statuses(results).to_csv(index=False)))
    written.append(_write(folder / "ranking.csv", ranking(results).to_csv(index=False)))
    ranks = required_ranks(results)
    written.append(_write(folder / "tables" / "required-rank.md", required_rank_page(ranks)))
    if not lean:
        written.append(_write(folder / "tables" / "scores.csv", scores(results).to_csv(index=False)))
        written.append(_write(folder / "tables" / "required-rank.csv", required_rank_csv(ranks)))
        for metric, frame in mode_tables(results).items():
            written.append(_write(folder / "tables" / f"{metric}.csv", frame.to_csv(index=False)))
    about = {"provenance": dict(results.provenance), "datasets": {k: dict(v) for k, v in results.datasets.items()}}
    written.append(_write(folder / "provenance.json", json.dumps(about, indent=1, sort_keys=True, default=str)))
    return written


def write_page(results: SuiteResults, folder: Path, *, lean: bool = False) -> list[Path]:
    """Write the page of a suite and, unless it is to be lean, the numbers of its figures in tables/; return the paths.

    The page links what lies beside it.
    """
    curves = curves_of_cells(results)
    if lean:
        return [_write(folder / PAGE, suite_page(results, curves, ["board.csv", "board.md"]))]
    tables = [_write(folder / "tables" / name, text) for name, text in curve_tables(results, curves).items()]
    beside = ["board.csv", "board.json", "board.md", *(f"tables/{path.name}" for path in tables)]
    return [*tables, _write(folder / PAGE, suite_page(results, curves, beside))]


def mode_tables(results: SuiteResults) -> dict[str, pd.DataFrame]:
    """Return, per metric, the rows per rank of every cell, with the cell's names in front."""
    tables: dict[str, list[pd.DataFrame]] = {}
    for cell in results.cells:
        for metric, evaluation in cell.evaluations.items():
            if evaluation.modes is not None:
                names = {name: getattr(cell, name) for name in ("dataset", "architecture", "objective", "seed")}
                tables.setdefault(metric, []).append(
                    pd.concat([pd.DataFrame(names, index=evaluation.modes.index), evaluation.modes], axis=1)
                )
    return {metric: pd.concat(frames, ignore_index=True) for metric, frames in tables.items()}


def manifest(folder: Path, paths: Iterable[Path]) -> dict[str, Any]:
    """Return the SHA-256 of files below a folder, by relative path."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(paths)
    }


def copy_outputs(source: Path, folder: Path) -> list[Path]:
    """Copy the files that a folder's manifest names, and the manifest; return the paths.

    Files that an earlier manifest of the target names and this one does not are removed.
    """
    copied = []
    for name in _listed(folder) - _listed(source):
        (folder / name).unlink(missing_ok=True)
    for name in (*sorted(_listed(source)), MANIFEST):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        copied.append(Path(shutil.copyfile(source / name, target)))
    return copied


def add_to_manifest(folder: Path, paths: Iterable[Path]) -> None:
    """Name further files in a folder's manifest."""
    listed = [folder / name for name in _listed(folder)]
    _write(folder / MANIFEST, json.dumps(manifest(folder, {*listed, *paths}), indent=1))


def read_published(folder: str | Path) -> Published:
    """Return what `collapsebench publish` wrote into a folder; a DataError if it is none, or was changed since."""
    place = Path(folder)
    for name in ("board.csv", "cells.csv", "provenance.json", "manifest.json"):
        if not (place / name).is_file():
            raise DataError(
                f"{place}: no published folder: it has no {name}. Expected what `collapsebench publish SUITE FOLDER` "
                "writes; give two such folders, or two architectures and --suite SUITE."
            )
    hashes = _json(place / "manifest.json")
    board = read_board(_text(place, "board.csv", hashes))
    lacking = [name for name in COLUMNS if name not in board]
    if lacking:
        raise DataError(
            f"{place / 'board.csv'}: lacks the column {', '.join(lacking)}; expected the columns of a board. "
            "Publish the suite again."
        )
    table = place / "tables" / "scores.csv"
    values = None
    if table.is_file():
        values = _csv(place, "tables/scores.csv", hashes).astype({"seed": "int64", "value": "float64"})
    elif is_bundle(place):
        values = scores(read_bundle(place))
    about = _json(place / "provenance.json").get("provenance", {})
    return Published(place, board, values, _csv(place, "cells.csv", hashes), about)


def rows(published: Published) -> dict[tuple[str, ...], dict[str, Any]]:
    """Return (dataset, objective, architecture, metric, score) -> the row of the board."""
    records = published.board.to_dict("records")
    return {tuple(row[name] for name in _ROW): {str(key): value for key, value in row.items()} for row in records}


def values(published: Published) -> dict[tuple[str, ...], dict[int, float]]:
    """Return the same keys -> seed -> value; empty if the folder has no values per seed."""
    by_row: dict[tuple[str, ...], dict[int, float]] = {}
    if published.scores is not None:
        known = published.scores.dropna(subset="value")
        for row in known.to_dict("records"):
            by_row.setdefault(tuple(row[name] for name in _ROW), {})[int(row["seed"])] = float(row["value"])
    return by_row


def _listed(folder: Path) -> set[str]:
    """Return the files within a folder that its manifest names; none without one."""
    path = folder / MANIFEST
    names = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    return {name for name in names if not Path(name).is_absolute() and ".." not in Path(name).parts}


def _write(path: Path, text: str) -> Path:
    path.write_text(text if text.endswith("\n") else text + "\n", encoding="utf-8", newline="\n")
    return path


def _csv(folder: Path, name: str, hashes: Mapping[str, Any]) -> pd.DataFrame:
    frame = pd.read_csv(io.StringIO(_text(folder, name, hashes)), dtype="str", keep_default_na=False)
    return frame.replace({"value": {"": "nan"}}) if "value" in frame else frame


def _text(folder: Path, name: str, hashes: Mapping[str, Any]) -> str:
    content = (folder / name).read_bytes()
    if name in hashes and hashlib.sha256(content).hexdigest() != hashes[name]:
        raise DataError(
            f"{folder / name}: changed since it was published: its SHA-256 is not the one of manifest.json. "
            "Publish the suite again, or fetch the folder anew."
        )
    return content.decode("utf-8")


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: is not JSON ({error}). Publish the suite again.") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds {type(content).__name__}, expected an object. Publish the suite again.")
    return content
