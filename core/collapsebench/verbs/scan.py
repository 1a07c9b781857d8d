"""Measure the latent spectrum of a table: a suite made from the table itself, run like any other."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from collapsebench.contracts import Pca, Progress, load_registry
from collapsebench.errors import DataError, UserError
from collapsebench.planning.cells import create
from collapsebench.store import Store
from collapsebench.suite.file import find_suite, read_suite
from collapsebench.suite.resolve import Suite, resolve_suite
from collapsebench.verbs.run import Outcome, Say, Session, run_session

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


MOST_ROWS = 50_000
"""Rows that a scan keeps unless told otherwise: eigenvalues are then known to about half a per cent."""

_SUITE = "table"
"""The shipped suite that a scan runs on its table."""

_WIDE = 300


@dataclass(frozen=True)
class TableScan:
    """What a scan found. outcome: the run behind it, with its board, figures and folder."""

    outcome: Outcome

    @cached_property
    def spectrum(self) -> pd.DataFrame:
        """Threshold and utility of every latent beside PCA, one row per architecture and rank."""
        from collapsebench.verbs.scan_report import latent_spectrum

        return latent_spectrum(self.outcome.results)

    @cached_property
    def required_ranks(self) -> pd.DataFrame:
        """The latents that each tolerated distortion needs, one row per tolerance and model."""
        from collapsebench.publishing.required_rank import required_ranks

        return required_ranks(self.outcome.results)

    @cached_property
    def kept_latents(self) -> pd.DataFrame:
        """The temperatures that keep K latents and the distortion that K leave, one row per architecture and K."""
        from collapsebench.verbs.scan_report import kept_latents

        return kept_latents(self.outcome.results)

    @property
    def notices(self) -> list[str]:
        """What was assumed about the table, or left out of it."""
        (about,) = self.outcome.results.datasets.values()
        return [str(notice) for notice in about.get("notices", ())]

    @property
    def folder(self) -> Path:
        """Where board, tables and figures are."""
        return self.outcome.folder

    def text(self) -> str:
        """Return the report as plain text."""
        from collapsebench.verbs.scan_report import scan_page

        return scan_page(self.outcome.results)

    def json(self) -> str:
        """Return everything that `text` says as JSON; null is "none" or "not reached"."""
        (about,) = self.outcome.results.datasets.values()
        frames = {name: getattr(self, name) for name in ("spectrum", "required_ranks", "kept_latents")}
        tables = {name: json.loads(frame.to_json(orient="records")) for name, frame in frames.items()}
        return json.dumps({"table": dict(about), **tables, "folder": str(self.folder)}, indent=1, default=str)

    def _repr_html_(self) -> str:
        frames = (self.spectrum, self.required_ranks, self.kept_latents)
        return "\n".join(frame.to_html(index=False) for frame in frames)


def scan(
    table: str | Path | pd.DataFrame | np.ndarray[Any, Any],
    *,
    columns: Sequence[str] | None = None,
    leave_out: Sequence[str] = (),
    missing: Literal["error", "drop-rows"] = "error",
    max_rows: int = MOST_ROWS,
    latent_dim: int | None = None,
    temperatures: int | None = None,
    seeds: int | None = None,
    max_updates: int | None = None,
    device: str | None = None,
    store: str | Path | None = None,
    report: Callable[[str, Progress], None] = lambda name, progress: None,
    say: Say = lambda text: None,
) -> TableScan:
    """Return the latent spectrum of a table: a path, a DataFrame, or an array `(rows, columns)`.

    A linear pair, which must land on PCA, and an MLP pair are trained over a grid of temperatures that is chosen from
    the PCA spectrum of the train split, as is the number of latents. columns, leave_out, missing, max_rows: as for the
    dataset `table`. temperatures: how many. max_updates: the budget of every replica. seeds: three unless given; two
    above 100 columns, and above 300 one, with fewer updates, so that a scan still takes minutes. What is there already
    in the store is not trained again.
    """
    from collapsebench.data.standardise import standardise

    registry, where = load_registry(), Store(store)
    where.make_writable()
    path = table if isinstance(table, str | Path) else _as_file(table, where.cache)
    parameters = {
        "path": str(Path(path).absolute()), "leave_out": list(leave_out), "missing": missing, "max_rows": max_rows,
        **({} if columns is None else {"columns": list(columns)}),
    }  # fmt: skip
    name = _identifier(Path(path).stem) if isinstance(table, str | Path) else "frame"

    raw = _suite(f"Scan of {name}", name, parameters)
    overrides = [f'compute.device="{device}"'] if device else []

    def suite() -> Suite:
        return resolve_suite(raw, id=f"scan-{name}", label="scan", overrides=overrides, registry=registry)

    first = suite()
    dataset = create(registry, first.datasets[0])
    say(f"reading {path}")
    where.cache.mkdir(parents=True, exist_ok=True)
    dataset.prepare(where.cache)
    ready = standardise(dataset.load(first.split_seed, where.cache), name)
    raw |= _chosen(ready.pca, latent_dim, temperatures, seeds, max_updates)
    del ready
    outcome = run_session(Session(suite(), where, registry), report, say)
    result = TableScan(outcome)
    _write_tables(result)
    return result


def _suite(title: str, id: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the shipped suite on your own table; what the data decide is filled in by `_chosen`."""
    raw = read_suite(find_suite(_SUITE))
    (dataset,) = raw["datasets"]
    return {**raw, "title": title, "datasets": [{**dataset, "id": id, **parameters}]}


def _chosen(
    pca: Pca, latent_dim: int | None, temperatures: int | None, seeds: int | None, max_updates: int | None
) -> dict[str, Any]:
    """Return the sections of the suite that depend on the data: as many latents as PCA needs for 99 %, and two more.

    The grid runs from twice the first eigenvalue to a tenth of the last one that a latent could hold, over four decades
    at most.
    """
    from collapsebench.theory.spectrum import effective_dimension

    spectrum = pca.eigenvalues
    columns = len(spectrum)
    needed = effective_dimension(pca.rank_distortion["train"], 0.01)
    latents = latent_dim or int(min(columns, 24, max(4, needed + 2)))
    last = float(spectrum[min(latents, columns) - 1])
    highest = min(1.0, _one_digit(2 * float(spectrum[0]), math.ceil))
    lowest = _one_digit(min(max(last / 10, highest / 1e4), highest / 100), math.floor)
    max_temperatures = 21 if columns <= _WIDE else 11
    count = temperatures or max(9, min(max_temperatures, 1 + round(5 * math.log10(highest / lowest))))
    return {
        "seeds": seeds or (3 if columns <= _WIDE / 3 else 2 if columns <= _WIDE else 1),
        "scan": {"latent_dim": latents, "temperatures": {"from": highest, "to": lowest, "count": count}},
        "training": {
            "optimiser": {
                "use": "preconditioned",
                "learning_rate": float(f"{0.02 * min(1.0, math.sqrt(64 / columns)):.2g}"),
                "max_dimension": _WIDE,
            },
            "batch_size": 256 if columns <= _WIDE else 128,
            "max_updates": max_updates or (1200 if columns <= _WIDE else 800),
            "price_warm_up": 0.2,
            "convergence": {"checks": 24 if columns <= _WIDE else 8},
        },
    }


def _one_digit(value: float, rounding: Callable[[float], int]) -> float:
    scale = 10.0 ** math.floor(math.log10(value))
    return float(f"{max(1, rounding(value / scale)) * scale:.1g}")


def _identifier(stem: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-_") or "table"


def _as_file(table: Any, cache: Path) -> Path:
    """Write a frame or an array as Parquet into the cache, under its own hash; values that are no numbers as text."""
    import numpy as np
    import pandas as pd

    if isinstance(table, np.ndarray) and table.ndim == 2:
        table = pd.DataFrame(table, columns=pd.Index([f"x{index}" for index in range(table.shape[1])]))
    if not isinstance(table, pd.DataFrame):
        given = f"an array of shape {table.shape}" if isinstance(table, np.ndarray) else f"a {type(table).__name__}"
        raise UserError(f"scan: found {given}, expected a path, a DataFrame or an array (rows, columns). Give one.")
    names = [str(name) for name in table.columns]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DataError(f"frame: found several columns named '{repeated[0]}', expected a name for each. Rename them.")
    frame = table.set_axis(names, axis=1)
    mixed = [name for name in names if frame[name].dtype == object]
    frame = frame.assign(**{name: frame[name].map(_plain) for name in mixed})
    cache.mkdir(parents=True, exist_ok=True)
    unfinished = cache / f".frame-{os.getpid()}.parquet"
    frame.to_parquet(unfinished, index=False)
    with unfinished.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return unfinished.replace(cache / f"frame-{digest[:16]}.parquet")


def _plain(value: Any) -> str | None:
    return None if value is None or value != value else str(value)


def _write_tables(result: TableScan) -> None:
    from collapsebench.publishing.folder import add_to_manifest

    tables = result.folder / "tables"
    paths = [tables / "latent-spectrum.csv", tables / "kept-latents.csv", result.folder / "scan.txt"]
    result.spectrum.to_csv(paths[0], index=False)
    result.kept_latents.to_csv(paths[1], index=False)
    paths[2].write_text(result.text(), encoding="utf-8")
    add_to_manifest(result.folder, paths)
