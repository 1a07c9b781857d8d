"""Parameters of the first-party objectives; this module imports no torch."""

from __future__ import annotations

from pydantic import Field, FiniteFloat

from collapsebench import Parameters


class BetaVaeParameters(Parameters):
    """The objective distortion + beta rate, beta = T V / decoder_variance."""

    decoder_variance: FiniteFloat = Field(
        default=1.0, gt=0, description="sigma_dec^2, the variance of the decoder's Gaussian likelihood"
    )
