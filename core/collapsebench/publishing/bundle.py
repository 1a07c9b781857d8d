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
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from collapsebench.contracts import Evaluation, Measurement, Pca, SplitName
from collapsebench.errors import StoreError
from collapsebench.publishing.results_file import (
    CellEntry,
    CurveEntry,
    EvaluationEntry,
    MeasurementEntry,
    QuestionEntry,
    ResultsFile,
    ScoreEntry,
    SpectrumEntry,
)
from collapsebench.scoring.results import CellResult, SuiteResults

if TYPE_CHECKING:
    from collapsebench.contracts import Floats

    _Spectrum: TypeAlias = tuple[float, Pca, dict[SplitName, Floats]]

PICTURES = "traversal-pictures"
"""The table of what the figure of traversals shows of a run; see `traversals.with_pictures`."""

_RESULTS = "data/results.json"
_EXACT = ("temperature", "effective_temperature", "updates")


def is_bundle(place: str | Path) -> bool:
    """Return whether a folder holds published results."""
    return (Path(place) / _RESULTS).is_file()


def write_bundle(results: SuiteResults, folder: Path) -> list[Path]:
    """Write results below a folder; return the paths."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    spectra = _Spectra()
    kept = (*results.published, PICTURES)
    cells = [_cell_entry(cell, kept, spectra) for cell in results.cells]
    file = ResultsFile(
        suite=results.suite,
        title=results.title,
        questions=[QuestionEntry.of(question) for question in results.questions],
        declared={metric: [ScoreEntry.of(score) for score in scores] for metric, scores in results.declared.items()},
        provenance=dict(results.provenance),
        datasets={name: dict(about) for name, about in results.datasets.items()},
        curves={table: [CurveEntry.of(curve) for curve in curves] for table, curves in results.curves.items()},
        spectra=spectra.entries,
        cells=cells,
    )
    path = file.write(folder / _RESULTS)
    return [path, *_write_tables(results.cells, kept, folder / "data")]


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
    file = ResultsFile.read(path)
    tables, spectra = _Tables(path.parent), [_spectrum(entry) for entry in file.spectra]
    return SuiteResults(
        suite=file.suite,
        title=file.title,
        cells=[_cell(entry, place, tables, spectra) for place, entry in enumerate(file.cells)],
        declared={metric: tuple(entry.score(metric) for entry in entries) for metric, entries in file.declared.items()},
        questions=file.asked,
        provenance=file.provenance,
        datasets=file.datasets,
        published=_published(file),
        curves={table: tuple(entry.curve for entry in entries) for table, entries in file.curves.items()},
    )


def _published(file: ResultsFile) -> tuple[str, ...]:
    names = dict.fromkeys(name for cell in file.cells if cell.measurement for name in cell.measurement.tables)
    return tuple(name for name in names if name != PICTURES)


class _Tables:
    """The tables beside data/results.json, each read once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[str, dict[int, pd.DataFrame]] = {}

    def rows(self, name: str, place: int) -> pd.DataFrame:
        """Return the rows of a cell, measured numbers as float64."""
        path = self._folder / f"{name}.parquet"
        if name not in self._read:
            self._read[name] = _read_table(path)
        if place not in self._read[name]:
            raise StoreError(
                f"{path}: has no rows of cell {place}, expected some, since results.json names them. "
                "Publish the suite again, or fetch the folder anew."
            )
        return self._read[name][place]


class _Spectra:
    """The PCA references of the cells, without repetition."""

    def __init__(self) -> None:
        self.entries: list[SpectrumEntry] = []
        self._known: dict[tuple[int, int], int] = {}

    def place(self, measurement: Measurement) -> int:
        """Return where the reference of a measurement stands."""
        key = (id(measurement.pca), id(measurement.second_moments))
        if key not in self._known:
            entry = _spectrum_entry(measurement)
            if entry not in self.entries:
                self.entries.append(entry)
            self._known[key] = self.entries.index(entry)
        return self._known[key]


def _spectrum_entry(measurement: Measurement) -> SpectrumEntry:
    pca = measurement.pca
    along = {
        split: np.maximum(((pca.components @ moment) * pca.components).sum(axis=1), 0.0)
        for split, moment in measurement.second_moments.items()
    }
    # The train split's moments along its own components are the eigenvalues; what roundoff makes of them is not.
    along["train"] = pca.eigenvalues * measurement.total_variance
    return SpectrumEntry(
        total_variance=float(measurement.total_variance),
        eigenvalues=pca.eigenvalues.tolist(),
        rank_distortion={split: curve.tolist() for split, curve in pca.rank_distortion.items()},
        second_moments={split: values.tolist() for split, values in along.items()},
    )


def _spectrum(entry: SpectrumEntry) -> _Spectrum:
    eigenvalues = np.array(entry.eigenvalues, dtype=np.float64)
    curves: dict[SplitName, Floats] = {
        split: np.array(curve, dtype=np.float64) for split, curve in entry.rank_distortion.items()
    }
    moments: dict[SplitName, Floats] = {split: np.diag(values) for split, values in entry.second_moments.items()}
    return entry.total_variance, Pca(eigenvalues, np.eye(eigenvalues.size), curves), moments


def _cell_entry(cell: CellResult, kept: Sequence[str], spectra: _Spectra) -> CellEntry:
    return CellEntry(
        key=cell.key,
        dataset=cell.dataset,
        architecture=cell.architecture,
        objective=cell.objective,
        seed=int(cell.seed),
        status=cell.status,
        reason=cell.reason,
        measurement=None if cell.measurement is None else _measurement_entry(cell.measurement, kept, spectra),
        evaluations={metric: _evaluation_entry(found) for metric, found in cell.evaluations.items()},
        metric_failures=dict(cell.metric_failures),
    )


def _measurement_entry(measurement: Measurement, kept: Sequence[str], spectra: _Spectra) -> MeasurementEntry:
    return MeasurementEntry(
        spectrum=spectra.place(measurement),
        temperatures=measurement.temperatures.tolist(),
        latent_dim=int(measurement.latent_dim),
        has_oracle=bool(measurement.has_oracle),
        shape=[int(size) for size in measurement.shape],
        decoder_variance=float(measurement.decoder_variance),
        tables=[name for name in kept if name in measurement.tables],
    )


def _evaluation_entry(evaluation: Evaluation) -> EvaluationEntry:
    values = {name: float(value) for name, value in evaluation.values.items()}
    return EvaluationEntry(values=values, reasons=dict(evaluation.reasons), modes=evaluation.modes is not None)


def _cell(entry: CellEntry, place: int, tables: _Tables, spectra: Sequence[_Spectrum]) -> CellResult:
    evaluations = {
        metric: Evaluation(found.values, tables.rows(f"modes-{metric}", place) if found.modes else None, found.reasons)
        for metric, found in entry.evaluations.items()
    }
    return CellResult(
        key=entry.key,
        dataset=entry.dataset,
        architecture=entry.architecture,
        objective=entry.objective,
        seed=entry.seed,
        status=entry.status,
        reason=entry.reason,
        measurement=_measurement(entry.measurement, place, tables, spectra) if entry.measurement else None,
        evaluations=evaluations,
        metric_failures=entry.metric_failures,
    )


def _measurement(entry: MeasurementEntry, place: int, tables: _Tables, spectra: Sequence[_Spectrum]) -> Measurement:
    total_variance, pca, moments = spectra[entry.spectrum]
    return Measurement(
        temperatures=np.array(entry.temperatures, dtype=np.float64),
        latent_dim=entry.latent_dim,
        total_variance=total_variance,
        tables={name: tables.rows(name, place) for name in entry.tables},
        pca=pca,
        second_moments=moments,
        has_oracle=entry.has_oracle,
        decoder_variance=entry.decoder_variance,
        shape=tuple(entry.shape),
    )


def _write_tables(cells: Sequence[CellResult], kept: Sequence[str], folder: Path) -> list[Path]:
    parts: dict[str, list[pd.DataFrame]] = {}
    for place, cell in enumerate(cells):
        measured = cell.measurement.tables if cell.measurement else {}
        found = {name: _single(measured[name]) for name in kept if name in measured}
        found |= {
            f"modes-{metric}": _in_full(evaluation.modes)
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


def _in_full(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a metric's rows with numbers in single precision as float64, as which they are read."""
    return frame.astype(dict.fromkeys(frame.select_dtypes("float32"), "float64"))


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
