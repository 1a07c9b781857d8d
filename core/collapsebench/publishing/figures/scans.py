"""Figures over the temperature of a scan: one panel per architecture and quantity, one curve per rank.

The curves that components declare are drawn here as well, also those of a metric, which lie over ranks.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from collapsebench.contracts import SplitName
from collapsebench.publishing.curves import (
    DeclaredCurve,
    ScanCurves,
    exact,
    fitted_thresholds,
    ranked_moments,
    rates_and_utilities,
    signal_fractions,
    truncated_distortions,
    values_of,
)
from collapsebench.publishing.figures import style
from collapsebench.publishing.figures.style import Drawing, count_of, facts, labels, name_of, omitted, suited, where
from collapsebench.ranking.standings import Contender
from collapsebench.theory.oracle import Oracle
from collapsebench.theory.scaling import rate_law

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from collapsebench.contracts import Floats

RANKS = 20
"""The number of ranks that a figure draws at most."""

_LINES = "Lines: mean over runs; bands: lowest to highest run."
_NOTICEABLE = 1e-3
_LINE_OF_LABEL = 34


def draw_signal_fractions(contenders: Sequence[Contender], split: SplitName) -> Drawing:
    """Draw M_k^2 of each rank against T, one panel per architecture."""
    contenders, unsuited = suited(contenders)
    scans = [signal_fractions(contender.cells, split) for contender in contenders]
    shown = ranks_shown(scans)
    if not shown:
        return omitted(contenders, scans)
    dashed = "" if not _has_exact(contenders, split) else (
        " Dashed: the exact solution for a linear decoder, "
        + ("[1 − T/T_k]₊ with T_k = λ_k/V." if split == "train" else f"evaluated on the {split} split.")
    )  # fmt: skip
    caption = (
        f"Signal fraction M² of the {shown} strongest latents, ranked at each temperature, {where(contenders, split)} "
        f"{_LINES}{dashed} {facts(contenders)}{unsuited}"
    )
    colours = style.rank_colours(shown)
    handles = _rank_handles(range(1, shown + 1), colours, "exact" if dashed else "")
    panels = style.lay_out(len(contenders), caption, labels(handles))
    for axes, contender, scan in zip(panels.axes, contenders, scans, strict=True):
        style.title(axes, name_of(contender, scan))
        draw_curves(axes, scan, colours)
        draw_exact(axes, contender, scan, split, shown, lambda solution: solution.signal_fraction)
    panels.axes[0].set_ylim(-0.03, 1.03)
    style.label(panels, "temperature T", "signal fraction $M_k^2$")
    style.draw_legend(panels, handles, "rank k")
    return Drawing(caption, panels)


def draw_truncated_distortions(contenders: Sequence[Contender], split: SplitName) -> Drawing:
    """Draw D_K against T for each number K of latents kept, one panel per architecture."""
    contenders, unsuited = suited(contenders)
    scans = [truncated_distortions(contender.cells, split) for contender in contenders]
    shown = ranks_shown(scans)
    if not shown:
        return omitted(contenders, scans)
    dashed = " Dashed: the exact solution for a linear decoder." if _has_exact(contenders, split) else ""
    caption = (
        f"Normalised distortion D_K with the K strongest latents kept at their posterior mean and the others at 0, "
        f"K = 0 to {shown - 1}, {where(contenders, split)} {_LINES}{dashed} {facts(contenders)}{unsuited}"
    )
    colours = style.rank_colours(shown)
    handles = _rank_handles(range(shown), colours, "exact" if dashed else "")
    panels = style.lay_out(len(contenders), caption, labels(handles))
    for axes, contender, scan in zip(panels.axes, contenders, scans, strict=True):
        style.title(axes, name_of(contender, scan))
        draw_curves(axes, scan, colours)
        draw_exact_distortions(axes, contender, scan, split, shown)
    panels.axes[0].set_yscale("log")
    style.name_numbers(panels.axes[0].yaxis)
    style.label(panels, "temperature T", "distortion $D_K(T)$ / V")
    style.draw_legend(panels, handles, "kept K")
    return Drawing(caption, panels)


def draw_moments(contenders: Sequence[Contender], split: SplitName) -> Drawing:
    """Draw E mu_k^2, M_k^2 with its fitted thresholds and E log sigma_k^2 against T, one row per architecture."""
    quantities: dict[str, Callable[[Oracle], Floats]] = {
        "mean_square": lambda solution: solution.mean_square,
        "signal_fraction": lambda solution: solution.signal_fraction,
        "log_variance": lambda solution: np.log(solution.posterior_variance),
    }
    contenders, unsuited = suited(contenders)
    rows = [[ranked_moments(contender.cells, split, quantity) for quantity in quantities] for contender in contenders]
    shown = ranks_shown([scan for row in rows for scan in row])
    if not shown:
        return omitted(contenders, [row[0] for row in rows])
    dashed = " Dashed: the exact solution for a linear decoder." if _has_exact(contenders, split) else ""
    caption = (
        f"Second moment of the posterior mean, signal fraction and mean logarithm of the posterior variance of the "
        f"{shown} strongest latents, ranked at each temperature, {where(contenders, split)} {_LINES} Ticks below zero "
        f"in the middle: thresholds T_c of the fixed-exponent fit M_k² = [1 − T/T_c]₊, geometric mean over runs."
        f"{dashed} {facts(contenders)}{unsuited}"
    )
    colours = style.rank_colours(shown)
    handles = _rank_handles(range(1, shown + 1), colours, "exact" if dashed else "")
    panels = style.lay_out(3 * len(contenders), caption, labels(handles), columns=3)
    for row, (contender, scans) in enumerate(zip(contenders, rows, strict=True)):
        in_row = panels.axes[3 * row : 3 * row + 3]
        style.title(in_row[1], name_of(contender, scans[0]))
        for axes, scan, solved in zip(in_row, scans, quantities.values(), strict=True):
            draw_curves(axes, scan, colours)
            draw_exact(axes, contender, scan, split, shown, solved)
        if not scans[1].reason:
            thresholds = fitted_thresholds(scans[1])[:shown]
            in_row[1].vlines(thresholds, -0.13, -0.05, colors=colours[: thresholds.size], linewidth=1.3)
    panels.axes[1].set_ylim(-0.15, 1.03)
    style.label(panels, "temperature T", "$E\\,\\mu_k^2$", "signal fraction $M_k^2$", "$E\\,\\log\\,\\sigma_k^2$")
    style.draw_legend(panels, handles, "rank k")
    return Drawing(caption, panels)


def draw_posterior_scales(contenders: Sequence[Contender], split: SplitName) -> Drawing:
    """Draw A_k^2 and J_k against T, one row per architecture."""
    quantities: dict[str, Callable[[Oracle], Floats]] = {
        "posterior_scale": lambda solution: solution.mean_square + solution.posterior_variance,
        "jensen_gap": lambda solution: np.zeros_like(solution.mean_square),
    }
    contenders, unsuited = suited(contenders)
    rows = [[ranked_moments(contender.cells, split, quantity) for quantity in quantities] for contender in contenders]
    shown = ranks_shown([scan for row in rows for scan in row])
    if not shown:
        return omitted(contenders, [row[0] for row in rows])
    caption = (
        f"Posterior scale A_k² = E μ_k² + E σ_k² and Jensen gap J_k = log E σ_k² − E log σ_k² of the {shown} strongest "
        f"latents, ranked at each temperature, {where(contenders, split)} {_LINES} Dashed: at equilibrium, A² = 1 on "
        f"the train split and, for a linear decoder, J = 0"
        + (f" and the exact A² on the {split} split. " if split != "train" and _has_exact(contenders, split) else ". ")
        + facts(contenders)
        + unsuited
    )
    colours = style.rank_colours(shown)
    handles = _rank_handles(range(1, shown + 1), colours, "theory")
    panels = style.lay_out(2 * len(contenders), caption, labels(handles), columns=2, width=3.4)
    for row, (contender, scans) in enumerate(zip(contenders, rows, strict=True)):
        in_row = panels.axes[2 * row : 2 * row + 2]
        for axes, scan, solved, level in zip(in_row, scans, quantities.values(), (1.0, 0.0), strict=True):
            style.title(axes, name_of(contender, scan))
            draw_curves(axes, scan, colours)
            if split == "train" or level == 0.0:
                axes.axhline(level, **style.REFERENCE)
            else:
                draw_exact(axes, contender, scan, split, shown, solved)
    _show_gaps(panels.axes[1], [row[1] for row in rows])
    style.label(panels, "temperature T", "posterior scale $A_k^2$", "Jensen gap $J_k$, nats")
    style.draw_legend(panels, handles, "rank k")
    return Drawing(caption, panels)


def draw_rate_overlays(contenders: Sequence[Contender], split: SplitName) -> Drawing:
    """Draw R_k against T / utility_k, over the law of one mode, one panel per architecture."""
    contenders, unsuited = suited(contenders)
    pairs = [rates_and_utilities(contender.cells, split) for contender in contenders]
    scans = [rates for rates, _ in pairs]
    if all(scan.reason for scan in scans):
        return omitted(contenders, scans)
    resolved = [np.isfinite(worth).any(axis=0) for scan, (_, worth) in zip(scans, pairs, strict=True) if worth.size]
    last = min(RANKS, max(int(np.flatnonzero(row).max()) + 1 for row in resolved))
    caption = (
        f"Rate R_k of each rank k against temperature over utility D(k−1) − D(k), {where(contenders, split)} Only "
        f"ranks whose utility is at least ten times the lowest temperature, at most the first "
        f"{count_of(RANKS, 'rank')}; one line a run, nothing is fitted. Dashed: the law of one mode, "
        f"[−½ log(T/utility)]₊. {facts(contenders)}{unsuited}"
    )
    colours = style.rank_colours(last)
    handles = _rank_handles(range(1, last + 1), colours, "law")
    panels = style.lay_out(len(contenders), caption, labels(handles))
    low, high = np.inf, 0.0
    for axes, contender, (rates, worth) in zip(panels.axes, contenders, pairs, strict=True):
        axes.set_xscale("log", subs=[])
        style.title(axes, name_of(contender, rates))
        if rates.reason:
            style.say(axes, rates.reason)
            continue
        found_low, found_high = draw_scaled_rates(axes, rates, worth, colours)
        low, high = min(low, found_low), max(high, found_high)
    law = np.geomspace(low, 10.0, 400)
    for axes, rates in zip(panels.axes, scans, strict=True):
        if not rates.reason:
            axes.plot(law, rate_law(law, 1.0), **style.REFERENCE)
    panels.axes[0].set(xlim=(0.7 * low, 30.0), ylim=(-0.03 * high, 1.05 * high))
    style.label(panels, "temperature / utility, $T / u_k$", "rate $R_k$, nats")
    style.draw_legend(panels, handles, "rank k")
    return Drawing(caption, panels)


def draw_declared(declared: DeclaredCurve, contenders: Sequence[Contender], split: SplitName) -> Drawing:
    """Draw a curve that a component declares: a panel for each architecture where it has ranks, else all in one."""
    if declared.order in ("signal", "index", "kept"):
        return _draw_ranks(declared, contenders, split)
    return _draw_architectures(declared, contenders, split)


def draw_curves(axes: Axes, scan: ScanCurves, colours: Sequence[style.Colour]) -> None:
    """Draw the first curves of a scan `(run, t, curve)` over a logarithmic temperature axis."""
    axes.set_xscale("log", subs=[])
    if scan.reason:
        style.say(axes, scan.reason)
        return
    low, high = scan.extremes
    for rank in range(min(len(colours), scan.y.shape[2])):
        line = style.rank_line(rank, colours[rank], scan.x.size)
        style.draw_curve(axes, scan.x, scan.mean[:, rank], (low[:, rank], high[:, rank]), **line)


def draw_scaled_rates(
    axes: Axes, rates: ScanCurves, worth: Floats, colours: Sequence[style.Colour]
) -> tuple[float, float]:
    """Draw R_k against T / utility_k, one line a run and resolved rank; return the least x and the largest rate."""
    low, high = np.inf, 0.0
    for run, rank in np.argwhere(np.isfinite(worth[:, : len(colours)])):
        scaled, line = rates.x / worth[run, rank], style.rank_line(rank, colours[rank], rates.x.size)
        axes.plot(scaled, rates.y[run, :, rank], **{**line, "linewidth": 0.8})
        low = min(low, float(scaled[0]))
        high = max(high, float(np.nanmax(rates.y[run, :, rank], initial=0.0)))
    return low, high


def draw_exact_distortions(axes: Axes, contender: Contender, scan: ScanCurves, split: SplitName, shown: int) -> None:
    """Draw D_K of the exact solution, K below `shown`, where it holds."""
    reference = exact(contender.cells, _fine(scan.x), split)
    if reference is not None and not scan.reason:
        curves = reference.normalised_distortion[:, :shown]
        # Dashes of curves that coincide would add up to a solid line that hides what was measured.
        same = np.diff(curves, axis=1, append=0.0) > -5e-3 * curves
        axes.plot(_fine(scan.x), np.where(same, np.nan, curves), **style.REFERENCE)


def draw_exact(
    axes: Axes,
    contender: Contender,
    scan: ScanCurves,
    split: SplitName,
    shown: int,
    quantity: Callable[[Oracle], Floats],
) -> None:
    """Draw a quantity of the exact solution `(t, mode)`, its modes ranked as latents are, where they are active."""
    solution = exact(contender.cells, _fine(scan.x), split)
    if solution is None or scan.reason:
        return
    order = np.argsort(-solution.signal_fraction, axis=1, kind="stable")
    curves, active = (
        np.take_along_axis(part, order, axis=1)[:, :shown] for part in (quantity(solution), solution.gain)
    )
    collapsed = (active == 0) & (np.roll(active, 1, axis=0) == 0)
    axes.plot(_fine(scan.x), np.where(collapsed, np.nan, curves), **style.REFERENCE)


def _draw_ranks(declared: DeclaredCurve, contenders: Sequence[Contender], split: SplitName) -> Drawing:
    contenders, unsuited = suited(contenders)
    scans = [values_of(contender.cells, declared, split) for contender in contenders]
    shown = ranks_shown(scans)
    if not shown:
        return omitted(contenders, scans)
    ranks = range(declared.first, declared.first + shown)
    fewer = any(scan.y.shape[2] > shown for scan in scans if not scan.reason)
    some = f" Only the ranks {ranks[0]} to {ranks[-1]}." if fewer else ""
    caption = f"{_about(declared, contenders, split)}{some} {_LINES} {facts(contenders)}{unsuited}"
    colours = style.rank_colours(shown)
    handles = _rank_handles(ranks, colours, "")
    panels = style.lay_out(len(contenders), caption, labels(handles))
    for axes, contender, scan in zip(panels.axes, contenders, scans, strict=True):
        style.title(axes, name_of(contender, scan))
        draw_curves(axes, scan, colours)
    _finish(declared, panels, "temperature T")
    style.draw_legend(panels, handles, "rank k" if declared.first else "kept K")
    return Drawing(caption, panels)


def _draw_architectures(declared: DeclaredCurve, contenders: Sequence[Contender], split: SplitName) -> Drawing:
    contenders, unsuited = suited(contenders)
    scans = [values_of(contender.cells, declared, split) for contender in contenders]
    if all(scan.reason for scan in scans):
        return omitted(contenders, scans)
    caption = f"{_about(declared, contenders, split)} {_LINES} {facts(contenders)}{unsuited}"
    names = [name_of(contender, scan) for contender, scan in zip(contenders, scans, strict=True)]
    panels = style.lay_out(1, caption, names, width=4.6, height=3.2, titled=False)
    handles = _draw_lines(panels.axes[0], names, scans)
    if declared.order == "modes":
        panels.axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    else:
        panels.axes[0].set_xscale("log", subs=[])
    _finish(declared, panels, "rank k" if declared.order == "modes" else "temperature T")
    style.draw_legend(panels, handles, "")
    return Drawing(caption, panels)


def _about(declared: DeclaredCurve, contenders: Sequence[Contender], split: SplitName) -> str:
    first = contenders[0]
    return f"{declared.explanation(split)} Dataset {first.dataset}, objective {first.objective}."


def _draw_lines(axes: Axes, names: Sequence[str], scans: Sequence[ScanCurves]) -> list[Line2D]:
    """Draw the curve of every architecture; return the legend's entries."""
    handles = []
    for place, (name, scan) in enumerate(zip(names, scans, strict=True)):
        drawn = style.architecture_line(place)
        handles.append(Line2D([], [], label=name, **(style.NOTHING if scan.reason else drawn)))
        if not scan.reason:
            style.draw_curve(axes, scan.x, scan.mean, scan.extremes, **drawn)
    return handles


def _finish(declared: DeclaredCurve, panels: style.PanelGrid, x: str) -> None:
    """Scale and name the axes; what a component calls its curve is text, in two lines where it is long."""
    if declared.curve.logarithmic:
        panels.axes[0].set_yscale("log")
        style.name_numbers(panels.axes[0].yaxis)
    short = textwrap.shorten(declared.curve.label, 2 * _LINE_OF_LABEL - 4, placeholder=" ...")
    style.label(panels, x, textwrap.fill(short, _LINE_OF_LABEL))
    for axes in panels.axes:
        axes.yaxis.label.set_parse_math(False)


def _show_gaps(axes: Axes, scans: Sequence[ScanCurves]) -> None:
    """Scale the axis of quantities that are 0 in theory: linear up to what is noticeable, logarithmic beyond."""
    values = np.concatenate([scan.y[np.isfinite(scan.y)] for scan in scans])
    if values.size and values.max() > 10 * _NOTICEABLE:
        axes.set_yscale("symlog", linthresh=_NOTICEABLE, linscale=0.5)
        axes.set_ylim(min(-_NOTICEABLE / 4, values.min()), 2 * values.max())
    else:
        axes.set_ylim(-_NOTICEABLE, 10 * _NOTICEABLE)


def _rank_handles(ranks: range, colours: Sequence[style.Colour], reference: str) -> list[Line2D]:
    handles = [
        Line2D([], [], label=str(rank), **style.rank_line(place, colours[place])) for place, rank in enumerate(ranks)
    ]
    return [*handles, *([Line2D([], [], label=reference, **style.REFERENCE)] if reference else [])]


def ranks_shown(scans: Sequence[ScanCurves]) -> int:
    """Return how many curves a figure draws, 0 if there is nothing to draw."""
    return min(RANKS, max((scan.y.shape[2] for scan in scans if not scan.reason), default=0))


def _has_exact(contenders: Sequence[Contender], split: SplitName) -> bool:
    return any(exact(contender.cells, np.ones(1), split) is not None for contender in contenders)


def _fine(x: Floats) -> Floats:
    """Return temperatures between which a curve with a kink still looks like one."""
    return np.geomspace(x[0], x[-1], 400) if x.size else np.ones(1)
