"""The exact optimum of a beta-VAE with a linear decoder, which is given by PCA for any data.

Every diagonal-Gaussian encoder that can represent linear maps reaches this optimum, so it depends on the data only
through covariances. Axes: `t` temperatures, `mode` principal axes in descending order of eigenvalue, truncated or
padded with zeros to `latent_dim`.

Notation: lambda_k eigenvalues of the train covariance, V their sum, T the temperature, T_k = lambda_k / V,
m_k = [1 - T / T_k]_+ and, on another split, rho_k = second moment about the train mean along component k /
lambda_k. Source: J. Hirn, Posterior Collapse as Automatic Spectral Pruning, arXiv 2605.22691; Tipping and
Bishop 1999.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from collapsebench.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from collapsebench.contracts import Floats

_ROUNDOFF = 1e-8


@dataclass(frozen=True)
class Oracle:
    """The global minimum of L = D + beta R at every temperature, with D = E|x - x_hat|^2 / (2 decoder_variance).

    eigenvalues `(d,)` and components `(d, d)`, whose rows are unit vectors, are those of the train covariance.
    second_moments `(d,)`: of the evaluated split, about the train mean and along the components; on the train split
    they equal the eigenvalues. For a repeated eigenvalue only the subspace is determined, and the components are one
    basis of it.
    """

    temperatures: Floats
    latent_dim: int
    decoder_variance: float
    eigenvalues: Floats
    components: Floats
    second_moments: Floats

    @cached_property
    def total_variance(self) -> float:
        """V, the trace of the train covariance."""
        return float(self.eigenvalues.sum())

    @cached_property
    def beta(self) -> Floats:
        """beta = T V / decoder_variance `(t,)`."""
        return self.temperatures * self.total_variance / self.decoder_variance

    @cached_property
    def thresholds(self) -> Floats:
        """T_k = lambda_k / V `(mode,)`, above which mode k is collapsed; 0 for modes beyond the d-th."""
        return self._fit(self.eigenvalues) / self.total_variance

    @cached_property
    def posterior_variance(self) -> Floats:
        """sigma_k^2 = min(1, T / T_k) `(t, mode)`."""
        ratio = np.full((self.temperatures.size, self.latent_dim), np.inf)
        np.divide(self.temperatures[:, None], self.thresholds, out=ratio, where=self.thresholds > 0)
        variance: Floats = np.minimum(ratio, 1.0)
        return variance

    @cached_property
    def gain(self) -> Floats:
        """m_k = [1 - T / T_k]_+ `(t, mode)`: the fraction of component k in the mean reconstruction."""
        return 1.0 - self.posterior_variance

    @cached_property
    def mean_square(self) -> Floats:
        """E mu_k^2 = m_k rho_k `(t, mode)`; on the train split m_k."""
        return self.gain * self._ratio

    @cached_property
    def signal_fraction(self) -> Floats:
        """M_k^2 = m rho / (m rho + 1 - m) `(t, mode)`; on the train split [1 - T / T_k]_+."""
        return self.mean_square / (self.mean_square + self.posterior_variance)

    @cached_property
    def snr(self) -> Floats:
        """E mu_k^2 / E sigma_k^2 = m rho / (1 - m) `(t, mode)`; on the train split [T_k / T - 1]_+."""
        return self.mean_square / self.posterior_variance

    @cached_property
    def rate(self) -> Floats:
        """R_k = 1/2 [m (rho - 1) - log(1 - m)] `(t, mode)`, nats; on the train split 1/2 [log(T_k / T)]_+."""
        return 0.5 * (self.gain * (self._ratio - 1.0) - np.log(self.posterior_variance))

    @cached_property
    def mean_distortion(self) -> Floats:
        """Squared error of mode k / V from posterior means `(t, mode)`; on the train split min(T_k, T^2 / T_k)."""
        return self._moments * self.posterior_variance**2

    @cached_property
    def sampled_distortion(self) -> Floats:
        """Squared error of mode k / V from posterior samples `(t, mode)`; on the train split min(T_k, T)."""
        return self.mean_distortion + self.thresholds * self.gain * self.posterior_variance

    @cached_property
    def mean_utilities(self) -> Floats:
        """Reduction of the squared error / V by the posterior mean of mode k `(t, mode)`.

        On the train split [T_k - T^2 / T_k]_+.
        """
        return self._moments * self.gain * (2.0 - self.gain)

    @cached_property
    def sampled_utilities(self) -> Floats:
        """Reduction of the squared error / V by posterior samples of mode k `(t, mode)`.

        On the train split [T_k - T]_+.
        """
        return self.mean_utilities - self.thresholds * self.gain * self.posterior_variance

    @cached_property
    def normalised_distortion(self) -> Floats:
        """D_K, K = 0..latent_dim `(t, latent_dim + 1)`: distortion with only the K modes of largest M^2, over V.

        Modes are ranked at each temperature by M^2 on the evaluated split, ties by index. The first K are decoded from
        their posterior mean, the others are set to 0.
        """
        order = np.argsort(-self.signal_fraction, axis=1, kind="stable")
        decoded = np.take_along_axis(self.mean_distortion, order, axis=1).cumsum(axis=1)
        removed = self._moments[order][:, ::-1].cumsum(axis=1)[:, ::-1]
        zero = np.zeros((self.temperatures.size, 1))
        total: Floats = np.hstack([zero, decoded]) + np.hstack([removed, zero]) + self._outside
        return total

    @cached_property
    def total_rate(self) -> Floats:
        """R, the sum of the modes' rates `(t,)`, nats."""
        total: Floats = self.rate.sum(axis=1)
        return total

    @cached_property
    def distortion(self) -> Floats:
        """D = E|x - x_hat|^2 / (2 decoder_variance) `(t,)`, nats, sampled decoding."""
        normalised: Floats = self.sampled_distortion.sum(axis=1) + self._outside
        return normalised * self.total_variance / (2.0 * self.decoder_variance)

    @cached_property
    def loss(self) -> Floats:
        """L = D + beta R of the optimum on the evaluated split `(t,)`, nats; on the train split the minimum L*.

        With decoder_variance = 1,

            L* = 1/2 sum_{k <= latent_dim} { min(lambda_k, beta) + beta [log(lambda_k / beta)]_+ }
               + 1/2 sum_{k > latent_dim} lambda_k.
        """
        return self.distortion + self.beta * self.total_rate

    @cached_property
    def active_count(self) -> Floats:
        """The number of modes with T < T_k `(t,)`, with multiplicity; on the train split -2 dR / dlog beta."""
        count: Floats = (self.gain > 0.0).sum(axis=1).astype(np.float64)
        return count

    @cached_property
    def landau_quadratic(self) -> Floats:
        """The coefficient of M^2 in the cost of one mode at fixed M, (T V - lambda_k) / (2 decoder_variance).

        Shape `(t, mode)`; it changes sign at the threshold.
        """
        distance = self.temperatures[:, None] - self.thresholds
        return distance * self.total_variance / (2.0 * self.decoder_variance)

    @cached_property
    def landau_quartic(self) -> Floats:
        """The coefficient of M^4 in the cost of one mode at fixed M, beta / 4 `(t, mode)`."""
        return np.repeat(self.beta[:, None] / 4.0, self.latent_dim, axis=1)

    @cached_property
    def landau_sextic(self) -> Floats:
        """The coefficient of M^6 in the cost of one mode at fixed M, beta / 6 `(t, mode)`."""
        return np.repeat(self.beta[:, None] / 6.0, self.latent_dim, axis=1)

    @cached_property
    def _moments(self) -> Floats:
        return self._fit(self.second_moments) / self.total_variance

    @cached_property
    def _outside(self) -> float:
        return float(self.second_moments[self.latent_dim :].sum()) / self.total_variance

    @cached_property
    def _ratio(self) -> Floats:
        ratio = np.ones(self.latent_dim)
        np.divide(self._moments, self.thresholds, out=ratio, where=self.thresholds > 0)
        return ratio

    def _fit(self, values: Floats) -> Floats:
        """Truncate or zero-pad `(d,)` to `(latent_dim,)`."""
        fitted = np.zeros(self.latent_dim)
        count = min(self.latent_dim, values.size)
        fitted[:count] = values[:count]
        return fitted


def oracle(
    covariance: ArrayLike,
    temperatures: ArrayLike,
    latent_dim: int | None = None,
    *,
    decoder_variance: float = 1.0,
    evaluation: ArrayLike | None = None,
) -> Oracle:
    """Return the exact optimum for a train covariance `(d, d)` at temperatures T = beta decoder_variance / V `(t,)`.

    latent_dim: d by default; it may be smaller or larger. evaluation: E (x - train mean)(x - train mean)^T `(d, d)` of
    another split, on which the optimum of the train split is evaluated.

    >>> exact = oracle(np.diag([4.0, 2.0, 1.0]), temperatures=[0.5, 0.1])
    >>> print(exact.thresholds.round(3))
    [0.571 0.286 0.143]
    >>> print(exact.signal_fraction.round(3))
    [[0.125 0.    0.   ]
     [0.825 0.65  0.3  ]]
    >>> print(exact.active_count)
    [1. 3.]
    """
    matrix = _symmetric(covariance, "covariance")
    scale = np.atleast_1d(np.asarray(temperatures, dtype=np.float64))
    if scale.ndim != 1 or not (np.isfinite(scale) & (scale > 0)).all():
        raise DataError(
            f"oracle: temperatures {scale.tolist()}. Expected a list of finite numbers above 0; "
            "leave out T = 0, the limit that no finite beta reaches."
        )
    if not (np.isfinite(decoder_variance) and decoder_variance > 0):
        raise DataError(f"oracle: decoder_variance is {decoder_variance}. Expected a finite number above 0; use 1.0.")
    if latent_dim is not None and latent_dim < 1:
        raise DataError(f"oracle: latent_dim is {latent_dim}. Expected at least 1; omit it for one latent per feature.")
    ascending, vectors = np.linalg.eigh(matrix)
    eigenvalues, components = ascending[::-1], vectors.T[::-1].copy()
    _check_eigenvalues(eigenvalues, "covariance")
    if not eigenvalues[0] > 0:
        raise DataError("oracle: the covariance is zero. Expected some variance; check that the data are not constant.")
    # Eigenvalues that should be exactly zero come out of eigh as noise of either sign; they have no threshold.
    eigenvalues = np.where(eigenvalues > eigenvalues[0] * eigenvalues.size * np.finfo(float).eps, eigenvalues, 0.0)
    moments = eigenvalues if evaluation is None else _moments_along(evaluation, components)
    dimension = eigenvalues.size if latent_dim is None else latent_dim
    return Oracle(scale, dimension, float(decoder_variance), eigenvalues, components, moments)


def landau_cost(m: ArrayLike, eigenvalue: ArrayLike, beta: ArrayLike) -> Floats:
    """Return the cost of one mode at signal fraction m = M^2 < 1, minimised over everything else, in nats.

        L(m) = 1/2 [lambda (1 - m) - beta log(1 - m)]
             = lambda / 2 + 1/2 (beta - lambda) M^2 + (beta / 4) M^4 + (beta / 6) M^6 + ...

    The decoder variance is 1. The arguments broadcast. The minimum is at m = [1 - beta / lambda]_+.

    >>> print(landau_cost([0.0, 0.5, 0.9], eigenvalue=1.0, beta=0.5).round(3))
    [0.5   0.423 0.626]
    """
    fraction = np.asarray(m, dtype=np.float64)
    cost: Floats = 0.5 * (np.asarray(eigenvalue) * (1.0 - fraction) - np.asarray(beta) * np.log1p(-fraction))
    return cost


def reverse_water_filling(eigenvalues: ArrayLike, distortion: ArrayLike) -> Floats:
    """Return the smallest rate, in nats, at which Gaussian data can be coded with a given squared error.

        R = 1/2 sum_k [log(lambda_k / theta)]_+  with theta such that  sum_k min(lambda_k, theta) = distortion

    distortion: E|x - x_hat|^2 in the unit of the eigenvalues, of any shape; the result has the same shape. A distortion
    of 0 gives infinity. Source: Cover and Thomas 2006, theorem 10.3.3.

    >>> print(reverse_water_filling([4.0, 1.0], distortion=[5.0, 2.0, 1.0]).round(3))
    [0.    0.693 1.386]
    """
    spectrum = np.sort(np.asarray(eigenvalues, dtype=np.float64))
    _check_eigenvalues(spectrum[::-1], "spectrum")
    spectrum = np.maximum(spectrum, 0.0)
    error = np.asarray(distortion, dtype=np.float64)
    if not (error >= 0).all():
        raise DataError(
            f"reverse_water_filling: the smallest distortion is {error.min()}. "
            "Expected numbers of at least 0; give squared errors, not their logarithms."
        )
    levels = np.concatenate([[0.0], spectrum])
    filled = np.minimum(spectrum, levels[:, None]).sum(axis=1)
    level = np.interp(error, filled, levels)[..., None]
    positive = spectrum[spectrum > 0]
    with np.errstate(divide="ignore"):
        rate: Floats = 0.5 * np.maximum(np.log(positive) - np.log(level), 0.0).sum(axis=-1)
    return rate


def _symmetric(matrix: ArrayLike, name: str) -> Floats:
    values = np.asarray(matrix, dtype=np.float64)
    if values.ndim != 2 or values.shape[0] != values.shape[1] or not values.size:
        raise DataError(
            f"oracle: the {name} has shape {values.shape}. Expected a square matrix (d, d); "
            "give second moments of the features, not the samples."
        )
    if not np.isfinite(values).all():
        raise DataError(
            f"oracle: the {name} has {(~np.isfinite(values)).sum()} entries that are not finite. "
            "Expected finite numbers; leave out the samples with missing values."
        )
    gap = float(np.abs(values - values.T).max())
    if gap > _ROUNDOFF * np.abs(values).max():
        raise DataError(
            f"oracle: the {name} differs from its transpose by {gap:.3g}. Expected a symmetric matrix; "
            "symmetrise it if the difference is noise."
        )
    return 0.5 * (values + values.T)


def _check_eigenvalues(descending: Floats, name: str) -> None:
    if descending.size and descending[-1] < -_ROUNDOFF * max(descending[0], 0.0):
        raise DataError(
            f"oracle: the {name} has eigenvalue {descending[-1]:.3g}, the largest is {descending[0]:.3g}. "
            "Expected none below 0; compute it from samples or clip its spectrum."
        )


def _moments_along(evaluation: ArrayLike, components: Floats) -> Floats:
    matrix = _symmetric(evaluation, "evaluation second moment")
    if matrix.shape != components.shape:
        raise DataError(
            f"oracle: the evaluation second moment has shape {matrix.shape}, "
            f"the covariance {components.shape}. Expected equal shapes; compute both from the same features."
        )
    _check_eigenvalues(np.linalg.eigvalsh(matrix)[::-1].astype(np.float64), "evaluation second moment")
    along: Floats = np.einsum("kd,de,ke->k", components, matrix, components)
    return np.maximum(along, 0.0)
