"""The figures of a suite, drawn once per dataset and objective: those of both papers, latents, what components declare.

Each is drawn from everything that was measured; its caption says from how many temperatures and runs, on which split,
and what the dashed lines are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import matplotlib as mpl

from collapsebench.contracts import SplitName
from collapsebench.errors import UserError
from collapsebench.publishing.curves import DeclaredCurve, declared_curves
from collapsebench.publishing.figures import style
from collapsebench.publishing.figures.ranks import (
    draw_rank_distortion_tails,
    draw_rank_distortions,
    draw_rate_utilities,
    draw_utilities,
)
from collapsebench.publishing.figures.scans import (
    draw_declared,
    draw_moments,
    draw_posterior_scales,
    draw_rate_overlays,
    draw_signal_fractions,
    draw_truncated_distortions,
)
from collapsebench.publishing.figures.style import Drawing
from collapsebench.publishing.figures.traversals import draw_traversals
from collapsebench.ranking.standings import Contender, comparisons
from collapsebench.scoring.results import SuiteResults

SPLIT_OF: dict[str, SplitName] = {
    "signal-fraction": "train",
    "moments": "train",
    "posterior-scale": "train",
    "truncated-distortion": "test",
    "rank-distortion": "test",
    "rank-distortion-log": "test",
    "utility-threshold": "train",
    "utility-rate-threshold": "train",
    "rate-overlay": "train",
    "traversals": "train",
}
"""The split each figure shows by default: thresholds are statements about train, distortions about unseen data."""

_KINDS: dict[str, Callable[[Sequence[Contender], SplitName], Drawing]] = {
    "signal-fraction": draw_signal_fractions,
    "moments": draw_moments,
    "posterior-scale": draw_posterior_scales,
    "truncated-distortion": draw_truncated_distortions,
    "rank-distortion": draw_rank_distortions,
    "rank-distortion-log": draw_rank_distortion_tails,
    "utility-threshold": draw_utilities,
    "utility-rate-threshold": draw_rate_utilities,
    "rate-overlay": draw_rate_overlays,
    "traversals": draw_traversals,
}


def draw_figures(
    results: SuiteResults,
    folder: Path,
    splits: Mapping[str, SplitName] | None = None,
    kinds: Sequence[str] | None = None,
    *,
    small: bool = False,
) -> list[Path]:
    """Draw figures as PDF and PNG into a folder, with `captions.json`: file stem -> caption; return the paths.

    splits: figure -> split, where it should differ from `SPLIT_OF`. kinds: the figures to draw, by default all that
    `SPLIT_OF` names, then the curves that components declare, as `component-quantity`. A figure with nothing to draw is
    left out; its caption says why. small: as PNG alone, of fewer pixels. The same results give the same bytes.
    """
    check_kinds(results, [*(kinds or ()), *(splits or {})])
    declared = _declared(results)
    known = _KINDS | {name: partial(draw_declared, one) for name, one in declared.items()}
    wanted = list(known) if kinds is None else list(kinds)
    folder.mkdir(parents=True, exist_ok=True)
    chosen = {**SPLIT_OF, **{name: one.curve.split for name, one in declared.items()}, **(splits or {})}
    captions: dict[str, str] = {}
    written: list[Path] = []
    with mpl.rc_context(style.RC):
        for names, contenders in comparisons(results).items():
            for kind in wanted:
                stem = _stem(kind, names, results, captions)
                drawing = known[kind](contenders, chosen[kind])
                captions[stem] = drawing.caption
                if drawing.panels is not None:
                    written += style.save(drawing.panels, folder, stem, small=small)
    path = folder / "captions.json"
    path.write_text(json.dumps(captions, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return [*written, path]


def check_kinds(results: SuiteResults, kinds: Sequence[str] | None) -> None:
    """Raise a UserError that lists the figures of a suite if one of the given kinds is none of them."""
    known = [*_KINDS, *_declared(results)]
    unknown = sorted({*(kinds or ())} - {*known})
    if unknown:
        raise UserError(
            f"figures: there is no figure {', '.join(map(repr, unknown))}. "
            f"Expected some of {', '.join(known)}; choose from these."
        )


def _declared(results: SuiteResults) -> dict[str, DeclaredCurve]:
    return {one.name: one for one in declared_curves(results, taken=tuple(_KINDS))}


def _stem(kind: str, names: tuple[str, str], results: SuiteResults, taken: Mapping[str, str]) -> str:
    """Return a file name without suffix: kind, dataset and, where there are several, objective."""
    several = len({cell.objective for cell in results.cells}) > 1
    parts = [kind, names[0], *([names[1]] if several else [])]
    stem = "-".join(re.sub(r"[^A-Za-z0-9._]+", "-", part).strip("-") for part in parts)
    return next(name for name in (stem, *(f"{stem}-{n}" for n in range(2, len(taken) + 3))) if name not in taken)
