"""The parameters of the metrics: above all the split on which each is evaluated."""

from __future__ import annotations

from pydantic import Field

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
