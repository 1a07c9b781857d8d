"""Distortion, rate and loss of each replica."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from numpy.typing import NDArray

from collapsebench import Curve, Model, Observable, Parameters, Samples, measure_equilibrium


class Losses(Observable[Parameters]):
    """The two terms of the objective, in nats, with sampled decoding (closed form for a linear decoder):

        distortion = E |x - x_hat|^2 / (2 sigma_dec^2)      rate = sum_k R_k      loss = distortion + beta rate

    with beta = T V / sigma_dec^2. objective: the loss as a share of that of total collapse, V / (2 sigma_dec^2).
    """

    published: ClassVar[bool] = True
    curves: ClassVar[tuple[Curve, ...]] = (Curve("objective", "objective, share of total collapse"),)

    def measure(self, model: Model, samples: Samples) -> Mapping[str, NDArray[Any]]:
        """Return distortion, rate, loss and objective `(replica,)`."""
        state = measure_equilibrium(model, samples)
        beta = model.temperatures * model.total_variance / model.decoder_variance
        loss = state.distortion + beta * state.rate
        return {
            "distortion": state.distortion,
            "rate": state.rate,
            "loss": loss,
            "objective": loss * 2 * model.decoder_variance / model.total_variance,
        }
