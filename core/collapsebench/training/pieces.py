"""Train the pieces of a job one after the other; a piece that does not fit into memory is split in half and retried.

If there are several pieces, each writes its weights to a file beside the job, so that only one piece is in memory at a
time and an interrupted job continues with the next piece.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from collapsebench.contracts import Progress
from collapsebench.errors import is_out_of_memory
from collapsebench.planning.jobs import Job
from collapsebench.planning.order import Piece
from collapsebench.store import Store, read_checkpoint, write_checkpoint
from collapsebench.training.trainer import Controls, OutOfTimeError, Trained, Trainer
from collapsebench.training.verdict import Record

if TYPE_CHECKING:
    from collapsebench.contracts import Tensors

_CPU = torch.device("cpu")


@dataclass
class _Finished:
    """A piece that has been trained. weights: None if they are in the file of the piece."""

    piece: Piece
    trained: Trained
    weights: Tensors | None


@dataclass
class PieceRun:
    """The training of a job's pieces. path: the job file. make_trainer: returns a newly initialised trainer."""

    path: Path
    job: Job
    make_trainer: Callable[[Piece], Trainer]
    finished: list[_Finished] = field(default_factory=list)

    def run(self, controls: Controls) -> None:
        """Train every piece, continuing where an interrupted run stopped."""
        waiting = list(self.job.pieces)
        alone = len(waiting) == 1
        while waiting:
            piece = waiting[0]
            try:
                trained = self._trained(piece, controls, alone=alone, left=len(waiting))
            except Exception as error:
                if not is_out_of_memory(error) or len(piece.replicas) == self._together:
                    raise
                reason = str(error).splitlines()[0]
            else:
                self.finished.append(_Finished(piece, trained, trained.weights if alone else None))
                trained.weights = {}
                waiting.pop(0)
                continue
            # The frames that hold the stack's tensors are only released after the exception handler.
            _release_memory()
            waiting = self._halve(waiting, reason)
            alone = False

    @property
    def _together(self) -> int:
        """How many consecutive replicas must share a stack."""
        return len(self.job.scan.temperatures) if self.job.scan.exchange else 1

    def _trained(self, piece: Piece, controls: Controls, *, alone: bool, left: int) -> Trained:
        ended = self._file(piece)
        if ended.exists():
            return _read(ended)
        trainer = self.make_trainer(piece)
        self._start(trainer, piece)
        checkpoint = self.path.with_suffix(".safetensors") if alone else self._file(piece, "running.")
        try:
            trained = trainer.run(replace(controls, checkpoint=checkpoint, report=self._report(controls, piece, left)))
        except OutOfTimeError as error:
            if alone:
                raise
            done = len(self.finished)
            raise OutOfTimeError(f"piece {done + 1} of {done + left}: {error}") from error
        if self.job.scan.exchange is not None:
            trained = cheapest(trained, self.job.scan.exchange.pool, len(self.job.scan.temperatures))
        if not alone:
            _write(ended, trained)
            checkpoint.unlink(missing_ok=True)
        return trained

    def _start(self, trainer: Trainer, piece: Piece) -> None:
        """Start a piece from the final weights of its parents, plus a share of its own initial weights."""
        if not piece.parents:
            return
        start, initial = self.weights(piece.parents), trainer.stack.weights()
        share = self.job.scan.perturbation
        for name in trainer.stack.parameters:
            start[name] = start[name] + share * initial[name].cpu()
        trainer.stack.load(start)

    def _report(self, controls: Controls, piece: Piece, left: int) -> Callable[[Progress], None]:
        """Return a report of progress that counts the updates and the replicas of all pieces together."""
        done, total = len(self.finished), len(self.job.cells) * len(self.job.scan.temperatures)
        settled = sum(len(ended.piece.replicas) for ended in self.finished)

        def report(progress: Progress) -> None:
            update, budget = done * progress.budget + progress.update, (done + left) * progress.budget
            controls.report(Progress(update, budget, settled + progress.settled, total, progress.updates_per_second))

        return report

    def _halve(self, waiting: Sequence[Piece], reason: str) -> list[Piece]:
        """Split a piece that does not fit, and all pieces after it, to half its size, and record it in the job file."""
        piece = waiting[0]
        half = (len(piece.replicas) + 1) // 2
        event = {"event": "out-of-memory", "wave": piece.wave, "replicas": len(piece.replicas), "then": half}
        smaller = [part for piece in waiting for part in piece.cut(half, self._together)]
        self.job = self.job.model_copy(
            update={
                "pieces": (*(ended.piece for ended in self.finished), *smaller),
                "events": (*self.job.events, {**event, "reason": reason, "time": round(time.time())}),
            }
        )
        self.job.write(self.path, Store(self.path.parent.parent))
        for unfinished in (self.path.with_suffix(".safetensors"), self._file(piece, "running.")):
            unfinished.unlink(missing_ok=True)
        return smaller

    def _file(self, piece: Piece, prefix: str = "") -> Path:
        return self.path.with_suffix(f".{prefix}{piece.name}.safetensors")

    def records(self, replicas: Sequence[int]) -> list[Record]:
        """Return the record of each given replica."""
        records = {
            replica: record
            for ended in self.finished
            for replica, record in zip(ended.piece.replicas, ended.trained.records, strict=True)
        }
        return [records[replica] for replica in replicas]

    def log(self, replicas: Sequence[int]) -> list[dict[str, Any]]:
        """Return the log of the given replicas, in which they are numbered from zero."""
        numbers = {replica: number for number, replica in enumerate(replicas)}
        return [
            entry
            | {name: numbers[ended.piece.replicas[entry[name]]] for name in ("replica", "taken_from") if name in entry}
            for ended in self.finished
            for entry in ended.trained.log
            if ended.piece.replicas[entry["replica"]] in numbers
        ]

    def weights(self, replicas: Sequence[int]) -> Tensors:
        """Return the final weights of the given replicas, `(r, ...)`, on the CPU."""
        wanted = set(replicas)
        rows: dict[int, dict[str, Tensor]] = {}
        for ended in self.finished:
            if wanted.isdisjoint(ended.piece.replicas):
                continue
            weights = read_checkpoint(self._file(ended.piece), _CPU)[0] if ended.weights is None else ended.weights
            for index, replica in enumerate(ended.piece.replicas):
                if replica in wanted:
                    rows[replica] = {name: value[index].clone() for name, value in weights.items()}
        return {name: torch.stack([rows[replica][name] for replica in replicas]) for name in rows[replicas[0]]}


def cheapest(trained: Trained, pool: int, temperatures: int) -> Trained:
    """Return the cheapest of each temperature and cell, out of the members of its pool.

    trained: replicas ordered by cell, then by member, then by temperature. Entries of the log keep their member.
    """
    if pool == 1:
        return trained
    numbers = np.arange(len(trained.records)).reshape(-1, pool, temperatures)
    costs = np.array([record.line.intercept + record.line.slope * record.line.dial for record in trained.records])
    costs = np.where(np.isfinite(costs), costs, np.inf).reshape(numbers.shape)
    best = np.take_along_axis(numbers, costs.argmin(1)[:, None], 1).ravel()
    cells, members, places = np.unravel_index(np.arange(numbers.size), numbers.shape)
    kept = (cells * temperatures + places).tolist()
    log = []
    for entry in trained.log:
        mine = {**entry, "replica": kept[entry["replica"]], "member": int(members[entry["replica"]])}
        if "taken_from" in entry:
            mine |= {"taken_from": kept[entry["taken_from"]], "from_member": int(members[entry["taken_from"]])}
        log.append(mine)
    chosen = torch.from_numpy(best)
    weights = {name: value[chosen] for name, value in trained.weights.items()}
    return Trained(weights, [trained.records[index] for index in best], log)


def _write(path: Path, trained: Trained) -> None:
    write_checkpoint(path, trained.weights, {"records": [vars(each) for each in trained.records], "log": trained.log})


def _read(path: Path) -> Trained:
    about = read_checkpoint(path, _CPU)[1]
    return Trained({}, [Record.of(each) for each in about["records"]], about["log"])


def _release_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
