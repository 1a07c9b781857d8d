"""How many latents reach a tolerated distortion, beside how many principal components do."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pandas as pd

from collapsebench import Evaluation, Measurement, Metric, Score, effective_dimension, rank_distortion
from collapsebench_metrics.outcome import Outcome, evaluation, value_or
from collapsebench_metrics.parameters import EffectiveDimensionParameters

# Boards show the first. The coarse ones at the end are for images, for which few latents leave most of the distortion.
_FINE = {"5%": 5e-2, "1%": 1e-2, "0.5%": 5e-3, "0.1%": 1e-3, "0.01%": 1e-4, "0.001%": 1e-5}
TOLERANCES = {**_FINE, "10%": 0.1, "30%": 0.3, "50%": 0.5}


class EffectiveDimension(Metric[EffectiveDimensionParameters]):
    """Return min { K : D(K) / D(0) <= tolerance } for nine tolerances; infinity is "not reached".

    The temperature of each D(K) is chosen on the validation split. PCA is fitted on train and evaluated on
    the same split as the scan.
    """

    requires: ClassVar[tuple[str, ...]] = ("truncated-distortion",)
    claim: ClassVar[str] = "Needs fewer latents"
    scores: ClassVar[tuple[Score, ...]] = (
        *(
            Score(
                f"at-{name}",
                f"Latents needed to reach {name} of the distortion without latents.",
                "lower",
                "latents",
                low=0,
            )
            for name in TOLERANCES
        ),
        *(
            Score(f"pca-at-{name}", f"Principal components needed to reach {name}.", "none", "components", low=0)
            for name in TOLERANCES
        ),
    )

    def evaluate(self, measurement: Measurement) -> Evaluation:
        """Return the scores, and both rank-distortion curves from rank 1."""
        split = self.parameters.split
        table = measurement.tables["truncated-distortion"]
        distortions = rank_distortion(table, measurement.temperatures)
        curve, pca = distortions.curves[split], measurement.pca.rank_distortion[split]
        outcomes: dict[str, Outcome] = {}
        for name, tolerance in TOLERANCES.items():
            known = effective_dimension(curve, tolerance) if np.isfinite(curve[0]) else float("nan")
            outcomes[f"at-{name}"] = value_or(known, "every replica diverged; lower the learning rate")
            outcomes[f"pca-at-{name}"] = effective_dimension(pca, tolerance)
        ranks = np.arange(1, measurement.latent_dim + 1)
        reference = np.full(ranks.size, pca[-1])
        reference[: pca.size - 1] = pca[1 : ranks.size + 1]
        modes = pd.DataFrame(
            {
                "rank": ranks, "distortion": curve[1:], "relative_distortion": curve[1:] / curve[0],
                "temperature": distortions.temperature[1:], "pca_distortion": reference,
            }
        )  # fmt: skip
        return evaluation(outcomes, modes)
