"""Figures of synthetic results: complete, honest about what is missing, repeatable to the byte."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from collapsebench import SPLITS, Measurement, Pca, oracle
from collapsebench.publishing.curves import rank_distortions, signal_fractions, thresholds_and_utilities
from collapsebench.publishing.figures.draw import SPLIT_OF, draw_figures
from collapsebench.publishing.figures.style import in_colours, name_numbers, rank_colours
from collapsebench.scoring.results import CellResult, SuiteResults

TEMPERATURES = np.logspace(0, -4, 17)
LATENTS = 8
SPECTRA = {"power-law": np.arange(1, 11) ** -1.5, "gap": np.array([4, 3, 2.5, 2, 0.02, 0.015, 0.01, 0.008])}
STANDARD = ("signal-fraction", "truncated-distortion", "rank-distortion", "utility-threshold")
SPLITS_OF = {kind: SPLIT_OF[kind] for kind in STANDARD}
SHAPE = {"linear": 1.0, "mlp": 0.7, "mlp-linear": 1.0}


def draw(results, folder, splits=None):
    return draw_figures(results, folder, splits, kinds=STANDARD)


def long(axis, values):
    """Return a table of {column: `(t, axis)`}, the same on every split."""
    t, index = np.indices(next(iter(values.values())).shape)
    columns = {"temperature": TEMPERATURES[t.ravel()], axis: index.ravel()}
    columns |= {name: value.ravel() for name, value in values.items()}
    return pd.concat([pd.DataFrame({"split": split, **columns}) for split in SPLITS], ignore_index=True)


def measurement(spectrum, seed=0, shape=1.0, noise=0.0, diverged=()):
    """Return an exact linear scan with noise; shape < 1 stands for a decoder that needs fewer latents than PCA."""
    rng = np.random.default_rng(seed)
    exact = oracle(np.diag(spectrum), TEMPERATURES, LATENTS)
    bent = oracle(np.diag(spectrum ** (1 / shape)), TEMPERATURES, LATENTS)
    fraction = np.clip(bent.signal_fraction + noise * rng.normal(size=bent.signal_fraction.shape), 0, 1)
    distortion = bent.normalised_distortion * np.exp(noise * rng.normal(size=bent.normalised_distortion.shape))
    marks = np.where(np.arange(TEMPERATURES.size) % 8 == 7, "budget", "converged").astype(object)
    for index in diverged:
        fraction[index], distortion[index], marks[index] = np.nan, np.nan, "diverged"
    tail = np.concatenate([[1.0], 1 - np.cumsum(exact.eigenvalues) / exact.total_variance])
    return Measurement(
        temperatures=TEMPERATURES,
        latent_dim=LATENTS,
        total_variance=exact.total_variance,
        tables={
            "latent-moments": long("latent", {"signal_fraction": fraction}),
            "truncated-distortion": long("rank", {"normalised_distortion": distortion}),
            "replicas": pd.DataFrame({"temperature": TEMPERATURES, "mark": marks}),
        },
        pca=Pca(exact.eigenvalues / exact.total_variance, exact.components, dict.fromkeys(SPLITS, tail)),
        second_moments=dict.fromkeys(SPLITS, np.diag(spectrum)),
        has_oracle=shape == 1.0,
    )


def cell(dataset, architecture, seed, status="ok", **changes):
    names = {"dataset": dataset, "architecture": architecture, "objective": "beta-vae", "seed": seed}
    made = CellResult(key=f"{dataset}-{architecture}-{seed}", status=status, **names)
    if status != "failed":
        scan = measurement(
            SPECTRA[dataset], seed, SHAPE[architecture], 0.02, diverged=(5, 6) if status == "diverged" else ()
        )
        made = replace(made, measurement=scan)
    return replace(made, **changes)


def suite(cells, **changes):
    made = SuiteResults(suite="synthetic", title="Synthetic", cells=cells, declared={}, rank_by=())
    return replace(made, **changes)


@pytest.fixture(scope="module")
def results():
    status = {("gap", "mlp", 1): "diverged", ("gap", "mlp-linear", 2): "failed"}
    return suite(
        [
            cell(dataset, architecture, seed, status.get((dataset, architecture, seed), "ok"))
            for dataset in SPECTRA
            for architecture in (SHAPE if dataset == "gap" else ["linear"])
            for seed in range(3)
        ]
    )


@pytest.fixture(scope="module")
def drawn(results, tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures")
    return folder, draw(results, folder)


def captions(folder):
    return json.loads((folder / "captions.json").read_text(encoding="utf-8"))


def test_every_figure_of_every_dataset_is_there_in_both_formats_and_has_a_caption(drawn):
    folder, paths = drawn
    stems = {f"{kind}-{dataset}" for kind in SPLITS_OF for dataset in SPECTRA}
    assert {path.name for path in paths} == {f"{s}.{f}" for s in stems for f in ("pdf", "png")} | {"captions.json"}
    assert set(folder.iterdir()) == set(paths)
    assert set(captions(folder)) == stems


def test_the_same_results_draw_the_same_bytes(drawn, results, tmp_path):
    _, paths = drawn
    gap = replace(results, cells=[cell for cell in results.cells if cell.dataset == "gap"])
    again = {path.name: path.read_bytes() for path in draw(gap, tmp_path)}
    first = {path.name: path.read_bytes() for path in paths}
    assert len(again) == 9
    assert all(content == first[name] for name, content in again.items() if name != "captions.json")
    assert not any(b"<dc:date>" in content for content in again.values())


def test_captions_state_temperatures_runs_how_they_ended_split_and_dashed_lines(drawn):
    found = captions(drawn[0])
    for stem, caption in found.items():
        kind = next(kind for kind in SPLITS_OF if stem.startswith(kind))
        assert "17 temperatures from 1 to 0.0001" in caption
        assert f"{SPLITS_OF[kind]} split of {stem.removeprefix(kind + '-')}" in caption
        assert "Dashed: " in caption
        assert "replicas converged" in caption
        runs = (
            "9 independent runs (3 architectures, 3 seeds): 7 ok, 1 diverged, 1 failed",
            "3 independent runs (1 architecture, 3 seeds): 3 ok",
        )[not stem.endswith("gap")]
        assert runs in caption
        assert ("2 diverged and are left out" in caption) == stem.endswith("gap")


def test_another_split_can_be_asked_for_and_is_stated(results, tmp_path):
    draw(suite(results.cells[:1]), tmp_path, {"rank-distortion": "validation"})
    assert "validation split of power-law" in captions(tmp_path)["rank-distortion-power-law"]


def test_where_nothing_was_measured_figures_are_left_out_and_the_reason_is_said(tmp_path):
    paths = draw(suite([cell("gap", "mlp", 0, "failed", reason="out of patience")]), tmp_path)
    assert [path.name for path in paths] == ["captions.json"]
    assert len(captions(tmp_path)) == 4
    assert all("mlp: nothing was measured: failed (out of patience)" in text for text in captions(tmp_path).values())


def test_an_architecture_that_is_not_meant_for_the_data_gets_no_panel_and_is_named(results, tmp_path):
    conv = replace(cell("power-law", "mlp", 0, "skipped", reason="no images"), architecture="conv")
    with_it, without = (suite([results.cells[0], *others]) for others in ([conv], []))
    sizes = []
    for name, made in (("with", with_it), ("without", without)):
        draw(made, tmp_path / name)
        with Image.open(tmp_path / name / "signal-fraction-power-law.png") as picture:
            sizes.append(picture.width)
    assert sizes[0] == sizes[1]
    caption = captions(tmp_path / "with")["signal-fraction-power-law"]
    assert caption == captions(tmp_path / "without")["signal-fraction-power-law"] + " Not meant for these data: conv."


def test_a_picture_in_256_colours_keeps_its_frequent_colours_as_they_are_and_the_others_nearly(tmp_path):
    rng = np.random.default_rng(0)
    exact = np.full((200, 200, 3), 255, dtype=np.uint8)
    exact[:60], exact[60:80] = 242, (230, 230, 230)
    exact[100:] = rng.choice(np.linspace(0, 255, 12).astype(np.uint8), size=(100, 200, 3))
    found = np.asarray(in_colours(Image.fromarray(exact)).convert("RGB"))
    assert (found[:100] == exact[:100]).all()
    assert np.abs(found.astype(int) - exact).max() <= 48


def test_where_every_replica_diverged_figures_are_left_out_and_the_reason_is_said(tmp_path):
    lost = cell("gap", "linear", 0, "diverged", measurement=measurement(SPECTRA["gap"], diverged=range(17)))
    assert len(draw(suite([lost]), tmp_path)) == 1
    assert all("diverged" in text for text in captions(tmp_path).values())


def test_a_figure_whose_observable_no_metric_asked_for_is_left_out_alone(results, tmp_path):
    measured = results.cells[0].measurement
    tables = {name: table for name, table in measured.tables.items() if name != "truncated-distortion"}
    bare = replace(results.cells[0], measurement=replace(measured, tables=tables))
    names = {path.name for path in draw(suite([bare]), tmp_path)}
    assert names == {"signal-fraction-power-law.pdf", "signal-fraction-power-law.png", "captions.json"}
    assert "no metric of the suite asked for" in captions(tmp_path)["rank-distortion-power-law"]


def test_objectives_and_awkward_names_get_files_of_their_own(results, tmp_path):
    tables = {"replicas": results.cells[0].measurement.tables["replicas"]}
    bare = replace(results.cells[0], measurement=replace(results.cells[0].measurement, tables=tables))
    cells = [replace(bare, dataset=d, objective=o) for d in ("a[n=1]", "a/n=1") for o in ("beta-vae", "free-bits")]
    draw(suite(cells), tmp_path)
    stems = list(captions(tmp_path))
    assert len(set(stems)) == 16
    assert "rank-distortion-a-n-1-free-bits" in stems
    assert "rank-distortion-a-n-1-free-bits-2" in stems


def test_one_temperature_is_enough_to_draw_without_warnings(results, tmp_path):
    measured = results.cells[0].measurement
    tables = {name: table[table["temperature"] == 1e-4] for name, table in measured.tables.items()}
    one = replace(results.cells[0], measurement=replace(measured, tables=tables, temperatures=TEMPERATURES[-1:]))
    assert "1 temperature " in captions_of(one, tmp_path)["signal-fraction-power-law"]


def captions_of(made, folder):
    draw(suite([made]), folder)
    return captions(folder)


def test_a_diverged_replica_leaves_the_mean_of_the_other_runs():
    cells = [cell("gap", "mlp", seed, "diverged" if seed == 1 else "ok") for seed in range(3)]
    stack = signal_fractions(cells, "train")
    assert (np.diff(stack.x) > 0).all()
    lost = np.isnan(stack.y).all(axis=2)
    assert lost.sum(axis=1).tolist() == [0, 2, 0]
    assert stack.mean == pytest.approx(np.nanmean(stack.y, axis=0))
    low, high = stack.extremes
    assert (low <= stack.mean + 1e-12).all()
    assert (stack.mean <= high + 1e-12).all()


def test_an_exact_scan_lies_on_the_diagonal_of_utility_against_threshold():
    made = cell("power-law", "linear", 0, measurement=measurement(SPECTRA["power-law"]))
    thresholds, worth = thresholds_and_utilities([made], "train")
    assert thresholds.y == pytest.approx(worth.y, rel=1e-4)
    curve = rank_distortions([made], "test").y[0]
    assert curve[: LATENTS + 1] == pytest.approx(made.measurement.pca.rank_distortion["test"][: LATENTS + 1], abs=1e-5)


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
