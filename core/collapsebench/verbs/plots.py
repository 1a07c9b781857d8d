"""Single figures for a notebook: each draws into matplotlib axes and returns them.

What is drawn is chosen by name where there is more than one: dataset, objective, architecture. Colours, curves and
references are those of the figures that `run` writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from collapsebench.contracts import SplitName
from collapsebench.errors import UserError
from collapsebench.publishing.bundle import read_bundle
from collapsebench.publishing.curves import (
    ScanCurves,
    rank_distortions,
    rates_and_utilities,
    signal_fractions,
    thresholds_and_utilities,
    truncated_distortions,
)
from collapsebench.publishing.figures import style
from collapsebench.publishing.figures.ranks import draw_points, draw_rank_curves, pca_of
from collapsebench.publishing.figures.scans import (
    RANKS,
    draw_curves,
    draw_exact,
    draw_exact_distortions,
    draw_scaled_rates,
    ranks_shown,
)
from collapsebench.ranking.standings import Contender, comparisons
from collapsebench.scoring.results import SuiteResults
from collapsebench.theory.scaling import rate_law

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from collapsebench.verbs.run import Outcome

    Source: TypeAlias = SuiteResults | Outcome | str | Path


def plot_signal_fraction(
    results: Source,
    ax: Axes | None = None,
    *,
    dataset: str | None = None,
    architecture: str | None = None,
    objective: str | None = None,
    split: SplitName = "train",
) -> Axes:
    """Draw M_k^2 of each rank against T, with the exact solution where it holds, and return the axes.

    results: what `run`, `score` or `read_bundle` returned, or a published folder. ax: the current axes by default.

    >>> import collapsebench
    >>> outcome = collapsebench.run("linear-gaussian", preset="smoke", overrides=['datasets=[{use="gaussian"}]'])
    >>> ax = collapsebench.plot_signal_fraction(outcome)
    >>> ax.get_xlabel(), ax.get_title()
    ('temperature T', 'linear')
    """
    contender = _one(results, dataset, objective, architecture)
    scan = signal_fractions(contender.cells, split)
    axes, shown = _axes(ax), ranks_shown([scan])
    draw_curves(axes, scan, style.rank_colours(shown))
    draw_exact(axes, contender, scan, split, shown, lambda solution: solution.signal_fraction)
    return _named(axes, contender.architecture, "temperature T", "signal fraction $M_k^2$")


def plot_truncated_distortion(
    results: Source,
    ax: Axes | None = None,
    *,
    dataset: str | None = None,
    architecture: str | None = None,
    objective: str | None = None,
    split: SplitName = "test",
) -> Axes:
    """Draw D_K against T for each number K of latents kept, and return the axes. Arguments: `plot_signal_fraction`.

    >>> import collapsebench
    >>> outcome = collapsebench.run("linear-gaussian", preset="smoke", overrides=['datasets=[{use="gaussian"}]'])
    >>> collapsebench.plot_truncated_distortion(outcome).get_yscale()
    'log'
    """
    contender = _one(results, dataset, objective, architecture)
    scan = truncated_distortions(contender.cells, split)
    axes, shown = _axes(ax), ranks_shown([scan])
    draw_curves(axes, scan, style.rank_colours(shown))
    draw_exact_distortions(axes, contender, scan, split, shown)
    axes.set_yscale("log")
    return _named(axes, contender.architecture, "temperature T", "distortion $D_K(T)$ / V")


def plot_rate_overlay(
    results: Source,
    ax: Axes | None = None,
    *,
    dataset: str | None = None,
    architecture: str | None = None,
    objective: str | None = None,
    split: SplitName = "train",
) -> Axes:
    """Draw R_k against T / utility_k over the law of one mode, and return the axes. Arguments: `plot_signal_fraction`.

    >>> import collapsebench
    >>> outcome = collapsebench.run("linear-gaussian", preset="smoke", overrides=['datasets=[{use="gaussian"}]'])
    >>> collapsebench.plot_rate_overlay(outcome).get_ylabel()
    'rate $R_k$, nats'
    """
    contender = _one(results, dataset, objective, architecture)
    rates, worth = rates_and_utilities(contender.cells, split)
    axes = _axes(ax)
    axes.set_xscale("log", subs=[])
    if rates.reason:
        style.say(axes, rates.reason)
    else:
        low, _ = draw_scaled_rates(axes, rates, worth, style.rank_colours(min(RANKS, worth.shape[1])))
        law = np.geomspace(low, 10.0, 400)
        axes.plot(law, rate_law(law, 1.0), **style.REFERENCE)
    return _named(axes, contender.architecture, "temperature / utility, $T / u_k$", "rate $R_k$, nats")


def plot_rank_distortion(
    results: Source,
    ax: Axes | None = None,
    *,
    dataset: str | None = None,
    objective: str | None = None,
    split: SplitName = "test",
) -> Axes:
    """Draw D(K) of every architecture and of PCA, with a legend; return the axes. Arguments: `plot_signal_fraction`.

    >>> import collapsebench
    >>> outcome = collapsebench.run("linear-gaussian", preset="smoke", overrides=['datasets=[{use="gaussian"}]'])
    >>> ax = collapsebench.plot_rank_distortion(outcome)
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['linear', 'PCA']
    """
    contenders = _compared(results, dataset, objective)
    scans = [rank_distortions(contender.cells, split) for contender in contenders]
    axes, names = _axes(ax), [contender.architecture for contender in contenders]
    if all(scan.reason for scan in scans):
        style.say(axes, scans[0].reason)
    else:
        axes.legend(handles=draw_rank_curves(axes, names, scans, pca_of(contenders, split), first=0))
    return _named(axes, contenders[0].dataset, "latents kept K", "distortion $D(K)$ / V")


def plot_utility_threshold(
    results: Source,
    ax: Axes | None = None,
    *,
    dataset: str | None = None,
    objective: str | None = None,
    split: SplitName = "train",
) -> Axes:
    """Draw the utility of each resolved rank against its threshold; return the axes. Arguments: `plot_signal_fraction`.

    Colours: ranks, from dark to light; markers: architectures.

    >>> import collapsebench
    >>> outcome = collapsebench.run("linear-gaussian", preset="smoke", overrides=['datasets=[{use="gaussian"}]'])
    >>> collapsebench.plot_utility_threshold(outcome).get_xscale()
    'log'
    """
    contenders = _compared(results, dataset, objective)
    pairs = [thresholds_and_utilities(contender.cells, split) for contender in contenders]
    axes = _axes(ax)
    if all(thresholds.reason for thresholds, _ in pairs):
        style.say(axes, pairs[0][0].reason)
    else:
        _draw_pairs(axes, contenders, pairs)
    return _named(axes, contenders[0].dataset, "threshold $T_c$", "utility")


def _draw_pairs(axes: Axes, contenders: Sequence[Contender], pairs: Sequence[tuple[ScanCurves, ScanCurves]]) -> None:
    colours = style.rank_colours(max(scan.y.shape[1] for scan, _ in pairs))
    for index, (contender, (thresholds, worth)) in enumerate(zip(contenders, pairs, strict=True)):
        marker = style.architecture_line(index)["marker"]
        if not thresholds.reason:
            draw_points(axes, thresholds, worth, marker, colours)
            axes.plot([], [], linestyle="none", marker=marker, mfc="none", mec="0.2", label=contender.architecture)
    axes.set(xscale="log", yscale="log")
    low = min(axes.get_xlim()[0], axes.get_ylim()[0])
    high = max(axes.get_xlim()[1], axes.get_ylim()[1])
    axes.plot([low, high], [low, high], label="equal", **style.REFERENCE)
    axes.legend()


def _compared(results: Source, dataset: str | None, objective: str | None) -> list[Contender]:
    """Return the contenders on one dataset with one objective; a UserError lists the choices if there are several."""
    scans = comparisons(_results(results))
    chosen = [names for names in scans if dataset in (None, names[0]) and objective in (None, names[1])]
    if len(chosen) != 1:
        given = ", ".join(f"{name}={value!r}" for name, value in (("dataset", dataset), ("objective", objective)))
        choices = "; ".join(f"dataset={names[0]!r}, objective={names[1]!r}" for names in scans)
        raise UserError(
            f"plot: {given} names {len(chosen)} of the scans of these results. Expected one of: {choices}. "
            "Say which with dataset= and objective=."
        )
    return scans[chosen[0]]


def _one(results: Source, dataset: str | None, objective: str | None, architecture: str | None) -> Contender:
    contenders = _compared(results, dataset, objective)
    chosen = [contender for contender in contenders if architecture in (None, contender.architecture)]
    if len(chosen) != 1:
        raise UserError(
            f"plot: architecture={architecture!r} names {len(chosen)} of the architectures. "
            f"Expected one of: {', '.join(contender.architecture for contender in contenders)}. "
            "Say which with architecture=."
        )
    return chosen[0]


def _results(source: Source) -> SuiteResults:
    if isinstance(source, SuiteResults):
        return source
    return read_bundle(source) if isinstance(source, str | Path) else source.results


def _axes(given: Axes | None) -> Axes:
    if given is not None:
        return given
    from matplotlib import pyplot

    return pyplot.gca()


def _named(axes: Axes, title: str, x: str, y: str) -> Axes:
    style.title(axes, title)
    axes.set(xlabel=x, ylabel=y)
    return axes
