"""Figures of synthetic results: complete, honest about what is missing, repeatable to the byte."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from measured_results import (
    SHAPE,
    SPECTRA,
    TEMPERATURES,
    captions,
    cell,
    exact_cell,
    exact_scan,
    exact_suite,
    measurement,
    suite,
)
from PIL import Image

from collapsebench import UserError
from collapsebench.publishing.figures.draw import SPLIT_OF, draw_figures

STANDARD = ("signal-fraction", "truncated-distortion", "rank-distortion", "utility-threshold")
SPLITS_OF = {kind: SPLIT_OF[kind] for kind in STANDARD}
FURTHER = ("moments", "posterior-scale", "rank-distortion-log", "utility-rate-threshold", "rate-overlay")


def draw(results, folder, splits=None):
    return draw_figures(results, folder, splits, kinds=STANDARD)


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


@pytest.fixture(scope="module")
def exact_results():
    nonlinear = [exact_scan(gap=0.1, has_oracle=False, diverged=lost) for lost in ((), (4,))]
    return exact_suite(
        *(exact_cell("linear", seed, exact_scan()) for seed in range(2)),
        *(exact_cell("mlp", seed, scan, "diverged" if seed else "ok") for seed, scan in enumerate(nonlinear)),
    )


@pytest.fixture(scope="module")
def further_drawn(exact_results, tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures")
    return folder, draw_figures(exact_results, folder, kinds=FURTHER)


def test_every_further_figure_is_there_in_both_formats_with_what_its_reader_must_know(further_drawn):
    folder, paths = further_drawn
    stems = {f"{kind}-data" for kind in FURTHER}
    assert {path.name for path in paths} == {f"{s}.{f}" for s in stems for f in ("pdf", "png")} | {"captions.json"}
    for kind in FURTHER:
        caption = captions(folder)[f"{kind}-data"]
        assert "17 temperatures from 1 to 0.0001" in caption
        assert "4 independent runs (2 architectures, 2 seeds): 3 ok, 1 diverged" in caption
        assert f"{SPLIT_OF[kind]} split of data" in caption
        assert "Dashed: " in caption
        assert "1 diverged and are left out" in caption


def test_further_figures_of_the_same_results_are_the_same_bytes(further_drawn, exact_results, tmp_path):
    again = draw_figures(exact_results, tmp_path, kinds=("moments", "rank-distortion-log"))
    assert len(again) == 5
    assert all(path.read_bytes() == (further_drawn[0] / path.name).read_bytes() for path in again[:-1])


def test_figures_can_be_chosen_and_one_that_does_not_exist_is_refused_with_the_list(exact_results, tmp_path):
    with pytest.raises(UserError, match=r"no figure 'momentum'.*moments.*choose"):
        draw_figures(exact_results, tmp_path, kinds=["momentum"])
    with pytest.raises(UserError, match="no figure 'momentum'"):
        draw_figures(exact_results, tmp_path, {"momentum": "test"})
    assert not list(tmp_path.iterdir())


def test_a_figure_whose_quantity_was_not_observed_is_left_out_with_the_reason(tmp_path):
    scan = exact_scan()
    tables = dict(scan.tables)
    tables["latent-moments"] = tables["latent-moments"].drop(columns=["rate", "posterior_scale", "jensen_gap"])
    draw_figures(exact_suite(exact_cell(scan=replace(scan, tables=tables))), tmp_path, kinds=FURTHER)
    assert {path.stem for path in tmp_path.glob("*.png")} == {"moments-data", "rank-distortion-log-data"}
    assert (
        "no metric of the suite asked for signal fraction and rate per latent"
        in captions(tmp_path)["rate-overlay-data"]
    )


@pytest.mark.parametrize(
    ("scan", "status", "reason"),
    [(None, "failed", "nothing was measured"), (exact_scan(diverged=range(17)), "diverged", "diverged")],
)
def test_where_there_is_nothing_every_caption_says_why(scan, status, reason, tmp_path):
    paths = draw_figures(exact_suite(exact_cell(scan=scan, status=status)), tmp_path)
    assert [path.name for path in paths] == ["captions.json"]
    assert set(captions(tmp_path)) == {f"{kind}-data" for kind in SPLIT_OF}
    assert all(reason in caption for caption in captions(tmp_path).values())


def test_one_temperature_is_enough_for_every_figure_that_has_something_to_show(tmp_path):
    draw_figures(exact_suite(exact_cell(scan=exact_scan(temperatures=np.array([1e-3])))), tmp_path, kinds=FURTHER)
    assert (tmp_path / "moments-data.png").exists()
    assert (tmp_path / "posterior-scale-data.png").exists()
