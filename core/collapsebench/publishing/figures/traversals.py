"""Pictures of what latents do: each moved alone from -3 to 3 standard deviations, beside the principal components."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from collapsebench.contracts import SplitName
from collapsebench.publishing.bundle import PICTURES
from collapsebench.publishing.figures.style import CAPTION_SIZE, Drawing, PanelGrid, where, wrapped_caption
from collapsebench.ranking.standings import Contender, comparisons
from collapsebench.scoring.results import CellResult, SuiteResults
from collapsebench.theory.spectrum import ACTIVE, grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from collapsebench.contracts import Floats, Measurement

VALUES = tuple(range(-3, 4))
ROWS = 8
SPLIT: SplitName = "train"
"""The split whose strongest latents are kept with published results."""

_TILE, _LEFT, _ABOVE = 0.5, 0.75, 0.55
_ACROSS = 2


@dataclass(frozen=True)
class Strip:
    """The traversals of one run at one temperature.

    pictures `(rank, value, c, h, w)`: decoded samples, in standardised units. components `(rank, c, h, w)`: principal
    components of the same rank, their sign that of the latent. fractions `(rank,)`: M^2.
    """

    architecture: str
    temperature: float
    pictures: Floats
    components: Floats
    fractions: Floats


def draw_traversals(contenders: Sequence[Contender], split: SplitName) -> Drawing:
    """Draw the strongest latents of every architecture at one temperature each, if the data are images."""
    found = [_strip(contender, split) for contender in contenders]
    strips = [strip for strip in found if isinstance(strip, Strip)]
    if not strips:
        reasons = "; ".join(
            f"{contender.architecture}: {why}" for contender, why in zip(contenders, found, strict=True)
        )
        return Drawing(f"Not drawn, nothing to show. {reasons}.")
    at = ", ".join(f"{strip.architecture} {strip.temperature:.3g}" for strip in strips)
    missing = "".join(
        f" {contender.architecture} is not drawn: {why}."
        for contender, why in zip(contenders, found, strict=True) if isinstance(why, str)
    )  # fmt: skip
    caption = (
        f"Traversals: what the decoder makes of one latent at {VALUES[0]} to {VALUES[-1]} prior standard deviations, "
        f"the others at 0; latents by signal fraction M² on the {where(contenders, split)} White is the mean of the "
        "train split, red above it, blue below; the scale is common to all latents, each principal component has its "
        "own. First column: the principal component of the same rank, its sign chosen to agree. The first run that "
        f"ended ok of each architecture, at the highest temperature that keeps {ROWS} latents, or the most it ever "
        f"keeps: {at}.{missing}"
    )
    return Drawing(caption, _lay_out(strips, caption))


def with_pictures(results: SuiteResults) -> SuiteResults:
    """Return results with the pictures that the figure shows as a small table, for bundles hold no others.

    A row per rank and value of the sample: temperature, M^2 as `fraction`, the component, and `at_v` for every v.
    """
    cells = list(results.cells)
    for contenders in comparisons(results).values():
        for contender in contenders:
            strip = _strip(contender, SPLIT)
            cell = next(iter(contender.ok), None)
            if isinstance(strip, Strip) and cell is not None and cell.measurement is not None:
                tables = {**cell.measurement.tables, PICTURES: _table(strip)}
                place = next(place for place, one in enumerate(cells) if one is cell)
                cells[place] = replace(cell, measurement=replace(cell.measurement, tables=tables))
    return replace(results, cells=cells)


def _table(strip: Strip) -> pd.DataFrame:
    ranks, values = len(strip.fractions), math.prod(strip.components.shape[1:])
    pictures = strip.pictures.reshape(ranks, len(VALUES), values)
    return pd.DataFrame(
        {
            "temperature": np.full(ranks * values, strip.temperature),
            "rank": np.repeat(np.arange(1, ranks + 1), values),
            "fraction": np.repeat(strip.fractions, values),
            "component": strip.components.ravel(),
            **{f"at_{v}": pictures[:, place].ravel() for place, v in enumerate(VALUES)},
        }
    )


def _kept(name: str, measured: Measurement) -> Strip:
    """Return what `_table` holds."""
    rows = measured.tables[PICTURES]
    ranks = int(rows["rank"].max())
    shape = (ranks, *shrunk(measured.shape, len(rows) // ranks))
    pictures = [rows[f"at_{v}"].to_numpy(dtype=np.float64).reshape(shape) for v in VALUES]
    return Strip(
        name,
        float(rows["temperature"].iloc[0]),
        np.stack(pictures, axis=1),
        rows["component"].to_numpy(dtype=np.float64).reshape(shape),
        rows.groupby("rank")["fraction"].first().to_numpy(dtype=np.float64),
    )


def _strip(contender: Contender, split: SplitName) -> Strip | str:
    """Return the pictures of the first run that ended ok, or why there are none."""
    cell = next(iter(contender.ok), None)
    if cell is None or cell.measurement is None:
        return f"nothing was measured: {_why(contender.cells)}"
    measured = cell.measurement
    if len(measured.shape) not in (2, 3):
        return "its samples are no images"
    if PICTURES in measured.tables:
        return _kept(contender.architecture, measured) if split == SPLIT else f"published results keep them for {SPLIT}"
    moments, decoded = measured.table_of("signal_fraction", axis="latent"), measured.table_of("at_0_0", axis="latent")
    if moments is None or decoded is None:
        return "no metric of the suite asked for traversals"
    fractions = grid(moments, split, measured.temperatures, "signal_fraction")
    kept = np.where(np.isfinite(fractions).all(axis=1), (fractions > ACTIVE).sum(axis=1), 0)
    wanted = min(ROWS, int(kept.max()))
    if wanted == 0:
        return "no latent is active at any temperature, or every replica diverged"
    place = max(np.flatnonzero(kept >= wanted), key=lambda t: measured.temperatures[t])
    order = np.argsort(-fractions[place], kind="stable")[:wanted]
    return _pictures(contender.architecture, measured, decoded, int(place), order, fractions[place][order])


def _why(cells: Sequence[CellResult]) -> str:
    return ", ".join(dict.fromkeys(f"{cell.status} ({cell.reason})" if cell.reason else cell.status for cell in cells))


def _pictures(
    name: str, measured: Measurement, table: pd.DataFrame, place: int, order: Any, fractions: Floats
) -> Strip:
    rows = table[(table["split"] == "train") & (table["temperature"] == measured.temperatures[place])]
    rows = rows.sort_values("latent")
    count = sum(str(column).startswith("at_0_") for column in table)
    shape = shrunk(measured.shape, count)
    stacked = [rows[[f"at_{v}_{i}" for i in range(count)]].to_numpy(dtype=np.float64)[order] for v in VALUES]
    pictures = np.stack(stacked, axis=1).reshape(len(order), len(VALUES), *shape)
    components = np.zeros((len(order), *shape))
    full = (measured.shape if len(measured.shape) == 3 else (1, *measured.shape), measured.pca.components)
    for rank in range(min(len(order), len(full[1]))):
        component = _averaged(full[1][rank].reshape(full[0]), shape)
        forward = (pictures[rank, -1] - pictures[rank, 0]) * component
        components[rank] = component if forward.sum() >= 0 else -component
    return Strip(name, float(measured.temperatures[place]), pictures, components, fractions)


def shrunk(shape: tuple[int, ...], count: int) -> tuple[int, int, int]:
    """Return channels, height and width of pictures that were averaged over blocks until `count` values were left."""
    channels, height, width = shape if len(shape) == 3 else (1, *shape)
    sizes = ((channels, -(-height // s), -(-width // s)) for s in range(1, max(height, width) + 1))
    return next(size for size in sizes if math.prod(size) == count)


def _averaged(picture: Floats, shape: tuple[int, int, int]) -> Floats:
    """Average a picture `(c, h, w)` over the blocks that leave `shape`."""
    block = next(s for s in range(1, max(picture.shape) + 1) if -(-picture.shape[1] // s) == shape[1]
                 and -(-picture.shape[2] // s) == shape[2])  # fmt: skip
    small = np.zeros(shape)
    for y in range(shape[1]):
        for x in range(shape[2]):
            part = picture[:, y * block : (y + 1) * block, x * block : (x + 1) * block]
            small[:, y, x] = part.mean(axis=(1, 2))
    return small


def _lay_out(strips: Sequence[Strip], caption: str) -> PanelGrid:
    """Place the strips, two side by side."""
    across = min(_ACROSS, len(strips))
    down = -(-len(strips) // across)
    wide = (len(VALUES) + 1) * _TILE
    high = _TILE * min(2.0, max(0.5, strips[0].pictures.shape[-2] / strips[0].pictures.shape[-1]))
    tall = max(len(strip.fractions) for strip in strips) * high
    total = across * (_LEFT + wide) + 0.2
    text, below = wrapped_caption(caption, total)
    height = down * (_ABOVE + tall) + 0.15 + below
    figure = Figure(figsize=(total, height))
    limit = max(float(np.percentile(np.abs(strip.pictures), 99.5)) for strip in strips) or 1.0
    drawn: list[Axes] = []
    for place, strip in enumerate(strips):
        row, column = divmod(place, across)
        own = len(strip.fractions) * high
        corner = column * (_LEFT + wide) + _LEFT, height - (row + 1) * _ABOVE - row * tall - own
        drawn.append(
            figure.add_axes((corner[0] / total, corner[1] / height, wide / total, own / height), aspect="auto")
        )
        _draw_strip(drawn[-1], strip, limit)
    figure.text(0.15 / total, 0.08 / height, text, size=CAPTION_SIZE, va="bottom", linespacing=1.35, parse_math=False)
    return PanelGrid(figure, drawn, 1.0, 1.0, across, 1)


def _draw_strip(axes: Axes, strip: Strip, limit: float) -> None:
    """Draw one architecture as one image: a row per latent, a column of components and one per value."""
    own = np.abs(strip.components).max(axis=(1, 2, 3), keepdims=True)
    first = _coloured(strip.components / np.where(own > 0, own, 1.0))
    tiles = np.concatenate([first[:, None], _coloured(strip.pictures / limit)], axis=1)
    ranks, columns, height, width, _ = tiles.shape
    gap = 1 + max(height, width) // 10
    mosaic = np.ones((ranks, columns, height + gap, width + gap, 3))
    mosaic[:, :, :height, :width] = tiles
    joined = mosaic.transpose(0, 2, 1, 3, 4).reshape(ranks * (height + gap), columns * (width + gap), 3)
    axes.imshow(joined, extent=(0, columns, ranks, 0), interpolation="nearest", aspect="auto")
    axes.set_title(textwrap.shorten(f"{strip.architecture}, T = {strip.temperature:.3g}", 60), pad=16, parse_math=False)
    middle = 0.5 * width / (width + gap)
    axes.set_xticks(
        middle + np.arange(columns), ["PCA", *(f"{value:+d}".replace("+0", "0") for value in VALUES)], size=7.5
    )
    axes.xaxis.tick_top()
    labels = [f"{rank + 1}   {fraction:.2f}" for rank, fraction in enumerate(strip.fractions)]
    axes.set_yticks(0.5 * height / (height + gap) + np.arange(ranks), labels, size=7.5)
    axes.text(-0.12, -0.12, "rank M²", size=7, ha="right", va="bottom")
    axes.tick_params(length=0, pad=2)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _coloured(pictures: Floats) -> Floats:
    """Return colours of pictures `(..., c, h, w)` within -1 .. 1: one channel from blue to red, three about grey."""
    if pictures.shape[-3] == 3:
        return np.clip(0.5 + 0.5 * np.moveaxis(pictures, -3, -1), 0, 1)
    shades = mpl.colormaps["RdBu_r"](np.clip(0.5 + 0.5 * pictures.mean(axis=-3), 0, 1))
    return np.asarray(shades[..., :3])
