"""Two things compared score by score: what differs, by how much, and whether that is decided."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from collapsebench.contracts import Metric, Score, load_registry
from collapsebench.errors import UserError
from collapsebench.publishing.board_report import json_text
from collapsebench.publishing.report import Report, Table, TableColumn, html_fragment, number, written
from collapsebench.ranking.board import OVERALL, interval_method, origin
from collapsebench.ranking.differences import Difference, holm, paired_difference
from collapsebench.ranking.ranks import CONFIDENCE
from collapsebench.ranking.standings import LATENTS, SKIPPED, Contender, comparisons, declared_scores
from collapsebench.scoring.results import SuiteResults

COLUMNS = {
    "dataset": "str", "objective": "str", "architecture": "str", "metric": "str", "score": "str", "unit": "str",
    "direction": "str", "first": "float64", "second": "float64", "difference": "float64", "low": "float64",
    "high": "float64", "n": "int64", "p": "float64", "p_holm": "float64", "verdict": "str", "note": "str",
}  # fmt: skip
NOT_DECIDED = "not decided"
EQUAL = "equal"
DIFFERS = "differs"
NO_VALUE = "no value"
NEITHER = "not reached"
ABSENT = "not in"
"""The start of the note on a row that only one of two folders has."""
_ARROWS = {"higher": "↑", "lower": "↓", "none": ""}


@dataclass(frozen=True)
class Comparison:
    """Two architectures within a suite, or two published folders, `first` and `second`.

    differences: one row per dataset, objective, architecture (of folders) and score, with the columns `first` and
    `second`, the means; difference, first minus second, with the ends low and high of its 95 % interval (NaN: none); n,
    pairs of runs; p, and p_holm for all rows together; verdict, the name of the better one, "not decided", "equal",
    "differs" (no direction), "not reached" (by either) or "no value"; note. The dataset "(all)" is the mean over
    datasets.
    changes: sentences on what differs besides scores.
    """

    first: str
    second: str
    title: str
    differences: pd.DataFrame
    changes: tuple[str, ...] = ()
    footer: tuple[str, ...] = field(default=(), repr=False)

    @property
    def summary(self) -> tuple[str, ...]:
        """The answers: by which scores one is better, on which datasets, and where that is not decided."""
        return (*_answers(self), _count(self))

    def text(self, format: str = "text", *, standalone: bool = False) -> str:
        """Return it as text, md, tex (with `standalone` a whole document) or html; csv: the differences alone.

        json: an object with first, second, title, summary, changes, footer, and the rows of `differences`.
        """
        if format == "csv":
            return self.differences.to_csv(index=False, lineterminator="\n")
        if format == "json":
            about = {name: getattr(self, name) for name in ("first", "second", "title", "summary", "changes", "footer")}
            content = {**about, "differences": json.loads(json_text(self.differences))}
            return json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        return written(self._report, format, standalone=standalone)

    @property
    def _report(self) -> Report:
        return Report(self.title, tuple(_tables(self)), self.footer, (*self.changes, *self.summary))

    def _repr_html_(self) -> str:
        return html_fragment(self._report)

    def __repr__(self) -> str:
        verdicts = self.differences["verdict"].value_counts()
        counts = {name: int(verdicts.get(name, 0)) for name in (self.first, self.second, NOT_DECIDED)}
        return f"Comparison({self.first!r}, {self.second!r}, {counts})"


def compare_architectures(results: SuiteResults, first: str, second: str) -> Comparison:
    """Compare two architectures of a suite, paired by seed, on each dataset and over the datasets together."""
    known = list(dict.fromkeys(cell.architecture for cell in results.cells))
    for name in (first, second):
        if name not in known:
            raise UserError(
                f"suite '{results.suite}': has no architecture '{name}'. Its architectures: {', '.join(known)}."
            )
        if not any(cell.architecture == name and cell.status == "ok" for cell in results.cells):
            ended = sorted({cell.status for cell in results.cells if cell.architecture == name})
            if ended == [SKIPPED]:
                raise UserError(
                    f"suite '{results.suite}': '{name}' is not meant for any of its datasets, so nothing can be "
                    "compared. Compare other architectures, or add a dataset that it is meant for."
                )
            raise UserError(
                f"suite '{results.suite}': no run of '{name}' ended ok (found: {', '.join(ended)}), so nothing can be "
                f"compared. Run `collapsebench run {results.suite}` with the same options first."
            )
    if first == second:
        raise UserError(f"'{first}' is compared with itself. Expected two architectures: {', '.join(known)}.")
    rows = []
    for objective, datasets in _contenders_of_both(results, first, second).items():
        for metric, score in declared_scores(results):
            pairs = {dataset: _shared_values(one, other, metric, score) for dataset, (one, other) in datasets.items()}
            # Over the datasets that both are meant for: what one of them cannot be asked is no missing answer.
            shared = [
                pairs[name] for name, both in datasets.items() if not any(contender.is_unsuited for contender in both)
            ]
            if len(shared) > 1:
                rows.append(_row((OVERALL, objective, "", metric), score, shared, (first, second)))
            for dataset, pair in pairs.items():
                rows.append(_row((dataset, objective, "", metric), score, [pair], (first, second)))
    facts = origin(results)
    about = [f"suite {results.suite} {facts['suite_hash']}".rstrip(), facts["versions"], facts["hardware"]]
    return Comparison(
        first,
        second,
        f"{first} and {second}, suite {results.suite}",
        difference_frame(rows),
        footer=(
            f"Paired by seed; over the datasets that both are meant for, the mean of their differences. "
            f"{interval_method(results)}.",
            f"Provenance: {', '.join([*(fact for fact in about if fact), 'date ' + (facts['date'] or 'unknown')])}.",
        ),
    )


def row(
    names: tuple[str, str, str, str],
    score: Score,
    means: tuple[float, float],
    found: Difference,
    compared: tuple[str, str],
) -> tuple[Any, ...]:
    """Return a row of `Comparison.differences`; names: dataset, objective, architecture, metric."""
    neither = found.value == 0 and all(map(math.isinf, means))
    verdict = NEITHER if neither else _verdict(found, score.direction, compared)
    return (
        *names, score.name, score.unit, score.direction, *means, found.value, found.low, found.high, found.n, found.p,
        math.nan, verdict, found.note,
    )  # fmt: skip


def difference_frame(rows: Sequence[tuple[Any, ...]]) -> pd.DataFrame:
    """Return rows as the frame of a comparison, p-values adjusted over the rows that have a direction."""
    frame = pd.DataFrame(list(rows), columns=pd.Index(list(COLUMNS))).astype(COLUMNS)
    return frame.assign(p_holm=holm(frame["p"].where(_judged(frame))))


def _judged(frame: pd.DataFrame) -> pd.Series[bool]:
    """Return which rows count as a judgement: a direction, and one dataset, not the mean of several."""
    return (frame["direction"] != "none") & (frame["dataset"] != OVERALL)


def _verdict(found: Difference, direction: str, compared: tuple[str, str]) -> str:
    if not found.n:
        return NO_VALUE
    if found.low == found.high == found.value == 0:
        return EQUAL
    if not found.decided:
        return NOT_DECIDED
    if direction == "none":
        return DIFFERS
    return compared[0] if (found.value > 0) == (direction == "higher") else compared[1]


def _contenders_of_both(
    results: SuiteResults, first: str, second: str
) -> dict[str, dict[str, tuple[Contender, Contender]]]:
    """Return objective -> dataset -> the cells of both architectures."""
    both: dict[str, dict[str, tuple[Contender, Contender]]] = {}
    for (dataset, objective), contenders in comparisons(results).items():
        known = {contender.architecture: contender for contender in contenders}
        if first in known and second in known:
            both.setdefault(objective, {})[dataset] = (known[first], known[second])
    return both


@dataclass(frozen=True)
class _SharedValues:
    """The values of two architectures on one dataset, for the seeds that both have. limit: what infinity counts as."""

    ours: list[float]
    theirs: list[float]
    limit: float

    @property
    def means(self) -> tuple[float, float]:
        return _mean(self.ours), _mean(self.theirs)


def _shared_values(one: Contender, other: Contender, metric: str, score: Score) -> _SharedValues:
    ours, theirs = one.values(metric, score.name), other.values(metric, score.name)
    seeds = sorted(ours.keys() & theirs.keys())
    sizes = [cell.measurement.latent_dim for cell in (*one.ok, *other.ok) if cell.measurement is not None]
    limit = 1 + max(sizes) if score.unit == LATENTS and sizes else math.inf
    return _SharedValues([ours[seed] for seed in seeds], [theirs[seed] for seed in seeds], limit)


def _row(
    names: tuple[str, str, str, str], score: Score, pairs: Sequence[_SharedValues], compared: tuple[str, str]
) -> tuple[Any, ...]:
    """Return the row of one dataset, or of several of which each has values; not enough latents count as one more."""
    known = pairs if all(pair.ours for pair in pairs) else []
    ours = [[min(value, pair.limit) for value in pair.ours] for pair in known]
    theirs = [[min(value, pair.limit) for value in pair.theirs] for pair in known]
    found = paired_difference(ours, theirs)
    if ours != [pair.ours for pair in known] or theirs != [pair.theirs for pair in known]:
        counted = "not reached counts as one latent more than there are"
        found = replace(found, note="; ".join(part for part in (counted, found.note) if part))
    means = _mean([pair.means[0] for pair in known]), _mean([pair.means[1] for pair in known])
    return row(names, score, means, found, compared)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _answers(comparison: Comparison) -> Iterator[str]:
    """Yield a sentence per score of metrics with a claim, then one per other score that is decided somewhere."""
    frame = comparison.differences
    directed = frame[(frame["direction"] != "none") & (frame["verdict"] != NO_VALUE)]
    metrics = _installed_metrics()
    for metric in _claims_first(directed["metric"], metrics):
        known = metrics.get(metric)
        claim, scores = (known.claim, known.scores) if known else ("", ())
        aside = {score.name for score in scores if not score.column}
        for score, rows in directed[directed["metric"] == metric].groupby("score", sort=False):
            decided = rows["verdict"].isin([comparison.first, comparison.second]).any()
            if score not in aside and (claim or decided):
                yield f"{claim or 'Better'}, by {metric}/{score}: {_where(rows, comparison)}."


def _claims_first(names: Iterable[str], metrics: Mapping[str, type[Metric[Any]]]) -> list[str]:
    return sorted(dict.fromkeys(names), key=lambda name: not (name in metrics and metrics[name].claim))


def _installed_metrics() -> dict[str, type[Metric[Any]]]:
    """Return the installed metrics that can be loaded, by id; they declare what being better means."""
    metrics = {}
    for item in load_registry().registered("metric"):
        try:
            metrics[item.component.id] = item.component.load()
        except Exception:  # its plugin is broken, which `plugins list` reports
            continue
    return metrics


def _where(rows: pd.DataFrame, comparison: Comparison) -> str:
    """Return "linear on digits; not decided on gaussian, all datasets together"."""
    several = rows["objective"].nunique() > 1
    places = rows["dataset"].replace({OVERALL: "all datasets together"}) + (", " + rows["objective"] if several else "")
    places = places.where(rows["architecture"] == "", rows["architecture"] + " on " + places)
    parts = []
    for verdict in (comparison.first, comparison.second, NOT_DECIDED, EQUAL, NEITHER):
        found = list(dict.fromkeys(places[rows["verdict"] == verdict]))
        if found:
            parts.append(f"{verdict} on {', '.join(found)}")
    return "; ".join(parts)


def _count(comparison: Comparison) -> str:
    every = comparison.differences
    frame = every[_judged(every) & ~every["note"].str.startswith(ABSENT)]
    tested = frame[frame["p"].notna()]
    names = (comparison.first, comparison.second)
    decided = {name: int((tested["verdict"] == name).sum()) for name in names}
    level = 1 - CONFIDENCE
    if not len(tested):
        return f"None of {len(frame)} differences has an interval: nothing is decided."
    joint = int((tested["p_holm"] <= level).sum())
    return (
        f"Of {len(frame)} differences, each at {100 * CONFIDENCE:g} %, {decided[names[0]]} are in favour of "
        f"{names[0]}, {decided[names[1]]} of {names[1]}; were the two equal, chance alone would decide about "
        f"{level * len(tested):.1f} of {len(tested)}. Held to {100 * CONFIDENCE:g} % all together (Holm): {joint}."
    )


def _tables(comparison: Comparison) -> Iterator[Table]:
    """Yield a table per metric, the questions first."""
    frame = comparison.differences[~comparison.differences["note"].str.startswith(ABSENT)]
    folders = bool((frame["architecture"] != "").any())
    several = frame["objective"].nunique() > 1
    for metric in _claims_first(frame["metric"], _installed_metrics()):
        rows = frame[frame["metric"] == metric]
        records = rows.to_dict("records")
        columns = [
            TableColumn(("better",), tuple(rows["verdict"])),
            TableColumn(("score",), tuple(_score_text(item) for item in records)),
            TableColumn(("dataset",), tuple(rows["dataset"])),
            *([TableColumn(("objective",), tuple(rows["objective"]))] if several else []),
            *([TableColumn(("architecture",), tuple(rows["architecture"]))] if folders else []),
            TableColumn((comparison.first,), tuple(_value(item["first"]) for item in records)),
            TableColumn((comparison.second,), tuple(_value(item["second"]) for item in records)),
            TableColumn(("difference", f"{comparison.first} -", comparison.second), tuple(map(_difference, records))),
            TableColumn(("n",), tuple(str(item["n"]) for item in records)),
        ]
        notes = dict.fromkeys(item["note"] for item in records if item["note"])
        yield Table(metric, tuple(columns), (), tuple(_note(rows, note) for note in notes))


def _note(rows: pd.DataFrame, note: str) -> str:
    places = rows[rows["note"] == note]
    names = dict.fromkeys(places["score"] + " on " + places["dataset"])
    shown = list(names)[:6] + ([f"{len(names) - 6} more"] if len(names) > 6 else [])
    return f"{', '.join(shown)}: {note}."


def _score_text(item: Mapping[Any, Any]) -> str:
    return " ".join(part for part in (item["score"], _ARROWS[item["direction"]], item["unit"]) if part)


def _value(value: float) -> str:
    return "-" if math.isnan(value) else "not reached" if math.isinf(value) else number(value)


def _difference(item: Mapping[Any, Any]) -> str:
    value = item["difference"]
    return "-" if math.isnan(value) or math.isinf(value) else number(value, item["low"], item["high"])
