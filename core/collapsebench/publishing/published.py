"""What a published folder says, as far as two of them can be compared: board, values per seed, statuses, provenance."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from collapsebench.errors import DataError
from collapsebench.publishing.boards import COLUMNS, read_board

_ROW = ("dataset", "objective", "architecture", "metric", "score")


@dataclass(frozen=True)
class Published:
    """A published folder. scores: the value of every seed, None in folders that an early release wrote."""

    folder: Path
    board: pd.DataFrame
    scores: pd.DataFrame | None
    cells: pd.DataFrame
    provenance: Mapping[str, Any]


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
    scores = _csv(place, "tables/scores.csv", hashes) if table.is_file() else None
    if scores is not None:
        scores = scores.astype({"seed": "int64", "value": "float64"})
    about = _json(place / "provenance.json").get("provenance", {})
    return Published(place, board, scores, _csv(place, "cells.csv", hashes), about)


def rows(published: Published) -> dict[tuple[str, ...], dict[str, Any]]:
    """Return (dataset, objective, architecture, metric, score) -> the row of the board."""
    records = published.board.to_dict("records")
    return {tuple(row[name] for name in _ROW): {str(key): value for key, value in row.items()} for row in records}


def values(published: Published) -> dict[tuple[str, ...], dict[int, float]]:
    """Return the same keys -> seed -> value; nothing where the folder has no values per seed."""
    found: dict[tuple[str, ...], dict[int, float]] = {}
    if published.scores is not None:
        known = published.scores.dropna(subset="value")
        for row in known.to_dict("records"):
            found.setdefault(tuple(row[name] for name in _ROW), {})[int(row["seed"])] = float(row["value"])
    return found


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
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: is not JSON ({error}). Publish the suite again.") from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: holds {type(found).__name__}, expected an object. Publish the suite again.")
    return found
