"""Laws of datasets: what they load is what the contract says, every time, and without the network once prepared."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np

from collapsebench.authoring.law import BrokenLawError, Law, Subject, require
from collapsebench.contracts import SPLITS, Data, Split
from collapsebench.data.standardise import standardise

_SEED = 0


def _load(subject: Subject) -> Data:
    data = subject.create().load(_SEED, subject.cache)
    if not isinstance(data, Data):
        raise BrokenLawError(f"load returned {type(data).__name__}, expected collapsebench.Data.")
    return data


def _loaded(subject: Subject) -> Data:
    return subject.once("data", lambda: _load(subject))


def _splits(subject: Subject) -> Iterator[tuple[str, Split]]:
    data = _loaded(subject)
    for name in SPLITS:
        yield name, getattr(data, name)


def _prepares(subject: Subject) -> str:
    dataset = subject.create()
    dataset.prepare(subject.cache)
    require(dataset.is_prepared(subject.cache), "is_prepared is false after prepare; let it look at what prepare made.")
    return ""


def _loads(subject: Subject) -> str:
    for name, split in _splits(subject):
        ok = isinstance(split, Split) and isinstance(split.values, np.ndarray)
        require(ok, f"split {name} is {type(split).__name__}, expected Split(values) with a NumPy array.")
    return ""


def _float32(subject: Subject) -> str:
    for name, split in _splits(subject):
        for what, array in (("values", split.values), ("weights", split.weights)):
            if array is not None:
                require(array.dtype == np.float32, f"split {name}: {what} are {array.dtype}, expected float32.")
    return ""


def _shapes(subject: Subject) -> str:
    shapes = {name: split.values.shape for name, split in _splits(subject)}
    ranks = {name: shape for name, shape in shapes.items() if len(shape) < 2}
    require(not ranks, f"found shapes {ranks}, expected (n, *shape).")
    same = len({shape[1:] for shape in shapes.values()}) == 1
    require(same, f"found {shapes}, expected one shape after the first axis.")
    return ""


def _rows(subject: Subject) -> str:
    few = {name: len(split.values) for name, split in _splits(subject) if len(split.values) < 2}
    require(not few, f"found {few} rows, expected at least 2 in each split.")
    return ""


def _finite(subject: Subject) -> str:
    for name, split in _splits(subject):
        bad = ~np.isfinite(split.values.reshape(len(split.values), -1)).all(axis=1)
        require(not bad.any(), f"split {name}: row {bad.argmax()} and {bad.sum() - 1} more hold NaN or infinity.")
    return ""


def _standardises(subject: Subject) -> str:
    ready = standardise(_loaded(subject), subject.registered.component.id)
    return f"leaves out constant features: {', '.join(ready.left_out[:5])}" if ready.left_out else ""


def _apart(subject: Subject) -> str:
    digests = {name: split.values.tobytes() for name, split in _splits(subject)}
    require(len(set(digests.values())) == len(SPLITS), "two splits are equal, expected splits that share no sample.")
    return ""


def _deterministic(subject: Subject) -> str:
    first, second = _loaded(subject), _load(subject)
    for name in SPLITS:
        one, two = getattr(first, name), getattr(second, name)
        for what in ("values", "weights"):
            a, b = getattr(one, what), getattr(two, what)
            same = (a is None) == (b is None) and (a is None or np.array_equal(a, b, equal_nan=True))
            require(
                same,
                f"split {name}: two loads with seed {_SEED} give different {what}; draw from "
                "numpy.random.default_rng(seed) and nothing else.",
            )
    require(first.feature_names == second.feature_names, "two loads with one seed give different feature names.")
    return ""


def _offline(subject: Subject) -> str:
    with no_network():
        dataset = subject.create()
        require(dataset.is_prepared(subject.cache), "is_prepared is false though it was prepared.")
        dataset.prepare(subject.cache)
        dataset.load(_SEED, subject.cache)
    return ""


@contextmanager
def no_network() -> Iterator[None]:
    """Refuse every connection and every look-up that Python code of this process asks for."""

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise BrokenLawError("uses the network though it is prepared; only a first `prepare` may.")

    with (
        mock.patch.multiple(socket.socket, connect=refuse, connect_ex=refuse, sendto=refuse),
        mock.patch("socket.getaddrinfo", refuse),
    ):
        yield


DATASET = (
    Law("prepares", "prepare leaves it prepared", _prepares, presupposed=True),
    Law("loads", "load returns Data with three splits", _loads, presupposed=True),
    Law("float32", "values and weights are float32", _float32),
    Law("shapes", "values are (n, *shape) with one shape for all splits", _shapes, presupposed=True),
    Law("rows", "each split has at least 2 rows", _rows),
    Law("finite", "values are finite", _finite),
    Law("standardises", "the harness can standardise it", _standardises),
    Law("apart", "no split equals another", _apart),
    Law("deterministic", "two loads with one seed are equal", _deterministic),
    Law("offline", "once prepared, it needs no network", _offline),
)
