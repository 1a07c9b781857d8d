"""Choose each stack's computation and predict its memory and time from small trial stacks.

The compiled kernel is tried first, then torch.func; the numbers of each are compared with those of one replica after
the other. On a CPU, stacks that the kernel does not compute entirely are timed with every computation, in a few
interleaved updates.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import ByteSize
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from collapsebench.contracts import Registry
from collapsebench.data.standardise import Standardised
from collapsebench.errors import error_text
from collapsebench.planning.cells import Cell, Plan, ScanName
from collapsebench.planning.jobs import ScanSpec, StackChoice, adopted_keys, pool_of, waves_of
from collapsebench.process import keep_freed_memory, matrix_precision
from collapsebench.stack.computation import COMPUTATIONS, Computation, why_not
from collapsebench.stack.kernel.chains import covers
from collapsebench.stack.kernel.library import KernelError
from collapsebench.stack.stack import Stack
from collapsebench.store import Store
from collapsebench.suite.schema import ComputeSettings
from collapsebench.training.build import build_stack, trainer_of
from collapsebench.training.memory import Footprint, footprint, memory_available
from collapsebench.training.trainer import Trainer

TIMED_REPLICAS = 16
_ROUNDS, _SECONDS, _HOPELESS, _LARGE = 4, 6.0, 1.5, 1.1
_TIMED_UPDATES, _PREDICTED_REPLICAS = 4, 64
_BATCHED, _ONE_BY_ONE, _GRAPH = (COMPUTATIONS[name] for name in ("batched", "one-by-one", "graph"))
DEVICE_RATE = 9e12
"""Operations per second by which the time on a CUDA device elsewhere is predicted: what an H100 reached with graphs of
363 perceptrons in float32 (results/performance/h100/throughput.md)."""
LEAST_SECONDS = {"adam": 6e-4, "preconditioned": 1.1e-3}
"""Seconds of an update that is too small to fill the device, by optimiser: of graphs of 32 perceptrons there."""


@dataclass(frozen=True, kw_only=True)
class PlannedStack(StackChoice):
    """How the stacks of a scan are computed, and the memory they need.

    replicas_wanted: number of replicas in the largest wave. memory_available: the bytes that a stack may take.
    """

    name: ScanName
    replicas_wanted: int
    memory_available: float

    @property
    def label(self) -> str:
        """The name of the scan as text: dataset/architecture/objective."""
        return "/".join(self.name)

    @property
    def replicas(self) -> int:
        """The maximum number of replicas in a stack."""
        return self.max_replicas(self.replicas_wanted)

    @property
    def description(self) -> str:
        """How the stacks are computed, as a sentence."""
        return f"its stacks are computed {COMPUTATIONS[self.computation].description}"

    @property
    def memory(self) -> str:
        """Predicted and permitted memory, as text."""
        if self.predicted_bytes is None:
            return "its memory cannot be predicted"
        limit = "" if math.isinf(self.memory_available) else f", {_as_text(self.memory_available)} available"
        return f"{_as_text(self.predicted_bytes(self.replicas))} predicted{limit}"


def _as_text(amount: float) -> str:
    return ByteSize(amount).human_readable(separator=" ")


def plan_stacks(plan: Plan, store: Store, device: str, registry: Registry) -> dict[ScanName, PlannedStack]:
    """Return how the stacks of every scan with a missing cell would be computed, without writing anything.

    Cells of interrupted jobs are left out, because these jobs continue as they were planned.
    """
    compute = plan.suite.compute
    missing = [cell.scan for cell in _new_cells(plan, store)]
    stacks = {}
    for name in sorted(set(missing)):
        scan, data = scan_of_all_seeds(plan, name, device), plan.data[name.dataset]
        computation, reason = choose_computation(scan, data, registry, compute)
        with on_threads(compute.threads):
            need = predict_memory(scan, data, registry, computation)
        available = memory_available(device, compute.memory_limit)
        stacks[name] = _planned_stack(plan, name, missing, computation, reason, need, available)
    return stacks


def plan_elsewhere(
    plan: Plan, store: Store, device: str, registry: Registry
) -> tuple[dict[ScanName, PlannedStack], float | None]:
    """Predict the stacks of every scan with a missing cell on a device that is not here, and the seconds of training.

    Memory is that of small stacks on the CPU, which the device would compute in the same way, or with less. Seconds are
    the operations of an update over `DEVICE_RATE`, or `LEAST_SECONDS`, of every stack; None if one cannot be trained.
    Whether the device can compute the stacks so, and whether they fit, is found out there.
    """
    missing = [cell.scan for cell in _new_cells(plan, store)]
    stacks: dict[ScanName, PlannedStack] = {}
    seconds: list[float | None] = []
    for name in sorted(set(missing)):
        scan, data = scan_of_all_seeds(plan, name, "cpu"), plan.data[name.dataset]
        need = predict_memory(scan, data, registry, _GRAPH, device)
        reason = f"predicted without {device}"
        stacks[name] = _planned_stack(plan, name, missing, _GRAPH, reason, need, math.inf)
        together, all_replicas = stacks[name].replicas, missing.count(name) * plan.suite.scan.count
        one = _seconds_of_update(scan, data, registry, together)
        updates = -(-all_replicas // together) * plan.suite.training.rounds[-1]
        seconds.append(None if one is None else one * updates)
    return stacks, None if None in seconds else sum(each or 0.0 for each in seconds) or None


def _seconds_of_update(scan: ScanSpec, data: Standardised, registry: Registry, replicas: int) -> float | None:
    """Return the predicted seconds of an update of a stack on a device elsewhere, None if it cannot be trained."""
    try:
        trainer = trainer_of(_few(scan, 2), _GRAPH, data, registry)
        with FlopCounterMode(display=False) as counter:
            trainer.advance()
    except Exception:  # the job will report this error
        return None
    operations = float(counter.get_total_flops()) / 2 * replicas
    return max(operations / DEVICE_RATE, LEAST_SECONDS[scan.training.optimiser.use])


def _planned_stack(
    plan: Plan, name: ScanName, missing: Sequence[ScanName], computation: Computation, reason: str,
    need: Footprint | None, available: float,
) -> PlannedStack:  # fmt: skip
    wave = len(waves_of(plan.suite, name.architecture)[0]) * pool_of(plan.suite, name.architecture)
    most = max(1, plan.suite.compute.max_replicas_per_stack // wave)

    def max_replicas(wanted: int) -> int:
        return wanted if need is None else need.max_replicas(available, wanted)

    return PlannedStack(
        computation=computation.name,
        reason=reason,
        max_replicas=max_replicas,
        predicted_bytes=need.bytes if need else None,
        name=name,
        replicas_wanted=wave * min(missing.count(name), most),
        memory_available=available,
    )


def seconds_at_most(
    plan: Plan, store: Store, stacks: Mapping[ScanName, PlannedStack], device: str, registry: Registry
) -> float | None:
    """Return the seconds that training takes if every new replica uses its whole budget; None if none can be timed."""
    missing = [cell.scan for cell in _new_cells(plan, store)]
    updates = plan.suite.scan.count * plan.suite.training.rounds[-1]
    total = 0.0
    for name, stack in stacks.items():
        replicas = min(_PREDICTED_REPLICAS, stack.replicas)
        each = predict_seconds(plan, name, device, COMPUTATIONS[stack.computation], registry, replicas)
        total += (each or 0.0) * missing.count(name) * updates
    return total or None


def _new_cells(plan: Plan, store: Store) -> list[Cell]:
    """Return the missing cells that belong to no interrupted job."""
    adopted = adopted_keys(plan, store)
    return [cell for cell in plan.missing if cell.key not in adopted]


def scan_of_all_seeds(plan: Plan, name: ScanName, device: str) -> ScanSpec:
    """Return a scan whose temperatures are repeated for each seed, as a trial for a stack of all seeds."""
    return ScanSpec.of(plan.suite, name, device).at(plan.temperatures(name) * len(plan.suite.seeds))


def choose_computation(
    scan: ScanSpec, data: Standardised, registry: Registry, compute: ComputeSettings
) -> tuple[Computation, str]:
    """Return the computation for the stacks of a scan, and why: what ruled out the others, or the measured times.

    Where even one-by-one fails, it is returned all the same, so that the job reports the plugin's error.
    """
    with matrix_precision(scan.precision):
        return _choose(scan, data, registry, compute)


def _choose(
    scan: ScanSpec, data: Standardised, registry: Registry, compute: ComputeSettings
) -> tuple[Computation, str]:
    automatic = compute.path == "auto"
    trial = _few(scan, 4)
    reasons: list[str] = []
    for computation in _wanted(scan, compute):
        if computation is _ONE_BY_ONE:
            return computation, ""
        try:
            if automatic and computation.engine.in_one_pass and scan.decoder.create("decoder", registry).linear:
                continue  # its expectation over z has a closed form, so there is no failure to report
            stack = build_stack(trial, (0,), computation, data, registry)
            reason = why_not(stack, scan.latent_dim) or _why_not_captured(scan, data, registry, computation)
        except KernelError as error:
            reason = f"{computation.name}: {error}"
        except Exception:
            return _ONE_BY_ONE, ""  # the run will fail or be skipped, and its row will say why
        if reason is None:
            if automatic and scan.device == "cpu" and not _is_all_by_kernel(stack):
                computation, reason = _fastest(scan, data, registry, compute, computation)
                reasons.append(reason)
            return computation, "; ".join(reasons)
        reasons.append(reason)
    return _ONE_BY_ONE, "; ".join(dict.fromkeys(reasons))


def _wanted(scan: ScanSpec, compute: ComputeSettings) -> list[Computation]:
    """Return the computations that are tried, the first of which is taken if it works."""
    if compute.path != "auto":
        return [COMPUTATIONS[compute.path], _BATCHED]
    fast = []
    if scan.device == "cpu" and scan.precision == "float32":
        fast = [computation for computation in COMPUTATIONS.values() if computation.engine.by_kernel]
    if scan.device == "cuda":
        fast = [computation for computation in COMPUTATIONS.values() if computation.captured]
    return [*fast, _BATCHED]


def _why_not_captured(scan: ScanSpec, data: Standardised, registry: Registry, computation: Computation) -> str | None:
    """Return why the updates of a stack cannot be recorded as graphs, or None if they can, or need not be."""
    if not (computation.captured and scan.device == "cuda"):
        return None
    trainer = trainer_of(_few(scan, 2), computation, data, registry)
    for _ in range(4):
        trainer.advance()
    lost = [f"{name} ({why})" for name, why in trainer.one_update.why_not.items() if name != "turn"]
    return f"{computation.name}: cannot be recorded: {'; '.join(lost)}" if lost else None


def _is_all_by_kernel(stack: Stack) -> bool:
    name = stack.computation.name
    return name == "kernel" or (name == "kernel-chains" and covers(stack.template))


def _few(scan: ScanSpec, replicas: int) -> ScanSpec:
    """Return the scan with this many replicas, which alternate between its first two temperatures."""
    return scan.at((list(scan.temperatures)[:2] * replicas)[:replicas])


def _fastest(
    scan: ScanSpec, data: Standardised, registry: Registry, compute: ComputeSettings, whole: Computation
) -> tuple[Computation, str]:
    """Time every computation on a batch of a scan, with up to `TIMED_REPLICAS` replicas, if memory allows.

    whole: the computation that passed the trial. Returns the fastest, and the measurement as a sentence.
    """
    others = COMPUTATIONS.items()
    plain = (name for name, each in others if not (each.engine.by_kernel or each.captured))
    names = dict.fromkeys([whole.name, *plain])
    wanted = min(TIMED_REPLICAS, len(scan.temperatures), compute.max_replicas_per_stack)
    replicas = min(wanted, _that_fit(scan, data, registry, compute, wanted, len(names)))
    rows, size = data.splits["train"].values, scan.training.batch_size
    x = torch.from_numpy(rows if isinstance(size, str) else rows[:size])
    noise: Tensor | None = torch.randn(len(x), scan.latent_dim, generator=torch.Generator())
    stacks, failures = {}, []
    with on_threads(compute.threads):
        for name in names:
            try:
                stack = build_stack(scan.at(scan.temperatures[:replicas]), (0,), COMPUTATIONS[name], data, registry)
                x, noise = x.to(stack.dtype), None if stack.linear or noise is None else noise.to(stack.dtype)
                stack.gradients(x, noise, None, 0.0)
                stacks[name] = stack
            except Exception as error:
                failures.append(f"{name}: {error_text(error)}")
        if not stacks:
            return _ONE_BY_ONE, "; ".join(failures)
        times = time_computations(stacks, x, noise)
        return COMPUTATIONS[fastest(times)], "; ".join([report(times, replicas), *failures])


def time_computations(stacks: Mapping[str, Stack], x: Tensor, noise: Tensor | None) -> dict[str, float]:
    """Return the shortest time of an update of every stack, in milliseconds per replica.

    stacks: by the name of their computation; they differ in nothing else. x: `(b, *shape)`, noise: `(b, k)`. After the
    first timed round, computations that are much slower than the best are dropped.
    """
    keep_freed_memory()
    best: dict[str, float] = {}
    started = time.perf_counter()
    for turn in range(_ROUNDS + 1):  # the first turn is a warm-up: it fills caches and compiles code
        for name, stack in stacks.items():
            if turn > 1 and best[name] > _HOPELESS * min(best.values()):
                continue
            if turn > 1 and time.perf_counter() - started > _SECONDS:
                return best
            before = time.perf_counter()
            stack.gradients(x, noise, None, 0.0)
            taken = (time.perf_counter() - before) / len(stack) * 1e3
            if turn:
                best[name] = min(taken, best.get(name, taken))
    return best


def fastest(times: Mapping[str, float]) -> str:
    """Return the fastest computation, except that computing all replicas at once must be faster by a tenth.

    Only then do stacks larger than the measured one hold more activations in memory.

    >>> fastest({"batched": 1.0, "groups-on-cores": 1.05})
    'groups-on-cores'
    """
    return min(times, key=lambda name: times[name] * (_LARGE if COMPUTATIONS[name].grouping.as_a_whole else 1))


def report(times: Mapping[str, float], replicas: int) -> str:
    """Return the measured times as a sentence, fastest first."""
    listed = ", ".join(f"{name} {times[name]:.3g}" for name in sorted(times, key=lambda name: times[name]))
    return f"measured with {replicas} replicas on {torch.get_num_threads()} threads, ms per replica-update: {listed}"


@contextmanager
def on_threads(count: int | None) -> Iterator[None]:
    """Set the number of threads of PyTorch within this context, if one is given."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _that_fit(
    scan: ScanSpec, data: Standardised, registry: Registry, compute: ComputeSettings, wanted: int, stacks: int
) -> int:
    """Return how many of the wanted replicas each of several stacks may have if all stacks are in memory at once."""
    need = predict_memory(scan, data, registry, _BATCHED)
    available = memory_available(scan.device, compute.memory_limit)
    return wanted if need is None else need.max_replicas(available / stacks, wanted)


def predict_seconds(
    plan: Plan, name: ScanName, device: str, computation: Computation, registry: Registry, replicas: int
) -> float | None:
    """Return the seconds that an update takes per replica, or None if a stack cannot be trained.

    They are measured in a few updates of a stack of this many replicas; checks are not included.
    """
    scan = _few(scan_of_all_seeds(plan, name, device), replicas)
    try:
        with on_threads(plan.suite.compute.threads):
            trainer = trainer_of(scan, computation, plan.data[name.dataset], registry)
            trainer.advance()
            _wait_for(device)
            started = time.perf_counter()
            for _ in range(_TIMED_UPDATES):
                trainer.advance()
            _wait_for(device)
    except Exception:  # the job will report this error
        return None
    return (time.perf_counter() - started) / (_TIMED_UPDATES * replicas)


def _wait_for(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def predict_memory(
    scan: ScanSpec, data: Standardised, registry: Registry, computation: Computation, device: str | None = None
) -> Footprint | None:
    """Return the memory that the stacks of a scan need, or None if not even a small stack can be trained.

    device: where, if not on that of the scan.
    """

    def make(replicas: int, data: Standardised, changes: Mapping[str, Any]) -> Trainer:
        every = {"refresh_every": 1} if hasattr(scan.training.optimiser, "refresh_every") else {}
        optimiser = scan.training.optimiser.model_copy(update=every)
        training = scan.training.model_copy(update={**changes, "optimiser": optimiser})
        small = _few(scan, replicas).model_copy(update={"training": training})
        return trainer_of(small, computation, data, registry)

    width, workers = max(4 * scan.latent_dim, math.prod(data.shape)), torch.get_num_threads()
    on_cores = computation.name == "replicas-on-cores"
    try:
        # Memory of other threads cannot be measured, so the replicas run one after the other in this thread.
        with on_threads(1 if on_cores else None):
            need = footprint(make, data, scan.training.batch_size, width, device or scan.device)
    except Exception:  # the job will report this error
        return None
    return need.on_cores(workers) if on_cores else need
