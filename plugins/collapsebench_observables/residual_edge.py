"""How much a collapsed latent could still learn from the information that the active latents leave out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from collapsebench import Model, Observable, Parameters, Samples, SplitName
from collapsebench_observables.conditional_covariance import Drawn, largest_conditional_covariance

_ROWS = 4096
_DIMENSIONS = 64
_ACTIVE = 0.1


class ResidualEdge(Observable[Parameters]):
    """The edge of stability of the collapsed latents, over V, with A the latents of signal fraction above 0.1:

        edge = sup over h, E h^2 = 1, of E_{z_A} |Cov(x, h(x) | z_A)|^2 / V

    They are stable if and only if T is at least the edge. Estimated on at most 4096 rows, in the 64 strongest principal
    components of x, by random-feature regression with cross-fitting: a lower bound up to sampling error (a few per
    cent), exact in the linear Gaussian case, where it is the next eigenvalue. `equilibrium` holds its linear-readout
    approximation, the top eigenvalue of the posterior-mean residual's covariance. active_latents: the size of A.
    Source: Z. Li 2026, Residual spectral instabilities in representation learning.
    """

    splits: ClassVar[tuple[SplitName, ...]] = ("train",)

    def measure(self, model: Model, samples: Samples) -> Mapping[str, NDArray[Any]]:
        """Return edge and active_latents `(replica,)`."""
        x, weights = _rows(samples)
        basis = _strongest(x.flatten(1))
        mean, log_variance = model.encode(x)
        variance = log_variance.exp()
        active = _is_active(mean, variance, weights)
        z = mean + variance.sqrt() * model.noise(0, tuple(mean.shape[1:]))
        flat = x.flatten(1).to(mean.dtype) @ basis
        seen, left = (
            (flat - model.decode(part).flatten(2) @ basis).double().cpu().numpy()
            for part in (mean, z * active.unsqueeze(1))
        )
        means, draws = (part.double().cpu().numpy() for part in (mean, z))
        row_weights, kept = weights.double().cpu().numpy(), active.cpu().numpy()
        edges = [
            _edge(Drawn(seen[r], left[r], means[r][:, kept[r]], draws[r][:, kept[r]], row_weights / row_weights.mean()))
            for r in range(len(seen))
        ]
        return {"edge": np.array(edges) / model.total_variance, "active_latents": kept.sum(axis=1)}


def _edge(drawn: Drawn) -> float:
    known = all(np.isfinite(part).all() for part in (drawn.seen, drawn.left, drawn.mean, drawn.z))
    return largest_conditional_covariance(drawn) if known else float("nan")


def _rows(samples: Samples) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the first rows of a split and their weights."""
    parts: list[tuple[torch.Tensor, torch.Tensor]] = []
    for part in samples.chunks(values_per_sample=8):
        parts.append(part)
        if sum(len(x) for x, _ in parts) >= _ROWS:
            break
    x, weights = (torch.cat(column)[:_ROWS] for column in zip(*parts, strict=True))
    return x, weights


def _strongest(flat: torch.Tensor) -> torch.Tensor:
    """Return the strongest principal directions of some rows `(d, at most 64)`."""
    exact = flat.double().cpu()
    centred = exact - exact.mean(0)
    _, vectors = torch.linalg.eigh(centred.mT @ centred)
    strongest: torch.Tensor = vectors.flip(1)[:, :_DIMENSIONS].to(flat.device, flat.dtype)
    return strongest


def _is_active(mean: torch.Tensor, variance: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    shares = weights.to(mean.dtype) / weights.sum().to(mean.dtype)
    square, noise = (torch.einsum("b,rbk->rk", shares, part) for part in (mean.square(), variance))
    active: torch.Tensor = square > _ACTIVE * (square + noise)
    return active
