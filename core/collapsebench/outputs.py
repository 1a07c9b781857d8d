"""Write a suite's results as files that people read: the board in every format, the tables behind it, a manifest."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pandas as pd

from collapsebench.boards import ranking, render, scores, statuses
from collapsebench.required_rank import required_rank_csv, required_rank_page, required_ranks
from collapsebench.results import SuiteResults

FORMATS = {"text": "txt", "md": "md", "csv": "csv", "json": "json", "tex": "tex", "html": "html"}


def write_outputs(results: SuiteResults, folder: Path) -> list[Path]:
    """Write boards and tables as files; return their paths.

    board.{txt,md,csv,json,tex,html}; ranking.csv; cells.csv; in tables/, scores.csv with every value of every seed,
    required-rank.{csv,md} and one table per metric with its modes; provenance.json.
    """
    (folder / "tables").mkdir(parents=True, exist_ok=True)
    written = []
    for format, suffix in FORMATS.items():
        written.append(_write(folder / f"board.{suffix}", render(results, format)))
    written.append(_write(folder / "cells.csv", statuses(results).to_csv(index=False)))
    written.append(_write(folder / "ranking.csv", ranking(results).to_csv(index=False)))
    written.append(_write(folder / "tables" / "scores.csv", scores(results).to_csv(index=False)))
    ranks = required_ranks(results)
    written.append(_write(folder / "tables" / "required-rank.csv", required_rank_csv(ranks)))
    written.append(_write(folder / "tables" / "required-rank.md", required_rank_page(ranks)))
    for metric, frame in mode_tables(results).items():
        written.append(_write(folder / "tables" / f"{metric}.csv", frame.to_csv(index=False)))
    about = {"provenance": dict(results.provenance), "datasets": {k: dict(v) for k, v in results.datasets.items()}}
    written.append(_write(folder / "provenance.json", json.dumps(about, indent=1, sort_keys=True, default=str)))
    return written


def mode_tables(results: SuiteResults) -> dict[str, pd.DataFrame]:
    """Return, per metric, the rows per rank of every cell, with the cell's names in front."""
    tables: dict[str, list[pd.DataFrame]] = {}
    for cell in results.cells:
        for metric, evaluation in cell.evaluations.items():
            if evaluation.modes is not None:
                names = {name: getattr(cell, name) for name in ("dataset", "architecture", "objective", "seed")}
                tables.setdefault(metric, []).append(
                    pd.concat([pd.DataFrame(names, index=evaluation.modes.index), evaluation.modes], axis=1)
                )
    return {metric: pd.concat(frames, ignore_index=True) for metric, frames in tables.items()}


def manifest(folder: Path) -> dict[str, Any]:
    """Return the SHA-256 of every file below a folder, by relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _write(path: Path, text: str) -> Path:
    path.write_text(text if text.endswith("\n") else text + "\n", encoding="utf-8")
    return path


def publish_outputs(source: Path, folder: Path) -> list[Path]:
    """Copy what `write_outputs` and the figures left into a folder, with a manifest of hashes; return the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in source.rglob("*"):
        if path.is_file():
            target = folder / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    _write(folder / "manifest.json", json.dumps(manifest(folder), indent=1))
    return [path for path in folder.rglob("*") if path.is_file()]
