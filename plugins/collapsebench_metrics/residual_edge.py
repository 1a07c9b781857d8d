"""Whether the information that the active latents leave out predicts where the next latent becomes active."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pandas as pd

from collapsebench import Evaluation, Measurement, Metric, Score, ranked_signal_fraction, resolved_ranks
from collapsebench_metrics.comparison import few_ranks, fitted_thresholds
from collapsebench_metrics.onsets import predicted_onsets
from collapsebench_metrics.outcome import Outcome, evaluation
from collapsebench_metrics.parameters import ResidualEdgeParameters
from collapsebench_metrics.replicas import by_replica


class ResidualEdge(Metric[ResidualEdgeParameters]):
    """Compare Lambda_* / V, the edge of stability of the collapsed latents, with the temperature and with the scan.

        Lambda_* = sup over h, E h^2 = 1, of E_{z_A} |Cov(x, h(x) | z_A)|^2,    A the active latents

    Collapsed latents are stable if T is at least the edge. So the edge of a replica with k - 1 active latents predicts
    the T_c of rank k, as in `landau-onset`, whose edge is the linear-readout approximation of this one: the top
    eigenvalue of the posterior-mean residual's covariance, which detects half of a signal whose direction in data space
    turns with z_A. In the linear Gaussian case both are lambda_k / V. The estimate is a few per cent too low.
    Source: Z. Li 2026, Residual spectral instabilities in representation learning.
    """

    requires: ClassVar[tuple[str, ...]] = ("residual-edge", "equilibrium", "latent-moments")
    scores: ClassVar[tuple[Score, ...]] = (
        Score("median-log-error", "Median |log edge - log T_c| over predicted ranks.", "lower", "e-folds", low=0),
        Score("max-log-error", "Largest |log edge - log T_c| over predicted ranks.", "lower", "e-folds", low=0),
        Score("predicted-ranks", "Resolved ranks whose threshold an edge predicts.", "none", "ranks", low=0),
        Score(
            "unstable-share", "Share of replicas with a spare latent whose T is below the edge.", "lower", low=0, high=1
        ),
        Score("nonlinear-gain", "Median log(edge / linear edge), replicas with spare latents.", "none", "e-folds"),
    )

    def evaluate(self, measurement: Measurement) -> Evaluation:
        """Return the scores, and by rank the edge, the temperature it was read at and the threshold."""
        settings, temperatures = self.parameters, measurement.temperatures
        edges = by_replica(measurement.tables["residual-edge"], "train", measurement, "edge")
        conditioned = by_replica(measurement.tables["residual-edge"], "train", measurement, "active_latents")
        linear = by_replica(measurement.tables["equilibrium"], "train", measurement, "residual_edge")
        spare = by_replica(measurement.tables["equilibrium"], "train", measurement, "spare_latents") > 0
        fractions = ranked_signal_fraction(measurement.tables["latent-moments"], settings.split, temperatures)
        thresholds = fitted_thresholds(temperatures, fractions)
        # A latent that is active but was not conditioned on would predict itself.
        usable = np.isfinite(edges) & (conditioned == (fractions > settings.collapsed).sum(axis=1))
        predictions = predicted_onsets(temperatures, edges, fractions, usable, settings.collapsed, settings.margin)
        resolved = resolved_ranks(thresholds, temperatures, measurement.latent_dim)
        error = np.abs(np.log(np.maximum(predictions[:, 1], 1e-300)) - np.log(thresholds))
        scored = error[resolved & np.isfinite(error)]
        reason = (
            "no resolved rank has a replica just above its threshold with an edge of its own: take more temperatures; "
            + few_ranks(int(resolved.sum()), measurement)
        )
        watched = spare & np.isfinite(edges) & (edges > 0) & (linear > 0)
        alone = "no replica that ended finite has a spare latent: raise latent_dim"
        outcomes: dict[str, Outcome] = {
            "median-log-error": float(np.median(scored)) if scored.size else reason,
            "max-log-error": float(scored.max()) if scored.size else reason,
            "predicted-ranks": float(scored.size),
            "unstable-share": float((edges > (1 + settings.margin) * temperatures)[watched].mean())
            if watched.any()
            else alone,
            "nonlinear-gain": float(np.median(np.log(edges[watched] / linear[watched]))) if watched.any() else alone,
        }
        modes = pd.DataFrame(
            {
                "rank": np.arange(1, thresholds.size + 1), "threshold": thresholds, "edge": predictions[:, 1],
                "edge_temperature": predictions[:, 0], "resolved": resolved,
            }
        )  # fmt: skip
        return evaluation(outcomes, modes)
