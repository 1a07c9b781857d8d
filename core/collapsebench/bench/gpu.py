"""What a CUDA device does with stacks: its tests, its speed against two measured ceilings, theory, a scan.

One command measures everything in the order of importance and writes what it has after every part, so that nothing is
lost if its time ends.
"""

from __future__ import annotations

import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch

from collapsebench.bench.throughput import (
    BATCH,
    INPUTS,
    LATENTS,
    Networks,
    bench_data,
    bench_pair,
    bench_scan,
    networks,
    temperatures_of,
)
from collapsebench.bench.timing import plain_loop
from collapsebench.contracts import load_registry
from collapsebench.errors import UserError, error_text
from collapsebench.process import matrix_precision
from collapsebench.stack.computation import COMPUTATIONS
from collapsebench.stack.kernel.library import KernelError
from collapsebench.suite.schema import Training
from collapsebench.training.build import trainer_of
from collapsebench.training.trainer import Trainer

if TYPE_CHECKING:
    from torch import nn

REPLICAS = (32, 121, 363, 1452)
PUBLISHED_REPLICAS, PUBLISHED_UPDATES = 121, 1_000_000
"""Of the paper's scan."""
_WARM_UP, _SECONDS, _SIDE, _COPIED, _SAY_EVERY = 31, 0.3, 8192, 1 << 28, 5.0
_OPTIMISERS: dict[str, dict[str, Any]] = {
    "adam": {"use": "adam"}, "preconditioned": {"use": "preconditioned", "learning_rate": 3e-3},
}  # fmt: skip
_WAYS = ("graph-of-kernels", "graph", "batched")


@dataclass(frozen=True)
class Rate:
    """How fast a stack of the published network trains.

    computation: "plain loop" for one model in an ordinary loop. milliseconds: of one update of all replicas.
    replica_updates: per second. floor: the least milliseconds, from operations and bytes and the ceilings of the
    device. error: why there is no measurement.
    """

    optimiser: str
    computation: str
    precision: str
    replicas: int
    milliseconds: float | None = None
    floor: float | None = None
    error: str = ""

    @property
    def replica_updates(self) -> float | None:
        """Updates of a replica per second."""
        return None if self.milliseconds is None else 1e3 * self.replicas / self.milliseconds


@dataclass
class GpuReport:
    """Everything that `bench gpu` measures.

    ceilings: bytes per second of a copy, read and written, and operations per second of float32 and TF32 products.
    tests: number passed, failed and skipped, and the failures. boards: for each precision, the scores of linear pairs
    against theory. scan: its statuses. seconds: what each part took. failures: of a part that failed, the reason.
    """

    device: str
    ceilings: dict[str, float] = field(default_factory=dict)
    tests: dict[str, Any] = field(default_factory=dict)
    rates: list[Rate] = field(default_factory=list)
    boards: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    scan: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def rate(self, optimiser: str, computation: str, replicas: int) -> Rate | None:
        """Return a measurement in float32, or None."""
        wanted = (optimiser, computation, replicas, "float32")
        found = ((r.optimiser, r.computation, r.replicas, r.precision) for r in self.rates)
        return next((rate for rate, key in zip(self.rates, found, strict=True) if key == wanted), None)


@dataclass(frozen=True)
class Verbs:
    """The verbs of the Python API that run and publish a suite."""

    run: Callable[..., Any]
    publish: Callable[..., Any]


@dataclass(frozen=True)
class GpuSettings:
    """What is run.

    parts: which parts, all by default. tests: folders of tests. worldclim: prepared cells, or None. minutes: after
    which no further part starts. store: of the scans. preset, overrides: of the scan of WorldClim. device: another one
    than CUDA tries out the benchmark itself.
    """

    out: Path
    verbs: Verbs
    parts: tuple[str, ...] = ()
    tests: tuple[Path, ...] = ()
    worldclim: Path | None = None
    minutes: float = 8.0
    store: Path | None = None
    preset: str = "gpu"
    overrides: tuple[str, ...] = ()
    replicas: tuple[int, ...] = REPLICAS
    device: str = "cuda"


def bench_gpu(settings: GpuSettings, save: Callable[[GpuReport], None], say: Callable[[str], None]) -> GpuReport:
    """Measure part after part. save: called after each. Raise UserError without a CUDA device."""
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise UserError(f"bench gpu: PyTorch {torch.__version__} finds no CUDA device here; it needs one.")
    report = GpuReport(torch.cuda.get_device_name() if settings.device == "cuda" else settings.device)
    started = time.monotonic()
    for name, part in PARTS.items():
        if settings.parts and name not in settings.parts:
            continue
        left = 60 * settings.minutes - (time.monotonic() - started)
        if left < 0:
            say(f"{name}: not started, {settings.minutes:g} minutes are over")
            continue
        before = time.monotonic()
        try:
            part(report, settings, say, left)
        except Exception as error:
            report.failures[name] = error_text(error)
            say(f"{name}: {report.failures[name]}")
        report.seconds[name] = time.monotonic() - before
        say(f"{name}: {report.seconds[name]:.0f} s")
        save(report)
    return report


def _tests(report: GpuReport, settings: GpuSettings, say: Callable[[str], None], left: float) -> None:
    """Run the tests marked `gpu`, in a process of their own."""
    with TemporaryDirectory() as folder:
        result = Path(folder) / "tests.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-W", "default", "-p", "no:cacheprovider"]
        subprocess.run(
            [*command, f"--junitxml={result}", *map(str, settings.tests)],
            check=False, capture_output=True, text=True, timeout=left,
        )  # fmt: skip
        cases = list(ElementTree.parse(result).getroot().iter("testcase"))
    ended: dict[str, list[str]] = {"passed": [], "failed": [], "skipped": []}
    for case in cases:
        kinds = {child.tag for child in case}
        how = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        texts = [child.get("message", "") for child in case if child.tag in ("failure", "error")]
        ended[how].append(f"{case.get('name')}{': ' if texts else ''}{' '.join(texts)[:400]}")
    report.tests = {how: len(names) for how, names in ended.items()} | {"failures": ended["failed"]}
    say(f"tests: {report.tests}")


def measure_ceilings(device: torch.device) -> dict[str, float]:
    """Return the rates of a large copy, bytes per second, and of large products, operations per second."""
    source = torch.randn(_COPIED, device=device)
    target = torch.empty_like(source)
    square = torch.randn(_SIDE, _SIDE, device=device)
    ceilings = {"copy": 2 * source.nbytes / seconds_of(lambda: target.copy_(source), device)}
    for precision in ("float32", "tf32"):
        with matrix_precision(precision):
            ceilings[precision] = 2 * _SIDE**3 / seconds_of(lambda: square @ square, device)
    return ceilings


def seconds_of(step: Callable[[], Any], device: torch.device, warm_up: int = 3, seconds: float = _SECONDS) -> float:
    """Return the mean seconds of a step, over at least `seconds`, after a warm-up."""
    for _ in range(warm_up):
        step()
    _wait(device)
    started, steps = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        for _ in range(max(1, steps)):  # the count doubles, so that waiting for the device takes no share
            step()
        steps += max(1, steps)
        _wait(device)
    return (time.perf_counter() - started) / steps


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def floor_milliseconds(
    pair: nn.Module, optimiser: str, replicas: int, ceilings: Mapping[str, float], kind: str
) -> float:
    """Return the least time of an update: its operations at the rate of products, or its bytes at that of a copy.

    Operations: 6 per weight and row of the batch; for the preconditioner of an n x m map also 6 n m (n + m) for the
    covariances and both rotations. Bytes, each number once: weights and two running means are read and written, and of
    the preconditioner two covariances, while two bases are read. Gradients and activations need not leave the chip.
    """
    matrices = [tuple(p.shape) for p in pair.parameters() if p.dim() == 2]
    operations = 6.0 * BATCH * sum(n * m for n, m in matrices)
    numbers = 6.0 * sum(p.numel() for p in pair.parameters())
    if optimiser == "preconditioned":
        operations += sum(6 * n * (m + 1) * (n + m + 1) for n, m in matrices)
        numbers += sum(3 * (n**2 + (m + 1) ** 2) for n, m in matrices)
    return 1e3 * replicas * max(operations / ceilings[kind], 4 * numbers / ceilings["copy"])


def _throughput(report: GpuReport, settings: GpuSettings, say: Callable[[str], None], left: float) -> None:
    """Time plain loop, stacks called operation by operation, and recorded stacks."""
    device, registry, data = torch.device(settings.device), load_registry(), bench_data()
    report.ceilings = measure_ceilings(device)
    say(", ".join(f"{name} {value / 1e12:.2f} T/s" for name, value in report.ceilings.items()))
    pair = bench_pair(registry, networks("published"), (INPUTS,), LATENTS)
    loop = plain_loop(data, bench_pair(registry, networks("published"), (INPUTS,), LATENTS).to(device), device, BATCH)
    report.rates.append(Rate("adam", "plain loop", "float32", 1, 1e3 * seconds_of(loop, device, 20)))
    ends = time.monotonic() + left
    for precision, replicas, optimiser, computation in _cases(settings.replicas):
        if time.monotonic() > ends:
            return
        floor = floor_milliseconds(pair, optimiser, replicas, report.ceilings, precision)
        named = Rate(optimiser, computation, precision, replicas, floor=floor)
        try:
            report.rates.append(_timed(named, device))
        except (RuntimeError, KernelError) as error:
            report.rates.append(replace(named, error=error_text(error)))
        if device.type == "cuda":
            torch.cuda.empty_cache()
        say(f"{report.rates[-1]}")


def _timed(rate: Rate, device: torch.device) -> Rate:
    """Return a rate with its measurement; the stack is gone afterwards."""
    with matrix_precision(rate.precision):
        trainer = _stack(rate.optimiser, rate.replicas, rate.computation, rate.precision, device.type)
        seconds = seconds_of(trainer.advance, device, _WARM_UP if trainer.stack.computation.captured else 2)
    lost = "; ".join(f"{name} not recorded: {why}" for name, why in trainer.one_update.why_not.items())
    return replace(rate, milliseconds=1e3 * seconds, error=lost)


def _cases(replicas: tuple[int, ...]) -> list[tuple[str, int, str, str]]:
    """Return what is timed, the most important first."""
    cases = [
        ("float32", count, optimiser, computation)
        for count in sorted(replicas, key=lambda count: abs(count - PUBLISHED_REPLICAS)) for optimiser in _OPTIMISERS
        for computation in _WAYS
    ]  # fmt: skip
    return [*cases, *(("tf32", count, optimiser, _WAYS[0]) for count in replicas for optimiser in _OPTIMISERS)]


def _stack(optimiser: str, replicas: int, computation: str, precision: str, device: str) -> Trainer:
    training = Training.model_validate(
        {"optimiser": _OPTIMISERS[optimiser], "batch_size": BATCH, "max_updates": 10**9, "schedule": "constant"}
    )
    published: Networks = networks("published")
    scan = bench_scan(published, temperatures_of(replicas), LATENTS, training, device)
    scan = scan.model_copy(update={"precision": precision})
    return trainer_of(scan, COMPUTATIONS[computation], bench_data(), load_registry())


def _linear(report: GpuReport, settings: GpuSettings, say: Callable[[str], None], left: float) -> None:
    """Run the linear Gaussian suite on the device, in float32 and in TF32."""
    for precision in ("float32", "tf32") if settings.device == "cuda" else ("float32",):
        overrides = [f'compute.precision="{precision}"']
        outcome = settings.verbs.run(
            "linear-gaussian", device=settings.device, store=settings.store, seeds=1, overrides=overrides
        )
        report.boards[precision] = outcome.board.to_dict("records")


def _scan(report: GpuReport, settings: GpuSettings, say: Callable[[str], None], left: float) -> None:
    """Run and publish the scan of WorldClim over depths, as far as the time allows."""
    if settings.worldclim is None:
        say("scan: no prepared WorldClim file was given")
        return
    cells = [f"datasets.worldclim.path={settings.worldclim.resolve()}", f"compute.time_limit={max(30.0, left):g}"]
    overrides = [*cells, *settings.overrides]
    options = {"preset": settings.preset, "device": settings.device, "store": settings.store, "overrides": overrides}
    said = [time.monotonic()]

    def progress(name: str, at: Any) -> None:
        if time.monotonic() - said[0] > _SAY_EVERY:
            said[0] = time.monotonic()
            say(f"{name}: {at}")

    outcome = settings.verbs.run("worldclim-depth", report=progress, **options)
    report.scan = {"preset": settings.preset, "statuses": outcome.statuses.drop(columns="key").to_dict("records")}
    settings.verbs.publish("worldclim-depth", settings.out / "worldclim-depth", lean=True, **options)


PARTS: dict[str, Callable[[GpuReport, GpuSettings, Callable[[str], None], float], None]] = {
    "tests": _tests, "throughput": _throughput, "linear": _linear, "scan": _scan,
}  # fmt: skip
"""The parts of the benchmark by name, in order."""


def rows_of(report: GpuReport) -> dict[str, str]:
    """Return what was measured as text, by name."""
    units = {"copy": "TB/s", "float32": "TFLOP/s", "tf32": "TFLOP/s"}
    rows = {f"ceiling, {name}": f"{rate / 1e12:.2f} {units[name]}" for name, rate in report.ceilings.items()}
    for rate in report.rates:
        rows[f"{rate.optimiser}, {rate.computation}, {rate.precision}, replicas {rate.replicas}"] = _text(report, rate)
    for how, count in report.tests.items():
        rows[f"tests, {how}"] = "; ".join(count) if isinstance(count, list) else str(count)
    for precision, board in report.boards.items():
        rows |= {
            f"linear, {precision}, {row['dataset']}, {row['metric']}/{row['score']}": f"{row['value']:.6g}"
            for row in board
        }
    for row in report.scan.get("statuses", []):
        rows[f"scan, {row['architecture']}, seed {row['seed']}"] = ", ".join(
            str(row[key]) for key in ("status", "reason") if row.get(key)
        )
    rows |= {f"{name}, failed": reason for name, reason in report.failures.items()}
    return rows | {f"seconds, {name}": f"{value:.0f}" for name, value in report.seconds.items()}


def _text(report: GpuReport, rate: Rate) -> str:
    if rate.milliseconds is None or rate.replica_updates is None:
        return rate.error
    parts = [f"{rate.milliseconds:.3f} ms", f"{rate.replica_updates:,.0f} replica-updates/s"]
    if rate.floor:
        parts.append(f"{rate.milliseconds / rate.floor:.2f} times the floor")
    others = {
        "the plain loop": report.rate("adam", "plain loop", 1),
        "the stack called operation by operation": report.rate(rate.optimiser, "batched", rate.replicas),
    }
    for name, other in others.items():
        if other is not None and other.replica_updates and other is not rate:
            parts.append(f"{rate.replica_updates / other.replica_updates:.1f} times {name}")
    if rate.replicas == PUBLISHED_REPLICAS:
        parts.append(f"{PUBLISHED_UPDATES * rate.milliseconds / 6e4:.1f} minutes for a million updates")
    return ", ".join(parts) + (f" ({rate.error})" if rate.error else "")
