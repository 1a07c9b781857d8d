"""The first-party metrics, one file per metric: pure functions of the observables."""

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
            "Compares thresholds, utilities and decoder subspace with PCA, and M^2 with the exact solution.",
            parameters=f"{_PARAMETERS}PcaAgreementParameters",
            version=3,
        ),
        Component(
            "threshold-ranking",
            "collapsebench_metrics.threshold_ranking:ThresholdRanking",
            "Whether modes collapse in the order of PCA and of their utilities.",
            parameters=f"{_PARAMETERS}ThresholdRankingParameters",
            version=2,
        ),
        Component(
            "ranking-agreement",
            "collapsebench_metrics.ranking_agreement:RankingAgreement",
            "Whether signal fraction, rate and utility put latents in one order, and which latents M^2 misses.",
            parameters=f"{_PARAMETERS}RankingAgreementParameters",
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
            "How many latents, and how many principal components, reach each tolerated distortion.",
            parameters=f"{_PARAMETERS}EffectiveDimensionParameters",
        ),
        Component(
            "utility-threshold-duality",
            "collapsebench_metrics.utility_threshold_duality:UtilityThresholdDuality",
            "Whether each rank collapses at the temperature that equals its utility.",
            parameters=f"{_PARAMETERS}UtilityThresholdDualityParameters",
        ),
        Component(
            "equilibrium",
            "collapsebench_metrics.equilibrium:Equilibrium",
            "How far the replicas are from equilibrium: identities, stability, cost of other weights, loss gap.",
            parameters=f"{_PARAMETERS}EquilibriumParameters",
            version=2,
        ),
        Component(
            "rate-overlay",
            "collapsebench_metrics.rate_overlay:RateOverlay",
            "How far rates deviate from the law of a single mode, each scaled by its utility.",
            parameters=f"{_PARAMETERS}RateOverlayParameters",
            version=2,
        ),
        Component(
            "rate-thresholds",
            "collapsebench_metrics.rate_thresholds:RateThresholds",
            "Whether thresholds read from rates come in the order of utilities.",
            parameters=f"{_PARAMETERS}RateThresholdsParameters",
            version=2,
        ),
        Component(
            "tail-exponent",
            "collapsebench_metrics.tail_exponent:TailExponent",
            "The power law of the rank-distortion curve over a window of ranks.",
            parameters=f"{_PARAMETERS}TailExponentParameters",
        ),
        Component(
            "posterior-scale",
            "collapsebench_metrics.posterior_scale:PosteriorScale",
            "How far each latent's second moment is from the prior's, |A^2 - 1|.",
            parameters=f"{_PARAMETERS}PosteriorScaleParameters",
        ),
        Component(
            "jensen-gap",
            "collapsebench_metrics.jensen_gap:JensenGap",
            "How much posterior variances depend on the sample.",
            parameters=f"{_PARAMETERS}JensenGapParameters",
        ),
        Component(
            "rate-distortion-gap",
            "collapsebench_metrics.rate_distortion_gap:RateDistortionGap",
            "Rate in excess of the Gaussian rate-distortion function, in nats.",
            parameters=f"{_PARAMETERS}RateDistortionGapParameters",
        ),
        Component(
            "landau-onset",
            "collapsebench_metrics.landau_onset:LandauOnset",
            "Whether the residual's top eigenvalue predicts the next threshold.",
            parameters=f"{_PARAMETERS}LandauOnsetParameters",
        ),
        Component(
            "hysteresis",
            "collapsebench_metrics.hysteresis:Hysteresis",
            "How far apart in temperature each latent collapses in an up-scan and in a down-scan.",
            parameters=f"{_PARAMETERS}HysteresisParameters",
        ),
        Component(
            "intervention-agreement",
            "collapsebench_metrics.intervention_agreement:InterventionAgreement",
            "Compares thresholds, M^2 and effective temperature with what the objective predicts for a linear decoder.",
            parameters=f"{_PARAMETERS}InterventionAgreementParameters",
        ),
        Component(
            "subspace-angles",
            "collapsebench_metrics.subspace_angles:SubspaceAngles",
            "Principal angles between the decoder's Jacobian and PCA, block by block.",
            parameters=f"{_PARAMETERS}SubspaceAnglesParameters",
        ),
        Component(
            "rank-distortion-ratio",
            "collapsebench_metrics.rank_distortion_ratio:RankDistortionRatio",
            "Distortion left by each number of latents, as a multiple of PCA's.",
            parameters=f"{_PARAMETERS}RankDistortionRatioParameters",
        ),
        Component(
            "head-tail",
            "collapsebench_metrics.head_tail:HeadTail",
            "Whether the rank-distortion curve has a steeper head and a higher tail than PCA's.",
            parameters=f"{_PARAMETERS}HeadTailParameters",
        ),
        Component(
            "one-shot-spectrum",
            "collapsebench_metrics.one_shot_spectrum:OneShotSpectrum",
            "Whether the thresholds predicted at a single temperature equal those of the scan.",
            parameters=f"{_PARAMETERS}OneShotSpectrumParameters",
        ),
        Component(
            "crosswalk",
            "collapsebench_metrics.crosswalk:Crosswalk",
            "The signal fraction at which each published criterion of an active latent flips.",
            parameters=f"{_PARAMETERS}CrosswalkParameters",
        ),
        Component(
            "onset-jump",
            "collapsebench_metrics.onset_jump:OnsetJump",
            "Whether order parameters grow continuously from zero, or jump.",
            parameters=f"{_PARAMETERS}OnsetJumpParameters",
        ),
        Component(
            "residual-edge",
            "collapsebench_metrics.residual_edge:ResidualEdge",
            "Whether the information that the active latents leave out predicts the next threshold.",
            parameters=f"{_PARAMETERS}ResidualEdgeParameters",
        ),
        Component(
            "metastability",
            "collapsebench_metrics.metastability:Metastability",
            "Where latents switch on under each protocol, and what resting in another state than the best costs.",
            parameters=f"{_PARAMETERS}MetastabilityParameters",
        ),
        Component(
            "traversals",
            "collapsebench_metrics.traversals:Traversals",
            "Whether latents move the reconstruction along straight lines; adds the figure of traversals.",
            parameters=f"{_PARAMETERS}TraversalsParameters",
        ),
    ]
