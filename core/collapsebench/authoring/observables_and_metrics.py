"""Laws of observables and metrics, checked on small scans: solved exactly, untrained, and with a diverged replica."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from collapsebench.authoring.law import BrokenLawError, Law, Subject, require
from collapsebench.authoring.reference_scan import LATENTS, TEMPERATURES, ReferenceScan, reference_data, reference_scan
from collapsebench.contracts import SPLITS, Evaluation, Measurement, Metric, Observable, Registry
from collapsebench.observing.observe import measure
from collapsebench.scoring.score import checked

_NAME = re.compile(r"[a-z0-9.%]+(-[a-z0-9.%]+)*")
_LOST = 3


def forget_scans() -> None:
    """Discard the reference scans, since components that were checked before may have changed them."""
    _scan.cache_clear()
    reference_data.cache_clear()


@cache
def _scan(kind: str) -> ReferenceScan:
    return reference_scan(solved=kind != "untrained", lost=_LOST if kind == "lost" else None)


def _measured(id: str, observable: Observable[Any], kind: str) -> pd.DataFrame:
    scan = _scan(kind)
    with np.errstate(all="ignore"):
        return measure(id, observable, scan.model, [scan.samples(name) for name in observable.splits])


def _table(subject: Subject, kind: str = "solved") -> pd.DataFrame:
    component = subject.registered.component
    return subject.once(f"table {kind}", lambda: _measured(component.id, subject.create(), kind))


def _observable_declares(subject: Subject) -> str:
    observable: Observable[Any] = subject.create()
    require(bool(observable.splits), "splits is empty, expected at least one of train, validation, test.")
    strange = [name for name in observable.splits if name not in SPLITS]
    require(not strange, f"splits names {strange}, expected some of {list(SPLITS)}.")
    axis = observable.axis
    require(axis in (None, "latent", "rank"), f"axis is {axis!r}, expected None, 'latent' or 'rank'.")
    return f"{axis or 'no axis'}, on {', '.join(observable.splits)}"


def _observable_columns(subject: Subject) -> str:
    axis = subject.create().axis
    table = _table(subject)
    quantities = [name for name in table.columns if name not in ("replica", "split", "temperature", axis)]
    require(bool(quantities), "it returned no quantity, expected at least one named array.")
    wrong = [name for name in quantities if table[name].dtype.kind not in "fiub"]
    require(not wrong, f"{', '.join(wrong)} hold no numbers; return arrays of floats, integers or truth values.")
    return ", ".join(quantities)


def _observable_rows(subject: Subject) -> str:
    observable, table = subject.create(), _table(subject)
    length = {None: 1, "latent": LATENTS, "rank": LATENTS + 1}[observable.axis]
    for name in observable.splits:
        count, expected = int((table["split"] == name).sum()), len(TEMPERATURES) * length
        words = f"{len(TEMPERATURES)} replicas x {length}" if observable.axis else "one a replica"
        require(count == expected, f"split {name} has {count} rows, expected {expected}, {words}.")
    return ""


def _observable_finite(subject: Subject) -> str:
    table = _table(subject)
    bad = [name for name in table.columns if table[name].dtype.kind == "f" and not np.isfinite(table[name]).all()]
    require(not bad, f"{', '.join(bad)} hold NaN or infinity on a scan that is solved exactly.")
    return ""


def _observable_repeats(subject: Subject) -> str:
    again = _measured(subject.registered.component.id, subject.create(), "solved")
    differing = [name for name in again.columns if not again[name].equals(_table(subject)[name])]
    require(not differing, f"measured twice, {', '.join(differing)} differ; take randomness from model.noise alone.")
    return ""


def _observable_reads(subject: Subject) -> str:
    stack = _scan("solved").stack
    before = stack.weights()
    _measured(subject.registered.component.id, subject.create(), "solved")
    changed = [name for name, value in stack.weights().items() if not bool((value == before[name]).all())]
    stack.load(before)
    require(not changed, f"measuring it changed {', '.join(changed)}; an observable only reads.")
    return ""


def _observable_isolated(subject: Subject) -> str:
    good, beside = _table(subject), _table(subject, "lost")
    keep = good["replica"] != _LOST
    for name in good.columns:
        if good[name].dtype.kind == "f":
            one, two = (frame.loc[keep, name].to_numpy() for frame in (good, beside))
            same = np.allclose(one, two, rtol=1e-4, atol=1e-6, equal_nan=True)
            require(same, f"{name} of the other replicas changes where one replica has diverged to NaN.")
    return ""


OBSERVABLE = (
    Law("declares", "its axis and splits are legal", _observable_declares, presupposed=True),
    Law("columns", "on every split it gives a table of numbers", _observable_columns, presupposed=True),
    Law("rows", "one row a replica, times the length of its axis", _observable_rows),
    Law("finite", "it is finite on a solved scan", _observable_finite),
    Law("repeats", "measured twice, it is the same", _observable_repeats),
    Law("reads", "it leaves the model as it was", _observable_reads),
    Law("isolated", "a diverged replica leaves its neighbours unchanged", _observable_isolated),
)


def _metric_declares(subject: Subject) -> str:
    metric: Metric[Any] = subject.create()
    require(bool(metric.scores), "scores is empty, expected at least one collapsebench.Score.")
    names = [score.name for score in metric.scores]
    require(len(set(names)) == len(names), f"scores repeat a name: {names}.")
    for score in metric.scores:
        require(
            _NAME.fullmatch(score.name) is not None,
            f"score '{score.name}': expected lower-case words joined by single hyphens.",
        )
        bounds = f"score '{score.name}': low = {score.low:g} is not below high = {score.high:g}."
        require(score.low < score.high, bounds)
        legal = ("higher", "lower", "none")
        require(score.direction in legal, f"score '{score.name}': direction '{score.direction}', expected of {legal}.")
    return ", ".join(names)


def _metric_requires(subject: Subject) -> str:
    metric: Metric[Any] = subject.create()
    for name in metric.requires:
        subject.registry.find("observable", name)
    _measurement(subject, "solved")
    return ", ".join(metric.requires)


def _tables(registry: Registry, requires: tuple[str, ...], kind: str) -> dict[str, pd.DataFrame]:
    tables = {}
    for name in requires:
        observable = registry.get("observable", name).create()
        tables[name] = _measured(name, observable, kind).drop(columns="replica")
    return tables


def _measurement(subject: Subject, kind: str, *, has_oracle: bool = True) -> Measurement:
    metric: Metric[Any] = subject.create()
    tables = subject.once(f"tables {kind}", lambda: _tables(subject.registry, metric.requires, kind))
    return copy.deepcopy(_scan(kind).measurement(tables, has_oracle=has_oracle))  # the metric may write into its own


def _evaluated(subject: Subject, kind: str, *, has_oracle: bool = True) -> Evaluation:
    evaluation = subject.create().evaluate(_measurement(subject, kind, has_oracle=has_oracle))
    if not isinstance(evaluation, Evaluation):
        raise BrokenLawError(f"evaluate returned {type(evaluation).__name__}, expected collapsebench.Evaluation.")
    return evaluation


def _metric_complete(subject: Subject) -> str:
    declared, evaluation = {score.name for score in subject.create().scores}, _evaluated(subject, "solved")
    extra = sorted({*evaluation.values, *evaluation.reasons} - declared)
    require(not extra, f"returned undeclared scores {extra}; declare them in `scores`, or leave them out.")
    absent = sorted(declared - {*evaluation.values, *evaluation.reasons})
    require(not absent, f"returned neither a value nor a reason for {absent}.")
    empty = [name for name, reason in evaluation.reasons.items() if not reason.strip()]
    require(not empty, f"the reasons for {empty} are empty; say why there is no value.")
    frame = evaluation.modes is None or isinstance(evaluation.modes, pd.DataFrame)
    require(frame, f"modes is {type(evaluation.modes).__name__}, expected a pandas DataFrame or None.")
    explained = {name: reason for name, reason in evaluation.reasons.items() if name not in evaluation.values}
    return "; ".join(f"{name}: {reason}" for name, reason in explained.items())


def _metric_values(subject: Subject) -> str:
    evaluation = _evaluated(subject, "solved")
    require(bool(evaluation.values), f"no score has a value on a solved scan: {dict(evaluation.reasons)}.")
    return ", ".join(f"{name} = {value:.4g}" for name, value in evaluation.values.items())


def _metric_bounds(subject: Subject) -> str:
    evaluation = _evaluated(subject, "solved")
    for score in subject.create().scores:
        value = evaluation.values.get(score.name, score.low)
        inside = not math.isnan(value) and score.low <= value <= score.high
        require(inside, f"{score.name} is {value:g}, declared within [{score.low:g}, {score.high:g}].")
    return ""


def _metric_pure(subject: Subject) -> str:
    given = _measurement(subject, "solved")
    before = _snapshot(given)
    first, second = (subject.create().evaluate(given) for _ in range(2))
    changed = [name for name, content in _snapshot(given).items() if content != before[name]]
    require(not changed, f"evaluating changed {', '.join(changed)} of the measurement; work on copies.")
    same = dict(first.values) == dict(second.values) and dict(first.reasons) == dict(second.reasons)
    require(same, "evaluated twice on the same measurement, it gives other scores; take no randomness, keep no state.")
    return ""


def _snapshot(measurement: Measurement) -> dict[str, Any]:
    frames = {f"table '{name}'": table.to_csv() for name, table in measurement.tables.items()}
    arrays: Mapping[str, Any] = {
        "temperatures": measurement.temperatures,
        "pca.eigenvalues": measurement.pca.eigenvalues,
        "pca.components": measurement.pca.components,
        **{f"pca.rank_distortion {name}": value for name, value in measurement.pca.rank_distortion.items()},
        **{f"second_moments {name}": value for name, value in measurement.second_moments.items()},
    }
    return {**frames, **{name: np.asarray(value).tobytes() for name, value in arrays.items()}}


def _metric_sturdy(subject: Subject) -> str:
    metric, id = subject.create(), subject.registered.component.id
    words = {"untrained": "an untrained scan", "solved": "a scan without theory", "lost": "a diverged replica"}
    for kind, has_oracle in (("untrained", True), ("solved", False), ("lost", True)):
        try:
            checked(id, metric, _evaluated(subject, kind, has_oracle=has_oracle))
        except Exception as error:
            text = " ".join(str(error).split())
            raise BrokenLawError(
                f"on {words[kind]}: {type(error).__name__}: {text}; give a reason instead of a value."
            ) from error
    return ""


METRIC = (
    Law("declares", "its scores have legal names, bounds and directions", _metric_declares, presupposed=True),
    Law("requires", "the observables it requires can be measured", _metric_requires, presupposed=True),
    Law("complete", "every declared score has a value or a reason, and no other", _metric_complete, presupposed=True),
    Law("values", "some score has a value on a solved scan", _metric_values),
    Law("bounds", "values lie within their declared bounds", _metric_bounds),
    Law("pure", "evaluated twice it is the same, and its input is unchanged", _metric_pure),
    Law("sturdy", "untrained, diverged or without theory, it still answers", _metric_sturdy),
)
