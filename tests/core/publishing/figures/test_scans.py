"""Figures over temperature: exact rates lie on the law that is drawn, and legends stay inside."""

from __future__ import annotations

from itertools import pairwise

import matplotlib as mpl
import pytest
from measured_results import MODES, contenders_of, exact_cell, exact_scan

from collapsebench import rate_law
from collapsebench.publishing.figures import style
from collapsebench.publishing.figures.scans import RANKS, draw_moments, draw_rate_overlays


def test_the_scaled_rates_of_an_exact_scan_lie_on_the_law_that_is_drawn():
    with mpl.rc_context(style.RC):
        panels = draw_rate_overlays(contenders_of(exact_cell(scan=exact_scan())), "train").panels
    *rates, law = panels.axes[0].lines
    assert law.get_linestyle() == "--"
    assert len(rates) == MODES
    for line in rates:
        x, y = line.get_data()
        assert y == pytest.approx(rate_law(x, 1.0), abs=0.01)


def test_neighbouring_ranks_differ_in_marker_and_legends_stay_inside_the_figure():
    with mpl.rc_context(style.RC):
        panels = draw_moments(contenders_of(exact_cell(scan=exact_scan())), "train").panels
        figure = panels.figure
        figure.draw_without_rendering()
        box = figure.legends[0].get_window_extent()
    markers = [style.rank_line(rank, (0, 0, 0, 1), 121)["marker"] for rank in range(RANKS)]
    assert all(first != second for first, second in pairwise(markers))
    assert box.x1 <= figure.bbox.x1
    assert box.y0 >= figure.bbox.y0
    assert all(panel.get_window_extent().x1 < box.x0 for panel in panels.axes)
