"""Measure whether a replica is at equilibrium: the Ward identities and the stability of its collapsed latents.

At a stationary point of the beta-VAE objective whose heads, first and last decoder layers are free affine maps:

    E mu_k = 0        E mu_k^2 + E sigma_k^2 = 1        E (x - x_hat) = 0        E x_hat . (x - x_hat) = 0

on the train split, with sampled decoding. A latent that should not be collapsed satisfies all four identities, but it
shows in the top eigenvalue of the covariance of the posterior-mean residual, which must not exceed T V while there are
spare latents.
Source: Hirn 2026, arXiv 2605.22691 and 2608.10599.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import eigsh
from torch import Tensor

from collapsebench.contracts import WARD_IDENTITIES, Model, Samples, WardIdentity

if TYPE_CHECKING:
    from collapsebench.contracts import Floats

_DENSE = 128
_WINDOW = 1.25
_COLLAPSED = 0.01
_BLOCK, _EVERY = 256, 8
_VALUES_TOGETHER = 1_048_576


@dataclass(frozen=True)
class Equilibrium:
    """The quantities of the two conditions, per replica.

    mean `(r, k)`: E mu. scale `(r, k)`: E mu^2 + E sigma^2. signal_fraction `(r, k)`. residual_mean `(r,)`:
    |E (x - x_hat)| / sqrt(E |x - x_hat|^2). orthogonality `(r,)`: E x_hat . (x - x_hat) / E |x - x_hat|^2.
    residual_edge `(r,)`: top eigenvalue of Cov(x - x_hat(mu)) / V. distortion `(r,)`, rates `(r, k)`: nats, sampled
    decoding. distortion_error `(r,)`: standard error of the distortion for this split, from the draws of z. identities:
    which of the four hold for the decoder.
    """

    mean: Floats
    scale: Floats
    signal_fraction: Floats
    residual_mean: Floats
    orthogonality: Floats
    residual_edge: Floats
    distortion: Floats
    distortion_error: Floats
    rates: Floats
    identities: tuple[WardIdentity, ...] = WARD_IDENTITIES

    @property
    def rate(self) -> Floats:
        """The rate of all latents together, nats `(r,)`."""
        return np.asarray(self.rates.sum(1))

    @property
    def ward_residual(self) -> Floats:
        """The largest residual of the identities that hold for the decoder `(r,)`."""
        residuals: dict[WardIdentity, Floats] = {
            "mean": np.abs(self.mean).max(1),
            "scale": np.abs(self.scale - 1).max(1),
            "residual-mean": self.residual_mean,
            "orthogonality": np.abs(self.orthogonality),
        }
        return np.asarray(np.max([residuals[identity] for identity in self.identities], axis=0))

    @property
    def spare_latents(self) -> NDArray[np.int64]:
        """The number of latents with a signal fraction of at most 0.01 `(r,)`.

        A latent with a slightly larger signal fraction is weak but not spare: close to a threshold that several modes
        share, all latents may be in use while one of these modes has none.
        """
        return np.asarray((self.signal_fraction <= _COLLAPSED).sum(axis=1))

    def is_stable(self, temperatures: Floats, tolerance: float) -> NDArray[np.bool_]:
        """Return whether no spare latent stays at the prior although it could lower the objective `(r,)`."""
        spare = self.spare_latents > 0
        return ~spare | (self.residual_edge <= (1 + tolerance) * temperatures)


def signal_drift(history: Sequence[tuple[int, Sequence[float]]]) -> float | None:
    """Return the largest drift of a latent's signal fraction per e-fold of updates, or None if it is too early to tell.

    history: (update, signal fractions `(k,)`) of every check, in order. The drift is the slope of the least-squares
    line of M^2 over ln(update), through the checks in the last fifth of the updates and the check before them.
    """
    updates = np.array([update for update, _ in history], dtype=np.float64)
    before = np.flatnonzero((updates > 0) & (updates <= updates[-1] / _WINDOW))
    if not len(before):
        return None
    fractions = np.array([entry for _, entry in history[before[-1] :]])
    time = np.log(updates[before[-1] :])
    time -= time.mean()
    return float(np.abs(time @ fractions).max() / (time @ time))


class _Sums:
    """Sums over a split of the moments that `Equilibrium` is computed from; weights sum to one over the split.

    What a cost is computed from is summed in float64, rows of a chunk otherwise at the precision of the model.
    """

    def __init__(self) -> None:
        self.totals: dict[str, Tensor] = {}

    def add(self, **terms: Tensor) -> None:
        for name, term in terms.items():
            exact = term.double() if term.device.type != "mps" else term
            self.totals[name] = self.totals[name] + exact if name in self.totals else exact

    def __getitem__(self, name: str) -> Floats:
        return np.asarray(self.totals[name].cpu().numpy())


class _RowNoise:
    """The noise of each row and pair of draws, whatever the chunks in which the rows are read."""

    def __init__(self, model: Model, pairs: int) -> None:
        self._model, self._pairs = model, pairs

    def rows(self, pair: int, start: int, stop: int) -> Tensor:
        """Return the noise of the rows from `start` to `stop` in a pair of draws `(rows, k)`."""
        first = start // _BLOCK
        blocks = [
            self._model.noise(block * self._pairs + pair, (_BLOCK, self._model.latent_dim))
            for block in range(first, -(-stop // _BLOCK))
        ]
        return torch.cat(blocks)[start - first * _BLOCK : stop - first * _BLOCK]


def measure_equilibrium(model: Model, samples: Samples, least_draws: int = 16_384) -> Equilibrium:
    """Measure both conditions on a split.

    For a linear decoder, the expectation over z has a closed form. For any other decoder, z is sampled in antithetic
    pairs mu +- sigma eps, with enough pairs per row to decode at least `least_draws` samples; if rows are few, several
    pairs are decoded together. One more pair on every eighth row tells how much the squared error of a row varies
    between pairs, hence the standard error.
    """
    sums = _Sums()
    pairs = 0 if model.linear_decoder else max(1, math.ceil(least_draws / (2 * samples.count)))
    gains = _column_energies(model) if model.linear_decoder else None
    noise, start = _RowNoise(model, pairs + 1), 0
    for x, weights in samples.chunks(values_per_sample=4):
        mean, log_variance = model.encode(x)
        variance, w = log_variance.exp(), weights.to(mean.dtype)
        # Row by row, since the terms of a rate cancel where a latent is close to the prior.
        rates = 0.5 * (mean.square() + torch.expm1(log_variance) - log_variance)
        sums.add(
            mean=w @ mean,
            mean_square=_exactly(mean.square(), weights),
            variance=_exactly(variance, weights),
            rates=_exactly(rates, weights),
        )
        target = x.flatten(1)
        decoded = model.decode(mean).flatten(2)
        residual = target - decoded
        sums.add(posterior_residual=w @ residual, posterior_outer=(residual * w[:, None]).mT @ residual)
        if gains is not None:
            spread = (_exactly(variance, weights) * gains).sum(-1)
            _add_decoding(sums, weights, target, decoded)
            sums.add(squared_error=spread, overlap=-spread)
        deviation, stop = variance.sqrt(), start + len(x)
        some = torch.arange(-start % _EVERY, len(x), _EVERY, device=x.device)
        together = max(1, _VALUES_TOGETHER // (mean.shape[0] * target.numel()))
        errors: list[Tensor] = []
        for first in range(0, pairs, together):
            group = range(first, min(first + together, pairs))
            shift = torch.cat([deviation * noise.rows(pair, start, stop) for pair in group], 1)
            centre, repeated = mean.repeat(1, len(group), 1), target.repeat(len(group), 1)
            share = weights.repeat(len(group)) / (2 * pairs)
            up, down = (
                _add_decoding(sums, share, repeated, model.decode(z).flatten(2))
                for z in (centre + shift, centre - shift)
            )
            errors.append((up + down)[:, some] / 2)
        if pairs:
            shift = deviation[:, some] * noise.rows(pairs, start, stop)[some]
            up, down = (
                (target[some] - model.decode(z).flatten(2)).square().sum(2)
                for z in (mean[:, some] + shift, mean[:, some] - shift)
            )
            varies = (errors[0] - (up + down) / 2).square() / 2
            sums.add(variation=varies @ w[some], weighed=w[some].sum(), squared_weights=w.square().sum())
        start = stop
    return _finish(model, sums, pairs)


def _exactly(values: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted sum over rows of values `(r, rows, k)`, in the precision of the weights `(r, k)`."""
    return weights @ values.to(weights.dtype)


def _add_decoding(sums: _Sums, weights: Tensor, target: Tensor, x_hat: Tensor) -> Tensor:
    """Add the moments of a decoding, and return the squared error of each row `(r, rows)`."""
    residual = target - x_hat
    squared: Tensor = torch.linalg.vecdot(residual, residual)
    sums.add(
        residual=weights.to(residual.dtype) @ residual,
        squared_error=squared.to(weights.dtype) @ weights,
        overlap=torch.linalg.vecdot(x_hat, residual).to(weights.dtype) @ weights,
    )
    return squared


def _column_energies(model: Model) -> Tensor:
    replicas = len(model.temperatures)
    probes = torch.cat([torch.eye(model.latent_dim), torch.zeros(1, model.latent_dim)]).expand(replicas, -1, -1)
    decoded = model.decode(probes).flatten(2).double()
    return (decoded[:, :-1] - decoded[:, -1:]).square().sum(-1)


def _finish(model: Model, sums: _Sums, pairs: int) -> Equilibrium:
    mean_square, variance, error = sums["mean_square"], sums["variance"], np.maximum(sums["squared_error"], 1e-300)
    drift = sums["posterior_residual"]
    covariance = sums["posterior_outer"] - drift[:, :, None] * drift[:, None, :]
    spread = np.zeros(len(error))
    if pairs:
        spread = np.sqrt(sums["variation"] / sums["weighed"] * sums["squared_weights"] / pairs)
    return Equilibrium(
        mean=sums["mean"],
        scale=mean_square + variance,
        signal_fraction=mean_square / (mean_square + variance),
        residual_mean=np.linalg.norm(sums["residual"], axis=1) / np.sqrt(error),
        orthogonality=sums["overlap"] / error,
        residual_edge=np.array([_top_eigenvalue(matrix) for matrix in covariance]) / model.total_variance,
        distortion=sums["squared_error"] / (2 * model.decoder_variance),
        distortion_error=spread / (2 * model.decoder_variance),
        rates=sums["rates"],
        identities=model.ward_identities,
    )


def _top_eigenvalue(matrix: Floats) -> float:
    if not np.isfinite(matrix).all():
        return float("nan")
    if len(matrix) <= _DENSE:
        return float(np.linalg.eigvalsh(matrix)[-1])
    start = np.ones(len(matrix))
    return float(eigsh(matrix, k=1, which="LA", v0=start, return_eigenvectors=False, tol=1e-6)[0])
