"""Parameters of the first-party objectives; this module imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, FiniteFloat

from collapsebench import Parameters


class BetaVaeParameters(Parameters):
    """The objective distortion + beta rate, beta = T V / decoder_variance."""

    decoder_variance: FiniteFloat = Field(
        default=1.0, gt=0, description="sigma_dec^2, the variance of the decoder's Gaussian likelihood"
    )


class WarmUpParameters(Parameters):
    """The share of beta that is paid rises from zero to one, once or several times, and stays there."""

    share: float = Field(default=0.5, gt=0, lt=1, description="share of the budget after which beta is paid in full")
    cycles: int = Field(default=1, ge=1, description="times that the share rises; more than one is cyclical annealing")
    rise: float = Field(default=1.0, gt=0, le=1, description="share of each cycle that rises; the rest pays in full")


class FreeBitsParameters(Parameters):
    """What each latent may carry without paying."""

    kappa: FiniteFloat = Field(default=0.1, gt=0, description="nats that each latent has for free")
    convention: Literal["batch", "sample"] = Field(
        default="batch", description="batch: the latent's mean rate over the batch is compared with kappa; sample: each"
    )


class CapacityParameters(Parameters):
    """The multiplier that holds the rate at the capacity."""

    first_temperature: float = Field(
        default=0.01, gt=0, lt=1, description="effective temperature that the multiplier starts from"
    )


class WeightDecayParameters(Parameters):
    """The strength of weight decay."""

    omega: FiniteFloat = Field(default=0.01, gt=0, description="factor of half the squared weights, in nats")
