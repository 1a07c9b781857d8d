"""A small scan whose solution is known exactly, for checks that need a trained stack or a measurement.

The linear encoder and decoder are set to the global optimum on Gaussian data at every temperature, without training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from collapsebench.contracts import (
    SPLITS,
    Data,
    Decoder,
    Encoder,
    Measurement,
    Objective,
    Parameters,
    Prediction,
    Split,
    SplitName,
)
from collapsebench.data.samples import SplitSamples
from collapsebench.data.standardise import Standardised, standardise
from collapsebench.stack.gaussian_head import GaussianHead
from collapsebench.stack.stack import Stack, StackModel
from collapsebench.theory.oracle import oracle
from collapsebench.training.build import build_pair

FEATURES, LATENTS, ROWS = 24, 20, 192
TEMPERATURES = tuple(float(f"{t:.6g}") for t in np.geomspace(1.0, 1e-3, 25))
_CPU = torch.device("cpu")


class FlatEncoder(Encoder[Parameters]):
    """Mean and log-variance affine in the flattened sample."""

    linear: ClassVar[bool] = True

    def build(self, shape: tuple[int, ...], latent_dim: int) -> nn.Module:
        """Return a module that maps x `(batch, *shape)` to (mean, log_variance), each `(batch, latent_dim)`."""
        return nn.Sequential(nn.Flatten(), GaussianHead(math.prod(shape), latent_dim))


class FlatDecoder(Decoder[Parameters]):
    """x_hat affine in z."""

    linear: ClassVar[bool] = True

    def build(self, latent_dim: int, shape: tuple[int, ...]) -> nn.Module:
        """Return a module that maps z `(batch, latent_dim)` to x_hat `(batch, *shape)`."""
        return nn.Sequential(nn.Linear(latent_dim, math.prod(shape)), nn.Unflatten(1, torch.Size(shape)))


class PlainObjective(Objective[Parameters]):
    """Distortion plus beta times rate."""

    has_oracle: ClassVar[bool] = True

    def loss(
        self, distortion: Tensor, rate: Tensor, dial: Tensor, state: Mapping[str, Tensor], progress: Tensor
    ) -> Tensor:
        """Return the loss of each sample `(batch,)`."""
        return distortion + dial * rate.sum(-1)


@dataclass(frozen=True)
class ReferenceScan:
    """One cell, solved exactly or as initialised. replicas: a table of one row per replica, as the store keeps it."""

    data: Standardised
    stack: Stack
    model: StackModel
    replicas: pd.DataFrame

    def samples(self, split: SplitName) -> SplitSamples:
        """Return a split as observables read it."""
        return SplitSamples(self.data, split, replicas=len(self.stack), width=64, device=_CPU, dtype=self.stack.dtype)

    def measurement(self, tables: Mapping[str, pd.DataFrame], *, has_oracle: bool = True) -> Measurement:
        """Return what a metric sees of the scan."""
        prediction = Prediction.linear(np.array(TEMPERATURES), self.data.eigenvalues, LATENTS)
        return Measurement(
            temperatures=np.array(TEMPERATURES),
            latent_dim=LATENTS,
            total_variance=self.data.total_variance,
            tables={"replicas": self.replicas, **tables},
            pca=self.data.pca,
            second_moments=self.data.second_moments,
            has_oracle=has_oracle,
            prediction=prediction if has_oracle else None,
        )


@cache
def reference_data() -> Standardised:
    """Return Gaussian samples whose training covariance has the eigenvalues k^-1.5, rotated."""
    generator = np.random.default_rng(0)
    rotation, _ = np.linalg.qr(generator.standard_normal((FEATURES, FEATURES)))
    scale = np.arange(1, FEATURES + 1) ** -0.75
    splits: dict[str, Any] = {}
    for name in SPLITS:
        white = generator.standard_normal((ROWS, FEATURES))
        if name == "train":
            white -= white.mean(0)
            white = np.linalg.qr(white)[0] * math.sqrt(ROWS)
        splits[name] = Split((white * scale @ rotation.T).astype(np.float32))
    names = tuple(f"x{i}" for i in range(FEATURES))
    return standardise(Data(**splits, feature_names=names, scaling="none"), "reference")


def stack_of(
    data: Standardised,
    encoder: Encoder[Any],
    decoder: Decoder[Any],
    objective: Objective[Any],
    temperatures: tuple[float, ...],
    latent_dim: int,
    seeds: int = 1,
) -> Stack:
    """Return a freshly initialised stack, the temperatures in their order within each seed."""
    dials = torch.from_numpy(objective.dials(np.array(temperatures), data.eigenvalues, latent_dim))
    return Stack(
        [build_pair(encoder, decoder, data.shape, latent_dim, seed) for seed in range(seeds)],
        objective,
        dials.repeat(seeds),
        torch.arange(seeds).repeat_interleave(len(temperatures)),
        data.total_variance,
        data.shape,
        decoder=decoder,
        device=_CPU,
        dtype=torch.float32,
    )


def reference_scan(*, solved: bool = True, lost: int | None = None) -> ReferenceScan:
    """Return the scan at its exact solution, or as initialised. lost: a replica that has diverged."""
    data = reference_data()
    parts = (FlatEncoder(Parameters()), FlatDecoder(Parameters()), PlainObjective(Parameters()))
    stack = stack_of(data, *parts, TEMPERATURES, LATENTS)
    if solved:
        stack.load(_exact_weights(data))
    marks = ["converged" if solved else "budget"] * len(TEMPERATURES)
    if lost is not None:
        marks[lost] = "diverged"
        with torch.no_grad():
            for value in stack.parameters.values():
                value[lost] = torch.nan
    replicas = pd.DataFrame(
        {"temperature": list(TEMPERATURES), "mark": marks, "updates": 100 if solved else 0, "loss": 0.5}
    )
    return ReferenceScan(data, stack, StackModel(stack, TEMPERATURES, LATENTS), replicas)


def _exact_weights(data: Standardised) -> dict[str, Tensor]:
    """mean_k = sqrt(m_k / lambda_k) u_k . x, variance_k = 1 - m_k, decoder column sqrt(m_k lambda_k) u_k."""
    exact = oracle(data.second_moments["train"], TEMPERATURES, LATENTS)
    root = np.sqrt(exact.gain)
    axes, scale = exact.components[:LATENTS], np.sqrt(exact.eigenvalues[:LATENTS])
    encoder = (root / scale)[:, :, None] * axes
    arrays = {
        "encoder.1.mean.weight": encoder,
        "encoder.1.mean.bias": np.zeros_like(root),
        "encoder.1.log_variance.weight": np.zeros_like(encoder),
        "encoder.1.log_variance.bias": np.log1p(-exact.gain),
        "decoder.0.weight": ((root * scale)[:, :, None] * axes).transpose(0, 2, 1),
        "decoder.0.bias": np.zeros((len(TEMPERATURES), FEATURES)),
    }
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in arrays.items()}
