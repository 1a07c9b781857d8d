"""Store the samples of one source in the cache: one array per split, each with its checksum.

The folder of a source holds `train.npy` and so on. When an array is complete, its checksum `train.json` is written, so
that an interrupted preparation continues with the next split. `about.json` is written last.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collapsebench import DataError
from collapsebench_datasets.resumable_download import sha256_of

Samples = NDArray[Any]


def has_split(folder: Path, split: str, revision: str) -> bool:
    """Return whether a split of this revision is stored completely."""
    record = folder / f"{split}.json"
    return record.is_file() and _read(record).get("revision") == revision


def keep_split(folder: Path, split: str, values: Samples, revision: str) -> None:
    """Write the samples of a split `(n, *shape)` of a revision of its source."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{split}-{os.getpid()}"
    with temporary.open("wb") as file:
        np.save(file, values, allow_pickle=False)
    sha256 = sha256_of(temporary)
    temporary.replace(folder / f"{split}.npy")
    _write(folder / f"{split}.json", {"sha256": sha256, "revision": revision})


def keep_about(folder: Path, about: Mapping[str, Any]) -> None:
    """Write the description of all splits; from now on the source counts as prepared."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "about.json", about)


def is_complete(folder: Path) -> bool:
    """Return whether everything was written."""
    return (folder / "about.json").is_file()


def read_about(folder: Path) -> dict[str, Any]:
    """Return what `keep_about` wrote."""
    return _read(folder / "about.json")


def read_split(folder: Path, split: str, dataset: str) -> Samples:
    """Return the samples of a split, verified against the checksum that was written with them."""
    path = folder / f"{split}.npy"
    expected = _read(folder / f"{split}.json").get("sha256")
    actual = sha256_of(path) if path.is_file() else "none, since it does not exist"
    if actual != expected:
        raise DataError(
            f"dataset '{dataset}', split {split}: the SHA-256 of {path} is {actual}, expected {expected}, recorded "
            f"when it was prepared. Delete {folder} and prepare again."
        )
    return np.asarray(np.load(path, allow_pickle=False))


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError) as error:
        raise DataError(
            f"{path}: cannot be read ({error}), expected the record of the preparation. Delete "
            f"{path.parent} and prepare again."
        ) from error
    return content


def _write(path: Path, content: Mapping[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)
