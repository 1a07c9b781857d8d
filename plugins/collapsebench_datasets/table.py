"""A table of your own: rows of numbers in a file."""

from __future__ import annotations

import hashlib
import json
import os
from functools import lru_cache
from pathlib import Path

import numpy as np

from collapsebench import Data, DataError, Dataset, Split
from collapsebench_datasets.table_files import open_table
from collapsebench_datasets.table_parameters import TableParameters
from collapsebench_datasets.table_rows import RowSample, choose_columns, equal_columns, numeric_rows, too_large

MOST_VALUES = 2**26
"""The most values that are kept if `max_rows` is not given: 256 MiB of float32."""

_FEWEST_ROWS = 6
_LAYOUT = 1


class Table(Dataset[TableParameters]):
    """The numeric columns of a file; the seed shuffles its rows, which are cut into three splits.

    `prepare` reads the file once, piece by piece, and stores the selected values as float32 in the cache, under the
    file's SHA-256, after subtracting a constant near the median of each column. Rows must be exchangeable, since the
    split is random.
    """

    def prepare(self, cache: Path) -> None:
        """Read the file, check it, and keep its columns in `cache`."""
        p = self.parameters
        table = open_table(p.path)
        if self.is_prepared(cache):
            return
        notices = list(table.notices)
        names = choose_columns(p.path, table.names, p.columns, p.leave_out)
        sample = RowSample(p.max_rows or max(_FEWEST_ROWS, MOST_VALUES // len(names)), len(names))
        for values in numeric_rows(p.path, table.read(names), p.missing, notices):
            sample.add(values)
        if sample.seen < _FEWEST_ROWS:
            usable = " usable" if len(notices) > len(table.notices) else ""
            raise DataError(
                f"{p.path}: found {sample.seen}{usable} row{'s' * (sample.seen != 1)}, expected at least "
                f"{_FEWEST_ROWS}, two for each of train, validation and test. Give a table with more rows."
            )
        rows = sample.finish()
        too_large(p.path, rows, names)
        if sample.seen > len(rows):
            notices.append(
                f"a uniform sample of {len(rows)} of the {sample.seen} rows is used "
                f"(max_rows; it moves eigenvalues by about {100 * np.sqrt(2 / len(rows)):.2g} %)"
            )
        for group in equal_columns(rows):
            first, *others = (names[place] for place in group)
            notices.append(
                f"columns {', '.join(map(repr, others))} repeat '{first}': the repeated direction counts "
                f"{len(group)} times in V; leave_out takes them out"
            )
        about = {"names": names, "notices": notices, "rows": sample.seen}
        cache.mkdir(parents=True, exist_ok=True)
        _write(self._stem(cache), rows, about)

    def is_prepared(self, cache: Path) -> bool:
        """Return whether the values that these options select from this file are in `cache`."""
        return self.parameters.path.is_file() and self._stem(cache).with_suffix(".json").is_file()

    def load(self, seed: int, cache: Path) -> Data:
        """Return the three splits; `notes` say what was left out or assumed."""
        p = self.parameters
        if not self.is_prepared(cache):
            raise DataError(f"{p.path}: is not prepared. Prepare the data of the suite first.")
        stem = self._stem(cache)
        about = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8"))
        rows = np.load(stem.with_suffix(".npy"), mmap_mode="r", allow_pickle=False)
        train, validation = self._sizes(len(rows))
        order = np.random.default_rng([seed, 3]).permutation(len(rows))
        notices = list(about["notices"])
        if train <= len(about["names"]):
            notices.append(
                f"fewer training rows ({train}) than needed for {len(about['names'])} columns: the covariance has rank "
                f"{train - 1} at most, the first eigenvalues and thresholds are too high, and what is found describes "
                "these rows rather than their source"
            )
        return Data(
            train=Split(rows[order[:train]]),
            validation=Split(rows[order[train : train + validation]]),
            test=Split(rows[order[train + validation :]]),
            feature_names=tuple(about["names"]),
            scaling=p.scaling,
            revision=f"{p.path.name}, SHA-256 {file_sha256(p.path)[:16]}",
            notes={"rows_in_file": about["rows"], "notices": notices},
        )

    def _sizes(self, rows: int) -> tuple[int, int]:
        p = self.parameters
        validation = max(2, round(p.validation_share * rows))
        train = min(max(2, round(p.train_share * rows)), rows - validation - 2)
        return max(2, train), min(validation, rows - 4)

    def _stem(self, cache: Path) -> Path:
        chosen = self.parameters.model_dump(mode="json", include={"columns", "leave_out", "missing", "max_rows"})
        text = json.dumps({"layout": _LAYOUT, "suffix": self.parameters.path.suffix.lower(), **chosen}, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()
        return cache / f"table-{file_sha256(self.parameters.path)[:16]}-{digest[:12]}"


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file; it is computed anew only if its size or time of change differs."""
    status = path.stat()
    return _sha256(path.resolve(), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(stem: Path, rows: np.ndarray[tuple[int, ...], np.dtype[np.float32]], about: dict[str, object]) -> None:
    """Write rows, then their description, each under a temporary name first."""
    temporary = stem.with_name(f".{stem.name}-{os.getpid()}")
    with temporary.open("wb") as file:
        np.save(file, rows, allow_pickle=False)
    temporary.replace(stem.with_suffix(".npy"))
    temporary.write_text(json.dumps(about), encoding="utf-8")
    temporary.replace(stem.with_suffix(".json"))
