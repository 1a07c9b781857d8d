"""The schema of data/results.json, the part of a published folder that says what its tables belong to.

A number that is not finite is the text "inf", "-inf" or "nan": JSON knows none of them. The same content gives the same
bytes, and writing what was read changes none.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError, model_validator

from collapsebench.contracts import Curve, Score, SplitName, load_registry
from collapsebench.errors import CollapsebenchError, StoreError
from collapsebench.scoring.results import RANK, Question

FORMAT: Final = 3
"""Format 2 asked one question, by `rank_by`; format 1 had neither curves nor the column of a score. Both are read."""


class _Entry(BaseModel):
    """A part of the file: nothing in it changes after it was read or made, and nothing unknown may stand in it."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ScoreEntry(_Entry):
    """The declaration of a score, as in `Score`. column: None in a file of a release that did not write it."""

    name: str
    summary: str
    direction: Literal["higher", "lower", "none"]
    unit: str
    low: float
    high: float
    column: bool | None = None

    @classmethod
    def of(cls, score: Score) -> ScoreEntry:
        """Return the entry of a score."""
        return cls(
            name=score.name, summary=score.summary, direction=score.direction, unit=score.unit,
            low=score.low, high=score.high, column=score.column,
        )  # fmt: skip

    def score(self, metric: str) -> Score:
        """Return the score that was declared; what the file does not say of it, the installed metric does."""
        column = _is_column(metric, self.name) if self.column is None else self.column
        return Score(self.name, self.summary, self.direction, self.unit, self.low, self.high, column)


class CurveEntry(_Entry):
    """A curve that a component declares, as in `Curve`."""

    quantity: str
    label: str
    logarithmic: bool
    split: SplitName

    @classmethod
    def of(cls, curve: Curve) -> CurveEntry:
        """Return the entry of a curve."""
        return cls(quantity=curve.quantity, label=curve.label, logarithmic=curve.logarithmic, split=curve.split)

    @property
    def curve(self) -> Curve:
        """The curve that was declared."""
        return Curve(self.quantity, self.label, self.logarithmic, self.split)


class SpectrumEntry(_Entry):
    """A PCA reference: V, lambda_k / V, per split the rank-distortion curve and the second moments along the axes."""

    total_variance: float
    eigenvalues: list[float]
    rank_distortion: dict[SplitName, list[float]]
    second_moments: dict[SplitName, list[float]]


class MeasurementEntry(_Entry):
    """What was measured of a cell. spectrum: the place of its reference. tables: the data/<name>.parquet it is in."""

    spectrum: NonNegativeInt
    temperatures: list[float]
    latent_dim: int
    has_oracle: bool
    shape: list[int]
    decoder_variance: float
    tables: list[str]


class EvaluationEntry(_Entry):
    """What a metric made of a cell. modes: whether the cell has rows in data/modes-<metric>.parquet."""

    values: dict[str, float]
    reasons: dict[str, str]
    modes: bool


class CellEntry(_Entry):
    """A planned cell; the first one is number 0 in the column `cell` of every table."""

    key: str
    dataset: str
    architecture: str
    objective: str
    seed: int
    status: str
    reason: str
    measurement: MeasurementEntry | None
    evaluations: dict[str, EvaluationEntry]
    metric_failures: dict[str, str]


class QuestionEntry(_Entry):
    """A question that the board answers by ranks."""

    id: str
    title: str
    scores: list[str]
    better: str
    controls: dict[str, str] = {}

    @classmethod
    def of(cls, question: Question) -> QuestionEntry:
        """Return the entry of a question."""
        return cls(**{**vars(question), "scores": list(question.scores), "controls": dict(question.controls)})


class ResultsFile(_Entry):
    """The whole file. provenance and datasets are facts for readers, under whatever names they came with.

    rank_by: only in files of format 1 and 2, which ask one question.
    """

    format: Literal[1, 2, 3] = FORMAT
    suite: str
    title: str
    rank_by: list[str] = []
    questions: list[QuestionEntry] = []
    declared: dict[str, list[ScoreEntry]]
    provenance: dict[str, Any]
    datasets: dict[str, dict[str, Any]]
    spectra: list[SpectrumEntry]
    cells: list[CellEntry]
    curves: dict[str, list[CurveEntry]] = {}

    @model_validator(mode="after")
    def _spectra_are_there(self) -> Self:
        for place, cell in enumerate(self.cells):
            if cell.measurement and cell.measurement.spectrum >= len(self.spectra):
                raise ValueError(
                    f"cells[{place}].measurement.spectrum: found {cell.measurement.spectrum}, expected the place of "
                    f"one of {len(self.spectra)} spectra, counted from 0"
                )
        return self

    @property
    def asked(self) -> tuple[Question, ...]:
        """The questions that the board answers."""
        if self.format < FORMAT:
            return (Question(RANK, "", tuple(self.rank_by)),)
        return tuple(Question(one.id, one.title, tuple(one.scores), one.better, one.controls) for one in self.questions)

    def write(self, path: Path) -> Path:
        """Write the file and return its path."""
        content = _plain(self.model_dump(exclude={"rank_by"}))
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False, default=str)
        path.write_text(text + "\n", encoding="utf-8")
        return path

    @classmethod
    def read(cls, path: Path) -> ResultsFile:
        """Return what a file says; a StoreError names the first place where it is not what was expected."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StoreError(f"{path}: cannot be read ({error}). Publish the suite again.") from error
        found = content.get("format") if isinstance(content, dict) else None
        if found not in (1, 2, FORMAT):
            raise StoreError(
                f"{path}: has format {found!r}, expected at most {FORMAT}. Publish the suite again, or read it with "
                "the release that wrote it."
            )
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise StoreError(f"{path}: {_first_problem(error)}. Publish the suite again.") from error


def _is_column(metric: str, score: str) -> bool:
    try:
        declared = load_registry().get("metric", metric).load().scores
    except (CollapsebenchError, ImportError):
        return True
    return next((one.column for one in declared if one.name == score), True)


def _first_problem(error: ValidationError) -> str:
    detail = error.errors(include_url=False)[0]
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in detail["loc"]).lstrip(".")
    match detail["type"]:
        case "missing":
            return f"{place} is missing, but expected"
        case "extra_forbidden":
            return f"{place} is unknown here"
        case "value_error":
            return str(detail["ctx"]["error"])
    expected = detail["msg"].removeprefix("Input should be ").partition(", unable to")[0].partition(", got")[0]
    return f"{place}: found {detail['input']!r:.80}, expected {expected}"


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
