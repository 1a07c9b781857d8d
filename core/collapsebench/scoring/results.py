"""The outcome of a suite as values: what boards and figures are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from collapsebench.contracts import Curve, Evaluation, Measurement, Score


@dataclass(frozen=True)
class CellResult:
    """One scan with one seed: its status, what was measured and what the metrics made of it.

    status: ok, diverged, failed, timeout, out-of-memory, skipped, not-installed or missing; reason: a sentence where
    it is not ok. measurement: None where nothing was stored. evaluations: metric id -> evaluation; a metric that
    failed on this cell is absent and stands in `metric_failures` with its reason.
    """

    key: str
    dataset: str
    architecture: str
    objective: str
    seed: int
    status: str
    reason: str = ""
    measurement: Measurement | None = None
    evaluations: Mapping[str, Evaluation] = field(default_factory=dict)
    metric_failures: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Question:
    """What a board ranks by: one question to its architectures.

    id: a short name, which heads a column. title: the question in words; scores: `metric/score` names that answer it.
    better: what an architecture of a better rank does, as the end of a sentence; "" if the suite does not say.
    controls: dataset -> what is known of it beforehand: "fewer", some architecture must need decidedly fewer latents
    than PCA; "none", no architecture can.
    """

    id: str
    title: str
    scores: Sequence[str]
    better: str = ""
    controls: Mapping[str, str] = field(default_factory=dict, hash=False)


RANK = "rank"
"""The id of the only question of a suite that asks none by name: it ranks by `rank_by`, or by what its metrics say."""


@dataclass(frozen=True)
class SuiteResults:
    """Every planned cell of a suite with its scores.

    declared: metric id -> its scores, in the suite's order. questions: what the board ranks by, each for itself.
    provenance: what stands in the footer: suite_hash, versions, hardware, date, device, precision.
    datasets: id -> what travels with the data (revision, licence, citation, rows per split, features left out).
    published: the tables of a measurement that a bundle keeps. curves: table -> the curves that components declare of
    it; `modes-<metric>` is the table of a metric's modes.
    """

    suite: str
    title: str
    cells: Sequence[CellResult]
    declared: Mapping[str, Sequence[Score]]
    questions: Sequence[Question]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    datasets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    published: Sequence[str] = ("replicas",)
    curves: Mapping[str, Sequence[Curve]] = field(default_factory=dict)
