"""What a board says in words: sentences that its own ranks and intervals carry, and none that they do not.

Every sentence answers one question on one dataset. Whoever is named as better is decidedly so, by the rank intervals of
the board, which hold together; where nothing is decided, the difference stands there with its interval. Whether an
architecture needs fewer latents than PCA is a question of its own, asked of every architecture and answered together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from collapsebench.contracts import Score
from collapsebench.ranking.board import converged_share
from collapsebench.ranking.differences import Difference, paired_difference
from collapsebench.ranking.ranks import t_interval
from collapsebench.ranking.standings import (
    LATENTS,
    Contender,
    Standing,
    comparisons,
    confidence_of,
    declared_scores,
    ranking_scores,
    standings,
)
from collapsebench.scoring.results import Question, SuiteResults

REFERENCE = "pca-"
"""How the name of a score begins that says the same of PCA as the score of the rest of its name says of a model."""

_MANY, _FEWEST_RUNS, _MOSTLY = 4, 2, 0.5


@dataclass(frozen=True)
class Finding:
    """A sentence, and what it claims.

    kind: `first`, the only one of `ahead` is decidedly better than each of `behind`; `together`, nobody is decidedly
    better than any of `ahead`, so nothing is decided between them, and each of `behind` is decidedly worse than
    somebody; `fewer`, each of `ahead` needs decidedly fewer latents than PCA, and none of `behind` does.
    """

    text: str
    question: str
    kind: Literal["first", "together", "fewer"]
    ahead: tuple[str, ...]
    behind: tuple[str, ...]


def findings(results: SuiteResults, compared: Sequence[Contender]) -> list[Finding]:
    """Return what is to be said about the architectures of one dataset and objective, at most two for a question.

    Nothing is said of a question without a title, of a single seed, nor where fewer than two architectures are ranked.
    """
    said: list[Finding] = []
    if max((len(one.ok) for one in compared), default=0) < _FEWEST_RUNS:
        return said
    for question in results.questions:
        scores, _ = ranking_scores(results, question)
        if not question.title or not scores:
            continue
        found = standings(results, compared, question)
        ranked = sorted((one for one in compared if found[one.architecture].rank), key=lambda one: _mean(found, one))
        if len(ranked) > 1:
            said.append(_order(question, ranked, found, scores[0], confidence_of(results)))
        for metric, score in scores:
            if against := _against_pca(question, results, compared, metric, score):
                said.append(against)
                break
    return said


def failed_controls(results: SuiteResults) -> list[str]:
    """Return a sentence for every control that failed: what a board shows cannot be trusted where it contradicts them.

    "none" fails where an architecture needs decidedly fewer latents than PCA. "fewer" fails where every architecture of
    a nonlinear decoder has come to rest in most of its replicas, and an advantage of even one latent is out of its
    interval. Where a control is not decided, such as with too few runs, nothing is said of it.
    """
    said = []
    for question in results.questions:
        for (dataset, objective), compared in comparisons(results).items():
            expected, suited = question.controls.get(dataset), [one for one in compared if not one.is_unsuited]
            found = _failed(question, results, suited, expected) if expected else ""
            if found:
                who = f"On {dataset}, {objective}," if len(comparisons(results)) > 1 else f"On {dataset},"
                said.append(f"A control failed. {who} {found}: do not trust this board before you know why.")
    return said


def _failed(question: Question, results: SuiteResults, suited: Sequence[Contender], expected: str) -> str:
    """Return what contradicts an expectation, "" if nothing does or it is not decided."""
    if min((len(one.ok) for one in suited), default=0) < _FEWEST_RUNS:
        return ""
    for metric, score in ranking_scores(results, question)[0]:
        against = _against_pca(question, results, suited, metric, score)
        if against is None or len(against.ahead) + len(against.behind) < len(suited):
            continue
        if expected == "none" and against.ahead:
            verb = "needs" if len(against.ahead) == 1 else "need"
            return f"no architecture can need fewer latents than PCA, yet {_listed(against.ahead)} {verb} fewer"
        confidence = 1 - (1 - confidence_of(results)) / len(suited)
        able = [one for one in suited if _is_nonlinear(one)]
        excluded = [
            not converged_share([one]) < _MOSTLY  # NaN if no replica was measured
            and _less_pca(one, metric, score.name, f"{REFERENCE}{score.name}", confidence).low > -1
            for one in able
        ]
        if expected == "fewer" and able and all(excluded):
            return "some architecture must need decidedly fewer latents than PCA, and none can"
        return ""
    return ""


def _is_nonlinear(one: Contender) -> bool:
    return not any(cell.measurement is not None and cell.measurement.has_oracle for cell in one.ok)


def _order(
    question: Question,
    ranked: Sequence[Contender],
    found: dict[str, Standing],
    first_score: tuple[str, Score],
    confidence: float,
) -> Finding:
    """Return who comes first. ranked: by mean rank."""
    metric, score = first_score
    ranks = {one.architecture: rank for one in ranked if (rank := found[one.architecture].rank)}
    ahead = [one for one in ranked if ranks[one.architecture].best == 1]
    behind = [one for one in ranked if one not in ahead]
    names, others = ([one.architecture for one in group] for group in (ahead, behind))
    where = f"{question.title} On {ranked[0].dataset},"
    if len(ahead) == 1 and ranks[ahead[0].architecture].worst == 1:
        better = question.better or "is ranked first, better"
        values = f"{score.name} {_value(ahead[0], metric, score)}; {others[0]} {_value(behind[0], metric, score)}"
        text = f"{where} {names[0]} {better} than {_listed(others)} ({values})."
        return Finding(text, question.id, "first", tuple(names), tuple(others))
    if len(ahead) == 1:
        text = f"{where} nobody is decidedly better than {names[0]}"
    else:
        difference = _difference(ahead[0], ahead[-1], metric, score, confidence)
        apart = f"{score.name} of {names[0]} less that of {names[-1]}: {_interval(difference)}"
        few = ", in too few runs to hold for all pairs together" if difference.decided else ""
        text = f"{where} nothing is decided between {_all(names, len(ranked))} ({apart}{few})"
    if others:
        verb = "is" if len(others) == 1 else "are each"
        text += f"; {_listed(others)} {verb} decidedly behind another"
    return Finding(f"{text}.", question.id, "together", tuple(names), tuple(others))


def _against_pca(
    question: Question, results: SuiteResults, compared: Sequence[Contender], metric: str, score: Score
) -> Finding | None:
    """Return which architectures need decidedly fewer latents than PCA; None where a score does not say so."""
    reference = f"{REFERENCE}{score.name}"
    if score.unit != LATENTS or reference not in {one.name for name, one in declared_scores(results) if name == metric}:
        return None
    measured = [
        one
        for one in compared
        if len(one.ok) == len(one.cells) == len(one.values(metric, score.name)) == len(one.values(metric, reference))
    ]
    pca = [value for one in measured for value in one.values(metric, reference).values()]
    if not pca or not all(map(math.isfinite, pca)):
        return None
    confidence = 1 - (1 - confidence_of(results)) / len(measured)
    fewer = [one for one in measured if _is_fewer(one, metric, score.name, reference, confidence)]
    names = [one.architecture for one in fewer]
    others = [one.architecture for one in measured if one not in fewer]
    needs = f"PCA needs {_short(min(pca))}" if min(pca) == max(pca) else f"PCA needs {min(pca):g} to {max(pca):g}"
    where = f"On {compared[0].dataset}, {metric}/{score.name}:"
    if not fewer:
        who = others[0] if len(others) == 1 else "none of " + _listed(others)
        verb = "does not need" if len(others) == 1 else "needs"
        text = f"{where} {who} {verb} decidedly fewer latents than PCA ({needs})."
    else:
        values = {one.architecture: _value(one, metric, score) for one in fewer}
        counts = [f"{name} needs {value} latent{'s' * (value != '1')}" for name, value in values.items()]
        rest = f"; {_listed(others)} {'needs' if len(others) == 1 else 'need'} not decidedly fewer" if others else ""
        text = f"{where} {_listed(counts)} where {needs}{rest}."
    return Finding(text, question.id, "fewer", tuple(names), tuple(others))


def _is_fewer(one: Contender, metric: str, name: str, reference: str, confidence: float) -> bool:
    difference = _less_pca(one, metric, name, reference, confidence)
    return difference.decided and difference.value < 0


def _less_pca(one: Contender, metric: str, name: str, reference: str, confidence: float) -> Difference:
    """Return the score of an architecture less that of PCA."""
    ours, theirs = one.values(metric, name), one.values(metric, reference)
    seeds = sorted(ours)
    return paired_difference([[ours[s] for s in seeds]], [[theirs[s] for s in seeds]], confidence)


def _difference(one: Contender, other: Contender, metric: str, score: Score, confidence: float) -> Difference:
    ours, theirs = one.values(metric, score.name), other.values(metric, score.name)
    seeds = sorted(ours.keys() & theirs.keys())
    return paired_difference([[ours[s] for s in seeds]], [[theirs[s] for s in seeds]], confidence)


def _mean(found: dict[str, Standing], one: Contender) -> float:
    rank = found[one.architecture].rank
    return rank.mean if rank else math.inf


def _value(one: Contender, metric: str, score: Score) -> str:
    return _number(*t_interval(list(one.values(metric, score.name).values())))


def _interval(difference: Difference) -> str:
    return _number(difference.value, difference.low, difference.high)


def _number(mean: float, low: float, high: float) -> str:
    """Return a value with half of its interval, as short as the interval allows."""
    half = (high - low) / 2
    if math.isinf(mean):
        return "not reached"
    if math.isnan(half) or half == 0:
        return _short(mean) if half == 0 else f"{_short(mean)}, no interval"
    digits = max(0, -math.floor(math.log10(half)))
    return f"{round(mean, digits) + 0.0:.{digits}f} ± {half:.{digits}f}"


def _short(value: float) -> str:
    return f"{value:.4g}"


def _all(names: Sequence[str], count: int) -> str:
    return f"all {count} architectures" if len(names) == count > _MANY else _listed(names)


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
