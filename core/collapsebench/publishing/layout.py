"""What a board shows, as text that every format writes out: columns, cells, notes and footer, made once."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from collapsebench.contracts import Score
from collapsebench.ranking.ranks import CONFIDENCE, t_interval
from collapsebench.ranking.standings import (
    LATENTS,
    Group,
    Standing,
    comparisons,
    declared_scores,
    overall_standings,
    ranking_scores,
    standings,
    value_of,
    why_missing,
)
from collapsebench.scoring.results import SuiteResults

CONVERGED = ("equilibrium", "converged-share")
UNRANKED = "unranked"
NOTHING = "-"
_ARROWS = {"higher": "↑", "lower": "↓", "none": ""}
_VERSIONS = ("collapsebench", "git", "python", "torch")
_HARDWARE = ("cpu", "cores", "device", "precision")


@dataclass(frozen=True)
class Column:
    """One column: the lines of its header, the last of them direction and unit, and a cell for each row."""

    header: tuple[str, ...]
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Section:
    """One table, sorted by rank. fixed: what every table has, the row's name second; scores: what differs."""

    title: str
    fixed: tuple[Column, ...]
    scores: tuple[Column, ...]
    notes: tuple[str, ...]

    @property
    def columns(self) -> tuple[Column, ...]:
        """All columns, from left to right."""
        return (*self.fixed, *self.scores)

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """The cells, row by row."""
        return list(zip(*(column.cells for column in self.columns), strict=True))


@dataclass(frozen=True)
class Layout:
    """A title, sentences, tables and a footer: of a board, a table over all datasets, then one per dataset."""

    title: str
    sections: tuple[Section, ...]
    footer: tuple[str, ...]
    lead: tuple[str, ...] = ()


def layout(results: SuiteResults) -> Layout:
    """Return what a board shows; the same results give the same text."""
    compared = comparisons(results)
    objectives = {objective: sum(name == objective for _, name in compared) for _, objective in compared}
    overall = [_overall(results, objective) for objective, datasets in objectives.items() if datasets > 1]
    single = [_section(results, f"{dataset}, {objective}", groups) for (dataset, objective), groups in compared.items()]
    return Layout(results.title or results.suite, (*overall, *single), tuple(_footer(results)))


def number(mean: float, low: float = math.nan, high: float = math.nan) -> str:
    """Return `mean ± half-width` with two significant digits of the half-width, or four of the mean without one."""
    half = (high - low) / 2
    size = max(abs(mean), 0.0 if math.isnan(half) else half)
    if size and not 1e-3 <= size < 1e5:
        exponent = math.floor(math.log10(size))
        scale = 10.0**exponent
        text = number(mean / scale, low / scale, high / scale)
        return f"({text})e{exponent}" if "±" in text else f"{text}e{exponent}"
    if math.isnan(half):
        return f"{mean:.4g}"
    if half == 0:
        return f"{mean:.4g} ± 0"
    digits = max(0, 1 - math.floor(math.log10(half)))
    if digits > 6:
        return f"{mean:.6g} ± {half:.1g}"
    rounded = round(mean, digits) + 0.0  # no minus before a zero
    return f"{rounded:.{digits}f} ± {half:.{digits}f}"


def interval_method(results: SuiteResults) -> str:
    """Return the sentence on the intervals of the scores: what they are, and over how many seeds."""
    seeds = sorted({cell.seed for cell in results.cells})
    counted = f"{len(seeds)} seed{'s' * (len(seeds) != 1)} ({', '.join(map(str, seeds))})"
    if len(seeds) < 2:
        return f"{counted}; no interval: fewer than two seeds"
    return f"{counted}; ±: {100 * CONFIDENCE:g} % t-interval over seeds, n = {len(seeds)} unless a cell says otherwise"


def origin(results: SuiteResults) -> dict[str, str]:
    """Return where a board comes from: suite_hash, versions, hardware, date ("" unknown; tables go without it)."""
    known = {key: value for key, value in results.provenance.items() if value not in (None, "")}
    return {
        "suite_hash": str(known.get("suite_hash", ""))[:12],
        "versions": ", ".join(f"{key} {known[key]}" for key in _VERSIONS if key in known),
        "hardware": ", ".join(f"{key} {known[key]}" for key in _HARDWARE if key in known),
        "date": str(known.get("date", "")),
    }


def headline_scores(results: SuiteResults) -> list[tuple[str, Score]]:
    """Return the scores that a board shows: those it ranks by, then the first one of every other metric."""
    shown, _ = ranking_scores(results)
    seen = {metric for metric, _ in shown}
    for metric, score in declared_scores(results):
        if metric not in seen and (metric, score.name) != CONVERGED:
            seen.add(metric)
            shown.append((metric, score))
    return shown


def _section(results: SuiteResults, title: str, compared: Sequence[Group]) -> Section:
    """Return the table of one dataset and objective."""
    found = standings(results, compared)
    rows = sorted(compared, key=lambda group: _place(found[group.architecture]))
    scores = [
        Column(_header(metric, score), tuple(_cell(group, metric, score) for group in rows))
        for metric, score in headline_scores(results)
    ]
    names = [group.architecture for group in rows]
    return Section(title, _fixed(names, found, [[g] for g in rows]), tuple(scores), tuple(_notes(results, compared)))


def _overall(results: SuiteResults, objective: str) -> Section:
    """Return the table over all datasets with one objective: the mean rank, and the rank on each of them."""
    found, used, left_out = overall_standings(results, objective)
    boards = {dataset: groups for (dataset, name), groups in comparisons(results).items() if name == objective}
    names = sorted(found, key=lambda name: _place(found[name]))
    groups = [[g for together in boards.values() for g in together if g.architecture == name] for name in names]
    columns = []
    for dataset, compared in boards.items():
        own = standings(results, compared)
        cells = tuple(_rank(own[name]) if name in own else NOTHING for name in names)
        columns.append(Column((dataset, "rank ↓"), cells))
    notes = [
        f"{name} is not ranked: {_sentence(standing.reason)}" for name, standing in found.items() if standing.reason
    ]
    if left_out and used:
        notes.append(f"Left out of the overall rank, since nothing is complete there: {', '.join(left_out)}.")
    return Section(
        f"All {len(boards)} datasets together, {objective}", _fixed(names, found, groups), tuple(columns), tuple(notes)
    )


def _fixed(
    names: Sequence[str], found: Mapping[str, Standing], groups: Sequence[Sequence[Group]]
) -> tuple[Column, ...]:
    """Return the columns that every table has; groups: per row, those that it sums up."""
    ok = [f"{sum(len(g.ok) for g in row)}/{sum(len(g.cells) for g in row)}" for row in groups]
    means = [f"{rank.mean:.2f}" if (rank := found[name].rank) else NOTHING for name in names]
    return (
        Column(("rank", "↓"), tuple(_rank(found[name]) for name in names)),
        Column(("architecture",), tuple(names)),
        Column(("runs ok", "of planned"), tuple(ok)),
        Column(("converged", "↑ share"), tuple(_converged(row) for row in groups)),
        Column(("mean rank", "↓"), tuple(means)),
    )


def _place(standing: Standing) -> float:
    return standing.rank.mean if standing.rank else math.inf


def _rank(standing: Standing) -> str:
    return standing.rank.text if standing.rank else UNRANKED


def _header(metric: str, score: Score) -> tuple[str, ...]:
    sense = " ".join(part for part in (_ARROWS[score.direction], score.unit) if part)
    return metric, score.name, *([sense] if sense else [])


def _cell(group: Group, metric: str, score: Score) -> str:
    values = list(group.values(metric, score.name).values())
    if not values:
        return NOTHING
    infinite = sum(map(math.isinf, values))
    if not infinite:
        text = number(*t_interval(values))
        return text if len(values) == len(group.cells) else f"{text} (n = {len(values)})"
    sizes = {cell.measurement.latent_dim for cell in group.ok if cell.measurement is not None}
    bound = f"> {sizes.pop()}" if score.unit == LATENTS and len(sizes) == 1 else "not reached"
    return bound if infinite == len(group.cells) else f"{bound} ({infinite} of {len(values)})"


def converged_share(groups: Sequence[Group]) -> float:
    """Return the share of replicas that converged, over the cells that ended ok; NaN where it is not known."""
    shares = []
    for cell in (cell for group in groups for cell in group.ok):
        share = value_of(cell, *CONVERGED)
        if math.isnan(share) and cell.measurement is not None:
            share = float((cell.measurement.tables["replicas"]["mark"] == "converged").mean())
        shares.append(share)
    known = [share for share in shares if not math.isnan(share)]
    return sum(known) / len(known) if known else math.nan


def _converged(groups: Sequence[Group]) -> str:
    share = converged_share(groups)
    # Rounded down, so that 100 % means every replica.
    return NOTHING if math.isnan(share) else f"{math.floor(100 * share + 1e-9)} %"


def _notes(results: SuiteResults, compared: Sequence[Group]) -> list[str]:
    """Return what a table's reader must know: who is not ranked, what did not end ok, which score is missing."""
    _, problem = ranking_scores(results)
    unsuited = {group.architecture: group.cells[0].reason for group in compared if group.is_unsuited}
    unranked = [
        f"{name} is not ranked: {_sentence(': '.join(filter(None, (standing.reason, unsuited.get(name)))))}"
        for name, standing in standings(results, compared).items()
        if standing.reason
    ]
    failed = [
        f"{cell.architecture}, seed {cell.seed}: {_sentence(why_missing(cell, '', ''))}"
        for group in compared
        for cell in group.cells
        if cell.status != "ok" and group.architecture not in unsuited
    ]
    left_out = [f"Not ranked by every score asked for: {problem}."] if problem else []
    missing: dict[tuple[str, str, str], list[str]] = {}
    for group in compared:
        for metric, score in declared_scores(results):
            lacking = [cell for cell in group.ok if math.isnan(value_of(cell, metric, score.name))]
            for reason in dict.fromkeys(why_missing(cell, metric, score.name) for cell in lacking):
                count = sum(why_missing(cell, metric, score.name) == reason for cell in lacking)
                key = (group.architecture, f"{count} of {len(group.ok)} runs", reason)
                missing.setdefault(key, []).append(f"{metric}/{score.name}")
    gaps = [
        f"{architecture} has no {', '.join(names)} in {runs}: {_sentence(reason)}"
        for (architecture, runs, reason), names in missing.items()
    ]
    return [*unranked, *failed, *left_out, *gaps, *_about(results.datasets.get(compared[0].dataset, {}))]


def _about(dataset: Mapping[str, Any]) -> list[str]:
    """Return a line on the data (citation, revision, licence, what was left out), and one for each of its notices."""
    parts = [
        str(dataset.get("citation", "")),
        *(f"{key} {dataset[key]}" for key in ("revision", "licence") if dataset.get(key)),
        *([f"left out: {', '.join(map(str, dataset['left_out']))}"] if dataset.get("left_out") else []),
    ]
    text = "; ".join(part.rstrip(". ") for part in parts if part)
    notices = [f"Notice: {notice}." for notice in dataset.get("notices", ())]
    return [f"Data: {text}.", *notices] if text else notices


def _footer(results: SuiteResults) -> list[str]:
    ranking, _ = ranking_scores(results)
    names = ", ".join(f"{metric}/{score.name}" for metric, score in ranking)
    ranked = (
        f"Ranked by {names}; a range of ranks is a tie: together the ranges cover the true ranks with "
        f"{100 * CONFIDENCE:g} % confidence (differences in mean rank, paired by dataset and seed, over all pairs "
        "together)."
    )
    found = origin(results)
    facts = [f"suite {results.suite} {found['suite_hash']}".rstrip(), found["versions"], found["hardware"]]
    date = [f"date {found['date']}"] if found["date"] else []
    commands = results.provenance.get("commands")
    return [
        ranked if names else "Nothing is ranked.",
        f"{interval_method(results)}.",
        "↑ more is better, ↓ less is better; converged: share of replicas at equilibrium.",
        "Provenance: " + ", ".join([*(fact for fact in facts if fact), *date]) + ".",
        *([f"Repeated by: {', then '.join(commands)}"] if commands else []),
    ]


def _sentence(reason: str, limit: int = 300) -> str:
    return textwrap.shorten(reason, limit, placeholder=" ...").rstrip(".") + "."
