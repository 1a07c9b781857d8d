"""Compare every replica of a scan with what the weights of the others would cost at its price.

For an objective that is affine in distortion and rates, the cost of the weights of replica j at the price beta is a
straight line, D_j + beta R_j, known without a further pass. The equilibrium cost L*(beta) is at most the lower envelope
of these lines, which is concave in beta, with dL*/dbeta = R. A replica above the envelope is not at equilibrium,
however stationary and stable it is: it is metastable.
Source: Hirn 2026, arXiv 2605.22691; the envelope theorem.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collapsebench.contracts import Floats

STANDARD_ERRORS = 3.0
"""How many standard errors a difference of two costs must exceed to count."""


class Line(NamedTuple):
    """What the weights of a replica cost as a function of the dial: intercept + slope dial, in nats.

    dial: the replica's own, beta unless the objective has another price. constant: the part of the intercept that
    depends on neither distortion nor rates, such as a penalty on weights. error: standard error of the intercept, from
    sampled decoding; 0 for a linear decoder. For the plain objective, the intercept is the distortion and the slope is
    the rate, on the train split. All are NaN if the objective has no such line.
    """

    dial: float = float("nan")
    intercept: float = float("nan")
    slope: float = float("nan")
    constant: float = 0.0
    error: float = 0.0

    @classmethod
    def of(cls, replica: Mapping[str, Any]) -> Line:
        """Return the line of a row of the table "replicas"; what it lacks is NaN."""
        stored = (replica.get(name) for name in cls._fields)
        return cls(*(float("nan") if value is None else float(value) for value in stored))


@dataclass(frozen=True)
class Envelope:
    """How far each replica lies above the lower envelope of all lines `(r,)`.

    gap: (L_i - min_j C_ij) / L_i, where C_ij is the cost of j's weights at i's dial and L_i = C_ii; constants do not
    count in the denominator. excess: the largest (L_i - C_ij - 3 standard errors) / L_i, negative if no difference is
    significant; the standard error is that of the difference of two independent estimates. cheapest: the j that
    undercuts i most, i itself if none does. Without a line: gap and excess are NaN, cheapest is i.
    """

    gap: Floats
    excess: Floats
    cheapest: NDArray[np.int64]


def envelope(lines: Sequence[Line], groups: Sequence[int] | None = None) -> Envelope:
    """Return how far each replica lies above the others' lines; with `groups`, above those of its own group only.

    >>> from collapsebench.theory.envelope import Line, envelope
    >>> found = envelope([Line(0.2, 1.0, 0.0), Line(0.1, 0.4, 2.5)])
    >>> found.gap.round(3), found.cheapest
    (array([0.1, 0. ]), array([1, 1]))
    """
    dial, intercept, slope, constant, error = np.array(lines, dtype=np.float64).reshape(-1, 5).T
    own = intercept + slope * dial
    costs = intercept + slope * dial[:, None]
    if groups is not None:
        costs[np.not_equal.outer(groups, groups)] = np.nan
    known = np.isfinite(costs)
    saved = np.where(known, own[:, None] - costs, -np.inf)
    noise = STANDARD_ERRORS * np.sqrt(error[:, None] ** 2 + error**2)
    certain = np.where(known, saved - noise, -np.inf)
    certain[np.eye(len(own), dtype=bool)] = -np.inf
    scale = np.where(np.isfinite(own), own - constant, np.nan)
    with np.errstate(invalid="ignore"):
        gap = np.maximum(saved.max(1, initial=0.0), 0.0) / scale
        excess = np.where(np.isnan(scale), np.nan, certain.max(1, initial=-np.inf) / scale)
    undercut = saved.max(1, initial=0.0) > 0
    cheapest = np.where(undercut, saved.argmax(1) if len(own) else 0, np.arange(len(own)))
    return Envelope(gap, excess, cheapest.astype(np.int64))
