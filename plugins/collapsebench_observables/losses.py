"""Distortion, rate and loss of each replica."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from numpy.typing import NDArray

from collapsebench import Model, Observable, Parameters, Samples, measure_equilibrium


class Losses(Observable[Parameters]):
    """The two terms of the objective, in nats, with sampled decoding (closed form for a linear decoder):

        distortion = E |x - x_hat|^2 / (2 sigma_dec^2)      rate = sum_k R_k      loss = distortion + beta rate

    with beta = T V / sigma_dec^2.
    """

    published: ClassVar[bool] = True

    def measure(self, model: Model, samples: Samples) -> Mapping[str, NDArray[Any]]:
        """Return distortion, rate and loss `(replica,)`."""
        state = measure_equilibrium(model, samples)
        beta = model.temperatures * model.total_variance / model.decoder_variance
        return {
            "distortion": state.distortion,
            "rate": state.rate,
            "loss": state.distortion + beta * state.rate,
        }
