"""The optimum of a nonlinear beta-VAE on independent on/off events and Gaussian features, to many digits.

One event, one latent. The feature is a with probability p and 0 otherwise; its variance is lambda = a^2 p (1 - p). The
encoder knows two cases: q0 = N(mu_0, s_0^2) if the event is off, and q1 = N(mu_1, s_1^2) if it is on. The best decoder
is the conditional mean, x_hat(z) = E[x | z], which leaves, in nats with sigma_dec^2 = 1,

    D = a^2 / 2  integral of p q1(z) (1 - p) q0(z) / (p q1(z) + (1 - p) q0(z)) dz
    R = (1 - p) KL[q0 || N(0, 1)] + p KL[q1 || N(0, 1)]
    L* = min over mu_0, s_0, mu_1, s_1 of D + beta R

Shifting and scaling z changes R alone, so E mu = 0 and E mu^2 + E sigma^2 = 1 at the optimum. Two numbers remain, the
separation d = (mu_1 - mu_0) / s_0 and the ratio rho = s_1 / s_0, with

    R = 1/2 log A - p log rho,    M^2 = p (1 - p) d^2 / A,    A = 1 - p + p rho^2 + p (1 - p) d^2

The integral is one-dimensional and smooth, so that the trapezoidal rule is exact to rounding. In units of a^2,
everything depends on p and beta / a^2 alone. The collapsed state, L = lambda / 2, is stable down to beta = lambda, as
it is for a linear decoder. For p < 1/2 the state with the event coded costs less already at a higher beta, the
*first-order threshold*.

Valid for an encoder and a decoder that are flexible enough to be any function. For one event and one latent L* is the
optimum. With more features, and at least one latent for each, the sum over features is what a pair attains that codes
each feature in a latent of its own: an upper bound on the true optimum. Sharing latents can cost less, since events may
lie in the tails of a latent that codes something else: two events that seldom coincide, on opposite sides of 0, at a
rate that is lower by up to 1/2 log(A_1 A_2 / (A_1 + A_2 - 1)), or an event beside a Gaussian feature. Trained pairs do
get below the sum by a few per cent. From below, the optimum is bounded by the rate-distortion function of the data
(`least_cost`), which no code of any kind beats. Both bounds are exact, and equal, for Gaussian features.

Source: own derivation. Rate-distortion functions: Cover and Thomas 2006, Elements of Information Theory, chapter 10.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize
from scipy.special import entr, expit, logit

from collapsebench_datasets.gaussian import eigenvalues
from collapsebench_datasets.parameters import GaussianParameters

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from collapsebench_datasets.parameters import RareEventsParameters

Floats = NDArray[np.float64]

# Standard normal quadrature: nodes and weights.
_T = np.linspace(-12.0, 12.0, 2401)
_W = np.exp(-0.5 * _T**2) * (_T[1] - _T[0]) / np.sqrt(2 * np.pi)
# Where the search for the best code starts: dense near the collapsed state, where weak first-order minima lie.
_SEPARATIONS = np.concatenate([[0.05, 0.1, 0.15], np.geomspace(0.2, 30.0, 24)])
_LOG_RATIOS = np.concatenate([np.linspace(-5.0, -0.5, 10), [-0.3, -0.2], np.linspace(-0.1, 0.3, 9), [0.5, 0.8]])
_LEAST_GAIN = 1e-12


@dataclass(frozen=True)
class EventState:
    """The best code of one event at one beta, in units of nats.

    cost = distortion + beta rate. separation and ratio: d and rho, 0 and 1 if the event is collapsed.
    """

    cost: float
    distortion: float
    rate: float
    signal_fraction: float
    separation: float
    ratio: float


@dataclass(frozen=True)
class RareEventsOptimum:
    """The best code of every feature in a latent of its own, all features together, events first.

    loss, distortion, rate `(t,)`: nats, sigma_dec^2 = 1; loss is an upper bound on the optimum, and exact for a single
    feature. least_loss `(t,)`: the bound that no code beats. rates and signal_fraction `(t, feature)`. thresholds
    `(feature,)`: the T below which coding the feature costs less than not; linear_thresholds: lambda / V, below which
    the collapsed state is unstable. total_variance: V.
    """

    temperatures: Floats
    total_variance: float
    loss: Floats
    distortion: Floats
    rate: Floats
    least_loss: Floats
    rates: Floats
    signal_fraction: Floats
    thresholds: Floats
    linear_thresholds: Floats


def optimum(parameters: RareEventsParameters, temperatures: ArrayLike) -> RareEventsOptimum:
    """Return the best code of the population that the dataset `rare-events` draws from, at every T = beta / V."""
    scale = np.atleast_1d(np.asarray(temperatures, dtype=np.float64))
    spectrum = gaussian_variances(parameters)
    variances = np.concatenate([[event_variance(e.probability, e.amplitude) for e in parameters.events], spectrum])
    total = float(variances.sum())
    betas = scale * total
    states = [[best_event(e.probability, e.amplitude, beta) for e in parameters.events] for beta in betas]
    ratio = np.minimum(betas[:, None] / np.where(spectrum > 0, spectrum, 1e-300), 1.0)
    rates = np.hstack([_column(states, "rate"), -0.5 * np.log(ratio)])
    distortions = np.hstack([_column(states, "distortion"), 0.5 * ratio * spectrum])
    least = [[least_cost(e.probability, e.amplitude, beta) for e in parameters.events] for beta in betas]
    gaussian_cost = (0.5 * ratio * spectrum - 0.5 * betas[:, None] * np.log(ratio)).sum(axis=1)
    thresholds = [event_threshold(e.probability, e.amplitude) for e in parameters.events]
    return RareEventsOptimum(
        temperatures=scale,
        total_variance=total,
        loss=distortions.sum(axis=1) + betas * rates.sum(axis=1),
        distortion=distortions.sum(axis=1),
        rate=rates.sum(axis=1),
        least_loss=np.asarray(least).sum(axis=1) + gaussian_cost,
        rates=rates,
        signal_fraction=np.hstack([_column(states, "signal_fraction"), 1.0 - ratio]),
        thresholds=np.concatenate([thresholds, spectrum]) / total,
        linear_thresholds=variances / total,
    )


def gaussian_variances(parameters: RareEventsParameters) -> Floats:
    """Return the variances of the Gaussian features in descending order `(dimension,)`."""
    if not parameters.dimension:
        return np.zeros(0)
    return eigenvalues(GaussianParameters(dimension=parameters.dimension, spectrum=parameters.spectrum, exact=False))


def event_variance(probability: float, amplitude: float) -> float:
    """Return lambda = a^2 p (1 - p)."""
    return amplitude**2 * probability * (1 - probability)


def best_event(probability: float, amplitude: float, beta: float) -> EventState:
    """Return the code of one event that minimises D + beta R; the collapsed state if no other costs less.

    probability: at most 1/2; an event of probability above 1/2 is the rarer absence of it.
    """
    d, log_ratio = _best_code(probability, beta / amplitude**2)
    overlap, _ = _overlap(d, log_ratio, probability)
    rate, _ = _rate(d, log_ratio, probability)
    signal = probability * (1 - probability) * d**2
    noise = 1 - probability + probability * np.exp(2 * log_ratio)
    distortion = 0.5 * amplitude**2 * overlap
    return EventState(
        cost=float(distortion + beta * rate),
        distortion=float(distortion),
        rate=float(rate),
        signal_fraction=float(signal / (signal + noise)),
        separation=float(d),
        ratio=float(np.exp(log_ratio)),
    )


def event_threshold(probability: float, amplitude: float) -> float:
    """Return the beta below which coding an event costs less than leaving it collapsed; at least lambda."""
    return amplitude**2 * _unit_threshold(probability)


@cache
def _unit_threshold(probability: float) -> float:
    """Newton's iteration from lambda: the cost is concave in beta with slope R, so the threshold is never passed."""
    variance = event_variance(probability, 1.0)
    beta = variance
    for _ in range(100):
        state = best_event(probability, 1.0, beta)
        gain = 0.5 * variance - state.cost
        if gain <= _LEAST_GAIN * variance:
            break
        beta += gain / state.rate
    return beta


def least_cost(probability: float, amplitude: float, beta: float) -> float:
    """Return the minimum of D + beta I(x; z) over all codes of an event, nats: Shannon's bound, below L*.

    Given z, the event has the probability r. D + beta I = beta H(p) + E g(r) with E r = p and

        g(r) = a^2 r (1 - r) / 2 - beta H(r),    H(r) = -r log r - (1 - r) log(1 - r)

    so the minimum is the convex envelope of g at p, whose flat part lies between the two minima of g.
    """
    price = beta / amplitude**2
    collapsed = 0.5 * probability * (1 - probability)
    if price >= 0.25:
        return amplitude**2 * collapsed
    # g'(r) = 0 with x = log((1 - r) / r): tanh(x / 2) / 2 = price x.
    x = brentq(lambda x: 0.5 * np.tanh(0.5 * x) - price * x, 1e-6 * (0.25 - price), 1 / price, xtol=1e-15)
    r = float(expit(-x))
    if r >= probability:
        return amplitude**2 * collapsed
    return amplitude**2 * float(price * (_entropy(probability) - _entropy(r)) + 0.5 * r * (1 - r))


def least_threshold(probability: float, amplitude: float) -> float:
    """Return the beta above which no code of an event costs less than leaving it collapsed.

    beta = a^2 (1 - 2 p) / (2 log((1 - p) / p)), and a^2 / 4 for p = 1/2.
    """
    if probability == 0.5:
        return 0.25 * amplitude**2
    return 0.5 * amplitude**2 * (1 - 2 * probability) / float(logit(1 - probability))


def _entropy(probability: float) -> float:
    return float(entr(probability) + entr(1 - probability))


def _column(states: Sequence[Sequence[EventState]], name: str) -> Floats:
    return np.array([[getattr(state, name) for state in row] for row in states])


@cache
def _grid(probability: float) -> tuple[Floats, Floats]:
    """Return what the overlap and the rate are on a grid of separations and ratios, each `(d, rho)`."""
    pairs = [[(d, u) for u in _LOG_RATIOS] for d in _SEPARATIONS]
    overlaps = np.array([[_overlap(d, u, probability)[0] for d, u in row] for row in pairs])
    return overlaps, np.array([[_rate(d, u, probability)[0] for d, u in row] for row in pairs])


def _best_code(probability: float, price: float) -> tuple[float, float]:
    """Return d and log rho of the global minimum of overlap / 2 + price rate: 0, 0 if that is the collapsed state."""
    overlaps, rates = _grid(probability)
    costs = np.pad(0.5 * overlaps + price * rates, 1, constant_values=np.inf)
    neighbours = [np.roll(costs, shift, axis) for axis in (0, 1) for shift in (-1, 1)]
    lowest = np.argwhere((costs <= np.min(neighbours, axis=0))[1:-1, 1:-1])
    collapsed = 0.5 * probability * (1 - probability)
    unit = min(collapsed, price)

    def cost(code: Floats) -> tuple[float, Floats]:
        d, log_ratio = float(code[0]), float(np.clip(code[1], -30.0, 10.0))  # a line search may try anything
        overlap, overlap_slope = _overlap(d, log_ratio, probability)
        rate, rate_slope = _rate(d, log_ratio, probability)
        return (0.5 * overlap + price * rate) / unit, (0.5 * overlap_slope + price * rate_slope) / unit

    best, code = collapsed / unit, (0.0, 0.0)
    for i, j in lowest:
        start = np.array([_SEPARATIONS[i], _LOG_RATIOS[j]])
        found = minimize(cost, start, jac=True, method="BFGS", options={"gtol": 1e-12})
        if found.fun < best * (1 - _LEAST_GAIN):
            best, code = float(found.fun), (abs(float(found.x[0])), float(found.x[1]))
    return code


def _overlap(d: float, log_ratio: float, p: float) -> tuple[float, Floats]:
    """Return the integral of p q1 (1 - p) q0 / (p q1 + (1 - p) q0), and its slope in d and log rho `(2,)`."""
    ratio = np.exp(log_ratio)
    log_odds = logit(p) - log_ratio - 0.5 * _T**2 + 0.5 * (d + ratio * _T) ** 2
    off = expit(-log_odds)  # the probability that the event is off, given z, under q1
    weight = p * _W * off**2
    return float(p * (_W * off).sum()), np.array([(weight * _T).sum() / ratio, (weight * (_T**2 - 1)).sum()])


def _rate(d: float, log_ratio: float, p: float) -> tuple[float, Floats]:
    """Return the rate, nats, and its slope in d and log rho `(2,)`."""
    square = np.exp(2 * log_ratio)
    spread = p * (square - 1) + p * (1 - p) * d**2
    slope = np.array([p * (1 - p) * d / (1 + spread), p * square / (1 + spread) - p])
    return float(0.5 * np.log1p(spread) - p * log_ratio), slope
