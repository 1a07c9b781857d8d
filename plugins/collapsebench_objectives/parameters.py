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
    """Beta rises from zero to its final value, once or several times, and stays there."""

    share: float = Field(
        default=0.5, gt=0, lt=1, description="share of the budget after which beta has its final value"
    )
    cycles: int = Field(default=1, ge=1, description="how often beta rises; more than once is cyclical annealing")
    rise: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="share of each cycle in which beta rises; in the rest it has its final value",
    )


class FreeBitsParameters(Parameters):
    """The nats of each latent that are free of charge."""

    kappa: FiniteFloat = Field(default=0.1, gt=0, description="nats of each latent that are free of charge")
    convention: Literal["batch", "sample"] = Field(
        default="batch",
        description="which rate is compared with kappa: the latent's mean over the batch, or that of each sample",
    )


class CapacityParameters(Parameters):
    """The multiplier that keeps the rate at the capacity."""

    first_temperature: float = Field(
        default=0.01, gt=0, lt=1, description="effective temperature at the start of training"
    )


class WeightDecayParameters(Parameters):
    """The strength of weight decay."""

    omega: FiniteFloat = Field(
        default=0.01,
        gt=0,
        description="weight decay: omega / 2 times the sum of squared weights is added to the loss, in nats",
    )
