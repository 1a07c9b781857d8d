"""Figures over ranks: rank-distortion curves, their power law, utilities against thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullFormatter, NullLocator, ScalarFormatter

from collapsebench.contracts import SplitName
from collapsebench.publishing.curves import (
    ScanCurves,
    pca_curve,
    rank_distortions,
    rate_thresholds_and_utilities,
    tail_laws,
    thresholds_and_utilities,
)
from collapsebench.publishing.figures import style
from collapsebench.publishing.figures.style import Drawing, facts, name_of, omitted, where
from collapsebench.publishing.report import number
from collapsebench.ranking.ranks import t_interval
from collapsebench.ranking.standings import Contender

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from collapsebench.contracts import Floats
    from collapsebench.theory.scaling import TailLaw

    ThresholdsAndUtilities = tuple[ScanCurves, ScanCurves]

_TICKS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
_LAW: dict[str, Any] = {"color": "black", "linestyle": "-", "linewidth": 0.8, "zorder": 5}


def draw_rank_distortions(contenders: Sequence[Contender], split: SplitName) -> Drawing:
    """Draw D(K) of every architecture, and of PCA, in one panel."""
    scans = [rank_distortions(contender.cells, split) for contender in contenders]
    if all(scan.reason for scan in scans):
        return omitted(contenders, scans)
    pca = pca_of(contenders, split)
    caption = (
        f"Rank-distortion curves: the least normalised distortion D(K) at which K latents describe the data, the "
        f"temperature chosen on the validation split, {where(contenders, split)} Lines: mean over runs; bands: lowest "
        f"to highest run.{'' if pca is None else ' Dashed: PCA fitted on the train split.'} {facts(contenders)}"
    )
    names = [name_of(contender, scan) for contender, scan in zip(contenders, scans, strict=True)]
    panels = style.lay_out(1, caption, [*names, "PCA"], width=4.6, height=3.2, titled=False)
    handles = draw_rank_curves(panels.axes[0], names, scans, pca, first=0)
    panels.axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    style.label(panels, "latents kept K", "distortion $D(K)$ / V")
    style.draw_legend(panels, handles, "")
    return Drawing(caption, panels)


def draw_rank_distortion_tails(contenders: Sequence[Contender], split: SplitName) -> Drawing:
    """Draw D(K) of every architecture in log-log, with the power law of its tail."""
    scans = [rank_distortions(contender.cells, split) for contender in contenders]
    if all(scan.reason for scan in scans):
        return omitted(contenders, scans)
    pca = pca_of(contenders, split)
    laws = [[] if scan.reason else tail_laws(scan) for scan in scans]
    windows = {law.window for run in laws for law in run if np.isfinite(law.exponent)}
    over = " and ".join(f"{first} ≤ K ≤ {last}" for first, last in sorted(windows))
    fitted = f" Thin solid, on grey: the fit D(K) ~ K^−a over {over}" if windows else ""
    fitted += ", exponents with their 95 % t-interval over runs where there are two or more." if windows else ""
    caption = (
        f"Rank-distortion curves in logarithmic scales, the temperature chosen on the validation split, "
        f"{where(contenders, split)} Lines: mean over runs; bands: lowest to highest run.{fitted}"
        f"{'' if pca is None else ' Dashed: PCA fitted on the train split.'} {facts(contenders)}"
    )
    names = [
        f"{name_of(contender, scan)}{_exponent(run)}"
        for contender, scan, run in zip(contenders, scans, laws, strict=True)
    ]
    panels = style.lay_out(1, caption, [*names, "fit K^−a", "PCA"], width=4.6, height=3.2, titled=False)
    axes = panels.axes[0]
    axes.set_xscale("log")
    handles = draw_rank_curves(axes, names, scans, pca, first=1)
    for run in laws:
        _draw_law(axes, run)
    if windows:
        handles.append(Line2D([], [], label="fit K^−a", **_LAW))
    for first, last in sorted(windows):
        axes.axvspan(first, last, color="0.95", zorder=0, linewidth=0)
    latents = max(scan.x.max() for scan in scans if not scan.reason)
    axes.set_xticks([tick for tick in _TICKS if tick <= latents])
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    style.label(panels, "latents kept K", "distortion $D(K)$ / V")
    style.draw_legend(panels, handles, "")
    return Drawing(caption, panels)


def draw_utilities(contenders: Sequence[Contender], split: SplitName) -> Drawing:
    """Draw the utility of each resolved rank against the threshold of its signal fraction."""
    pairs = [thresholds_and_utilities(contender.cells, split) for contender in contenders]
    return _draw_pairs(contenders, split, pairs, "the fixed-exponent fit M_k² = [1 − T/T_c]₊", "threshold $T_c$")


def draw_rate_utilities(contenders: Sequence[Contender], split: SplitName) -> Drawing:
    """Draw the utility of each resolved rank against the threshold of its rate."""
    pairs = [rate_thresholds_and_utilities(contender.cells, split) for contender in contenders]
    fit = "the fixed-slope fit R_k = −½ log(T/T_c) over 0.01 utility ≤ T ≤ utility"
    return _draw_pairs(contenders, split, pairs, fit, "rate threshold $T_c$")


def draw_rank_curves(
    axes: Axes, names: Sequence[str], scans: Sequence[ScanCurves], pca: Floats | None, first: int
) -> list[Line2D]:
    """Draw D(K), K >= first, of every architecture and of PCA on a logarithmic axis; return the legend's entries."""
    handles = []
    for place, (name, scan) in enumerate(zip(names, scans, strict=True)):
        drawn = style.architecture_line(place)
        handles.append(Line2D([], [], label=name, **(style.NOTHING if scan.reason else drawn)))
        if not scan.reason:
            low, high = (_positive(end)[first:] for end in scan.extremes)
            style.draw_curve(axes, scan.x[first:], _positive(scan.mean)[first:], (low, high), **drawn)
    axes.set_yscale("log")
    if pca is not None:
        latents = max(int(scan.x.max()) for scan in scans if not scan.reason)
        floor = axes.get_ylim()[0]
        ranks = np.arange(first, min(pca.size, latents + 1))
        axes.plot(ranks, _positive(pca)[ranks], **style.REFERENCE)
        # PCA reaches zero at full rank; the axis belongs to what was measured.
        axes.set_ylim(bottom=floor)
        handles.append(Line2D([], [], label="PCA", **style.REFERENCE))
    style.name_numbers(axes.yaxis)
    return handles


def _draw_law(axes: Axes, laws: Sequence[TailLaw]) -> None:
    """Draw the geometric mean, over runs, of the fitted power laws, over their window."""
    known = [law for law in laws if np.isfinite(law.exponent)]
    if known:
        ranks = np.linspace(*known[0].window, 50)
        axes.plot(ranks, np.exp(np.mean([np.log(law.at(ranks)) for law in known], axis=0)), **_LAW)


def _exponent(laws: Sequence[TailLaw]) -> str:
    exponents = [law.exponent for law in laws if np.isfinite(law.exponent)]
    return f", a = {number(*t_interval(exponents))}" if exponents else ""


def _draw_pairs(
    contenders: Sequence[Contender], split: SplitName, pairs: Sequence[ThresholdsAndUtilities], fit: str, axis: str
) -> Drawing:
    """Draw utilities against thresholds, all architectures in one panel."""
    if all(thresholds.reason for thresholds, _ in pairs):
        return omitted(contenders, [thresholds for thresholds, _ in pairs])
    caption = (
        f"Utility D(k−1) − D(k) of each rank k against its threshold T_c, {fit}, "
        f"{where(contenders, split)} Only ranks whose utility is at least ten times the lowest temperature. Points: "
        f"geometric mean over runs; bars: lowest to highest run. Dashed: utility = threshold. {facts(contenders)}"
    )
    names = [name_of(contender, thresholds) for contender, (thresholds, _) in zip(contenders, pairs, strict=True)]
    panels = style.lay_out(1, caption, [*names, "equal"], width=3.9, height=3.5, titled=False)
    axes = panels.axes[0]
    last = max(int(np.flatnonzero(~np.isnan(scan.mean)).max()) + 1 for scan, _ in pairs if not scan.reason)
    colours = style.rank_colours(last)
    handles = []
    for place, (name, (thresholds, worth)) in enumerate(zip(names, pairs, strict=True)):
        marker = style.architecture_line(place)["marker"]
        shape = style.NOTHING if thresholds.reason else {"linestyle": "none", "marker": marker}
        handles.append(Line2D([], [], label=name, mfc="none", mec="0.2", mew=1.2, **shape))
        if not thresholds.reason:
            draw_points(axes, thresholds, worth, marker, colours)
    axes.set_xscale("log")
    axes.set_yscale("log")
    ends = (min(axes.get_xlim()[0], axes.get_ylim()[0]), max(axes.get_xlim()[1], axes.get_ylim()[1]))
    axes.plot(ends, ends, **{**style.REFERENCE, "zorder": 1})
    axes.set(xlim=ends, ylim=ends)
    style.name_numbers(axes.xaxis, axes.yaxis)
    handles.append(Line2D([], [], label="equal", **style.REFERENCE))
    style.label(panels, axis, "utility")
    _rank_bar(panels, colours)
    style.draw_legend(panels, handles, "")
    return Drawing(caption, panels)


def draw_points(
    axes: Axes, thresholds: ScanCurves, worth: ScanCurves, marker: str, colours: Sequence[style.Colour]
) -> None:
    """Draw the utility of each rank against its threshold: geometric mean over runs, bars from lowest to highest."""
    for rank, colour in enumerate(colours[: thresholds.y.shape[1]]):
        x, y = (np.log(scan.y[:, rank]) for scan in (thresholds, worth))
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


def _rank_bar(panels: style.PanelGrid, colours: Sequence[style.Colour]) -> None:
    """Draw the colours of ranks beside the legend, where a panel is coloured by rank."""
    count, width = len(colours), panels.figure.get_figwidth()
    bottom = panels.axes[0].get_position().y0
    box = (panels.legend_left + 0.1 / width, bottom, 0.12 / width, 0.45 * (panels.top - bottom))
    norm = BoundaryNorm(np.arange(count + 1) + 0.5, count)
    bar = panels.figure.colorbar(
        ScalarMappable(norm, ListedColormap(list(colours))), cax=panels.figure.add_axes(box), label="rank k"
    )
    bar.ax.invert_yaxis()
    bar.ax.tick_params(length=0)
    bar.ax.minorticks_off()
    step = -(-count // 8)
    bar.set_ticks(list(range(1, count + 1, step)))


def pca_of(contenders: Sequence[Contender], split: SplitName) -> Floats | None:
    """Return PCA's rank-distortion curve on a split `(K,)`, where it was computed."""
    return next((curve for contender in contenders if (curve := pca_curve(contender.cells, split)) is not None), None)


def _positive(values: Floats) -> Floats:
    """Return values with those that have no logarithm, zero up to roundoff, as NaN."""
    return np.where(values > 1e-14, values, np.nan)
