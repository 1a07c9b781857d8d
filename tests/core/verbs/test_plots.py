"""Figures for a notebook: drawn into the axes that were given, showing what was measured."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from measured_results import LATENTS, TEMPERATURES, cell, suite

import collapsebench
from collapsebench import UserError
from collapsebench.publishing.curves import rank_distortions, signal_fractions
from collapsebench.publishing.folder import write_everything

SINGLE = ("signal_fraction", "truncated_distortion", "rate_overlay")
TOGETHER = ("rank_distortion", "utility_threshold")


@pytest.fixture(scope="module")
def results():
    return suite([cell("gap", name, seed) for name in ("linear", "mlp") for seed in range(2)])


@pytest.fixture
def ax():
    figure, axes = plt.subplots()
    yield axes
    figure.canvas.draw()
    plt.close(figure)


def plot(name):
    return getattr(collapsebench, f"plot_{name}")


@pytest.mark.parametrize("name", [*SINGLE, *TOGETHER])
def test_a_plot_returns_the_axes_it_was_given_with_names_on_them(results, ax, name):
    chosen = {"architecture": "linear"} if name in SINGLE else {}
    assert plot(name)(results, ax, **chosen) is ax
    assert ax.get_xlabel()
    assert ax.get_ylabel()
    assert ax.get_title() == ("linear" if name in SINGLE else "gap")


def test_without_axes_the_current_ones_are_used(results, ax):
    plt.sca(ax)
    assert plot("rank_distortion")(results) is ax


def test_the_lines_are_the_means_of_what_was_measured(results, ax):
    plot("signal_fraction")(results, ax, architecture="mlp")
    stack = signal_fractions([c for c in results.cells if c.architecture == "mlp"], "train")
    for rank in range(LATENTS):
        x, y = ax.lines[rank].get_data()
        np.testing.assert_array_equal(x, np.sort(TEMPERATURES))
        np.testing.assert_array_equal(y, stack.mean[:, rank])


@pytest.mark.usefixtures("no_figures")
def test_a_published_folder_draws_what_its_results_draw(results, ax, tmp_path):
    write_everything(results, tmp_path / "out")
    plot("rank_distortion")(tmp_path / "out", ax)
    expected = rank_distortions(results.cells[:2], "test").mean
    np.testing.assert_allclose(ax.lines[0].get_ydata(), expected, rtol=1e-6)


def test_where_there_are_several_the_names_are_listed(results, ax):
    with pytest.raises(UserError, match=r"names 2 of the architectures. Expected one of: linear, mlp"):
        plot("signal_fraction")(results, ax)
    with pytest.raises(
        UserError, match=r"dataset='moons', objective=None names 0 .* dataset='gap', objective='beta-vae'"
    ):
        plot("rank_distortion")(results, ax, dataset="moons")


@pytest.mark.parametrize("name", [*SINGLE, *TOGETHER])
def test_axes_without_a_measurement_say_why(ax, name):
    plot(name)(suite([cell("gap", "linear", 0, "failed", reason="disk full")]), ax)
    assert "disk full" in "".join(text.get_text() for text in ax.texts).replace("\n", " ")
