"""The board as a report for people; it can be written in any format and read back."""

from __future__ import annotations

import io
import json
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from collapsebench.contracts import Score
from collapsebench.publishing.report import Report, Table, TableColumn, number, written
from collapsebench.ranking.board import (
    COLUMNS,
    FOOTER,
    QUESTION,
    RANKS,
    complete_board,
    converged_share,
    headline_scores,
    interval_method,
    origin,
    resolved_text,
)
from collapsebench.ranking.findings import failed_controls, findings
from collapsebench.ranking.ranks import CONFIDENCE, t_interval
from collapsebench.ranking.standings import (
    LATENTS,
    Contender,
    Standing,
    Together,
    asked_together,
    comparisons,
    declared_scores,
    overall_standings,
    ranking_scores,
    standings,
    value_of,
    why_missing,
)
from collapsebench.scoring.results import RANK, SuiteResults

UNRANKED = "unranked"
NOTHING = "-"
_ARROWS = {"higher": "↑", "lower": "↓", "none": ""}


def board_report(results: SuiteResults) -> Report:
    """Return what a board shows; the same results give the same text."""
    compared = comparisons(results)
    overall = [_overall(results, one) for one in asked_together(results)]
    single = [
        _table(results, f"{dataset}, {objective}", contenders) for (dataset, objective), contenders in compared.items()
    ]
    tables = [*overall, *single]
    if tables and (failed := failed_controls(results)):
        tables[0] = replace(tables[0], lead=(*failed, *tables[0].lead))
    return Report(results.title or results.suite, tuple(tables), tuple(_footer(results)))


def render(results: SuiteResults, format: str, *, standalone: bool = False) -> str:
    """Return the board as "text", "md", "tex" or "html" for people, or as a long table, "csv" or "json".

    csv: `complete_board`; numbers in full, infinity as `inf`, a missing number as an empty field; `read_board` restores
    it exactly. json: a list of records of the same; it knows no infinity, so a missing number and an infinite one are
    both null: a null value with n_ok above 0 is "not reached", one with n_ok = 0 is missing. tex: tables for `\\input`,
    or with `standalone` a document. html: a document.
    """
    if format == "csv":
        return complete_board(results).to_csv(index=False, lineterminator="\n")
    if format == "json":
        return json_text(complete_board(results))
    return written(board_report(results), format, standalone=standalone)


def json_text(frame: pd.DataFrame) -> str:
    """Return a frame as a list of records in JSON, what is missing or infinite as null."""
    records = [{key: _json_value(value) for key, value in row.items()} for row in frame.to_dict("records")]
    return json.dumps(records, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def read_board(text: str) -> pd.DataFrame:
    """Return the long table of a board from its CSV, with the columns' types as `complete_board` gives them."""
    # Read as text first: pandas's own reader of numbers may be off by the last bit, and takes some names for missing.
    frame = pd.read_csv(io.StringIO(text), dtype="str", keep_default_na=False)
    types = {column: kind for column, kind in (COLUMNS | RANKS | FOOTER | QUESTION).items() if column in frame}
    numbers = {column: {"": "nan"} for column, kind in types.items() if kind == "float64"}
    whole = {column: frame[column].replace({"": pd.NA}) for column, kind in types.items() if kind == "Int64"}
    return frame.replace(numbers).assign(**whole).astype(types)


def _table(results: SuiteResults, title: str, compared: Sequence[Contender]) -> Table:
    """Return the table of one dataset and objective."""
    found = {question.id: standings(results, compared, question) for question in results.questions}
    suited = [contender for contender in compared if not contender.is_unsuited] or compared
    rows = sorted(suited, key=lambda contender: [_place(one[contender.architecture]) for one in found.values()])
    scores = [
        TableColumn(_header(metric, score), tuple(_cell(contender, metric, score) for contender in rows))
        for metric, score in headline_scores(results)
    ]
    names = [contender.architecture for contender in rows]
    fixed, said = _fixed(names, found, [[g] for g in rows]), tuple(one.text for one in findings(results, compared))
    return Table(title, fixed, tuple(scores), tuple(_notes(results, compared)), said, named=len(found))


def _overall(results: SuiteResults, asked: Together) -> Table:
    """Return the table over all datasets of a track with one objective: the mean rank, and the rank on each of them."""
    question, compared = asked.question, comparisons(results)
    found, ranked_on, left_out = overall_standings(results, asked.objective, question, asked.track)
    boards = {dataset: compared[dataset, asked.objective] for dataset in asked.datasets}
    names = sorted(found, key=lambda name: _place(found[name]))
    contenders = [[g for together in boards.values() for g in together if g.architecture == name] for name in names]
    columns = []
    for dataset, contenders_there in boards.items():
        ranked = standings(results, contenders_there, question)
        cells = tuple(_rank(ranked[name]) if name in ranked else NOTHING for name in names)
        columns.append(TableColumn((dataset, "rank ↓"), cells))
    notes = _grouped(
        ((name, f"not ranked: {_sentence(standing.reason)}") for name, standing in found.items() if standing.reason),
        ("is", "are"),
    )
    if left_out and ranked_on:
        notes.append(f"Left out of the overall rank, since nothing is complete there: {', '.join(left_out)}.")
    return Table(
        f"{asked.title}: {question.title}" if question.title else asked.title,
        _fixed(names, {question.id: found}, contenders),
        tuple(columns),
        tuple(notes),
    )


def _fixed(
    names: Sequence[str], found: Mapping[str, Mapping[str, Standing]], contenders: Sequence[Sequence[Contender]]
) -> tuple[TableColumn, ...]:
    """Return the columns that every table has. found: question -> standings. contenders: per row, those summed up."""
    ok = [f"{sum(len(g.ok) for g in row)}/{sum(len(g.cells) for g in row)}" for row in contenders]
    ranks = [
        TableColumn(("rank", "↓") if question == RANK else ("rank", question, "↓"), tuple(_rank(one[n]) for n in names))
        for question, one in found.items()
    ]
    means = [
        TableColumn(("mean rank", "↓"), tuple(f"{at.mean:.2f}" if (at := one[n].rank) else NOTHING for n in names))
        for one in found.values()
    ]
    return (
        *ranks,
        TableColumn(("architecture",), tuple(names)),
        TableColumn(("runs ok", "of planned"), tuple(ok)),
        TableColumn(("converged", "↑ share"), tuple(_converged(row) for row in contenders)),
        TableColumn(("resolved", "↑ ranks"), tuple(map(resolved_text, contenders))),
        *(means if len(means) == 1 else []),
    )


def _place(standing: Standing) -> float:
    return standing.rank.mean if standing.rank else math.inf


def _rank(standing: Standing) -> str:
    return standing.rank.text if standing.rank else UNRANKED


def _header(metric: str, score: Score) -> tuple[str, ...]:
    sense = " ".join(part for part in (_ARROWS[score.direction], score.unit) if part)
    return metric, score.name, *([sense] if sense else [])


def _cell(contender: Contender, metric: str, score: Score) -> str:
    values = list(contender.values(metric, score.name).values())
    if not values:
        return NOTHING
    infinite = sum(map(math.isinf, values))
    if not infinite:
        text = number(*t_interval(values))
        return text if len(values) == len(contender.cells) else f"{text} (n = {len(values)})"
    sizes = {cell.measurement.latent_dim for cell in contender.ok if cell.measurement is not None}
    bound = f"> {sizes.pop()}" if score.unit == LATENTS and len(sizes) == 1 else "not reached"
    return bound if infinite == len(contender.cells) else f"{bound} ({infinite} of {len(values)})"


def _converged(contenders: Sequence[Contender]) -> str:
    share = converged_share(contenders)
    # Rounded down, so that 100 % means every replica.
    return NOTHING if math.isnan(share) else f"{math.floor(100 * share + 1e-9)} %"


def _notes(results: SuiteResults, compared: Sequence[Contender]) -> list[str]:
    """Return what a table's reader must know: who is not ranked, what did not end ok, which score is missing."""
    unsuited = {contender.architecture: contender.cells[0].reason for contender in compared if contender.is_unsuited}
    reasons: dict[tuple[str, str], list[str]] = {}
    for question in results.questions:
        for name, standing in standings(results, compared, question).items():
            if standing.reason:
                reason = ": ".join(filter(None, (standing.reason, unsuited.get(name))))
                reasons.setdefault((name, reason), []).append(question.id)
    unranked = _grouped(
        (
            (name, f"not ranked{asked_by(asked, results)}: {_sentence(reason)}")
            for (name, reason), asked in reasons.items()
        ),
        ("is", "are"),
    )
    failed = [
        f"{cell.architecture}, seed {cell.seed}: {_sentence(why_missing(cell, '', ''))}"
        for contender in compared
        for cell in contender.cells
        if cell.status != "ok" and contender.architecture not in unsuited
    ]
    missing: dict[tuple[str, str, str], list[str]] = {}
    for contender in compared:
        for metric, score in declared_scores(results):
            lacking = [cell for cell in contender.ok if math.isnan(value_of(cell, metric, score.name))]
            for reason in dict.fromkeys(why_missing(cell, metric, score.name) for cell in lacking):
                count = sum(why_missing(cell, metric, score.name) == reason for cell in lacking)
                key = (contender.architecture, f"{count} of {len(contender.ok)} runs", reason)
                missing.setdefault(key, []).append(f"{metric}/{score.name}")
    gaps = _grouped(
        (
            (architecture, f"no {', '.join(names)} in {runs}: {_sentence(reason)}")
            for (architecture, runs, reason), names in missing.items()
        ),
        ("has", "have"),
    )
    metastable = [text for contender in compared if (text := metastable_note(contender))]
    return [
        *unranked,
        *failed,
        *unusable_scores(results),
        *metastable,
        *gaps,
        *_about(results.datasets.get(compared[0].dataset, {})),
    ]


def asked_by(asked: Sequence[str], results: SuiteResults) -> str:
    """Return the questions to which a reason applies, as part of a sentence; "" if to all."""
    return "" if len(asked) == len(results.questions) else f" by {', '.join(asked)}"


def unusable_scores(results: SuiteResults) -> list[str]:
    """Return a note for each question of which a score cannot rank."""
    problems = {question.id: ranking_scores(results, question)[1] for question in results.questions}
    return [
        f"Not ranked by every score asked for{asked_by([name], results)}: {problem}."
        for name, problem in problems.items()
        if problem
    ]


def _grouped(said: Iterable[tuple[str, str]], verbs: tuple[str, str]) -> list[str]:
    """Return sentences, one for all architectures of which the same is said.

    said: the name of an architecture, and what follows the verb. verbs: for one, for several.
    """
    together: dict[str, list[str]] = {}
    for name, text in said:
        together.setdefault(text, []).append(name)
    return [f"{', '.join(names)} {verbs[len(names) > 1]} {text}" for text, names in together.items()]


def metastable_note(contender: Contender) -> str:
    """Return a sentence on the replicas that rest although other weights would cost less; empty if there are none."""
    tables = [cell.measurement.tables["replicas"] for cell in contender.cells if cell.measurement is not None]
    found = [table[table["mark"] == "metastable"] for table in tables]
    at = sorted(float(t) for table in found for t in table["temperature"])
    if not at:
        return ""
    total, gap = sum(map(len, tables)), max(float(table["envelope_gap"].max()) for table in found if len(table))
    where = f"T = {at[0]:.2g}" if at[0] == at[-1] else f"T from {at[0]:.2g} to {at[-1]:.2g}"
    verb, who, its = ("is", "It rests", "its") if len(at) == 1 else ("are", "They rest", "their")
    return (
        f"{contender.architecture}: {len(at)} of {total} replicas {verb} metastable, at {where}. {who}, but the "
        f"weights of another replica of the scan would cost up to {100 * gap:.2g} % less at {its} price."
    )


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
    names = {
        question: ", ".join(f"{metric}/{score.name}" for metric, score in ranking_scores(results, question)[0])
        for question in results.questions
    }
    several = " and questions" if len(names) > 1 else ""
    tie = (
        f"a range of ranks is a tie: together the ranges cover the true ranks with {100 * CONFIDENCE:g} % confidence "
        f"(differences in mean rank, paired by dataset and seed, over all pairs{several} together)."
    )
    asked = [
        f"{question.id}: {question.title} Ranked by {scores or 'nothing'}."
        for question, scores in names.items()
        if question.title
    ]
    ranked = [*asked, f"{tie[0].upper()}{tie[1:]}"] if asked else [f"Ranked by {one}; {tie}" for one in names.values()]
    if any(question.id == RANK and len(question.scores) > 1 for question in results.questions):
        ranked.append("These scores are mixed into one rank; a suite with [[questions]] ranks by each question alone.")
    source = origin(results)
    facts = [f"suite {results.suite} {source['suite_hash']}".rstrip(), source["versions"], source["hardware"]]
    date = [f"date {source['date']}"] if source["date"] else []
    commands = results.provenance.get("commands")
    return [
        *(ranked if any(names.values()) else ["Nothing is ranked."]),
        f"{interval_method(results)}.",
        *(["Scores are those of the replicas at equilibrium only."] if results.provenance.get("scores_from") else []),
        "↑ more is better, ↓ less is better; converged: share of replicas at equilibrium: stationary, stable, at "
        "rest, and undercut by no other replica of the scan; resolved: principal components that the replicas at "
        "equilibrium resolve in every run, of those that all replicas would.",
        "Provenance: " + ", ".join([*(fact for fact in facts if fact), *date]) + ".",
        *([f"Repeated by: {', then '.join(commands)}"] if commands else []),
    ]


def _sentence(reason: str, limit: int = 300) -> str:
    return textwrap.shorten(reason, limit, placeholder=" ...").rstrip(".") + "."


def _json_value(value: Any) -> Any:
    return None if value is pd.NA or (isinstance(value, float) and not math.isfinite(value)) else value
