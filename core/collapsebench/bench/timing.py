"""Time steps in turn, because absolute times drift: spreads and ratios of interleaved measurements, and what to beat.

What a stack is compared with: a plain PyTorch loop, and the machine's rate of large matrix products.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from collapsebench.data.standardise import Standardised

SECONDS = 0.3
"""How long a step is repeated for one measurement."""
SIDE = 2048
"""Rows and columns of the square matrices whose product is timed."""


@dataclass(frozen=True)
class Spread:
    """Median, lowest and highest of repeated measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarise measurements."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Turns:
    """Measurements taken in turn: one value per name in each repetition."""

    repetitions: tuple[Mapping[str, float], ...]

    @classmethod
    def take(cls, measurements: Mapping[str, Callable[[], float]], repeats: int) -> Turns:
        """Take every measurement, in order, and repeat the whole."""
        return cls(tuple({name: measure() for name, measure in measurements.items()} for _ in range(repeats)))

    def spread(self, name: str) -> Spread:
        """Summarise one of the measurements."""
        return Spread.of([repetition[name] for repetition in self.repetitions])

    def ratio(self, name: str, over: str) -> Spread:
        """Summarise the ratio of two measurements, taken repetition by repetition."""
        return Spread.of([repetition[name] / repetition[over] for repetition in self.repetitions])


def milliseconds(step: Callable[[], Any], device: torch.device) -> float:
    """Return the mean time of a step over about `SECONDS`, after one step that is not counted."""
    step()
    _wait(device)
    steps, started = 0, time.perf_counter()
    while steps < 2 or time.perf_counter() - started < SECONDS:
        step()
        steps += 1
    _wait(device)
    return (time.perf_counter() - started) / steps * 1e3


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class MatrixPeak:
    """The rate of a large square float32 product on a device, in GFLOP/s."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._square = torch.randn(SIDE, SIDE, device=device)
        self.has_onednn = self._is_possible(self._onednn_product)

    def torch_gflops(self) -> float:
        """Return the rate of PyTorch's own product."""
        return self._gflops(lambda: self._square @ self._square)

    def onednn_gflops(self) -> float:
        """Return the rate of the same product through oneDNN, which can use wider instructions."""
        return self._gflops(self._onednn_product)

    def _gflops(self, product: Callable[[], Any]) -> float:
        return 2 * len(self._square) ** 3 / (milliseconds(product, self._device) * 1e6)

    def _onednn_product(self) -> Any:
        return torch.ops.mkldnn._linear_pointwise(self._square, self._square, None, "none", [], "")

    @staticmethod
    def _is_possible(product: Callable[[], Any]) -> bool:
        """Whether this build of PyTorch has the product, and has it on this device."""
        try:
            product()
        except (RuntimeError, AttributeError, NotImplementedError):
            return False
        return True


def plain_loop(data: Standardised, pair: nn.ModuleDict, device: torch.device, batch_size: int) -> Callable[[], Any]:
    """Return one update of the loop that everyone writes: one model, mini-batches, fused Adam."""
    x = torch.from_numpy(data.splits["train"].values).to(device)
    optimiser = torch.optim.Adam(pair.parameters(), lr=3e-4, fused=True)
    generator = torch.Generator(device).manual_seed(0)
    beta = 0.1

    def update() -> Tensor:
        batch = x[torch.randint(len(x), (batch_size,), generator=generator, device=device)]
        mean, log_variance = pair["encoder"](batch)
        noise = torch.randn(mean.shape, generator=generator, device=device)
        x_hat = pair["decoder"](mean + (0.5 * log_variance).exp() * noise)
        distortion = 0.5 * (batch - x_hat).flatten(1).square().sum(1)
        rate = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
        loss: Tensor = (distortion + beta * rate).mean()
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        return loss

    return update
