"""Race two ways of training the `mlp` pair of the suite architectures: that of commit 20a43c3, and today's.

python results/recipes.py PATH [--out FOLDER]

PATH: of WorldClim 1.4, `bio_10m_bil.zip`. Each replica is trained in one way and then in the other, on digits and on
WorldClim, and judged by all conditions of today. The costs of both are measured on every row, in units of V / 2 for
sigma_dec = 1. Writes recipes.md into FOLDER.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pandas as pd
import torch

from collapsebench.contracts import Registry
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


class Trial(NamedTuple):
    """One replica trained in one way: updates, seconds of the processor, cost over V / 2, and mark."""

    updates: int
    seconds: float
    cost: float
    mark: str


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
                row: dict[str, Any] = {"dataset": cell.dataset, "temperature": temperature}
                for way, scan in (("before", before), ("today", today)):
                    found = race(scan, temperature, name.name, data, session.registry)
                    row |= {f"{way} {key}": value for key, value in found._asdict().items()}
                rows.append(row)
                print(json.dumps(row), flush=True)
    table = pd.DataFrame(rows)
    text = report(table)
    print(text)
    if given.out is not None:
        footer = f"cpu {processor()}, threads 1, torch {torch.__version__}"
        (given.out / "recipes.md").write_text(f"{text}\n\n{footer}; `python results/recipes.py PATH --out FOLDER`\n")


def race(scan: ScanSpec, temperature: float, computation: str, data: Standardised, registry: Registry) -> Trial:
    """Train one replica, and return what that took and led to."""
    alone = scan.model_copy(update={"temperatures": (temperature,)})
    trainer = make_trainer(alone, (0,), Piece(0, (0,)), COMPUTATIONS[computation], data, registry)
    start = time.process_time()
    record = trainer.run(Controls()).records[0]
    seconds, line = time.process_time() - start, record.line
    cost = (line.intercept + line.slope * line.dial) / (data.total_variance / 2)
    return Trial(record.updates, round(seconds, 1), round(cost, 6), record.mark)


def report(table: pd.DataFrame) -> str:
    """Return the table of all replicas and, for each dataset, the ratios of updates and of time, as Markdown."""
    lines = [table.to_markdown(index=False), ""]
    for dataset, part in table.groupby("dataset", sort=False):
        updates, seconds = (
            part[f"before {name}"].sum() / part[f"today {name}"].sum() for name in ("updates", "seconds")
        )
        change = part["today cost"] / part["before cost"] - 1
        at_rest = [f"{(part[f'{way} mark'] == 'converged').sum()} of {len(part)}" for way in ("before", "today")]
        lines.append(
            f"- {dataset}: {updates:.1f} times fewer updates, {seconds:.1f} times less time; costs change by "
            f"{change.min():+.2%} to {change.max():+.2%}; at rest {at_rest[0]} before, {at_rest[1]} today."
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
