"""Race two ways of training the `mlp` pair of the suite architectures: that of commit 20a43c3, and today's.

python results/recipes.py PATH [--out FOLDER]

PATH: of WorldClim 1.4, `bio_10m_bil.zip`. Each replica is trained in one way and then in the other, on digits and on
WorldClim, and judged by all conditions of today. Its cost, in units of V / 2 for sigma_dec = 1, is measured on every
row when training ends and at the end of each round, where the learning rate has come down. A replica has arrived at the
end of the first round at which it costs at most 1 % more than where the worse of the two ways ended: a level that both
reach. Writes recipes.md into FOLDER.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from collapsebench.contracts import Progress, Registry
from collapsebench.data.standardise import Standardised
from collapsebench.planning.cells import make_plan
from collapsebench.planning.jobs import ScanSpec
from collapsebench.planning.order import Piece
from collapsebench.planning.provenance import processor
from collapsebench.stack.computation import COMPUTATIONS
from collapsebench.suite.schema import Preconditioned
from collapsebench.training.build import make_trainer
from collapsebench.training.choose import choose_computation
from collapsebench.training.trainer import Controls
from collapsebench.verbs.run import open_session, prepare_session

TEMPERATURES = (0.32, 0.1, 0.032, 0.01, 1e-3, 1e-4)
BEFORE: dict[str, Any] = {
    "optimiser": Preconditioned(learning_rate=0.005, max_dimension=256),
    "batch_size": 256,
    "max_updates": 6_000,
    "extensions": 3,
}
ARRIVED = 1.01


class Stop(NamedTuple):
    """The end of a round: updates, seconds of the processor and of a clock until then, and the cost over V / 2."""

    updates: int
    seconds: float
    wall: float
    cost: float


class Trial(NamedTuple):
    """One replica trained in one way: the ends of its rounds, the last one where its training ended, and its mark."""

    stops: tuple[Stop, ...]
    mark: str

    def arrival(self, level: float) -> Stop:
        """Return the first stop that costs at most `ARRIVED` times a level; the last one always counts."""
        return next((stop for stop in self.stops if stop.cost <= ARRIVED * level), self.stops[-1])


def main() -> None:
    """Race on both datasets, print the table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    overrides = ('datasets.worldclim.version="1.4"', f"datasets.worldclim.path={given.path}", "seeds=1")
    rows = []
    with TemporaryDirectory() as folder:
        session = open_session("architectures", preset="cpu", overrides=overrides, store=folder)
        prepare_session(session, print)
        plan = make_plan(session.suite, session.store, session.registry)
        for cell in plan.cells:
            if cell.dataset not in ("digits", "worldclim") or cell.architecture != "mlp":
                continue
            today, data = ScanSpec.of(session.suite, cell.scan, "cpu"), plan.data[cell.dataset]
            before = today.model_copy(update={"training": today.training.model_copy(update=BEFORE)})
            name, _ = choose_computation(today, data, session.registry, session.suite.compute)
            for temperature in TEMPERATURES:
                ways = {
                    way: race(scan, temperature, name.name, data, session.registry)
                    for way, scan in (("before", before), ("today", today))
                }
                rows.append(row := compared(cell.dataset, temperature, ways))
                print(json.dumps(row), flush=True)
    table = pd.DataFrame(rows)
    text = report(table)
    print(text)
    if given.out is not None:
        footer = f"cpu {processor()}, threads 1, torch {torch.__version__}"
        (given.out / "recipes.md").write_text(f"{text}\n\n{footer}; `python results/recipes.py PATH --out FOLDER`\n")


def race(scan: ScanSpec, temperature: float, computation: str, data: Standardised, registry: Registry) -> Trial:
    """Train one replica, and return where it stood at the end of each round."""
    alone = scan.model_copy(update={"temperatures": (temperature,)})
    trainer = make_trainer(alone, (0,), Piece(0, (0,)), COMPUTATIONS[computation], data, registry)
    stops: list[Stop] = []
    start, elsewhere = _clocks(), np.zeros(2)

    def look(progress: Progress) -> None:
        nonlocal elsewhere
        ended = not len(trainer.alive)
        if not ended and progress.update not in trainer.training.rounds:
            return
        now = _clocks()
        if ended:
            line = trainer.records[0].line
        else:
            line = trainer.judge.costs(trainer.judged(), np.array([True]), trainer.alive)[0]
        cost = (line.intercept + line.slope * line.dial) / (data.total_variance / 2)
        stops.append(Stop(progress.update, *(now - start - elsewhere).tolist(), cost))
        elsewhere += _clocks() - now

    mark = trainer.run(Controls(report=look)).records[0].mark
    return Trial(tuple(stops), mark)


def _clocks() -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the seconds of the processor and of a clock."""
    return np.array([time.process_time(), time.perf_counter()])


def compared(dataset: str, temperature: float, ways: dict[str, Trial]) -> dict[str, Any]:
    """Return a row of the table: where each way ended, and when it had arrived."""
    level = max(trial.stops[-1].cost for trial in ways.values())
    row: dict[str, Any] = {"dataset": dataset, "temperature": temperature}
    for way, trial in ways.items():
        end, arrival = trial.stops[-1], trial.arrival(level)
        row |= {
            f"{way} updates": end.updates, f"{way} seconds": round(end.seconds, 1), f"{way} cost": round(end.cost, 6),
            f"{way} mark": trial.mark, f"{way} arrival, updates": arrival.updates,
            f"{way} arrival, seconds": round(arrival.seconds, 1), f"{way} wall": round(end.wall, 1),
            f"{way} arrival, wall": round(arrival.wall, 1),
        }  # fmt: skip
    return row


def report(table: pd.DataFrame) -> str:
    """Return the table of all replicas and, for each dataset and both, the ratios of updates and time, as Markdown."""
    lines = [table.to_markdown(index=False), ""]
    for name, part in [*table.groupby("dataset", sort=False), ("both", table)]:
        ratio = {
            column: part[f"before {column}"].sum() / part[f"today {column}"].sum()
            for column in (
                "updates",
                "seconds",
                "wall",
                *(f"arrival, {kind}" for kind in ("updates", "seconds", "wall")),
            )
        }
        change = part["today cost"] / part["before cost"] - 1
        at_rest = [f"{(part[f'{way} mark'] == 'converged').sum()} of {len(part)}" for way in ("before", "today")]
        lines.append(
            f"- {name}: until every replica has arrived, {ratio['arrival, updates']:.1f} times fewer updates, "
            f"{ratio['arrival, seconds']:.1f} times less time of the processor and {ratio['arrival, wall']:.1f} of a "
            f"clock; until it is at rest or its budget is spent, {ratio['updates']:.1f}, {ratio['seconds']:.1f} and "
            f"{ratio['wall']:.1f} times. At the end, costs differ by {change.min():+.2%} "
            f"to {change.max():+.2%}; at rest are {at_rest[0]} before, {at_rest[1]} today."
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
