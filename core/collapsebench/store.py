"""The store: one folder per cell, with plain files that are written under a temporary name and renamed; no pickles.

    cells/ab/abcd.../cell.json             description, status, replicas, provenance, SHA-256 of the files beside it
                     weights.safetensors   weights of all replicas, stacked along the first axis
                     log.parquet           one row per replica and check
                     observables/*.parquet
    jobs/<id>.json, <id>.*.safetensors     unfinished jobs, their checkpoints and their finished pieces
    suites/<id>/                           boards, tables and figures of the last run
    cache/                                 files that datasets have prepared

A store can be moved: nothing in it contains its own location.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from collapsebench.errors import StoreError

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from torch import Tensor

FINISHED = ("ok", "diverged")


@dataclass(frozen=True)
class CellRecord:
    """Everything stored about a cell except its arrays.

    replicas: for each temperature, in the order of the description: temperature, mark, updates, loss.
    """

    key: str
    description: Mapping[str, Any]
    status: str
    reason: str = ""
    replicas: tuple[Mapping[str, Any], ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)


class Store:
    """Read and write a store. root: by default COLLAPSEBENCH_STORE, otherwise `.collapsebench` in this folder."""

    def __init__(self, root: str | Path | None = None) -> None:
        self.root = Path(root or os.environ.get("COLLAPSEBENCH_STORE") or ".collapsebench")

    @property
    def cache(self) -> Path:
        """The folder for files that datasets prepare; COLLAPSEBENCH_CACHE lets several stores share one."""
        return Path(os.environ.get("COLLAPSEBENCH_CACHE") or self.root / "cache")

    def make_writable(self) -> None:
        """Create the store if necessary, and make sure that it can be written before anything is trained."""
        probe = self.root / f".probe-{os.getpid()}"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe.write_text("")
            probe.unlink()
        except OSError as error:
            raise StoreError(
                f"store {self.root}: cannot be written ({error.strerror}), expected a writable folder. Choose another "
                "with COLLAPSEBENCH_STORE or --store, or correct its permissions."
            ) from error

    def make_readable(self) -> None:
        """Make sure that the store can be read as far as it exists."""
        root = self.root.absolute()
        nearest = next(path for path in (root, *root.parents) if path.exists())
        if not (nearest.is_dir() and os.access(nearest, os.R_OK | os.X_OK)):
            raise StoreError(
                f"store {self.root}: cannot be read as a folder, expected a readable one. Choose another with "
                "COLLAPSEBENCH_STORE or --store, or correct its permissions."
            )

    def job_file(self, job: str) -> Path:
        """Return the path of a job's file."""
        return self.root / "jobs" / f"{job}.json"

    def discard_job(self, job: Path) -> None:
        """Remove the file of a finished job and everything that the job wrote beside it."""
        for path in job.parent.glob(f"{job.stem}.*"):
            if path != job:
                path.unlink(missing_ok=True)
        job.unlink(missing_ok=True)

    def suite_folder(self, suite: str) -> Path:
        """Return the folder for the outputs of a suite."""
        return self.root / "suites" / suite

    def cell_folder(self, key: str) -> Path:
        """Return the folder of a cell, whether or not it exists."""
        return self.root / "cells" / key[:2] / key

    def read_cell(self, key: str) -> CellRecord | None:
        """Return the record of a cell, or None if it is not stored."""
        return _read_record(self.cell_folder(key) / "cell.json")

    def cells(self) -> Iterator[CellRecord]:
        """Yield the record of every stored cell, in the order of the keys."""
        for path in sorted(self.root.glob("cells/??/[!.]*/cell.json")):
            record = _read_record(path)
            if record is not None:
                yield record

    def write_cell(
        self,
        record: CellRecord,
        weights: Mapping[str, Tensor] | None = None,
        log: pd.DataFrame | None = None,
    ) -> None:
        """Write a whole cell, replacing what was stored under its key before."""
        folder = self.cell_folder(record.key)
        temporary = folder.parent / f".{record.key[:12]}-{os.getpid()}"
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            if weights is not None:
                from safetensors.torch import save_file

                plain = {name: value.contiguous() for name, value in weights.items()}
                save_file(plain, temporary / "weights.safetensors")
            if log is not None:
                log.to_parquet(temporary / "log.parquet", index=False)
            hashes = {path.name: _sha256(path) for path in sorted(temporary.iterdir())}
            text = json.dumps({**vars(record), "files": hashes}, indent=1, sort_keys=True)
            (temporary / "cell.json").write_text(text, encoding="utf-8")
            if folder.exists():
                shutil.rmtree(folder)
            temporary.rename(folder)
        except OSError as error:
            raise StoreError(
                f"{folder}: could not be written ({error}). Free some space or choose another store; the cell's "
                "checkpoint is kept."
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def read_weights(self, record: CellRecord) -> dict[str, Tensor]:
        """Return the stacked weights of a cell after verifying their SHA-256."""
        from safetensors.torch import load_file

        return load_file(self.verified_weights(record))

    def verified_weights(self, record: CellRecord) -> Path:
        """Return the file of a cell's weights after verifying its SHA-256."""
        path = self.cell_folder(record.key) / "weights.safetensors"
        if not path.exists() or _sha256(path) != record.files.get(path.name):
            raise StoreError(
                f"{path}: missing or changed since it was written (SHA-256 differs from cell.json). Remove the folder "
                f"{path.parent} and run again."
            )
        return path

    def read_observable(self, key: str, name: str) -> pd.DataFrame | None:
        """Return an observable of a cell by its full name (id and digest), or None if it has not been measured."""
        import pandas as pd

        path = self.cell_folder(key) / "observables" / f"{name}.parquet"
        if not path.exists():
            return None
        try:
            return pd.read_parquet(path)
        except (OSError, ValueError) as error:
            raise StoreError(f"{path}: cannot be read ({error}). Remove it and score again.") from error

    def write_observable(self, key: str, name: str, frame: pd.DataFrame) -> None:
        """Write an observable of a cell."""
        path = self.cell_folder(key) / "observables" / f"{name}.parquet"
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            path.parent.mkdir(exist_ok=True)
            frame.to_parquet(temporary, index=False)
            temporary.replace(path)
        except OSError as error:
            raise StoreError(
                f"{path}: could not be written ({error}). Free some space or choose another store; the trained cell is "
                "kept."
            ) from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def write_text(self, path: Path, text: str) -> None:
        """Write a text file of the store atomically."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)


def _read_record(path: Path) -> CellRecord | None:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: cannot be read ({error}). Remove the folder {path.parent} and run again.") from error
    return CellRecord(**{**content, "replicas": tuple(content.get("replicas", ()))})


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_checkpoint(path: Path, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
    """Write tensors and JSON metadata to one safetensors file; a crash leaves either the old file or the new one."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    plain = {name: _storable(value) for name, value in tensors.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(plain, temporary, metadata={"meta": json.dumps(meta)})
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise StoreError(f"{path}: could not be written ({error}). Free some space or choose another store.") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def read_checkpoint(path: Path, device: torch.device) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors, moved to a device, and the metadata of a file that `write_checkpoint` wrote."""
    from safetensors import safe_open

    with safe_open(path, framework="pt", device=str(device)) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        return tensors, json.loads(file.metadata()["meta"])


def _storable(value: Tensor) -> Tensor:
    """Return a tensor on the CPU that safetensors can store, copied only if it is a view of a larger tensor."""
    plain = value.detach().cpu().contiguous()
    return plain if plain.untyped_storage().nbytes() == plain.nbytes else plain.clone()
