"""Which cells are compared with each other, and which architecture stands where among them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from collapsebench.contracts import Score
from collapsebench.ranking.ranks import CONFIDENCE, PairedRank, paired_ranks
from collapsebench.scoring.results import CellResult, Question, SuiteResults

LATENTS = "latents"
"""The unit of a count of latents; where a tolerance is not reached, at least one more than there are is needed."""

SKIPPED = "skipped"
"""The status of cells whose architecture is not meant for the data: nothing was tried, and nothing failed."""

UNSUITED = "not meant for these data"

VECTORS, IMAGES = "vectors", "images"
"""The tracks."""


@dataclass(frozen=True)
class Contender:
    """The planned cells of one architecture on one dataset with one objective: one scan, repeated over seeds."""

    dataset: str
    objective: str
    architecture: str
    cells: tuple[CellResult, ...]

    @property
    def ok(self) -> tuple[CellResult, ...]:
        """The cells that ended ok, the only ones that scores are averaged over."""
        return tuple(cell for cell in self.cells if cell.status == "ok")

    @property
    def is_unsuited(self) -> bool:
        """Whether the architecture is not meant for the data, so that every cell was skipped."""
        return all(cell.status == SKIPPED for cell in self.cells)

    def values(self, metric: str, score: str) -> dict[int, float]:
        """Return seed -> value, for the cells that ended ok and have one (infinity included)."""
        values = {cell.seed: value_of(cell, metric, score) for cell in self.ok}
        return {seed: value for seed, value in values.items() if not math.isnan(value)}


@dataclass(frozen=True)
class Standing:
    """The rank of an architecture, or None and the sentence that says why it is not ranked."""

    rank: PairedRank | None
    reason: str = ""


def comparisons(results: SuiteResults) -> dict[tuple[str, str], list[Contender]]:
    """Return (dataset, objective) -> one contender per architecture, everything in the order first planned."""
    found: dict[tuple[str, str, str], list[CellResult]] = {}
    for cell in results.cells:
        found.setdefault((cell.dataset, cell.objective, cell.architecture), []).append(cell)
    order = [{name: place for place, name in enumerate(dict.fromkeys(part))} for part in zip(*found, strict=True)]
    together: dict[tuple[str, str], list[Contender]] = {}
    for key in sorted(found, key=lambda key: tuple(places[name] for places, name in zip(order, key, strict=True))):
        together.setdefault(key[:2], []).append(Contender(*key, cells=tuple(found[key])))
    return together


def declared_scores(results: SuiteResults) -> list[tuple[str, Score]]:
    """Return (metric id, score) in the suite's order."""
    return [(metric, score) for metric, scores in results.declared.items() for score in scores]


def standings(results: SuiteResults, compared: Sequence[Contender], question: Question) -> dict[str, Standing]:
    """Return architecture -> standing among contenders of one dataset and objective, by the scores of a question.

    Ranked are the architectures of which every planned cell ended ok with every one of these scores, by paired
    comparisons over the seeds that all of them share. The rank intervals of all questions hold together.
    """
    ranking, problem = ranking_scores(results, question)
    if not ranking:
        return {contender.architecture: Standing(None, problem) for contender in compared}
    found = {contender.architecture: Standing(None, _why_incomplete(contender, ranking)) for contender in compared}
    complete = [contender for contender in compared if not found[contender.architecture].reason]
    return found | _ranked([complete], ranking, confidence_of(results))


def confidence_of(results: SuiteResults) -> float:
    """Return the confidence of the ranks of one question, with which those of all questions together have that of the
    board: its doubt is divided among them (Dunn 1961)."""
    return 1 - (1 - CONFIDENCE) / max(1, len(results.questions))


def tracks(results: SuiteResults, objective: str) -> dict[str, list[str]]:
    """Return track -> its datasets, in the order first planned: "images" or "vectors", or "" where all are of a kind.

    Ranks over several datasets are those of a track: architectures that are meant for images alone compete there.
    """
    found: dict[str, list[str]] = {}
    for (dataset, name), contenders in comparisons(results).items():
        if name == objective:
            measured = [cell.measurement for one in contenders for cell in one.cells if cell.measurement is not None]
            kind = IMAGES if any(len(one.shape) > 1 for one in measured) else VECTORS
            found.setdefault(kind, []).append(dataset)
    return found if len(found) > 1 else {"": [dataset for datasets in found.values() for dataset in datasets]}


@dataclass(frozen=True)
class Together:
    """Several datasets that one question is asked of together."""

    objective: str
    track: str
    datasets: tuple[str, ...]
    question: Question

    @property
    def title(self) -> str:
        """What is ranked, as a heading."""
        kind = f"datasets of {self.track}" if self.track else "datasets"
        return f"All {len(self.datasets)} {kind} together, {self.objective}"


def asked_together(results: SuiteResults) -> list[Together]:
    """Return every question of every track that has several datasets."""
    return [
        Together(objective, track, tuple(datasets), question)
        for objective in dict.fromkeys(objective for _, objective in comparisons(results))
        for track, datasets in tracks(results, objective).items()
        if len(datasets) > 1
        for question in results.questions
    ]


def overall_standings(
    results: SuiteResults, objective: str, question: Question, track: str = ""
) -> tuple[dict[str, Standing], list[str], list[str]]:
    """Return architecture -> standing over the datasets of a track together, those datasets, and those left out.

    Left out are the datasets on which no architecture is complete; ranked are the architectures that are complete on
    all the others. Those that are meant for none of the track are not named.
    """
    ranking, problem = ranking_scores(results, question)
    boards = {
        dataset: contenders
        for (dataset, name), contenders in comparisons(results).items()
        if name == objective and dataset in tracks(results, objective)[track]
    }
    planned = [contender for contenders in boards.values() for contender in contenders]
    names = list(dict.fromkeys(one.architecture for one in planned if not (track and one.is_unsuited)))
    if not ranking:
        return {name: Standing(None, problem) for name in names}, list(boards), []
    lacks = {
        dataset: {contender.architecture: _why_incomplete(contender, ranking) for contender in contenders}
        for dataset, contenders in boards.items()
    }
    ranked_on = [dataset for dataset, reasons in lacks.items() if not all(reasons.values())]
    left_out = [dataset for dataset in boards if dataset not in ranked_on]
    found = {}
    for name in names:
        places: dict[str, list[str]] = {}
        for dataset in ranked_on or left_out:
            places.setdefault(lacks[dataset].get(name, "it is not planned there"), []).append(dataset)
        reasons = [f"on {', '.join(found_on)}, {reason}" for reason, found_on in places.items() if reason]
        found[name] = Standing(None, "; ".join(reasons))
    complete = [
        [g for g in boards[dataset] if g.architecture in found and not found[g.architecture].reason]
        for dataset in ranked_on
    ]
    return found | _ranked(complete, ranking, confidence_of(results)), ranked_on, left_out


def _ranked(
    complete: Sequence[Sequence[Contender]], ranking: Sequence[tuple[str, Score]], confidence: float
) -> dict[str, Standing]:
    """Return the standings of architectures that are complete on every one of some datasets."""
    if not complete or not complete[0]:
        return {}
    datasets = []
    for contenders in complete:
        seeds = sorted(set.intersection(*({cell.seed for cell in contender.cells} for contender in contenders)))
        if not seeds:
            why = Standing(None, "it shares no seed with the other complete architectures")
            return {contender.architecture: why for contender in contenders}
        columns = [[contender.values(metric, score.name) for metric, score in ranking] for contender in contenders]
        beyond = 1 + max((size for contender in contenders for size in _latent_dims(contender)), default=math.inf)
        limits = [beyond if score.unit == LATENTS else math.inf for _, score in ranking]
        datasets.append(
            [
                [[min(column[seed], limit) for column, limit in zip(row, limits, strict=True)] for seed in seeds]
                for row in columns
            ]
        )
    ranks = paired_ranks(datasets, [score.direction == "higher" for _, score in ranking], confidence)
    return {contender.architecture: Standing(rank) for contender, rank in zip(complete[0], ranks, strict=True)}


def _latent_dims(contender: Contender) -> set[int]:
    return {cell.measurement.latent_dim for cell in contender.ok if cell.measurement is not None}


def ranking_scores(results: SuiteResults, question: Question) -> tuple[list[tuple[str, Score]], str]:
    """Return the scores of a question that can rank, and a sentence about those that cannot ("" if all can)."""
    known = {f"{metric}/{score.name}": (metric, score) for metric, score in declared_scores(results)}
    unknown = [name for name in question.scores if name not in known]
    aimless = [name for name in question.scores if name in known and known[name][1].direction == "none"]
    problems = [
        *([f"no metric of the suite declares {', '.join(unknown)}"] if unknown else []),
        *([f"neither high nor low is better for {', '.join(aimless)}"] if aimless else []),
        *([] if question.scores else ["the suite names no score to rank by"]),
    ]
    usable = [known[name] for name in question.scores if name not in (*unknown, *aimless)]
    return usable, "; ".join(problems)


def value_of(cell: CellResult, metric: str, score: str) -> float:
    """Return a cell's value for a score, NaN where it has none."""
    evaluation = cell.evaluations.get(metric)
    values: Mapping[str, float] = {} if evaluation is None else evaluation.values
    return float(values.get(score, math.nan))


def why_missing(cell: CellResult, metric: str, score: str) -> str:
    """Return the sentence that says why a cell has no value for a score."""
    if cell.status != "ok":
        return f"{cell.status}: {cell.reason}" if cell.reason else cell.status
    if metric in cell.metric_failures:
        return f"the metric failed: {cell.metric_failures[metric]}"
    if metric not in cell.evaluations:
        return "the metric was not evaluated"
    return cell.evaluations[metric].reasons.get(score) or "the metric gave neither a value nor a reason"


def _why_incomplete(contender: Contender, ranking: Sequence[tuple[str, Score]]) -> str:
    planned = len(contender.cells)
    if contender.is_unsuited:
        return UNSUITED
    if len(contender.ok) < planned:
        return f"{len(contender.ok)} of {planned} runs ended ok"
    found = {f"{metric}/{score.name}": len(contender.values(metric, score.name)) for metric, score in ranking}
    short = [f"{name} in {count} of {planned} runs" for name, count in found.items() if count < planned]
    return f"not every run has every score of the ranking: {', '.join(short)}" if short else ""
