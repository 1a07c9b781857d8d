"""How fast this machine trains stacks: against a plain loop, with convolutions, and as replicas, width and data grow.

Source of the network: Hirn 2026, arXiv 2608.10599: 19 inputs, 4 hidden layers of 64 SiLU units, 32 latents, batch 256.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from collapsebench.bench.others import FOREIGN, NAME, pythae_epoch, registry_with_foreign
from collapsebench.bench.timing import MatrixPeak, Spread, Turns, milliseconds, plain_loop
from collapsebench.contracts import Data, Registry, Split, load_registry
from collapsebench.data.standardise import Standardised, standardise
from collapsebench.planning.jobs import ComponentSpec, ScanSpec
from collapsebench.process import keep_freed_memory
from collapsebench.stack.computation import COMPUTATIONS
from collapsebench.suite.resolve import load_suite
from collapsebench.suite.schema import ComputeSettings, EvaluationSettings, Training
from collapsebench.training.build import build_pair, build_stack, trainer_of
from collapsebench.training.choose import TIMED_REPLICAS, choose_computation, fastest, report, time_computations
from collapsebench.training.trainer import Trainer

if TYPE_CHECKING:
    from collapsebench.contracts import Floats

SUITE = "bench"
"""The shipped suite that names the networks."""

INPUTS, WIDTH, LATENTS, BATCH, ROWS = 19, 64, 32, 256, 50_000
IMAGE, IMAGE_LATENTS, IMAGE_ROWS = (1, 28, 28), 16, 4096
IMAGE_OVERRIDES: tuple[str, ...] = ()
"""What is changed of the convolutions before they are timed."""

_FOR_IMAGES = ("batched", "groups-on-cores", "replicas-on-cores", "one-by-one")
_PYTHAE_BATCHES = 20
_FOREIGN = ComponentSpec(use=FOREIGN)


@dataclass(frozen=True)
class Throughput:
    """What `bench throughput` measures; ratios are taken pair by pair, then summarised.

    computation: how a stack of the shipped families is computed here. why_this_computation: why not by the compiled
    kernel, if so. replica_update_ms: one update of one replica within the stack, computed so. general_update_ms: the
    same through torch.func alone, as for a module that the kernel knows nothing of. plain_update_ms: one update of a
    plain PyTorch loop with fused Adam on one model. share_of_matrix_peak: matrix products of the update, 6 per weight
    and sample, over matrix_gflops, the rate of a large square float32 product of PyTorch measured in the same run;
    onednn_gflops: the same product by oneDNN, which can use wider instructions. speedup_over_pythae: an update of
    pythae's own trainer on the CPU over replica_update_ms; None where it was not measured, why_no_pythae says why.
    third_party: a realistic pair that knows nothing of stacks, of about as many weights (`bench/others.py`);
    third_party_share: its throughput, computed as a run chooses for it, over that of the shipped families.
    """

    replicas: int
    device: str
    computation: str
    why_this_computation: str
    replica_update_ms: Spread
    general_update_ms: Spread
    plain_update_ms: Spread
    speedup_over_plain_loop: Spread
    general_speedup_over_plain_loop: Spread
    share_of_matrix_peak: Spread
    matrix_gflops: Spread
    onednn_gflops: Spread | None
    pythae_update_ms: Spread | None
    speedup_over_pythae: Spread | None
    why_no_pythae: str
    third_party: str
    third_party_computation: str
    why_third_party_computation: str
    third_party_update_ms: Spread
    third_party_share: Spread


@dataclass(frozen=True)
class ImageThroughput:
    """What `bench throughput --network conv` measures for a batch size; ratios are taken pair by pair.

    computation: the fastest. why_this_computation: what it measured.
    """

    replicas: int
    batch: int
    device: str
    computation: str
    why_this_computation: str
    replica_update_ms: Spread
    plain_update_ms: Spread
    speedup_over_plain_loop: Spread


@dataclass(frozen=True)
class Growth:
    """The cost of a replica's update at several values of what grows.

    exponent: the slope of log update_ms over log value; 0 is no growth, 1 linear, 2 quadratic. computations: how
    each was computed, as a run would.
    """

    what: str
    values: tuple[int, ...]
    update_ms: tuple[Spread, ...]
    exponent: float
    computations: tuple[str, ...]


@dataclass(frozen=True)
class BenchStack:
    """A stack that is timed, computed as a run would compute it, and why so."""

    trainer: Trainer
    computation: str
    why_this_computation: str


def bench_throughput(replicas: int = 64, repeats: int = 9, device: str = "cpu") -> Throughput:
    """Time a stack against a plain loop and against the matrix peak, in turn, `repeats` times."""
    keep_freed_memory()
    registry, place, data = registry_with_foreign(), torch.device(device), bench_data()
    scan = published_scan(replicas, WIDTH, device)
    stack = bench_stack(scan, data, registry)
    general = trainer_of(scan, COMPUTATIONS["batched"], data, registry)
    third_party = bench_stack(
        bench_scan(Networks(_FOREIGN, _FOREIGN), temperatures_of(replicas), LATENTS, plain_adam(), device),
        data,
        registry,
    )
    pair = bench_pair(registry, _published(), (INPUTS,), LATENTS)
    plain = plain_loop(data, copy.deepcopy(pair).to(place), place, BATCH)
    pythae: Callable[[], None] | str = "pythae is timed on the CPU only"
    if place.type == "cpu":
        pythae = pythae_epoch(data.splits["train"].values[: _PYTHAE_BATCHES * BATCH], pair, LATENTS, BATCH)
    peak = MatrixPeak(place)
    measurements: dict[str, Callable[[], float]] = {
        "plain": lambda: milliseconds(plain, place),
        "stack": lambda: milliseconds(stack.trainer.advance, place) / replicas,
        "general": lambda: milliseconds(general.advance, place) / replicas,
        "third party": lambda: milliseconds(third_party.trainer.advance, place) / replicas,
        "gflops": peak.torch_gflops,
    }
    if peak.has_onednn:
        measurements["onednn"] = peak.onednn_gflops
    if not isinstance(pythae, str):
        measurements["pythae"] = lambda: milliseconds(pythae, place) / _PYTHAE_BATCHES
    turns = Turns.take(measurements, repeats)
    return Throughput(
        replicas=replicas,
        device=device,
        computation=stack.computation,
        why_this_computation=stack.why_this_computation,
        replica_update_ms=turns.spread("stack"),
        general_update_ms=turns.spread("general"),
        plain_update_ms=turns.spread("plain"),
        speedup_over_plain_loop=turns.ratio("plain", over="stack"),
        general_speedup_over_plain_loop=turns.ratio("plain", over="general"),
        share_of_matrix_peak=_share_of_peak(turns, pair),
        matrix_gflops=turns.spread("gflops"),
        onednn_gflops=turns.spread("onednn") if "onednn" in measurements else None,
        pythae_update_ms=turns.spread("pythae") if "pythae" in measurements else None,
        speedup_over_pythae=turns.ratio("pythae", over="stack") if "pythae" in measurements else None,
        why_no_pythae=pythae if isinstance(pythae, str) else "",
        third_party=NAME,
        third_party_computation=third_party.computation,
        why_third_party_computation=third_party.why_this_computation,
        third_party_update_ms=turns.spread("third party"),
        third_party_share=turns.ratio("stack", over="third party"),
    )


def _share_of_peak(turns: Turns, pair: nn.ModuleDict) -> Spread:
    """Return the rate of an update's matrix products, 6 operations per weight and sample, over that of the machine."""
    operations = 6 * BATCH * sum(p.numel() for p in pair.parameters() if p.dim() == 2)
    return Spread.of([operations / (one["stack"] * 1e6) / one["gflops"] for one in turns.repetitions])


def bench_images(replicas: int = 32, batch: int = 64, repeats: int = 9, device: str = "cpu") -> ImageThroughput:
    """Time a stack of the shipped convolutions, two stages from eight channels on, against a plain loop, in turn."""
    keep_freed_memory()
    registry, place, data = load_registry(), torch.device(device), image_data()
    convolutions = networks("convolutions", *IMAGE_OVERRIDES)
    scan = bench_scan(convolutions, temperatures_of(replicas), IMAGE_LATENTS, plain_adam(batch), device)
    computation, reason = _fastest_for_images(scan, data, registry)
    trainer = trainer_of(scan, COMPUTATIONS[computation], data, registry)
    plain = plain_loop(data, bench_pair(registry, convolutions, IMAGE, IMAGE_LATENTS).to(place), place, batch)
    turns = Turns.take(
        {
            "plain": lambda: milliseconds(plain, place),
            "stack": lambda: milliseconds(trainer.advance, place) / replicas,
        },
        repeats,
    )
    return ImageThroughput(
        replicas,
        batch,
        device,
        computation,
        reason,
        replica_update_ms=turns.spread("stack"),
        plain_update_ms=turns.spread("plain"),
        speedup_over_plain_loop=turns.ratio("plain", over="stack"),
    )


def _fastest_for_images(scan: ScanSpec, data: Standardised, registry: Registry) -> tuple[str, str]:
    """Time every computation of convolutions as a run does, without predicting memory, which takes a minute."""
    if scan.device != "cpu":
        return "batched", "computations are timed on a CPU only"
    replicas = min(len(scan.temperatures), TIMED_REPLICAS)
    few = scan.at(temperatures_of(replicas).tolist())
    stacks = {name: build_stack(few, (0,), COMPUTATIONS[name], data, registry) for name in _FOR_IMAGES}
    size = scan.training.batch_size
    x = torch.from_numpy(data.splits["train"].values[: None if isinstance(size, str) else size])
    times = time_computations(stacks, x, torch.randn(len(x), IMAGE_LATENTS))
    return fastest(times), report(times, replicas)


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
    cases = {
        "replicas": {value: (value, WIDTH, ROWS) for value in replicas},
        "width": {value: (stack, value, ROWS) for value in widths},
        "rows": {value: (stack, WIDTH, value) for value in rows},
    }
    return [_growth(what, each, repeats, torch.device(device)) for what, each in cases.items()]


def _growth(what: str, cases: Mapping[int, tuple[int, int, int]], repeats: int, device: torch.device) -> Growth:
    """cases: what grows -> replicas, width and rows of the stack that is timed."""
    registry, stacks = load_registry(), {}
    for value, (replicas, width, rows) in cases.items():
        stacks[value] = bench_stack(published_scan(replicas, width, device.type), bench_data(rows), registry)

    def measurement(value: int) -> Callable[[], float]:
        return lambda: milliseconds(stacks[value].trainer.advance, device) / cases[value][0]

    turns = Turns.take({str(value): measurement(value) for value in cases}, repeats)
    spreads = tuple(turns.spread(str(value)) for value in cases)
    logarithms = np.log(np.array([list(cases), [spread.median for spread in spreads]], dtype=np.float64))
    exponent = float(np.polyfit(logarithms[0], logarithms[1], 1)[0]) if len(cases) > 1 else 0.0
    return Growth(what, tuple(cases), spreads, exponent, tuple(each.computation for each in stacks.values()))


def bench_data(rows: int = ROWS) -> Standardised:
    """Return standard normal data of the published width."""
    generator = np.random.default_rng(0)
    train, validation, test = (
        Split(generator.standard_normal((n, INPUTS)).astype(np.float32)) for n in (rows, 1000, 1000)
    )
    return standardise(Data(train, validation, test, feature_names=tuple(f"x{i}" for i in range(INPUTS))), "bench")


def image_data() -> Standardised:
    """Return images of standard normal pixels."""
    generator = np.random.default_rng(0)
    train, validation, test = (
        Split(generator.standard_normal((rows, *IMAGE)).astype(np.float32)) for rows in (IMAGE_ROWS, 64, 64)
    )
    names = tuple(f"pixel {i}" for i in range(int(np.prod(IMAGE))))
    return standardise(Data(train, validation, test, feature_names=names, scaling="global"), "bench")


@dataclass(frozen=True)
class Networks:
    """The encoder and the decoder of what is timed."""

    encoder: ComponentSpec
    decoder: ComponentSpec


def networks(architecture: str, *overrides: str) -> Networks:
    """Return the networks of an architecture of the shipped suite `bench`, after `key=value` overrides."""
    found = load_suite(SUITE, overrides=overrides).architecture(architecture)
    return Networks(ComponentSpec.of(found.encoder), ComponentSpec.of(found.decoder))


def bench_pair(registry: Registry, parts: Networks, shape: tuple[int, ...], latent_dim: int) -> nn.ModuleDict:
    """Return a pair of networks with the initial weights of seed 0."""
    encoder, decoder = parts.encoder.create("encoder", registry), parts.decoder.create("decoder", registry)
    return build_pair(encoder, decoder, shape, latent_dim, 0)


def published_scan(replicas: int, width: int, device: str) -> ScanSpec:
    """Return the scan of the published network, or of one of another width, with plain Adam."""
    return bench_scan(_published(width), temperatures_of(replicas), LATENTS, plain_adam(), device)


def bench_scan(
    parts: Networks, temperatures: Floats, latent_dim: int, training: Training, device: str = "cpu"
) -> ScanSpec:
    """Return the scan that is timed, with the objective that suites use by default."""
    return ScanSpec(
        encoder=parts.encoder,
        decoder=parts.decoder,
        objective=ComponentSpec(use=load_registry().default("objective")),
        latent_dim=latent_dim,
        temperatures=tuple(temperatures.tolist()),
        training=training,
        evaluation=EvaluationSettings(),
        device=device,
    )


def bench_stack(scan: ScanSpec, data: Standardised, registry: Registry) -> BenchStack:
    """Return the stack of a scan, computed as a run would compute it."""
    computation, reason = choose_computation(scan, data, registry, ComputeSettings())
    return BenchStack(trainer_of(scan, computation, data, registry), computation.name, reason)


def plain_adam(batch_size: int = BATCH) -> Training:
    """Return the training that is timed: plain Adam on mini-batches, without end."""
    return Training.model_validate(
        {"optimiser": {"use": "adam"}, "batch_size": batch_size, "max_updates": 10**9, "schedule": "constant"}
    )


def _published(width: int = WIDTH) -> Networks:
    changed = (f"architectures.published.{part}.width={width}" for part in ("encoder", "decoder"))
    return networks("published", *changed)


def temperatures_of(replicas: int) -> Floats:
    """Return the temperatures of the published scan `(r,)`, from 1 to 1e-6."""
    return np.logspace(0, -6, replicas)
