"""Figures over ranks: the legend of the tail gives the fitted exponent."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest
from measured_results import MODES, contenders_of, exact_cell, exact_scan

from collapsebench.publishing.figures import style
from collapsebench.publishing.figures.ranks import draw_rank_distortion_tails


def test_the_legend_of_the_tail_gives_the_exponent_and_its_interval_over_runs():
    ranks = np.arange(1.0, MODES + 1)
    scans = [exact_scan(curve=np.append(1.0, 0.5 * ranks**-a)) for a in (3.9, 4.1)]
    with mpl.rc_context(style.RC):
        drawing = draw_rank_distortion_tails(
            contenders_of(*(exact_cell("mlp", s, scan) for s, scan in enumerate(scans))), "test"
        )
    legend = [text.get_text() for text in drawing.panels.figure.legends[0].get_texts()]
    assert legend[0] == "mlp, a = 4.0 ± 1.3"
    assert "4 ≤ K ≤ 17" in drawing.caption
    fit = next(
        line for line in drawing.panels.axes[0].lines if line.get_linestyle() == "-" and line.get_marker() == "None"
    )
    x, y = fit.get_data()
    assert y == pytest.approx(0.5 * x**-4.0)
