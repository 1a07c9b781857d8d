"""A board as people read it: one table per dataset and objective, what is missing and why, where it comes from."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tabulate import MIN_PADDING, tabulate

from collapsebench import notebook
from collapsebench.components import Score
from collapsebench.ranking import CONFIDENCE, t_interval
from collapsebench.results import SuiteResults
from collapsebench.standings import (
    Group,
    comparisons,
    declared_scores,
    ranking_scores,
    standings,
    value_of,
    why_missing,
)

WIDTH = 120
CONVERGED = ("equilibrium", "converged-share")
_ARROWS = {"higher": "↑", "lower": "↓", "none": ""}
_FOOTER = ("collapsebench", "git", "python", "torch", "cpu", "cores", "device", "precision", "date")


@dataclass(frozen=True)
class _Column:
    header: tuple[str, ...]
    cells: tuple[str, ...]

    @property
    def width(self) -> int:
        return max(*(len(line) + MIN_PADDING for line in self.header), *map(len, self.cells))


def page(results: SuiteResults, *, markdown: bool = False) -> str:
    """Return the board as plain text of at most 120 columns, or as Markdown; the same results give the same bytes."""
    blocks = [_heading(results.title or results.suite, 1, markdown)]
    for (dataset, objective), compared in comparisons(results).items():
        blocks.append(_heading(f"{dataset}, {objective}", 2, markdown))
        blocks += _table(results, compared, markdown)
        blocks.append(_list(_notes(results, compared), markdown))
    blocks += ["---"] * markdown + [_list(_footer(results), markdown)]
    return "\n\n".join(block for block in blocks if block) + "\n"


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
    return f"{mean:.{digits}f} ± {half:.{digits}f}"


def page_html(results: SuiteResults) -> str:
    """Return the board for a notebook: the tables of `page` with their notes, every text escaped."""
    tables = []
    for (dataset, objective), compared in comparisons(results).items():
        columns = [column for part in _columns(results, compared) for column in part]
        rows = list(zip(*(column.cells for column in columns), strict=True))
        content = notebook.table(["\n".join(column.header) for column in columns], rows)
        tables.append((f"{dataset}, {objective}", content + notebook.paragraphs(_notes(results, compared))))
    return notebook.fragment(results.title or results.suite, [], tables) + notebook.paragraphs(_footer(results))


def _table(results: SuiteResults, compared: Sequence[Group], markdown: bool) -> list[str]:
    """Return the table of one dataset and objective, in as many pieces as the width of a terminal asks for."""
    fixed, headlines = _columns(results, compared)
    if markdown:
        return [_markdown([*fixed, *headlines])]
    return [_text(piece) for piece in _pieces(fixed, headlines)]


def _columns(results: SuiteResults, compared: Sequence[Group]) -> tuple[list[_Column], list[_Column]]:
    """Return the columns of one dataset and objective: those that every board has, and the scores."""
    found = standings(results, compared)
    ranks = {name: standing.rank for name, standing in found.items()}
    rows = sorted(compared, key=lambda group: rank.mean if (rank := ranks[group.architecture]) else math.inf)
    placed = [ranks[group.architecture] for group in rows]
    fixed = [
        _Column(("rank",), tuple(rank.text if rank else "-" for rank in placed)),
        _Column(("architecture",), tuple(group.architecture for group in rows)),
        _Column(("runs ok",), tuple(f"{len(group.ok)}/{len(group.cells)}" for group in rows)),
        _Column(("converged",), tuple(_converged(group) for group in rows)),
        _Column(("mean rank", "↓"), tuple(number(rank.mean, rank.low, rank.high) if rank else "-" for rank in placed)),
    ]
    headlines = [
        _Column(_header(metric, score), tuple(_cell(group, metric, score) for group in rows))
        for metric, score in headline_scores(results)
    ]
    return fixed, headlines


def headline_scores(results: SuiteResults) -> list[tuple[str, Score]]:
    """Return the scores that a board shows: those it ranks by, then the first one of every other metric."""
    shown, _ = ranking_scores(results)
    seen = {metric for metric, _ in shown}
    for metric, score in declared_scores(results):
        if metric not in seen and (metric, score.name) != CONVERGED:
            seen.add(metric)
            shown.append((metric, score))
    return shown


def _header(metric: str, score: Score) -> tuple[str, ...]:
    sense = " ".join(part for part in (_ARROWS[score.direction], score.unit) if part)
    return metric, score.name, *([sense] if sense else [])


def _cell(group: Group, metric: str, score: Score) -> str:
    values = list(group.values(metric, score.name).values())
    if not values:
        return "-"
    infinite = sum(map(math.isinf, values))
    if not infinite:
        text = number(*t_interval(values))
        return text if len(values) == len(group.cells) else f"{text} (n = {len(values)})"
    sizes = {cell.measurement.latent_dim for cell in group.ok if cell.measurement is not None}
    bound = f"> {sizes.pop()}" if score.unit == "latents" and len(sizes) == 1 else "not reached"
    return bound if infinite == len(group.cells) else f"{bound} ({infinite} of {len(values)})"


def _converged(group: Group) -> str:
    """Return the share of replicas that converged, over the cells that ended ok."""
    shares = []
    for cell in group.ok:
        share = value_of(cell, *CONVERGED)
        if math.isnan(share) and cell.measurement is not None:
            share = float((cell.measurement.tables["replicas"]["mark"] == "converged").mean())
        shares.append(share)
    known = [share for share in shares if not math.isnan(share)]
    # Rounded down, so that 100 % means every replica.
    return f"{math.floor(100 * sum(known) / len(known) + 1e-9)} %" if known else "-"


def _pieces(fixed: Sequence[_Column], columns: Iterable[_Column]) -> list[list[_Column]]:
    """Break columns into pieces no wider than a terminal; every piece names the architectures."""
    pieces = [list(fixed)]
    for column in columns:
        if sum(item.width + 2 for item in pieces[-1]) + column.width > WIDTH:
            pieces.append([fixed[1]])
        pieces[-1].append(column)
    return pieces


def _text(columns: Sequence[_Column]) -> str:
    headers = ["\n".join(column.header) for column in columns]
    body = list(zip(*(column.cells for column in columns), strict=True))
    return tabulate(body, headers, tablefmt="simple", disable_numparse=True)


def _markdown(columns: Sequence[_Column]) -> str:
    headers = ["<br>".join(map(_escaped, column.header)) for column in columns]
    body = list(zip(*(map(_escaped, column.cells) for column in columns), strict=True))
    return tabulate(body, headers, tablefmt="pipe", disable_numparse=True)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def _notes(results: SuiteResults, compared: Sequence[Group]) -> list[str]:
    """Return what a table's reader must know: who is not ranked, what did not end ok, which score is missing."""
    _, problem = ranking_scores(results)
    found = standings(results, compared).items()
    unranked = [f"{name} is not ranked: {_sentence(standing.reason)}" for name, standing in found if standing.reason]
    failed = [
        f"{cell.architecture}, seed {cell.seed}: {_sentence(why_missing(cell, '', ''))}"
        for group in compared
        for cell in group.cells
        if cell.status != "ok"
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
    seeds = sorted({cell.seed for cell in results.cells})
    ranking, _ = ranking_scores(results)
    names = ", ".join(f"{metric}/{score.name}" for metric, score in ranking)
    method = (
        f"±: {100 * CONFIDENCE:g} % t-interval over seeds" if len(seeds) > 1 else "no interval: fewer than two seeds"
    )
    facts = {key: value for key in _FOOTER if (value := results.provenance.get(key)) not in (None, "")}
    suite_hash = str(results.provenance.get("suite_hash", ""))[:12]
    named = [f"suite {results.suite}" + (f" {suite_hash}" if suite_hash else "")]
    return [
        f"Ranked by {names}; a range of ranks is a tie." if names else "Nothing is ranked.",
        f"{len(seeds)} seed{'s' * (len(seeds) != 1)} ({', '.join(map(str, seeds))}); {method}.",
        "Provenance: " + ", ".join([*named, *(f"{key} {value}" for key, value in facts.items())]) + ".",
    ]


def _sentence(reason: str, limit: int = 300) -> str:
    return textwrap.shorten(reason, limit, placeholder=" ...").rstrip(".") + "."


def _heading(text: str, level: int, markdown: bool) -> str:
    return f"{'#' * level} {text}" if markdown else f"{text}\n{'=-'[level - 1] * len(text)}"


def _list(lines: Sequence[str], markdown: bool) -> str:
    if markdown:
        return "\n".join(f"- {line}" for line in lines)
    wrapped = (textwrap.wrap(line, WIDTH, subsequent_indent="  ", break_on_hyphens=False) for line in lines)
    return "\n".join(part for lines in wrapped for part in lines)
