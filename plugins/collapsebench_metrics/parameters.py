"""The parameters of the first-party metrics, among them the split on which each is evaluated."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from collapsebench import Parameters, SplitName

Split = Annotated[SplitName, Field(description="the split on which the metric is evaluated")]
Confidence = Annotated[float, Field(gt=0, lt=1, description="confidence of the intervals")]
Tie = Annotated[float, Field(gt=0, lt=1, description="relative distance below which two thresholds are tied")]
Gap = Annotated[
    float, Field(ge=0, lt=1, description="relative distance of two eigenvalues below which they share one subspace")
]
Active = Annotated[float, Field(ge=0, lt=1, description="signal fraction above which a latent counts as active")]


class PcaAgreementParameters(Parameters):
    """Parameters of `pca-agreement`."""

    split: Split = "train"
    active: float = Field(default=0.5, gt=0, lt=1, description="signal fraction above which a direction counts")
    gap: Gap = 1e-2
    margin: float = Field(
        default=0.05, ge=0, lt=1, description="relative distance of T from a threshold below which M^2 is not compared"
    )


class ThresholdRankingParameters(Parameters):
    """Parameters of `threshold-ranking`."""

    split: Split = "train"
    gap: Gap = 1e-2
    tolerance: Tie = 1e-6


class RankingAgreementParameters(Parameters):
    """Parameters of `ranking-agreement`."""

    split: Split = "train"
    active: Active = 0.1
    least_rate: float = Field(
        default=0.1, gt=0, description="rate, nats, above which a latent carries information, whatever it gains"
    )
    least_gain: float = Field(
        default=0.01, gt=0, lt=1, description="share of the objective above which a latent's gain carries information"
    )
    tie: float = Field(
        default=0.1,
        gt=0,
        description="e-folds of snr, of utility or of exp(2 rate) within which two latents of one replica are tied",
    )


class ExponentFitParameters(Parameters):
    """Parameters of `exponent-fit`."""

    split: Split = "train"
    confidence: Confidence = 0.95


class EffectiveDimensionParameters(Parameters):
    """Parameters of `effective-dimension`."""

    split: Split = "test"


class UtilityThresholdDualityParameters(Parameters):
    """Parameters of `utility-threshold-duality`."""

    split: Split = "train"


class EquilibriumParameters(Parameters):
    """Parameters of `equilibrium`."""

    split: Split = "train"
    tolerance: float = Field(
        default=1e-2, ge=0, description="relative distance from the band dD/dR = -beta that counts as a violation"
    )
    least_rate: float = Field(
        default=1e-2,
        gt=0,
        description="total rate, nats, below which two neighbours count as collapsed and are left out",
    )


class MetastabilityParameters(Parameters):
    """Parameters of `metastability`."""

    split: Split = "train"
    rate: float = Field(default=1e-2, gt=0, description="rate, nats, above which a latent is switched on")


class RateOverlayParameters(Parameters):
    """Parameters of `rate-overlay`."""

    split: Split = "train"
    active: Active = 0.1


class RateThresholdsParameters(Parameters):
    """Parameters of `rate-thresholds`."""

    split: Split = "train"
    tolerance: Tie = 1e-6


class TailExponentParameters(Parameters):
    """Parameters of `tail-exponent`."""

    split: Split = "test"
    window: tuple[int, int] = Field(default=(4, 17), description="first and last rank of the fit")
    confidence: Confidence = 0.95
    factor: float = Field(default=1.5, gt=1, description="largest factor between curve and fit beyond the crossover")

    @field_validator("window")
    @classmethod
    def _has_three_ranks(cls, window: tuple[int, int]) -> tuple[int, int]:
        if window[0] < 1 or window[1] < window[0] + 2:
            raise ValueError(f"window {list(window)}: expected [first, last] with first >= 1 and last >= first + 2")
        return window


class PosteriorScaleParameters(Parameters):
    """Parameters of `posterior-scale`."""

    split: Split = "train"
    active: Active = 0.1


class JensenGapParameters(Parameters):
    """Parameters of `jensen-gap`."""

    split: Split = "train"
    active: Active = 0.1


class RateDistortionGapParameters(Parameters):
    """Parameters of `rate-distortion-gap`."""

    split: Split = "train"
    tolerance: float = Field(
        default=1e-2,
        ge=0,
        description="nats below the Gaussian bound from which a rate counts as below it; about the sampling error",
    )


class LandauOnsetParameters(Parameters):
    """Parameters of `landau-onset`."""

    split: Split = "train"
    collapsed: float = Field(
        default=0.01, gt=0, lt=1, description="signal fraction up to which a latent counts as collapsed"
    )
    margin: float = Field(
        default=0.01,
        ge=0,
        description="least relative excess of the edge over the eigenvalue that the weakest active latent leaves",
    )


class HysteresisParameters(Parameters):
    """Parameters of `hysteresis`."""

    split: Split = "train"
    collapsed: float = Field(
        default=0.05, gt=0, lt=1, description="signal fraction below which a latent counts as collapsed"
    )


class InterventionAgreementParameters(Parameters):
    """Parameters of `intervention-agreement`."""

    split: Literal["train"] = Field(default="train", description="the only split for which there are predictions")
    margin: float = Field(
        default=0.05, ge=0, lt=1, description="relative distance of T from a threshold below which M^2 is not compared"
    )


class OnsetJumpParameters(Parameters):
    """Parameters of `onset-jump`."""

    split: Split = "train"
    active: Active = 0.01
    tolerance: float = Field(
        default=0.05, ge=0, description="excess of a step of M^2 over a continuous onset from which it counts as a jump"
    )


class RankDistortionRatioParameters(Parameters):
    """Parameters of `rank-distortion-ratio`."""

    split: Split = "test"
    least: float = Field(
        default=1e-6, gt=0, lt=1, description="share of D(0) below which the distortion that PCA leaves is not compared"
    )
    tolerance: float = Field(
        default=1e-3, ge=0, lt=1, description="relative difference from PCA above which latents count as better"
    )


class HeadTailParameters(Parameters):
    """Parameters of `head-tail`."""

    split: Split = "test"
    head: int = Field(default=4, ge=1, description="ranks of the head")
    tail: int = Field(
        default=16, ge=2, description="rank at which the floor of the tail is read; the last rank if there are fewer"
    )
    tolerance: float = Field(
        default=0.01,
        ge=0,
        lt=1,
        description="share by which PCA must leave less distortion for the curves to count as crossed",
    )


class OneShotSpectrumParameters(Parameters):
    """Parameters of `one-shot-spectrum`."""

    split: Split = "train"
    active: Active = 0.1


class SubspaceAnglesParameters(Parameters):
    """Parameters of `subspace-angles`."""

    split: Split = "train"
    active: float = Field(default=0.5, gt=0, lt=1, description="signal fraction above which a direction counts")
    gap: Gap = 1e-2


class CrosswalkParameters(Parameters):
    """Parameters of `crosswalk`."""

    split: Split = "train"


class ResidualEdgeParameters(Parameters):
    """Parameters of `residual-edge`."""

    split: Split = "train"
    collapsed: float = Field(
        default=0.01, gt=0, lt=1, description="signal fraction up to which a latent counts as collapsed"
    )
    margin: float = Field(
        default=0.1,
        ge=0,
        description="least relative excess of the edge over T, or over what the weakest active latent leaves",
    )


class TraversalsParameters(Parameters):
    """Parameters of `traversals`."""

    split: Split = "train"
    active: float = Field(
        default=0.1, ge=0.1, lt=1, description="signal fraction above which a latent counts as active"
    )
