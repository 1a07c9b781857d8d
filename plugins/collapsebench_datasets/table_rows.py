"""Turn the frames of a table into rows of numbers, and draw a uniform sample of them in bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from collapsebench import DataError

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]
_NAMED = 5
_SHOWN = 3
_COMPARED = 65_536


def choose_columns(
    path: Path, names: Sequence[str], columns: Sequence[str] | None, leave_out: Sequence[str]
) -> list[str]:
    """Return the columns to read, in the order of the file."""
    unknown = [name for name in (*(columns or ()), *leave_out) if name not in names]
    if unknown:
        raise DataError(f"{path}: {_unknown(unknown, names)}")
    chosen = [name for name in names if (columns is None or name in columns) and name not in leave_out]
    if not chosen:
        raise DataError(
            f"{path}: `columns` and `leave_out` leave none of its {len(names)} columns, expected at least one. "
            "Leave out fewer."
        )
    return chosen


def _unknown(unknown: Sequence[str], names: Sequence[str]) -> str:
    import difflib

    close = difflib.get_close_matches(unknown[0], names, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return f"found no column {_listed(unknown)}.{hint} Its columns: {_listed(names, 20)}."


def numeric_rows(path: Path, frames: Iterable[pd.DataFrame], missing: str, notices: list[str]) -> Iterator[Floats]:
    """Yield the rows of consecutive frames as float64 `(n, columns)`; refuse text, and drop or refuse missing values.

    Messages count rows from 1, without the header. notices: receives a text if rows were dropped.
    """
    first, dropped = 1, 0
    absent: Counter[str] = Counter()
    where: dict[str, list[int]] = {}
    for frame in frames:
        values = _numbers(path, frame, first)
        known = np.isfinite(values)
        complete = known.all(axis=1)
        if not complete.all():
            for place in np.flatnonzero(~known.all(axis=0)):
                name, lacking = str(frame.columns[int(place)]), np.flatnonzero(~known[:, place])
                absent[name] += len(lacking)
                where.setdefault(name, []).extend((first + lacking[:_SHOWN]).tolist())
            dropped += int((~complete).sum())
        first += len(values)
        if missing == "drop-rows" or not absent:
            yield values if complete.all() else values[complete]
    rows = first - 1
    if absent and (missing == "error" or dropped == rows):
        listed = "; ".join(
            f"'{name}' in {'all' if count == rows else count} of {rows} rows "
            f"(first: {', '.join(map(str, where[name][:_SHOWN]))})"
            for name, count in absent.most_common(_NAMED)
        )
        more = f"; and {len(absent) - _NAMED} columns more" if len(absent) > _NAMED else ""
        drop = 'Drop these rows with missing = "drop-rows" (--missing drop-rows), or leave'
        advice = f"{drop if dropped < rows else 'No row is complete: leave'} {_leaving(list(absent))}."
        raise DataError(
            f"{path}: found missing or infinite values in {listed}{more}; expected finite numbers. {advice}"
        )
    if dropped:
        notices.append(f"{dropped} of {rows} rows were dropped: they hold missing or infinite values")


def _numbers(path: Path, frame: pd.DataFrame, first: int) -> Floats:
    """Return a frame as float64; a DataError names the columns with other values, and the first rows of these."""
    import pandas as pd

    offending: dict[str, str] = {}
    for name, column in frame.items():
        if pd.api.types.is_numeric_dtype(column.dtype) and column.dtype.kind != "c":
            continue
        converted, bad = _converted(column)
        if bad.any():
            rows = np.flatnonzero(bad)[:_SHOWN]
            offending[str(name)] = ", ".join(f"row {first + row}: {_quoted(column.iloc[row])}" for row in rows)
        else:
            frame = frame.assign(**{str(name): converted})
    if offending:
        listed = "; ".join(f"'{name}' ({rows})" for name, rows in list(offending.items())[:_NAMED])
        more = f"; and {len(offending) - _NAMED} columns more" if len(offending) > _NAMED else ""
        raise DataError(
            f"{path}: found values that are not numbers in {listed}{more}; expected numbers in every column. "
            f"Convert them, or leave {_leaving(list(offending))}."
        )
    return frame.to_numpy(dtype=np.float64, na_value=np.nan)


def _converted(column: pd.Series[Any]) -> tuple[pd.Series[Any], NDArray[np.bool_]]:
    """Return a column converted to numbers, and a mask of the values that are not numbers."""
    import pandas as pd

    present = column.notna().to_numpy(dtype=bool)
    if column.dtype.kind in "cmM" or isinstance(column.dtype, pd.DatetimeTZDtype):
        return column, present
    converted = pd.to_numeric(column.astype(object), errors="coerce")
    return converted, present & converted.isna().to_numpy(dtype=bool)


class RowSample:
    """A uniform sample of at most `limit` rows of a stream, without replacement, as float32, in the stream's order.

    Every row draws a random number; the rows with the smallest numbers are kept. offset `(columns,)`: a median of each
    column, subtracted before rounding to float32, so that a large constant costs no digits.
    """

    def __init__(self, limit: int, columns: int) -> None:
        self.seen = 0
        self.offset: Floats = np.zeros(columns)
        self._limit, self._capacity = limit, limit + max(1024, limit // 8)
        self._rows = np.empty((0, columns), dtype=np.float32)
        self._draws = np.empty(0)
        self._count, self._highest = 0, np.inf
        self._generator = np.random.default_rng([0, 7])

    def add(self, values: Floats) -> None:
        """Offer the next rows of the stream."""
        if not len(values):
            return
        if not self.seen:
            self.offset = np.median(values[:_COMPARED], axis=0)
        draws = self._generator.random(len(values))
        places = np.flatnonzero(draws <= self._highest)
        while len(places):
            taken, places = places[: self._capacity - self._count], places[self._capacity - self._count :]
            self._reserve(self._count + len(taken))
            into = slice(self._count, self._count + len(taken))
            with np.errstate(over="ignore"):  # what overflows is refused once all rows are there
                self._rows[into] = values[taken] - self.offset
            self._draws[into] = draws[taken]
            self._count += len(taken)
            if self._count == self._capacity:
                self._thin()
        self.seen += len(values)

    def finish(self) -> NDArray[np.float32]:
        """Return the sample."""
        if self._count > self._limit:
            self._thin()
        return self._rows[: self._count]

    def _reserve(self, count: int) -> None:
        if count > len(self._rows):
            size = min(self._capacity, max(count, 2 * len(self._rows)))
            for name in ("_rows", "_draws"):
                held = getattr(self, name)
                grown = np.empty((size, *held.shape[1:]), dtype=held.dtype)
                grown[: self._count] = held[: self._count]
                setattr(self, name, grown)

    def _thin(self) -> None:
        least = np.argpartition(self._draws[: self._count], self._limit - 1)[: self._limit]
        self._highest = float(self._draws[least].max())
        self._keep(np.sort(least))

    def _keep(self, chosen: NDArray[np.int64]) -> None:
        """Move the chosen rows, in ascending order, to the front; no row is overwritten before it has moved."""
        for first in range(0, len(chosen), _COMPARED):
            piece = chosen[first : first + _COMPARED]
            for held in (self._rows, self._draws):
                held[first : first + len(piece)] = held[piece]
        self._count = len(chosen)


def equal_columns(rows: NDArray[np.float32]) -> list[list[int]]:
    """Return the groups of columns that hold the same values; rows `(n, columns)`."""
    start = np.ascontiguousarray(rows[:4096].T)
    groups: dict[bytes, list[int]] = {}
    for place, column in enumerate(start):
        groups.setdefault(column.tobytes(), []).append(place)
    equal = []
    for group in groups.values():
        same = dict.fromkeys(group[1:], True)
        for first in range(0, len(rows) if same else 0, _COMPARED):
            piece = rows[first : first + _COMPARED]
            for place in same:
                same[place] = same[place] and bool(np.array_equal(piece[:, place], piece[:, group[0]]))
        held = [group[0], *(place for place, kept in same.items() if kept)]
        if len(held) > 1 and np.ptp(rows[:, group[0]]) > 0:
            equal.append(held)
    return equal


def too_large(path: Path, rows: NDArray[np.float32], names: Sequence[str]) -> None:
    """Refuse columns whose values do not fit float32."""
    beyond = np.zeros(rows.shape[1], dtype=bool)
    for first in range(0, len(rows), _COMPARED):
        beyond |= ~np.isfinite(rows[first : first + _COMPARED]).all(axis=0)
    if beyond.any():
        overflowing = [name for name, over in zip(names, beyond, strict=True) if over]
        raise DataError(
            f"{path}: found values beyond 3e38 in {_listed(overflowing)}, expected numbers that fit 32 bits. "
            f"Divide them by a constant, or leave {_leaving(overflowing)}."
        )


def _leaving(names: Sequence[str]) -> str:
    quoted = ", ".join(f'"{name}"' for name in names[:20])
    options = " ".join(f"--leave-out {_shell(name)}" for name in names[:20])
    dots = ", ..." if len(names) > 20 else ""
    return f"the column{'s' * (len(names) > 1)} out with leave_out = [{quoted}{dots}] ({options}{dots and ' ...'})"


def _shell(name: str) -> str:
    import shlex

    return shlex.quote(name)


def _listed(names: Sequence[str], limit: int = _NAMED) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(f"'{name}'" for name in names[:limit]) + more


def _quoted(value: object) -> str:
    text = str(value)
    return repr(text if len(text) <= 40 else f"{text[:37]}...")
