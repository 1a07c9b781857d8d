"""The angles between the subspaces that latents span in data space and those of PCA."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from collapsebench import Evaluation, Measurement, Metric, Score, grid
from collapsebench_metrics.directions import largest_angle, unit_directions
from collapsebench_metrics.outcome import Outcome, evaluation
from collapsebench_metrics.parameters import SubspaceAnglesParameters

if TYPE_CHECKING:
    from collections.abc import Sequence

    from collapsebench_metrics.comparison import Floats

_PLACES = {"": "decoder-directions", "-at-origin": "decoder-origin-directions"}


class SubspaceAngles(Metric[SubspaceAnglesParameters]):
    """Return principal angles between the decoder's Jacobian and PCA, block by block of nearly equal eigenvalues.

    At each temperature the n active latents, ranked by signal fraction, are compared with PCA in two ways. Span: the
    components of the blocks that n latents fill must lie in the latents' span, and the latents must lie in the span of
    these blocks and the one that they have begun to fill. Block: for every filled block i..j, the latents of ranks i to
    j alone are compared with components i to j. Rotating latents among themselves changes only the second; it costs
    little and equilibrates last. The Jacobian is either averaged over posterior means or taken at z = 0.

    Each score is the largest angle of a comparison. The order, signs and lengths of latents do not matter.
    """

    requires: ClassVar[tuple[str, ...]] = ("latent-moments", *_PLACES.values())
    scores: ClassVar[tuple[Score, ...]] = tuple(
        Score(f"{name}{place}", f"{summary}{where}.", "lower", "rad", low=0, high=float(np.pi / 2))
        for place, where in (("", ""), ("-at-origin", ", Jacobian at z = 0"))
        for name, summary in (
            ("span-angle", "Median over T of the largest angle between the active latents' span and PCA's"),
            ("max-span-angle", "Largest over T of that angle"),
            ("block-angle", "Median over T and blocks of the largest angle between a block and its latents"),
        )
    )

    def evaluate(self, measurement: Measurement) -> Evaluation:
        """Return the scores, and by rank the median angle of the block that it belongs to."""
        spectrum = measurement.pca.eigenvalues
        ends = block_ends(spectrum, self.parameters.gap)
        table = measurement.tables["latent-moments"]
        fractions = grid(table, self.parameters.split, measurement.temperatures, "signal_fraction")
        outcomes: dict[str, Outcome] = {}
        count = min(measurement.latent_dim, spectrum.size)
        columns: dict[str, Any] = {"rank": np.arange(1, count + 1), "eigenvalue": spectrum[:count]}
        for place, observable in _PLACES.items():
            spans, blocks = self._angles(measurement, fractions, ends, unit_directions(measurement, observable))
            reason = (
                f"no temperature on split '{self.parameters.split}' at which a latent is active, and fewer are than "
                f"the data have dimensions with variance: take temperatures between {spectrum[0]:.3g} and the least"
            )
            every = np.concatenate([*blocks.values(), np.zeros(0)])
            outcomes[f"span-angle{place}"] = float(np.median(spans)) if spans else reason
            outcomes[f"max-span-angle{place}"] = max(spans) if spans else reason
            outcomes[f"block-angle{place}"] = (
                float(np.median(every)) if every.size else f"no block of eigenvalues is filled anywhere; {reason}"
            )
            columns[f"block_angle{place.replace('-', '_')}"] = _by_rank(blocks, count)
        return evaluation(outcomes, pd.DataFrame(columns))

    def _angles(
        self, measurement: Measurement, fractions: Floats, ends: Sequence[int], directions: Floats
    ) -> tuple[list[float], dict[tuple[int, int], list[float]]]:
        """Return the span angle of every usable temperature, and (start, end) -> block angles."""
        components, spans = measurement.pca.components, list[float]()
        blocks: dict[tuple[int, int], list[float]] = {}
        for fraction, rows in zip(fractions, directions, strict=True):
            order = np.argsort(-fraction, kind="stable")
            active = rows[order][fraction[order] > self.parameters.active]
            count = len(active)
            if not 1 <= count <= ends[-1] or not np.isfinite(active).all():
                continue
            filled = max((end for end in ends if end <= count), default=0)
            begun = min(end for end in ends if end >= count)
            inside = [largest_angle(active, components[:begun])] if begun < len(components) else [0.0]
            spans.append(max(inside + ([largest_angle(active, components[:filled])] if filled else [])))
            for start, end in zip([0, *ends], ends, strict=False):
                if end <= count:
                    angle = largest_angle(active[start:end], components[start:end])
                    blocks.setdefault((start, end), []).append(angle)
        return spans, blocks


def block_ends(spectrum: Floats, gap: float) -> list[int]:
    """Return after how many components each block of eigenvalues ends; relative steps up to `gap` join a block.

    Eigenvalues below 1e-9 of the first are rounding errors and belong to no block.
    """
    rank = int((spectrum > 1e-9 * spectrum[0]).sum())
    steps = (spectrum[: rank - 1] - spectrum[1:rank]) > gap * spectrum[: rank - 1]
    return [*(np.flatnonzero(steps) + 1).tolist(), rank]


def _by_rank(blocks: dict[tuple[int, int], list[float]], count: int) -> Floats:
    medians = np.full(count, np.nan)
    for (start, end), angles in blocks.items():
        medians[start:end] = np.median(angles)
    return medians
