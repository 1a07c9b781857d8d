"""The parameters of the metrics: above all the split on which each is evaluated."""

from __future__ import annotations

from pydantic import Field, field_validator

from collapsebench import Parameters, SplitName


class PcaAgreementParameters(Parameters):
    """Parameters of `pca-agreement`.

    active: the signal fraction above which a latent's direction counts. gap: the relative distance between
    two eigenvalues below which only the subspace of both is defined. margin: the relative distance of T from
    a threshold within which finite training rounds the signal fraction.
    """

    split: SplitName = "train"
    active: float = Field(default=0.5, gt=0, lt=1)
    gap: float = Field(default=1e-2, ge=0, lt=1)
    margin: float = Field(default=0.05, ge=0, lt=1)


class ThresholdRankingParameters(Parameters):
    """Parameters of `threshold-ranking`.

    gap: the relative distance below which eigenvalues share one subspace. tolerance: the relative distance
    below which two thresholds are tied.
    """

    split: SplitName = "train"
    gap: float = Field(default=1e-2, ge=0, lt=1)
    tolerance: float = Field(default=1e-6, gt=0, lt=1)


class ExponentFitParameters(Parameters):
    """Parameters of `exponent-fit`. confidence: of each mode's interval."""

    split: SplitName = "train"
    confidence: float = Field(default=0.95, gt=0, lt=1)


class EffectiveDimensionParameters(Parameters):
    """Parameters of `effective-dimension`."""

    split: SplitName = "test"


class UtilityThresholdDualityParameters(Parameters):
    """Parameters of `utility-threshold-duality`."""

    split: SplitName = "train"


class EquilibriumParameters(Parameters):
    """Parameters of `equilibrium`.

    tolerance: the relative distance from the band dD/dR = -beta that counts as a violation. least_rate: the
    total rate, in nats, below which two neighbours are both collapsed and have no slope.
    """

    split: SplitName = "train"
    tolerance: float = Field(default=1e-2, ge=0)
    least_rate: float = Field(default=1e-2, gt=0)


class RateOverlayParameters(Parameters):
    """Parameters of `rate-overlay`. active: the signal fraction above which a point counts."""

    split: SplitName = "train"
    active: float = Field(default=0.1, ge=0, lt=1)


class RateThresholdsParameters(Parameters):
    """Parameters of `rate-thresholds`. tolerance: the relative distance below which two thresholds are tied."""

    split: SplitName = "train"
    tolerance: float = Field(default=1e-6, gt=0, lt=1)


class TailExponentParameters(Parameters):
    """Parameters of `tail-exponent`.

    window: first and last rank of the fit. confidence: of its interval. factor: how far the curve may be from the fit
    beyond the crossover.
    """

    split: SplitName = "test"
    window: tuple[int, int] = (4, 17)
    confidence: float = Field(default=0.95, gt=0, lt=1)
    factor: float = Field(default=1.5, gt=1)

    @field_validator("window")
    @classmethod
    def _has_three_ranks(cls, window: tuple[int, int]) -> tuple[int, int]:
        if window[0] < 1 or window[1] < window[0] + 2:
            raise ValueError(f"window {list(window)}: expected [first, last] with first >= 1 and last >= first + 2")
        return window


class PosteriorScaleParameters(Parameters):
    """Parameters of `posterior-scale`. active: the signal fraction above which a latent counts as active."""

    split: SplitName = "train"
    active: float = Field(default=0.1, ge=0, lt=1)


class JensenGapParameters(Parameters):
    """Parameters of `jensen-gap`. active: the signal fraction above which a latent counts as active."""

    split: SplitName = "train"
    active: float = Field(default=0.1, ge=0, lt=1)


class RateDistortionGapParameters(Parameters):
    """Parameters of `rate-distortion-gap`.

    tolerance: how many nats below the Gaussian bound count as below it; sampling moves the rate by about as much.
    """

    split: SplitName = "train"
    tolerance: float = Field(default=1e-2, ge=0)


class LandauOnsetParameters(Parameters):
    """Parameters of `landau-onset`.

    collapsed: the signal fraction up to which a latent counts as collapsed. margin: by which relative distance the edge
    must exceed what the weakest active latent leaves behind.
    """

    split: SplitName = "train"
    collapsed: float = Field(default=0.01, gt=0, lt=1)
    margin: float = Field(default=0.01, ge=0)
