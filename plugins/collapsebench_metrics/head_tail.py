"""Whether a model buys a steeper head of the rank-distortion curve with a higher floor of its tail."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pandas as pd

from collapsebench import Evaluation, Measurement, Metric, Score, rank_distortion
from collapsebench_metrics.outcome import Outcome, evaluation, value_or
from collapsebench_metrics.parameters import HeadTailParameters


class HeadTail(Metric[HeadTailParameters]):
    """Split the rank-distortion curve into head and tail, and hold both against PCA on the same split.

        head share = 1 - D(H) / D(0)          the utility of the first H ranks, as a share
        tail floor = D(K) / D(0)              what K ranks leave, K = `tail` or as many as there are
        head gain = log D_PCA(H) / D(H)       above 0: fewer latents than components in the head
        tail loss = log D(K) / D_PCA(K)       above 0: a higher floor than PCA's

    Deep networks have a steeper head and a higher floor, gain and loss both above 0; an exact linear scan has 0 and 0.
    The crossover is the first rank above H at which PCA leaves less than (1 - tolerance) of what the latents do,
    infinity if none does. Source: Hirn 2026, arXiv 2608.10599.
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
        """Return the scores, and by rank the shares that remain."""
        settings, split = self.parameters, self.parameters.split
        found = rank_distortion(measurement.tables["truncated-distortion"], measurement.temperatures)
        curve, pca = found.curves[split], measurement.pca.rank_distortion[split]
        end = int((measurement.pca.eigenvalues > 1e-9 * measurement.pca.eigenvalues[0]).sum())
        last = min(settings.tail, curve.size - 1, end - 1)  # with as many components as the data's rank PCA leaves 0
        if last <= settings.head:
            reason = (
                f"the head has {settings.head} ranks and the scan {curve.size - 1} latents for data of rank {end}: "
                f"no tail is left; set `head` below {max(1, last)}"
            )
            return evaluation({score.name: reason for score in self.scores})
        ranks = np.arange(1, last + 1)
        own, reference = curve[: last + 1] / curve[0], pca[: last + 1] / pca[0]
        with np.errstate(divide="ignore"):
            loss = np.log(own) - np.log(reference)
        later = ranks[(ranks > settings.head) & (loss[1:] > -np.log1p(-settings.tolerance))]
        diverged = "every replica diverged; lower the learning rate"
        known = bool(np.isfinite(curve[0]))
        outcomes: dict[str, Outcome] = {
            "head-share": value_or(1.0 - own[settings.head], diverged),
            "tail-floor": value_or(own[-1], diverged),
            "pca-head-share": float(1.0 - reference[settings.head]),
            "pca-tail-floor": float(reference[-1]),
            "head-gain": value_or(-loss[settings.head], diverged),
            "tail-loss": value_or(loss[-1], diverged),
            "crossover-rank": (float(later[0]) if later.size else float("inf")) if known else diverged,
        }
        modes = pd.DataFrame({"rank": ranks, "share": own[1:], "pca_share": reference[1:], "loss": loss[1:]})
        return evaluation(outcomes, modes)
