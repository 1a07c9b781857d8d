"""A network trained by a plain loop is measured like the same network trained here at equal temperature."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import collapsebench

TEMPERATURE = 0.05
DATASET = {"dimension": 4, "samples": 512, "evaluation_samples": 256}
SUITE = """
title = "The same network"
seeds = 1
metrics = ["equilibrium", "jensen-gap", "effective-dimension"]

[scan]
latent_dim = 3
temperatures = [0.05]

[training]
optimiser = { use = "preconditioned", learning_rate = 0.02 }
batch_size = "full"
max_updates = 1500

[compute]
device = "cpu"
threads = 1

[[datasets]]
use = "gaussian"
dimension = 4
samples = 512
evaluation_samples = 256

[[architectures]]
id = "mlp"
encoder = { use = "mlp", depth = 1, width = 16 }
decoder = { use = "mlp", depth = 1, width = 16 }
"""


class Plain(nn.Module):
    """One hidden layer of 16 SiLU units on each side, three latents, as in the suite."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Linear(4, 16), nn.SiLU())
        self.mean, self.log_variance = nn.Linear(16, 3), nn.Linear(16, 3)
        self.body = nn.Sequential(nn.Linear(3, 16), nn.SiLU(), nn.Linear(16, 4))

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.features(x)
        return self.mean(features), self.log_variance(features)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return self.body(z)


def trained_plainly(x: torch.Tensor, beta: float, updates: int = 4000) -> Plain:
    """Train in the convention of disentanglement_lib: sum of squares + beta KL."""
    torch.manual_seed(0)
    model = Plain()
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, updates)
    for _ in range(updates):
        mean, log_variance = model.encode(x)
        x_hat = model.decode(mean + (log_variance / 2).exp() * torch.randn_like(mean))
        kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1)
        loss = ((x - x_hat).square().sum(1) + beta * kl).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return model


@pytest.mark.slow
def test_a_plain_loop_and_training_here_give_the_same_observables(tmp_path: Path, make_gaussian) -> None:
    data = make_gaussian(**DATASET)
    beta = collapsebench.beta_of(TEMPERATURE, "disentanglement_lib", data.total_variance, 4)
    model = trained_plainly(torch.from_numpy(data.splits["train"].values), beta)
    found = collapsebench.measure(model, "gaussian", parameters=DATASET, beta=beta, convention="disentanglement_lib")
    assert found.temperature == pytest.approx(TEMPERATURE)

    (tmp_path / "same.toml").write_text(SUITE)
    (cell,) = collapsebench.run(tmp_path / "same.toml", store=tmp_path / "store").results.cells
    assert cell.measurement is not None
    tables = cell.measurement.tables
    for split in ("train", "validation", "test"):
        ours = tables["latent-moments"][tables["latent-moments"]["split"] == split]
        ours = ours.sort_values("signal_fraction", ascending=False)
        theirs = found.latents[found.latents["split"] == split]
        assert theirs["signal_fraction"].to_numpy() == pytest.approx(ours["signal_fraction"].to_numpy(), abs=0.02)
        assert theirs["rate"].to_numpy() == pytest.approx(ours["rate"].to_numpy(), abs=0.04)
        curves = [
            frame[frame["split"] == split]["normalised_distortion"].to_numpy()
            for frame in (found.distortion, tables["truncated-distortion"])
        ]
        assert curves[0] == pytest.approx(curves[1], abs=0.02)
    losses = [frame["loss"].to_numpy() for frame in (found.losses, tables["losses"])]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert found.stationary
