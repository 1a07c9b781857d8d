"""Each law of datasets finds the component that breaks it and names the reason."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from collapsebench import contracts as api
from collapsebench.contracts import (
    Data,
    Parameters,
    Split,
)


def draw(seed: int, rows: int = 8) -> Data:
    generator = np.random.default_rng(seed)
    parts: dict[str, Any] = {
        name: Split(generator.standard_normal((rows, 3)).astype(np.float32)) for name in api.SPLITS
    }
    return Data(**parts, feature_names=("a", "b", "c"))


class Good(api.Dataset[Parameters]):
    def load(self, seed: int, cache: Path) -> Data:
        return self.changed(draw(seed))

    def changed(self, data: Data) -> Data:
        return data


class Wide(Good):
    def changed(self, data: Data) -> Data:
        return Data(Split(data.train.values.astype(np.float64)), data.validation, data.test, data.feature_names)  # type: ignore[arg-type]


class Ragged(Good):
    def changed(self, data: Data) -> Data:
        return Data(data.train, Split(data.validation.values[:, :2]), data.test, data.feature_names)


class OneRow(Good):
    def changed(self, data: Data) -> Data:
        return Data(data.train, data.validation, Split(data.test.values[:1]), data.feature_names)


class Undefined(Good):
    def changed(self, data: Data) -> Data:
        data.test.values[5] = np.nan
        return data


class Constant(Good):
    def changed(self, data: Data) -> Data:
        return Data(Split(np.ones_like(data.train.values)), data.validation, data.test, data.feature_names)


class Repeated(Good):
    def changed(self, data: Data) -> Data:
        return Data(data.train, data.train, data.test, data.feature_names)


class Changing(Good):
    def load(self, seed: int, cache: Path) -> Data:
        return draw(int(np.random.default_rng().integers(1 << 30)))


class Calling(Good):
    def load(self, seed: int, cache: Path) -> Data:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", 9), timeout=0.1).close()
        return draw(seed)


class Unprepared(Good):
    def is_prepared(self, cache: Path) -> bool:
        return False


class Raising(Good):
    def load(self, seed: int, cache: Path) -> Data:
        raise ValueError("the file is garbled")


class Listed(Good):
    def load(self, seed: int, cache: Path) -> Data:
        return [1, 2]  # type: ignore[return-value]


BROKEN: list[tuple[api.Kind, type[Any], str, str]] = [
    ("dataset", Wide, "float32", "split train: values are float64"),
    ("dataset", Ragged, "shapes", "expected one shape after the first axis"),
    ("dataset", OneRow, "rows", "found {'test': 1} rows"),
    ("dataset", Undefined, "finite", "split test: row 5 and 0 more hold NaN"),
    ("dataset", Constant, "standardises", "all 3 features are constant"),
    ("dataset", Repeated, "apart", "two splits are equal"),
    ("dataset", Changing, "deterministic", "split train: two loads with seed 0 give different values"),
    ("dataset", Calling, "offline", "uses the network though it is prepared"),
    ("dataset", Unprepared, "prepares", "is_prepared is false after prepare"),
    ("dataset", Raising, "loads", "ValueError: the file is garbled"),
    ("dataset", Listed, "loads", "load returned list, expected collapsebench.Data"),
]


@pytest.mark.parametrize(("kind", "broken", "law", "reason"), BROKEN, ids=lambda v: getattr(v, "__name__", None))
def test_a_law_finds_the_component_that_breaks_it(findings, kind, broken, law, reason) -> None:
    found = findings(kind, broken)
    assert found[law].status == "fail", found
    assert reason in found[law].reason


@pytest.mark.parametrize(("kind", "good"), [("dataset", Good)])
def test_what_keeps_the_laws_passes_them_all(findings, kind, good) -> None:
    assert [finding for finding in findings(kind, good).values() if not finding.holds] == []


def test_a_law_that_presupposes_a_broken_one_is_not_checked_and_does_not_hold(findings) -> None:
    found = findings("dataset", Raising)
    assert found["finite"].status == "not checked"
    assert found["finite"].reason == "presupposes 'loads', which is broken"
    assert not found["finite"].holds
