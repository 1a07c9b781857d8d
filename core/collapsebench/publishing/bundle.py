"""A suite's results as plain files, from which every board, table, figure and page can be made again.

    data/results.json        the suite, its scores, provenance, every cell with its values and reasons
    data/<observable>.parquet   what figures and pages are drawn from, one row as measured, `cell` counting from 0
    data/modes-<metric>.parquet the rows per rank that a metric left

Measured numbers are kept in the precision they were computed in, float32; values, temperatures and reference spectra in
full. Covariances are kept in the basis of the train split's PCA, of other splits their diagonal alone: it is all that
the exact solution reads. The same results give the same bytes, and writing what was read changes none.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from collapsebench.contracts import Evaluation, Measurement, Pca, Score, SplitName
from collapsebench.errors import StoreError
from collapsebench.scoring.results import CellResult, SuiteResults

if TYPE_CHECKING:
    from collapsebench.contracts import Floats

FORMAT = 1
PICTURES = "traversal-pictures"
"""The table of what the figure of traversals shows of a run; see `figure_traversals.with_pictures`."""

KEPT = ("replicas", "latent-moments", "truncated-distortion", "losses", "equilibrium", PICTURES)
"""The tables of a measurement that a bundle holds; wider ones (a decoder's directions) stay in the store."""

_RESULTS = "data/results.json"
_ENDS = ("low", "high")
_EXACT = ("temperature", "effective_temperature", "updates")


def is_bundle(place: str | Path) -> bool:
    """Return whether a folder holds published results."""
    return (Path(place) / _RESULTS).is_file()


def write_bundle(results: SuiteResults, folder: Path) -> list[Path]:
    """Write results below a folder; return the paths."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    spectra = _Spectra()
    cells = [_cell_content(cell, spectra) for cell in results.cells]
    content = {
        "format": FORMAT,
        "suite": results.suite,
        "title": results.title,
        "rank_by": list(results.rank_by),
        "declared": {
            metric: [_score_content(score) for score in scores] for metric, scores in results.declared.items()
        },
        "provenance": dict(results.provenance),
        "datasets": {name: dict(about) for name, about in results.datasets.items()},
        "spectra": spectra.contents,
        "cells": cells,
    }
    path = folder / _RESULTS
    text = json.dumps(_plain(content), indent=1, ensure_ascii=False, allow_nan=False, default=str)
    path.write_text(text + "\n", encoding="utf-8")
    return [path, *_write_tables(results.cells, folder / "data")]


def read_bundle(folder: str | Path) -> SuiteResults:
    """Return the results that a published folder holds, after comparing its data with the SHA-256 of its manifest.

    >>> import collapsebench
    >>> options = {"preset": "smoke", "overrides": ['datasets=[{use="gaussian"}]']}
    >>> outcome = collapsebench.run("linear-gaussian", **options)
    >>> results = collapsebench.read_bundle(outcome.folder)
    >>> results.suite, len(results.cells)
    ('linear-gaussian', 2)
    """
    _verify(Path(folder))
    return read_data(Path(folder))


def read_data(folder: Path) -> SuiteResults:
    """Return what `write_bundle` has written below a folder."""
    path = folder / _RESULTS
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: cannot be read ({error}). Publish the suite again.") from error
    if content.get("format") != FORMAT:
        raise StoreError(
            f"{path}: has format {content.get('format')!r}, expected {FORMAT}. Publish the suite again, or read it "
            "with the release that wrote it."
        )
    tables = {name: _read_table(folder / "data" / f"{name}.parquet") for name in KEPT}
    modes = {metric: _read_table(folder / "data" / f"modes-{metric}.parquet") for metric in content["declared"]}
    spectra = [_spectrum(found) for found in content["spectra"]]
    return SuiteResults(
        suite=content["suite"],
        title=content["title"],
        cells=[_cell(found, place, tables, modes, spectra) for place, found in enumerate(content["cells"])],
        declared={
            metric: tuple(Score(**{**score, **_floats({end: score[end] for end in _ENDS})}) for score in scores)
            for metric, scores in content["declared"].items()
        },
        rank_by=content["rank_by"],
        provenance=content["provenance"],
        datasets=content["datasets"],
    )


def _score_content(score: Score) -> dict[str, Any]:
    return {**asdict(score), **_floats({end: getattr(score, end) for end in _ENDS})}


def _floats(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}


class _Spectra:
    """The PCA references of the cells, each once."""

    def __init__(self) -> None:
        self.contents: list[dict[str, Any]] = []
        self._known: dict[tuple[int, int], int] = {}

    def place(self, measurement: Measurement) -> int:
        """Return where the reference of a measurement stands."""
        key = (id(measurement.pca), id(measurement.second_moments))
        if key not in self._known:
            content = _spectrum_content(measurement)
            if content not in self.contents:
                self.contents.append(content)
            self._known[key] = self.contents.index(content)
        return self._known[key]


def _spectrum_content(measurement: Measurement) -> dict[str, Any]:
    pca = measurement.pca
    along = {
        split: np.maximum(((pca.components @ moment) * pca.components).sum(axis=1), 0.0)
        for split, moment in measurement.second_moments.items()
    }
    # The train split's moments along its own components are the eigenvalues; what roundoff makes of them is not.
    along["train"] = pca.eigenvalues * measurement.total_variance
    return {
        "total_variance": float(measurement.total_variance),
        "eigenvalues": pca.eigenvalues.tolist(),
        "rank_distortion": {split: curve.tolist() for split, curve in pca.rank_distortion.items()},
        "second_moments": {split: values.tolist() for split, values in along.items()},
    }


def _spectrum(content: Mapping[str, Any]) -> tuple[float, Pca, dict[SplitName, Floats]]:
    eigenvalues = np.array(content["eigenvalues"], dtype=np.float64)
    curves = {split: np.array(curve, dtype=np.float64) for split, curve in content["rank_distortion"].items()}
    moments = {split: np.diag(np.array(values)) for split, values in content["second_moments"].items()}
    pca = Pca(eigenvalues, np.eye(eigenvalues.size), cast("dict[SplitName, Floats]", curves))
    return float(content["total_variance"]), pca, cast("dict[SplitName, Floats]", moments)


def _cell_content(cell: CellResult, spectra: _Spectra) -> dict[str, Any]:
    measurement = cell.measurement
    return {
        **{name: getattr(cell, name) for name in ("key", "dataset", "architecture", "objective", "seed", "status")},
        "reason": cell.reason,
        "measurement": None
        if measurement is None
        else {
            "spectrum": spectra.place(measurement),
            "temperatures": measurement.temperatures.tolist(),
            "latent_dim": measurement.latent_dim,
            "has_oracle": measurement.has_oracle,
            "shape": list(measurement.shape),
            "decoder_variance": float(measurement.decoder_variance),
            "tables": [name for name in KEPT if name in measurement.tables],
        },
        "evaluations": {
            metric: {"values": _floats(found.values), "reasons": dict(found.reasons), "modes": found.modes is not None}
            for metric, found in cell.evaluations.items()
        },
        "metric_failures": dict(cell.metric_failures),
    }


def _cell(
    content: Mapping[str, Any],
    place: int,
    tables: Mapping[str, Mapping[int, pd.DataFrame]],
    modes: Mapping[str, Mapping[int, pd.DataFrame]],
    spectra: Sequence[tuple[float, Pca, dict[SplitName, Floats]]],
) -> CellResult:
    evaluations = {
        metric: Evaluation(
            _floats(found["values"]),
            modes[metric][place] if found["modes"] else None,
            found["reasons"],
        )
        for metric, found in content["evaluations"].items()
    }
    about = content["measurement"]
    measurement = None
    if about is not None:
        total_variance, pca, moments = spectra[about["spectrum"]]
        measurement = Measurement(
            temperatures=np.array(about["temperatures"], dtype=np.float64),
            latent_dim=about["latent_dim"],
            total_variance=total_variance,
            tables={name: tables[name][place] for name in about["tables"]},
            pca=pca,
            second_moments=moments,
            has_oracle=about["has_oracle"],
            decoder_variance=about["decoder_variance"],
            shape=tuple(about["shape"]),
        )
    names = ("key", "dataset", "architecture", "objective", "seed", "status", "reason")
    return CellResult(
        **{name: content[name] for name in names},
        measurement=measurement,
        evaluations=evaluations,
        metric_failures=content["metric_failures"],
    )


def _write_tables(cells: Sequence[CellResult], folder: Path) -> list[Path]:
    parts: dict[str, list[pd.DataFrame]] = {}
    for place, cell in enumerate(cells):
        measured = cell.measurement.tables if cell.measurement else {}
        found = {name: _single(measured[name]) for name in KEPT if name in measured}
        found |= {
            f"modes-{metric}": evaluation.modes
            for metric, evaluation in cell.evaluations.items()
            if evaluation.modes is not None
        }
        for name, frame in found.items():
            numbered = frame.reset_index(drop=True)
            numbered.insert(0, "cell", place)
            parts.setdefault(name, []).append(numbered)
    return [
        _write_table(pd.concat(frames, ignore_index=True), folder / f"{name}.parquet") for name, frames in parts.items()
    ]


def _single(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a measured table with its numbers as float32."""
    numbers = [name for name in frame.select_dtypes("float64") if name not in _EXACT]
    return frame.astype(dict.fromkeys(numbers, "float32"))


def _write_table(frame: pd.DataFrame, path: Path) -> Path:
    table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    numbers = [field.name for field in table.schema if pa.types.is_floating(field.type) and field.name not in _EXACT]
    others = [name for name in table.column_names if name not in numbers]
    pq.write_table(
        table, path, compression="zstd", compression_level=9, use_dictionary=others, use_byte_stream_split=numbers
    )
    return path


def _read_table(path: Path) -> dict[int, pd.DataFrame]:
    """Return cell -> its rows of a table, measured numbers as float64; nothing where there is no such table."""
    if not path.exists():
        return {}
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: cannot be read ({error}). Publish the suite again.") from error
    frame = frame.astype(dict.fromkeys(frame.select_dtypes("float32"), "float64"))
    return {
        int(cast("int", place)): rows.drop(columns="cell").reset_index(drop=True)
        for place, rows in frame.groupby("cell", sort=False)
    }


def _verify(folder: Path) -> None:
    path = folder / "manifest.json"
    if not is_bundle(folder) or not path.is_file():
        raise StoreError(
            f"{folder}: holds no published results (data/results.json and manifest.json). "
            "Give a folder that `collapsebench publish` has written."
        )
    hashes: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    for name, expected in hashes.items():
        if not name.startswith("data/"):
            continue
        file = folder / name
        if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != expected:
            raise StoreError(
                f"{file}: missing or changed since it was published (SHA-256 differs from manifest.json). "
                "Publish the suite again, or fetch the folder anew."
            )


def _plain(value: Any) -> Any:
    """Return a value that JSON can hold: numbers that are not finite become "inf", "-inf" or "nan"."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
