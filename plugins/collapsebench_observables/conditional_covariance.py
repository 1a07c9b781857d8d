"""The supremum of a conditional covariance over functions of the data, estimated with features and without bias."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_DIRECTIONS = 12
_OUTPUTS = 24
_WAVES = 12
_DEGENERATE = 1e-2
_FOLDS = 4
_RIDGE = 1e-9


@dataclass(frozen=True)
class Drawn:
    """n samples of one replica: x without the part that its active latents predict.

    seen `(n, p)`: x - x_hat(mu), a function of x. left `(n, p)`: x - x_hat(z_A), z_A drawn from the posterior, the
    other latents at 0. mean, z `(n, a)`: posterior mean and z of the active latents. weights `(n,)`, of mean 1.
    """

    seen: Floats
    left: Floats
    mean: Floats
    z: Floats
    weights: Floats


def largest_conditional_covariance(drawn: Drawn, seed: int = 0) -> float:
    """Return sup over h, E h^2 = 1, of E_{z_A} |Cov(x, h(x) | z_A)|^2, in the data's own units squared.

    h is sought among residual components times random waves of the active means; the expectations of x and x h given
    z_A are regressed on linear functions and random waves of z_A. Squared expectations are averaged over pairs of
    different samples, which removes the bias. h is chosen on three quarters of the samples and evaluated on the fourth,
    in turn. The same is done without waves, and the larger result is returned: a lower bound of the supremum up to
    sampling error, exact for jointly Gaussian x and z. A negative result is returned as 0.
    """
    rng = np.random.default_rng(seed)
    given = _given(drawn, rng)
    left = _project(drawn.left, drawn.weights, _OUTPUTS)
    left = left - given @ _fit(given, left, drawn.weights)
    given = _whiten(given, drawn.weights, centre=False)
    fold = np.arange(len(left)) % _FOLDS
    estimates = []
    for functions in (_probes(drawn, rng), _components(drawn)):
        h, scores = _whiten(functions, drawn.weights), []
        for place in range(_FOLDS):
            rest, held_out = ((given[r], left[r], drawn.weights[r]) for r in (fold != place, fold == place))
            best = h @ np.linalg.eigh(_operator(h[fold != place], *rest))[1][:, -1:]
            size = np.average(best[fold == place, 0] ** 2, weights=held_out[2])
            scores.append(float(_operator(best[fold == place], *held_out).item() / size))
        estimates.append(float(np.mean(scores)))
    return max(*estimates, 0.0)


def _operator(h: Floats, given: Floats, left: Floats, weights: Floats) -> Floats:
    """Return sum_qj E [psi_q left_j h_i] E [psi_q left_j h_l] `(i, l)` over pairs of different samples."""
    products = (given[:, :, None] * left[:, None, :]).reshape(len(left), -1)
    weighted = h * weights[:, None]
    moment = products.T @ weighted
    same = (weighted * (products**2).sum(1, keepdims=True)).T @ weighted
    return np.asarray((moment.T @ moment - same) / (weights.sum() ** 2 - (weights**2).sum()))


def _components(drawn: Drawn) -> Floats:
    return _project(drawn.seen, drawn.weights, _DIRECTIONS)


def _probes(drawn: Drawn, rng: np.random.Generator) -> Floats:
    """Return residual components, alone and times waves of the active means."""
    components = _components(drawn)
    waves = _waves(_standard(drawn.mean, drawn.weights), rng)
    products = (components[:, :, None] * waves[:, None, :]).reshape(len(components), -1)
    return np.concatenate([components, products], axis=1)


def _given(drawn: Drawn, rng: np.random.Generator) -> Floats:
    """Return 1, z_A and waves of z_A."""
    z = _standard(drawn.z, drawn.weights)
    return np.concatenate([np.ones((len(z), 1)), z, _waves(z, rng)], axis=1)


def _waves(values: Floats, rng: np.random.Generator) -> Floats:
    """Return cos(u . v + b), u of random direction and of length 0.5, 1, 2 in turn; no column if v has none."""
    size = values.shape[1]
    if not size:
        return np.zeros((len(values), 0))
    directions = rng.standard_normal((size, _WAVES))
    directions *= np.resize([0.5, 1.0, 2.0], _WAVES) / np.linalg.norm(directions, axis=0)
    return np.asarray(np.cos(values @ directions + rng.uniform(0, 2 * np.pi, _WAVES)))


def _standard(values: Floats, weights: Floats) -> Floats:
    centred = values - np.average(values, axis=0, weights=weights)
    spread = np.sqrt(np.average(centred**2, axis=0, weights=weights))
    return np.asarray(centred / np.where(spread > 0, spread, 1.0))


def _project(values: Floats, weights: Floats, count: int) -> Floats:
    """Return the strongest principal components, centred, in their own units `(n, count)`."""
    centred = values - np.average(values, axis=0, weights=weights)
    _, vectors = np.linalg.eigh((centred * weights[:, None]).T @ centred)
    return np.asarray(centred @ vectors[:, ::-1][:, :count])


def _whiten(values: Floats, weights: Floats, *, centre: bool = True) -> Floats:
    """Return combinations of the columns with second moment 1, without those that are rounding errors."""
    if centre:
        values = values - np.average(values, axis=0, weights=weights)
    scale = np.sqrt(np.average(values**2, axis=0, weights=weights))
    values = values[:, scale > 0] / scale[scale > 0]
    spectrum, vectors = np.linalg.eigh((values * weights[:, None]).T @ values / weights.sum())
    kept = spectrum > _DEGENERATE * spectrum[-1]
    return np.asarray(values @ vectors[:, kept] / np.sqrt(spectrum[kept]))


def _fit(given: Floats, target: Floats, weights: Floats) -> Floats:
    weighted = given * weights[:, None]
    gram = weighted.T @ given
    return np.asarray(np.linalg.solve(gram + _RIDGE * np.trace(gram) * np.eye(len(gram)), weighted.T @ target))
