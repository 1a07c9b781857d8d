"""Measurements are taken in turn, and ratios repetition by repetition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from collapsebench.bench import timing
from collapsebench.bench.timing import MatrixPeak, Spread, Turns, milliseconds, plain_loop

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "SECONDS", 0.01)
    monkeypatch.setattr(timing, "SIDE", 32)


def test_a_spread_is_the_median_between_the_extremes() -> None:
    assert Spread.of([5.0, 1.0, 2.0]) == Spread(2.0, 1.0, 5.0)


def test_measurements_are_interleaved() -> None:
    order: list[str] = []
    turns = Turns.take({name: lambda name=name: order.append(name) or 1.0 for name in ("a", "b")}, 2)
    assert order == ["a", "b", "a", "b"]
    assert turns.spread("a") == Spread(1.0, 1.0, 1.0)


def test_a_drift_that_slows_both_down_leaves_their_ratio_alone() -> None:
    turns = Turns(tuple({"ours": drift, "theirs": 3 * drift} for drift in (1.0, 2.0, 8.0)))
    assert turns.ratio("theirs", over="ours") == Spread(3.0, 3.0, 3.0)
    assert turns.spread("ours") == Spread(2.0, 1.0, 8.0)


def test_a_step_is_repeated_until_the_time_is_up_and_twice_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(np.arange(0.0, 100.0, 1.0))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(next(clock)))
    calls: list[int] = []
    assert milliseconds(lambda: calls.append(1), CPU) == pytest.approx(2e3 / 2)
    assert len(calls) == 1 + 2  # one is not counted


def test_the_matrix_peak_is_two_operations_per_entry_and_column_over_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "milliseconds", lambda step, device: (step(), 4.0)[1])
    peak = MatrixPeak(CPU)
    assert peak.torch_gflops() == pytest.approx(2 * 32**3 / 4e6)
    assert not peak.has_onednn or peak.onednn_gflops() == pytest.approx(2 * 32**3 / 4e6)


def test_a_build_without_onednn_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(self: MatrixPeak) -> None:
        raise AttributeError("no such operator")

    monkeypatch.setattr(MatrixPeak, "_onednn_product", absent)
    assert not MatrixPeak(CPU).has_onednn


def test_the_plain_loop_trains_its_pair(gaussian) -> None:
    class Encode(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map = nn.Linear(8, 4)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return self.map(x).chunk(2, dim=-1)

    torch.manual_seed(0)
    pair = nn.ModuleDict({"encoder": Encode(), "decoder": nn.Linear(2, 8)})
    update = plain_loop(gaussian, pair, CPU, batch_size=256)
    losses = [update().item() for _ in range(300)]
    assert np.mean(losses[-20:]) < np.mean(losses[:20])
