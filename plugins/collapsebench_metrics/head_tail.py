"""Whether the rank-distortion curve has a steeper head and a higher tail than PCA's."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pandas as pd

from collapsebench import Evaluation, Measurement, Metric, Score, rank_distortion
from collapsebench_metrics.outcome import Outcome, evaluation, value_or
from collapsebench_metrics.parameters import HeadTailParameters


class HeadTail(Metric[HeadTailParameters]):
    """Split the rank-distortion curve into head and tail, and compare both with PCA on the same split.

        head share = 1 - D(H) / D(0)          the utility of the first H ranks, as a share
        tail floor = D(K) / D(0)              the share that K ranks leave, K = `tail`, or fewer if there are fewer
        head gain = log D_PCA(H) / D(H)       above 0: fewer latents than components in the head
        tail loss = log D(K) / D_PCA(K)       above 0: a higher floor than PCA's

    Deep networks have a steeper head and a higher floor, so that gain and loss are above 0; both are 0 for an exact
    linear scan. The crossover is the first rank above H at which PCA leaves less than (1 - tolerance) times the
    distortion that the latents leave; infinity if there is none. Source: Hirn 2026, arXiv 2608.10599.
    """

    requires: ClassVar[tuple[str, ...]] = ("truncated-distortion",)
    scores: ClassVar[tuple[Score, ...]] = (
        Score("head-share", "Share of the distortion that the head's ranks remove.", "higher", high=1),
        Score("tail-floor", "Share of the distortion that the tail's last rank leaves.", "lower", low=0),
        Score("pca-head-share", "The head share of PCA.", "none", low=0, high=1),
        Score("pca-tail-floor", "The tail floor of PCA.", "none", low=0, high=1),
        Score("head-gain", "log D_PCA / D at the head's end.", "higher", "e-folds"),
        Score("tail-loss", "log D / D_PCA at the tail's end.", "lower", "e-folds"),
        Score("crossover-rank", "First rank above the head at which PCA leaves less.", "higher", "rank", low=2),
    )

    def evaluate(self, measurement: Measurement) -> Evaluation:
        """Return the scores, and by rank the shares of the distortion that remain."""
        settings, split = self.parameters, self.parameters.split
        distortions = rank_distortion(measurement.tables["truncated-distortion"], measurement.temperatures)
        curve, pca = distortions.curves[split], measurement.pca.rank_distortion[split]
        end = int((measurement.pca.eigenvalues > 1e-9 * measurement.pca.eigenvalues[0]).sum())
        last = min(settings.tail, curve.size - 1, end - 1)  # with as many components as the data's rank PCA leaves 0
        if last <= settings.head:
            reason = (
                f"the head has {settings.head} ranks and the scan {curve.size - 1} latents for data of rank {end}: "
                f"no tail is left; set `head` below {max(1, last)}"
            )
            return evaluation({score.name: reason for score in self.scores})
        ranks = np.arange(1, last + 1)
        remaining, pca_remaining = curve[: last + 1] / curve[0], pca[: last + 1] / pca[0]
        with np.errstate(divide="ignore"):
            loss = np.log(remaining) - np.log(pca_remaining)
        later = ranks[(ranks > settings.head) & (loss[1:] > -np.log1p(-settings.tolerance))]
        diverged = "every replica diverged; lower the learning rate"
        known = bool(np.isfinite(curve[0]))
        outcomes: dict[str, Outcome] = {
            "head-share": value_or(1.0 - remaining[settings.head], diverged),
            "tail-floor": value_or(remaining[-1], diverged),
            "pca-head-share": float(1.0 - pca_remaining[settings.head]),
            "pca-tail-floor": float(pca_remaining[-1]),
            "head-gain": value_or(-loss[settings.head], diverged),
            "tail-loss": value_or(loss[-1], diverged),
            "crossover-rank": (float(later[0]) if later.size else float("inf")) if known else diverged,
        }
        modes = pd.DataFrame({"rank": ranks, "share": remaining[1:], "pca_share": pca_remaining[1:], "loss": loss[1:]})
        return evaluation(outcomes, modes)
