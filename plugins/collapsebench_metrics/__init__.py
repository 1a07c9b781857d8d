"""The metrics that ship with collapsebench: one file each, pure functions of what was observed."""

from __future__ import annotations

from collapsebench import Component, hookimpl

_PARAMETERS = "collapsebench_metrics.parameters:"


@hookimpl
def collapsebench_metrics() -> list[Component]:
    """Return the descriptors of this package's metrics."""
    return [
        Component(
            "pca-agreement",
            "collapsebench_metrics.pca_agreement:PcaAgreement",
            "Thresholds, utilities and decoder subspace against PCA, and M^2 against the exact one.",
            parameters=f"{_PARAMETERS}PcaAgreementParameters",
        ),
        Component(
            "threshold-ranking",
            "collapsebench_metrics.threshold_ranking:ThresholdRanking",
            "Whether modes collapse in the order of PCA and of their utilities.",
            parameters=f"{_PARAMETERS}ThresholdRankingParameters",
        ),
        Component(
            "exponent-fit",
            "collapsebench_metrics.exponent_fit:ExponentFit",
            "The exponent with which each order parameter vanishes at its threshold; 1/2 is mean field.",
            parameters=f"{_PARAMETERS}ExponentFitParameters",
        ),
        Component(
            "effective-dimension",
            "collapsebench_metrics.effective_dimension:EffectiveDimension",
            "How many latents, and how many principal components, each tolerated distortion needs.",
            parameters=f"{_PARAMETERS}EffectiveDimensionParameters",
        ),
        Component(
            "utility-threshold-duality",
            "collapsebench_metrics.utility_threshold_duality:UtilityThresholdDuality",
            "Whether each rank collapses at the temperature that equals what it is worth.",
            parameters=f"{_PARAMETERS}UtilityThresholdDualityParameters",
        ),
        Component(
            "equilibrium",
            "collapsebench_metrics.equilibrium:Equilibrium",
            "How far the replicas are from equilibrium: exact identities, stability and the loss gap.",
            parameters=f"{_PARAMETERS}EquilibriumParameters",
        ),
    ]
