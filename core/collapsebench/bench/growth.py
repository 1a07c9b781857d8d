"""How the cost of an update grows with replicas, width and rows of data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from collapsebench.bench.throughput import ROWS, WIDTH, Spread, bench_data, bench_trainer, milliseconds
from collapsebench.contracts import load_registry
from collapsebench.training.allocator import keep_freed_memory


@dataclass(frozen=True)
class Growth:
    """The cost of a replica's update at several values of what grows.

    exponent: the slope of log update_ms over log value; 0 is no growth, 1 linear, 2 quadratic. paths: how each was
    computed, as a run would.
    """

    what: str
    values: tuple[int, ...]
    update_ms: tuple[Spread, ...]
    exponent: float
    paths: tuple[str, ...]


def bench_growth(
    replicas: tuple[int, ...] = (1, 4, 16, 64, 128),
    widths: tuple[int, ...] = (32, 64, 128, 256),
    rows: tuple[int, ...] = (5_000, 50_000, 500_000),
    repeats: int = 5,
    device: str = "cpu",
    stack: int = 16,
) -> list[Growth]:
    """Time the published network, in turn, with more replicas, and stacks of `stack` with more width and more data."""
    keep_freed_memory()
    settings = {
        "replicas": [(value, WIDTH, ROWS) for value in replicas],
        "width": [(stack, value, ROWS) for value in widths],
        "rows": [(stack, WIDTH, value) for value in rows],
    }
    return [_growth(what, cases, repeats, torch.device(device)) for what, cases in settings.items()]


def _growth(what: str, cases: list[tuple[int, int, int]], repeats: int, device: torch.device) -> Growth:
    registry = load_registry()
    trainers, paths = zip(
        *(bench_trainer(registry, bench_data(rows), replicas, width, device.type) for replicas, width, rows in cases),
        strict=True,
    )
    columns: list[list[float]] = [[] for _ in cases]
    for _ in range(repeats):
        for column, trainer, (replicas, _, _) in zip(columns, trainers, cases, strict=True):
            column.append(milliseconds(trainer.advance, device) / replicas)
    place = {"replicas": 0, "width": 1, "rows": 2}[what]
    values = tuple(case[place] for case in cases)
    spreads = tuple(map(Spread.of, columns))
    logarithms = np.log(np.array([values, [spread.median for spread in spreads]], dtype=np.float64))
    exponent = float(np.polyfit(logarithms[0], logarithms[1], 1)[0]) if len(values) > 1 else 0.0
    return Growth(what, values, spreads, exponent, tuple(paths))
