"""How figures look: colours that are told apart, axes that show numbers, pictures in few colours."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from collapsebench.publishing.figures.style import in_colours, name_numbers, rank_colours


def test_a_picture_in_256_colours_keeps_its_frequent_colours_as_they_are_and_the_others_nearly(tmp_path):
    rng = np.random.default_rng(0)
    exact = np.full((200, 200, 3), 255, dtype=np.uint8)
    exact[:60], exact[60:80] = 242, (230, 230, 230)
    exact[100:] = rng.choice(np.linspace(0, 255, 12).astype(np.uint8), size=(100, 200, 3))
    found = np.asarray(in_colours(Image.fromarray(exact)).convert("RGB"))
    assert (found[:100] == exact[:100]).all()
    assert np.abs(found.astype(int) - exact).max() <= 48


def test_rank_colours_are_told_apart_by_lightness_alone_and_readable_on_white():
    luminance = np.array(rank_colours(12))[:, :3] @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luminance) > 0).all()
    assert luminance.max() < 0.8


@pytest.mark.parametrize("span", [(0.115, 0.126), (0.8, 1.3), (0.05, 0.2), (0.02, 0.5)])
def test_a_logarithmic_axis_shows_numbers_however_little_it_spans(span):
    figure = Figure()
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_xscale("log")
    axes.set_xlim(span)
    name_numbers(axes.xaxis)
    figure.canvas.draw()
    ticks = (*axes.xaxis.get_major_ticks(), *axes.xaxis.get_minor_ticks())
    shown = {tick.label1.get_text() for tick in ticks if span[0] <= tick.get_loc() <= span[1]} - {""}
    assert len(shown) >= 2
    assert all(span[0] <= float(number) <= span[1] for number in shown)
