"""How figures look, are laid out and described: measures in inches, ranks ordered by lightness, files that repeat."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator
from PIL import Image

from collapsebench.contracts import SplitName
from collapsebench.publishing.curves import ScanCurves
from collapsebench.ranking.standings import Contender

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

    from collapsebench.contracts import Floats

Colour = tuple[float, float, float, float]

RC: Any = {
    **{key: value for key, value in mpl.rcParamsDefault.items() if key != "backend"},
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titley": 1.0,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "pdf.compression": 9,
    "path.simplify": True,
}
COLUMNS = 3
DENSE = 24
REFERENCE: dict[str, Any] = {"color": "black", "linestyle": (0, (4, 2)), "linewidth": 0.7, "zorder": 4}
RANK_MARKERS = ("o", "s", "^", "D")
# Okabe and Ito 2008, without the yellow that white paper swallows.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#555555")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES: tuple[Any, ...] = ("-", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (9, 2)), (0, (1, 1)), (0, (3, 1, 1, 1)))
NOTHING: dict[str, Any] = {"linestyle": "none"}
CAPTION_SIZE = 7.5
DPI = 160
SMALL_DPI = 120
_LINE = 0.155
_CHARACTERS_PER_INCH = 16.5
_LEGEND_CHARACTER = 0.062
_LEGEND_LINE = 0.158


@dataclass(frozen=True)
class PanelGrid:
    """A figure with the axes of its panels, row by row, and the empty margin on the right for a legend."""

    figure: Figure
    axes: list[Axes]
    legend_left: float
    top: float
    columns: int
    legend_columns: int


@dataclass(frozen=True)
class Drawing:
    """A figure with its caption, or no figure and the caption that says why."""

    caption: str
    panels: PanelGrid | None = None


def lay_out(
    count: int,
    caption: str,
    names: Sequence[str],
    *,
    width: float = 2.75,
    height: float = 2.3,
    titled: bool = True,
    columns: int | None = None,
) -> PanelGrid:
    """Return a figure with `count` panels that share both axes, its caption below; panel measures in inches.

    names: the entries of the legend, for which the right margin leaves room. columns: where it is given, the panels of
    a column share their own vertical axis, and every panel shows its numbers.
    """
    apart = columns is not None
    columns = columns or (2 if count == 4 else min(count, COLUMNS))
    rows = -(-count // columns)
    width = max(width, 3.9) if columns == 1 else width
    left, gap, row_gap = (0.85, 0.78, 0.5) if apart else (0.75, 0.2, 0.6)
    above, axis = 0.4 if titled else 0.15, 0.5
    panels_height = rows * height + (rows - 1) * row_gap
    legend_columns = 2 if _LEGEND_LINE * (len(names) + 1) > panels_height + 0.5 else 1
    legend = 0.05 + legend_columns * (0.57 + _LEGEND_CHARACTER * max(map(len, names)))
    total = left + columns * width + (columns - 1) * gap + 0.15 + legend
    text, below = wrapped_caption(caption, total)
    below += axis
    tall = above + panels_height + below
    figure = Figure(figsize=(total, tall))
    drawn: list[Axes] = []
    for place in range(count):
        row, column = divmod(place, columns)
        bottom = tall - above - (row + 1) * height - row * row_gap
        x = left + column * (width + gap)
        shared: dict[str, Any] = {"sharex": drawn[0]} if drawn else {}
        if drawn and (row or not apart):
            shared["sharey"] = drawn[column if apart else 0]
        drawn.append(figure.add_axes((x / total, bottom / tall, width / total, height / tall), **shared))
        drawn[-1].tick_params(which="both", labelleft=column == 0 or apart, labelbottom=place + columns >= count)
    figure.text(
        0.15 / total, 0.08 / tall, text, size=CAPTION_SIZE, va="bottom", linespacing=1.35, parse_math=False
    )  # fmt: skip
    return PanelGrid(figure, drawn, (total - legend - 0.05) / total, 1 - above / tall, columns, legend_columns)


def wrapped_caption(caption: str, width: float) -> tuple[str, float]:
    """Return a caption in lines that fit a width, and the height that they need, inches."""
    lines = textwrap.wrap(caption, int((width - 0.3) * _CHARACTERS_PER_INCH))
    return "\n".join(lines), 0.1 + _LINE * len(lines) + 0.08


def label(panels: PanelGrid, x: str, *y: str) -> None:
    """Name the axes on the outer panels; with several names for y, those of each column."""
    for place, axes in enumerate(panels.axes):
        if place + panels.columns >= len(panels.axes):
            axes.set_xlabel(x)
        column = place % panels.columns
        if column < len(y):
            axes.set_ylabel(y[column])


def title(axes: Axes, text: str) -> None:
    """Write a panel's title, in two lines where it is long."""
    axes.set_title("\n".join(textwrap.wrap(text, 40)[:2]), parse_math=False, pad=4)


def say(axes: Axes, text: str) -> None:
    """Write a sentence into an empty panel."""
    axes.text(
        0.5, 0.5, textwrap.fill(textwrap.shorten(text, 160, placeholder=" ..."), 34), size=8, color="0.4", ha="center",
        va="center", transform=axes.transAxes, parse_math=False,
    )  # fmt: skip


def draw_legend(panels: PanelGrid, handles: Sequence[Line2D], heading: str) -> None:
    """Draw a legend in the right margin, its top at the panels'."""
    panels.figure.legend(
        handles=list(handles), loc="upper left", bbox_to_anchor=(panels.legend_left, panels.top), title=heading,
        handlelength=2.2, labelspacing=0.35, borderaxespad=0, alignment="left", ncols=panels.legend_columns,
        columnspacing=1.0,
    )  # fmt: skip


def name_numbers(*axes: Axis) -> None:
    """Write the numbers of logarithmic axes that span little as 0.6, not as 6 × 10^-1."""
    for axis in axes:
        low, high = axis.get_view_interval()
        if high < 2 * low:
            axis.set_major_locator(MaxNLocator(4))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
        elif high < 30 * low:
            shown = (2, 3, 4, 6) if high < 10 * low else (2, 5)
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(FuncFormatter(partial(_plain, shown)))


def _plain(shown: tuple[int, ...], value: float, place: int | None = None) -> str:
    return f"{value:g}" if round(value / 10 ** np.floor(np.log10(value))) in shown else ""


def rank_colours(count: int) -> list[Colour]:
    """Return a colour per rank, from dark to light; the lightest is still readable on white."""
    rows = mpl.colormaps["viridis"](np.linspace(0, 0.88, count))
    return [(float(red), float(green), float(blue), float(alpha)) for red, green, blue, alpha in rows]


def rank_line(rank: int, colour: Colour, points: int = 0) -> dict[str, Any]:
    """Return the style of a rank's curve: lightness orders the ranks, markers tell neighbours apart.

    points: how many the curve has; of many only some are marked, not the same ones for neighbouring ranks.
    """
    step = -(-points // DENSE)
    marked = {"markevery": (rank * 3 % step, step)} if step > 1 else {}
    return {
        "color": colour, "marker": RANK_MARKERS[rank % len(RANK_MARKERS)], "markersize": 3.2, "markeredgewidth": 0,
        "linewidth": 1.1, **marked,
    }  # fmt: skip


def architecture_line(place: int) -> dict[str, Any]:
    """Return the style of an architecture's curve by its place; after a round of colours the markers shift."""
    turn, colour = divmod(place, len(COLOURS))
    kind = (colour + turn) % len(MARKERS)
    return {
        "color": COLOURS[colour], "marker": MARKERS[kind], "linestyle": LINES[kind], "markersize": 4, "linewidth": 1.2,
    }  # fmt: skip


def draw_curve(axes: Axes, x: Floats, mean: Floats, extremes: tuple[Floats, Floats], **style: Any) -> None:
    """Draw a mean as a line and the range over runs as a band."""
    low, high = extremes
    if (high > low).any():
        axes.fill_between(x, low, high, color=style["color"], alpha=0.2, linewidth=0)
    axes.plot(x, mean, **style)


def save(panels: PanelGrid, folder: Path, stem: str, *, small: bool = False) -> list[Path]:
    """Write a figure as PDF and, in 256 colours, as PNG, without dates or versions in them.

    small: as PNG alone, of about a third of the pixels.
    """
    vector, picture, dpi = folder / f"{stem}.pdf", folder / f"{stem}.png", SMALL_DPI if small else DPI
    drawn = BytesIO()
    if not small:
        # PDF, not SVG: compressed, a quarter of the bytes, and what LaTeX takes.
        panels.figure.savefig(vector, metadata={"CreationDate": None, "Creator": None, "Producer": None})
    panels.figure.savefig(drawn, format="png", dpi=dpi, pil_kwargs={"compress_level": 1})
    # A quarter of the bytes; the PDF has every shade.
    in_colours(Image.open(drawn).convert("RGB")).save(picture, optimize=True, dpi=(dpi, dpi))
    return [picture] if small else [vector, picture]


def in_colours(picture: Image.Image) -> Image.Image:
    """Return a picture in 256 colours: its 64 most frequent ones as they are, the others spread over what is left."""
    pixels = np.asarray(picture, dtype=np.int64) @ (1 << 16, 1 << 8, 1)
    shades, place, count = np.unique(pixels, return_inverse=True, return_counts=True)
    frequent = _channels(shades[np.argsort(-count, kind="stable")[:64]])
    spread = picture.quantize(192, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).getpalette() or []
    palette = np.concatenate([frequent, np.reshape(spread, (-1, 3))])
    nearest = ((palette**2).sum(axis=1) - 2 * _channels(shades) @ palette.T).argmin(axis=1)
    found = Image.fromarray(nearest[place].reshape(pixels.shape).astype(np.uint8), "P")
    found.putpalette(palette.astype(int).ravel().tolist())
    return found


def _channels(shades: Any) -> Floats:
    """Return red, green and blue of packed colours, `(colour, 3)`."""
    return np.asarray(shades[:, None] >> np.array([16, 8, 0]) & 0xFF, dtype=np.float64)


def omitted(contenders: Sequence[Contender], scans: Sequence[ScanCurves]) -> Drawing:
    """Return no figure, and the reason of each architecture."""
    reasons = "; ".join(
        f"{contender.architecture}: {scan.reason}" for contender, scan in zip(contenders, scans, strict=True)
    )
    return Drawing(f"Not drawn, nothing to show. {reasons}.")


def where(contenders: Sequence[Contender], split: SplitName) -> str:
    """Return the split, the dataset and the objective that a figure is about."""
    return f"{split} split of {contenders[0].dataset}, objective {contenders[0].objective}."


def facts(contenders: Sequence[Contender]) -> str:
    """Return how many temperatures and runs there are, how the runs ended and how many replicas converged."""
    cells = [cell for contender in contenders for cell in contender.cells]
    measured = [cell.measurement for cell in cells if cell.measurement is not None]
    temperatures = np.unique([t for measurement in measured for t in measurement.temperatures])
    marks = [mark for measurement in measured for mark in measurement.tables["replicas"]["mark"]]
    ended = ", ".join(f"{count} {status}" for status, count in Counter(cell.status for cell in cells).items())
    seeds = len({cell.seed for cell in cells})
    return (
        f"{count_of(temperatures.size, 'temperature')} from {temperatures.max():.3g} to {temperatures.min():.3g}; "
        f"{count_of(len(cells), 'independent run')} ({count_of(len(contenders), 'architecture')}, "
        f"{count_of(seeds, 'seed')}): {ended}; {marks.count('converged')} of {len(marks)} measured replicas converged"
        + (f", {marks.count('metastable')} are metastable" if "metastable" in marks else "")
        + (f", {marks.count('diverged')} diverged and are left out." if "diverged" in marks else ".")
    )


def suited(contenders: Sequence[Contender]) -> tuple[list[Contender], str]:
    """Return the architectures that are meant for the data, each worth a panel, and a sentence on the others."""
    others = [contender.architecture for contender in contenders if contender.is_unsuited]
    if not others or len(others) == len(contenders):
        return list(contenders), ""
    return [
        contender for contender in contenders if not contender.is_unsuited
    ], f" Not meant for these data: {', '.join(others)}."


def count_of(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural where it is due."""
    return f"{number} {noun}{'s' * (number != 1)}"


def name_of(contender: Contender, scan: ScanCurves) -> str:
    """Return an architecture's name, with what is missing of it."""
    if scan.reason:
        return f"{contender.architecture} (not drawn)"
    ok, planned = len(contender.ok), len(contender.cells)
    return contender.architecture if ok == planned else f"{contender.architecture} ({ok} of {planned} runs ok)"


def labels(handles: Sequence[Line2D]) -> list[str]:
    """Return the labels of a legend's entries."""
    return [str(handle.get_label()) for handle in handles]
