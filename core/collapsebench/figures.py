"""The figures of a suite: signal fraction, truncated distortion, rank-distortion, utility against threshold.

Each is drawn once per dataset and objective, from everything that was measured; its caption says from how many
temperatures and runs, on which split, and what the dashed lines are.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from collapsebench import figure_style as style
from collapsebench.components import SplitName
from collapsebench.figure_curves import (
    Stack,
    exact,
    pca_curve,
    rank_distortions,
    signal_fractions,
    thresholds_and_utilities,
    truncated_distortions,
)
from collapsebench.results import SuiteResults
from collapsebench.standings import Group, comparisons

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from collapsebench.components import Floats

RANKS = 12
"""The number of ranks that a figure draws at most."""

SPLIT_OF: dict[str, SplitName] = {
    "signal-fraction": "train",
    "truncated-distortion": "test",
    "rank-distortion": "test",
    "utility-threshold": "train",
}
"""The split each figure shows by default: thresholds are statements about train, distortions about unseen data."""


@dataclass(frozen=True)
class Drawing:
    """A figure with its caption, or no figure and the caption that says why."""

    caption: str
    layout: style.Layout | None = None


def draw_figures(results: SuiteResults, folder: Path, splits: Mapping[str, SplitName] | None = None) -> list[Path]:
    """Draw every figure as SVG and PNG into a folder, with `captions.json`: file stem -> caption; return the paths.

    splits: figure -> split, where it should differ from `SPLIT_OF`. A figure with nothing to draw is left out; its
    caption says why. The same results give the same bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chosen = {**SPLIT_OF, **(splits or {})}
    captions: dict[str, str] = {}
    written: list[Path] = []
    with mpl.rc_context(style.RC):
        for names, groups in comparisons(results).items():
            for kind, draw in _KINDS.items():
                stem = _stem(kind, names, results, captions)
                drawing = draw(groups, chosen[kind])
                captions[stem] = drawing.caption
                if drawing.layout is not None:
                    written += style.save(drawing.layout, folder, stem)
    path = folder / "captions.json"
    path.write_text(json.dumps(captions, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return [*written, path]


def draw_signal_fractions(groups: Sequence[Group], split: SplitName) -> Drawing:
    """Draw M_k^2 of each rank against T, one panel per architecture."""
    stacks = [signal_fractions(group.cells, split) for group in groups]
    shown = _ranks_shown(stacks)
    if not shown:
        return _omitted(groups, stacks)
    dashed = "" if not _has_exact(groups, split) else (
        " Dashed: the exact solution for a linear decoder, "
        + ("[1 − T/T_k]₊ with T_k = λ_k/V." if split == "train" else f"evaluated on the {split} split.")
    )  # fmt: skip
    caption = (
        f"Signal fraction M² of the {shown} strongest latents, ranked at each temperature, {_where(groups, split)} "
        f"Lines: mean over runs; bands: lowest to highest run.{dashed} {_facts(groups)}"
    )
    colours = style.rank_colours(shown)
    handles = _rank_handles(range(1, shown + 1), colours, exact=bool(dashed))
    layout = style.lay_out(len(groups), caption, _labels(handles))
    for axes, group, stack in zip(layout.panels, groups, stacks, strict=True):
        _draw_panel(axes, group, stack, colours)
        reference = exact(group.cells, _fine(stack.x), split)
        if reference is not None:
            curves = -np.sort(-reference.signal_fraction, axis=1)[:, :shown]
            collapsed = (curves == 0) & (np.roll(curves, 1, axis=0) == 0)
            axes.plot(_fine(stack.x), np.where(collapsed, np.nan, curves), **style.REFERENCE)
    layout.panels[0].set_ylim(-0.03, 1.03)
    style.label(layout, "temperature T", "signal fraction $M_k^2$")
    style.draw_legend(layout, handles, "rank k")
    return Drawing(caption, layout)


def draw_truncated_distortions(groups: Sequence[Group], split: SplitName) -> Drawing:
    """Draw D_K against T for each number K of latents kept, one panel per architecture."""
    stacks = [truncated_distortions(group.cells, split) for group in groups]
    shown = _ranks_shown(stacks)
    if not shown:
        return _omitted(groups, stacks)
    dashed = " Dashed: the exact solution for a linear decoder." if _has_exact(groups, split) else ""
    caption = (
        f"Normalised distortion D_K with the K strongest latents kept at their posterior mean and the others at 0, "
        f"K = 0 to {shown - 1}, {_where(groups, split)} Lines: mean over runs; bands: lowest to highest run.{dashed} "
        f"{_facts(groups)}"
    )
    colours = style.rank_colours(shown)
    handles = _rank_handles(range(shown), colours, exact=bool(dashed))
    layout = style.lay_out(len(groups), caption, _labels(handles))
    for axes, group, stack in zip(layout.panels, groups, stacks, strict=True):
        _draw_panel(axes, group, stack, colours)
        reference = exact(group.cells, _fine(stack.x), split)
        if reference is not None:
            curves = reference.normalised_distortion[:, :shown]
            # Dashes of curves that coincide would add up to a solid line that hides what was measured.
            same = np.diff(curves, axis=1, append=0.0) > -5e-3 * curves
            axes.plot(_fine(stack.x), np.where(same, np.nan, curves), **style.REFERENCE)
    layout.panels[0].set_yscale("log")
    style.label(layout, "temperature T", "distortion $D_K(T)$ / V")
    style.draw_legend(layout, handles, "kept K")
    return Drawing(caption, layout)


def draw_rank_distortions(groups: Sequence[Group], split: SplitName) -> Drawing:
    """Draw D(K) of every architecture, and of PCA, in one panel."""
    stacks = [rank_distortions(group.cells, split) for group in groups]
    if all(stack.reason for stack in stacks):
        return _omitted(groups, stacks)
    pca = next((curve for group in groups if (curve := pca_curve(group.cells, split)) is not None), None)
    caption = (
        f"Rank-distortion curves: the least normalised distortion D(K) at which K latents describe the data, the "
        f"temperature chosen on the validation split, {_where(groups, split)} Lines: mean over runs; bands: lowest to "
        f"highest run.{'' if pca is None else ' Dashed: PCA fitted on the train split.'} {_facts(groups)}"
    )
    names = [_name(group, stack) for group, stack in zip(groups, stacks, strict=True)]
    layout = style.lay_out(1, caption, [*names, "PCA"], width=4.6, height=3.2, titled=False)
    axes = layout.panels[0]
    handles = []
    for place, (name, stack) in enumerate(zip(names, stacks, strict=True)):
        drawn = style.architecture_line(place)
        handles.append(Line2D([], [], label=name, **(style.NOTHING if stack.reason else drawn)))
        if not stack.reason:
            low, high = stack.extremes
            style.draw_curve(axes, stack.x, _positive(stack.mean), (_positive(low), _positive(high)), **drawn)
    axes.set_yscale("log")
    if pca is not None:
        latents = max(int(stack.x.max()) for stack in stacks if not stack.reason)
        floor = axes.get_ylim()[0]
        axes.plot(np.arange(pca.size)[: latents + 1], _positive(pca)[: latents + 1], **style.REFERENCE)
        # PCA reaches zero at full rank; the axis belongs to what was measured.
        axes.set_ylim(bottom=floor)
        handles.append(Line2D([], [], label="PCA", **style.REFERENCE))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    style.label(layout, "latents kept K", "distortion $D(K)$ / V")
    style.draw_legend(layout, handles, "")
    return Drawing(caption, layout)


def draw_utilities(groups: Sequence[Group], split: SplitName) -> Drawing:
    """Draw the utility of each resolved rank against its threshold, all architectures in one panel."""
    pairs = [thresholds_and_utilities(group.cells, split) for group in groups]
    if all(thresholds.reason for thresholds, _ in pairs):
        return _omitted(groups, [thresholds for thresholds, _ in pairs])
    caption = (
        f"Utility D(k−1) − D(k) of each rank k against its threshold T_c, the fixed-exponent fit M_k² = [1 − T/T_c]₊, "
        f"{_where(groups, split)} Only ranks whose utility is at least ten times the lowest temperature. Points: "
        f"geometric mean over runs; bars: lowest to highest run. Dashed: utility = threshold. {_facts(groups)}"
    )
    names = [_name(group, thresholds) for group, (thresholds, _) in zip(groups, pairs, strict=True)]
    layout = style.lay_out(1, caption, [*names, "equal"], width=3.9, height=3.5, titled=False)
    axes = layout.panels[0]
    last = max(int(np.flatnonzero(~np.isnan(stack.mean)).max()) + 1 for stack, _ in pairs if not stack.reason)
    colours = style.rank_colours(last)
    handles = []
    for place, (name, (thresholds, worth)) in enumerate(zip(names, pairs, strict=True)):
        marker = style.architecture_line(place)["marker"]
        shape = style.NOTHING if thresholds.reason else {"linestyle": "none", "marker": marker}
        handles.append(Line2D([], [], label=name, mfc="none", mec="0.2", mew=1.2, **shape))
        if not thresholds.reason:
            _draw_points(axes, thresholds, worth, marker, colours)
    axes.set_xscale("log")
    axes.set_yscale("log")
    ends = (min(axes.get_xlim()[0], axes.get_ylim()[0]), max(axes.get_xlim()[1], axes.get_ylim()[1]))
    axes.plot(ends, ends, **{**style.REFERENCE, "zorder": 1})
    axes.set(xlim=ends, ylim=ends)
    handles.append(Line2D([], [], label="equal", **style.REFERENCE))
    style.label(layout, "threshold $T_c$", "utility")
    _rank_bar(layout, colours)
    style.draw_legend(layout, handles, "")
    return Drawing(caption, layout)


_KINDS: dict[str, Callable[[Sequence[Group], SplitName], Drawing]] = {
    "signal-fraction": draw_signal_fractions,
    "truncated-distortion": draw_truncated_distortions,
    "rank-distortion": draw_rank_distortions,
    "utility-threshold": draw_utilities,
}


def _draw_panel(axes: Axes, group: Group, stack: Stack, colours: Sequence[style.Colour]) -> None:
    """Draw the first curves of a `(run, t, curve)` stack over a logarithmic temperature axis."""
    axes.set_xscale("log")
    style.title(axes, _name(group, stack))
    if stack.reason:
        style.say(axes, stack.reason)
        return
    low, high = stack.extremes
    for rank in range(min(len(colours), stack.y.shape[2])):
        line = style.rank_line(rank, colours[rank], dense=stack.x.size > 30)
        style.draw_curve(axes, stack.x, stack.mean[:, rank], (low[:, rank], high[:, rank]), **line)


def _draw_points(axes: Axes, thresholds: Stack, worth: Stack, marker: str, colours: Sequence[style.Colour]) -> None:
    for rank, colour in enumerate(colours):
        x, y = (np.log(stack.y[:, rank]) for stack in (thresholds, worth))
        known = ~np.isnan(x) & ~np.isnan(y)
        if known.any():
            (x_mid, x_bar), (y_mid, y_bar) = (_centre_and_bar(part[known]) for part in (x, y))
            axes.errorbar(
                x_mid, y_mid, xerr=x_bar, yerr=y_bar, fmt=marker, color=colour, mfc="none", mew=1.2, elinewidth=0.8
            )


def _centre_and_bar(logarithms: Floats) -> tuple[float, Floats]:
    """Return the geometric mean, and its distances to the least and the largest value `(2, 1)`."""
    centre = float(np.exp(logarithms.mean()))
    ends = np.exp([[logarithms.min()], [logarithms.max()]])
    return centre, np.abs(ends - centre)


def _rank_bar(layout: style.Layout, colours: Sequence[style.Colour]) -> None:
    """Draw the colours of ranks beside the legend, where a panel is coloured by rank."""
    count, width = len(colours), layout.figure.get_figwidth()
    bottom = layout.panels[0].get_position().y0
    box = (layout.legend_left + 0.1 / width, bottom, 0.12 / width, 0.45 * (layout.top - bottom))
    norm = BoundaryNorm(np.arange(count + 1) + 0.5, count)
    bar = layout.figure.colorbar(
        ScalarMappable(norm, ListedColormap(list(colours))), cax=layout.figure.add_axes(box), label="rank k"
    )
    bar.ax.invert_yaxis()
    bar.ax.tick_params(length=0)
    bar.ax.minorticks_off()
    step = -(-count // 8)
    bar.set_ticks(list(range(1, count + 1, step)))


def _rank_handles(ranks: range, colours: Sequence[style.Colour], exact: bool) -> list[Line2D]:
    handles = [
        Line2D([], [], label=str(rank), **style.rank_line(place, colours[place], dense=False))
        for place, rank in enumerate(ranks)
    ]
    return [*handles, *([Line2D([], [], label="exact", **style.REFERENCE)] if exact else [])]


def _ranks_shown(stacks: Sequence[Stack]) -> int:
    return min(RANKS, max((stack.y.shape[2] for stack in stacks if not stack.reason), default=0))


def _has_exact(groups: Sequence[Group], split: SplitName) -> bool:
    return any(exact(group.cells, np.ones(1), split) is not None for group in groups)


def _fine(x: Floats) -> Floats:
    """Return temperatures between which a curve with a kink still looks like one."""
    return np.geomspace(x[0], x[-1], 400) if x.size else np.ones(1)


def _positive(values: Floats) -> Floats:
    """Return values with those that have no logarithm, zero up to roundoff, as NaN."""
    return np.where(values > 1e-14, values, np.nan)


def _name(group: Group, stack: Stack) -> str:
    """Return an architecture's name, with what is missing of it."""
    if stack.reason:
        return f"{group.architecture} (not drawn)"
    ok, planned = len(group.ok), len(group.cells)
    return group.architecture if ok == planned else f"{group.architecture} ({ok} of {planned} runs ok)"


def _labels(handles: Sequence[Line2D]) -> list[str]:
    return [str(handle.get_label()) for handle in handles]


def _where(groups: Sequence[Group], split: SplitName) -> str:
    return f"{split} split of {groups[0].dataset}, objective {groups[0].objective}."


def _facts(groups: Sequence[Group]) -> str:
    """Return how many temperatures and runs there are, how the runs ended and how many replicas converged."""
    cells = [cell for group in groups for cell in group.cells]
    measured = [cell.measurement for cell in cells if cell.measurement is not None]
    temperatures = np.unique([t for measurement in measured for t in measurement.temperatures])
    marks = [mark for measurement in measured for mark in measurement.tables["replicas"]["mark"]]
    ended = ", ".join(f"{count} {status}" for status, count in Counter(cell.status for cell in cells).items())
    seeds = len({cell.seed for cell in cells})
    return (
        f"{_count(temperatures.size, 'temperature')} from {temperatures.max():.3g} to {temperatures.min():.3g}; "
        f"{_count(len(cells), 'independent run')} ({_count(len(groups), 'architecture')}, {_count(seeds, 'seed')}): "
        f"{ended}; {marks.count('converged')} of {len(marks)} measured replicas converged"
        + (f", {marks.count('diverged')} diverged and are left out." if "diverged" in marks else ".")
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _omitted(groups: Sequence[Group], stacks: Sequence[Stack]) -> Drawing:
    reasons = "; ".join(f"{group.architecture}: {stack.reason}" for group, stack in zip(groups, stacks, strict=True))
    return Drawing(f"Not drawn, nothing to show. {reasons}.")


def _stem(kind: str, names: tuple[str, str], results: SuiteResults, taken: Mapping[str, str]) -> str:
    """Return a file name without suffix: kind, dataset and, where there are several, objective."""
    several = len({cell.objective for cell in results.cells}) > 1
    parts = [kind, names[0], *([names[1]] if several else [])]
    stem = "-".join(re.sub(r"[^A-Za-z0-9._]+", "-", part).strip("-") for part in parts)
    return next(name for name in (stem, *(f"{stem}-{n}" for n in range(2, len(taken) + 3))) if name not in taken)
