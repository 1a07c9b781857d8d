"""The papers' further figures and the table of required ranks, on synthetic results whose laws are known."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from itertools import pairwise

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from collapsebench import SPLITS, Measurement, Pca, UserError, crossover_rank, oracle, rate_law, tail_law
from collapsebench.publishing.curves import fitted_thresholds, rate_thresholds_and_utilities, signal_fractions
from collapsebench.publishing.figures import style
from collapsebench.publishing.figures.draw import SPLIT_OF, draw_figures
from collapsebench.publishing.figures.ranks import draw_rank_distortion_tails
from collapsebench.publishing.figures.scans import RANKS, draw_moments, draw_rate_overlays
from collapsebench.publishing.folder import write_outputs
from collapsebench.publishing.required_rank import required_rank_csv, required_rank_page, required_ranks
from collapsebench.ranking.standings import comparisons
from collapsebench.scoring.results import CellResult, SuiteResults

TEMPERATURES = np.logspace(0, -4, 17)
SPECTRUM = np.arange(1, 25) ** -1.5
SHARES = SPECTRUM / SPECTRUM.sum()
LATENTS = 20
FURTHER = ("moments", "posterior-scale", "rank-distortion-log", "utility-rate-threshold", "rate-overlay")


def table(axis, arrays, temperatures):
    """Return a table of {column: `(t, axis)`}, the same on every split."""
    t, index = np.indices(next(iter(arrays.values())).shape)
    columns = {"temperature": temperatures[t.ravel()], axis: index.ravel()}
    columns |= {name: values.ravel() for name, values in arrays.items()}
    return pd.concat([pd.DataFrame({"split": split, **columns}) for split in SPLITS], ignore_index=True)


def measurement(*, curve=None, gap=0.0, diverged=(), temperatures=TEMPERATURES, has_oracle=True):
    """Return an exact linear scan; curve: D(K) in place of its own; gap: J of active latents."""
    exact = oracle(np.diag(SPECTRUM), temperatures, LATENTS)
    moments = {
        "signal_fraction": exact.signal_fraction,
        "mean_square": exact.mean_square,
        "log_variance": np.log(exact.posterior_variance),
        "rate": exact.rate,
        "posterior_scale": np.ones_like(exact.rate),
        "jensen_gap": gap * exact.gain,
    }
    distortion = exact.normalised_distortion if curve is None else np.tile(curve, (temperatures.size, 1))
    moments = {name: values.copy() for name, values in moments.items()}
    for values in (*moments.values(), distortion):
        values[list(diverged)] = np.nan
    marks = np.full(temperatures.size, "converged", dtype=object)
    marks[list(diverged)] = "diverged"
    return Measurement(
        temperatures=temperatures,
        latent_dim=LATENTS,
        total_variance=exact.total_variance,
        tables={
            "latent-moments": table("latent", moments, temperatures),
            "truncated-distortion": table("rank", {"normalised_distortion": distortion}, temperatures),
            "replicas": pd.DataFrame({"temperature": temperatures, "mark": marks}),
        },
        pca=Pca(SHARES, np.eye(SHARES.size), dict.fromkeys(SPLITS, np.append(1 - np.cumsum(SHARES) + SHARES, 0.0))),
        second_moments=dict.fromkeys(SPLITS, np.diag(SPECTRUM)),
        has_oracle=has_oracle,
    )


def cell(architecture="linear", seed=0, scan=None, status="ok", reason=""):
    return CellResult(f"{architecture}-{seed}", "data", architecture, "beta-vae", seed, status, reason, scan)


def suite(*cells):
    return SuiteResults(suite="synthetic", title="Synthetic", cells=cells, declared={}, rank_by=())


def groups_of(*cells):
    return comparisons(suite(*cells))["data", "beta-vae"]


def captions(folder):
    return json.loads((folder / "captions.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def results():
    nonlinear = [measurement(gap=0.1, has_oracle=False, diverged=lost) for lost in ((), (4,))]
    return suite(
        *(cell("linear", seed, measurement()) for seed in range(2)),
        *(cell("mlp", seed, scan, "diverged" if seed else "ok") for seed, scan in enumerate(nonlinear)),
    )


@pytest.fixture(scope="module")
def drawn(results, tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures")
    return folder, draw_figures(results, folder, kinds=FURTHER)


def test_every_further_figure_is_there_in_both_formats_with_what_its_reader_must_know(drawn):
    folder, paths = drawn
    stems = {f"{kind}-data" for kind in FURTHER}
    assert {path.name for path in paths} == {f"{s}.{f}" for s in stems for f in ("pdf", "png")} | {"captions.json"}
    for kind in FURTHER:
        caption = captions(folder)[f"{kind}-data"]
        assert "17 temperatures from 1 to 0.0001" in caption
        assert "4 independent runs (2 architectures, 2 seeds): 3 ok, 1 diverged" in caption
        assert f"{SPLIT_OF[kind]} split of data" in caption
        assert "Dashed: " in caption
        assert "1 diverged and are left out" in caption


def test_further_figures_of_the_same_results_are_the_same_bytes(drawn, results, tmp_path):
    again = draw_figures(results, tmp_path, kinds=("moments", "rank-distortion-log"))
    assert len(again) == 5
    assert all(path.read_bytes() == (drawn[0] / path.name).read_bytes() for path in again[:-1])


def test_figures_can_be_chosen_and_one_that_does_not_exist_is_refused_with_the_list(results, tmp_path):
    with pytest.raises(UserError, match=r"no figure 'momentum'.*moments.*choose"):
        draw_figures(results, tmp_path, kinds=["momentum"])
    with pytest.raises(UserError, match="no figure 'momentum'"):
        draw_figures(results, tmp_path, {"momentum": "test"})
    assert not list(tmp_path.iterdir())


def test_a_figure_whose_quantity_was_not_observed_is_left_out_with_the_reason(tmp_path):
    scan = measurement()
    tables = dict(scan.tables)
    tables["latent-moments"] = tables["latent-moments"].drop(columns=["rate", "posterior_scale", "jensen_gap"])
    draw_figures(suite(cell(scan=replace(scan, tables=tables))), tmp_path, kinds=FURTHER)
    assert {path.stem for path in tmp_path.glob("*.png")} == {"moments-data", "rank-distortion-log-data"}
    assert "has no column rate" in captions(tmp_path)["rate-overlay-data"]


@pytest.mark.parametrize(
    ("scan", "status", "reason"),
    [(None, "failed", "nothing was measured"), (measurement(diverged=range(17)), "diverged", "diverged")],
)
def test_where_there_is_nothing_every_caption_says_why(scan, status, reason, tmp_path):
    paths = draw_figures(suite(cell(scan=scan, status=status)), tmp_path)
    assert [path.name for path in paths] == ["captions.json"]
    assert set(captions(tmp_path)) == {f"{kind}-data" for kind in SPLIT_OF}
    assert all(reason in caption for caption in captions(tmp_path).values())


def test_one_temperature_is_enough_for_every_figure_that_has_something_to_show(tmp_path):
    draw_figures(suite(cell(scan=measurement(temperatures=np.array([1e-3])))), tmp_path, kinds=FURTHER)
    assert (tmp_path / "moments-data.png").exists()
    assert (tmp_path / "posterior-scale-data.png").exists()


def test_the_scaled_rates_of_an_exact_scan_lie_on_the_law_that_is_drawn():
    with mpl.rc_context(style.RC):
        layout = draw_rate_overlays(groups_of(cell(scan=measurement())), "train").layout
    *rates, law = layout.panels[0].lines
    assert law.get_linestyle() == "--"
    assert len(rates) == LATENTS
    for line in rates:
        x, y = line.get_data()
        assert y == pytest.approx(rate_law(x, 1.0), abs=0.01)


def test_the_legend_of_the_tail_gives_the_exponent_and_its_interval_over_runs():
    ranks = np.arange(1.0, LATENTS + 1)
    scans = [measurement(curve=np.append(1.0, 0.5 * ranks**-a)) for a in (3.9, 4.1)]
    with mpl.rc_context(style.RC):
        drawing = draw_rank_distortion_tails(groups_of(*(cell("mlp", s, scan) for s, scan in enumerate(scans))), "test")
    legend = [text.get_text() for text in drawing.layout.figure.legends[0].get_texts()]
    assert legend[0] == "mlp, a = 4.0 ± 1.3"
    assert "4 ≤ K ≤ 17" in drawing.caption
    fit = next(
        line for line in drawing.layout.panels[0].lines if line.get_linestyle() == "-" and line.get_marker() == "None"
    )
    x, y = fit.get_data()
    assert y == pytest.approx(0.5 * x**-4.0)


def test_rate_thresholds_and_fitted_thresholds_of_an_exact_scan_are_the_eigenvalues():
    made = [cell(scan=measurement())]
    thresholds, worth = rate_thresholds_and_utilities(made, "train")
    assert thresholds.y == pytest.approx(worth.y, rel=0.02, nan_ok=True)
    assert fitted_thresholds(signal_fractions(made, "train"))[:12] == pytest.approx(SHARES[:12], rel=1e-6)


def test_neighbouring_ranks_differ_in_marker_and_legends_stay_inside_the_figure():
    with mpl.rc_context(style.RC):
        layout = draw_moments(groups_of(cell(scan=measurement())), "train").layout
        figure = layout.figure
        figure.draw_without_rendering()
        box = figure.legends[0].get_window_extent()
    markers = [style.rank_line(rank, (0, 0, 0, 1), 121)["marker"] for rank in range(RANKS)]
    assert all(first != second for first, second in pairwise(markers))
    assert box.x1 <= figure.bbox.x1
    assert box.y0 >= figure.bbox.y0
    assert all(panel.get_window_extent().x1 < box.x0 for panel in layout.panels)


def test_the_rate_law_is_the_exact_rate_of_a_linear_decoder():
    exact = oracle(np.diag(SPECTRUM), TEMPERATURES)
    assert rate_law(TEMPERATURES[:, None], SHARES) == pytest.approx(exact.rate)
    assert np.isnan(rate_law(0.1, [-1.0, 0.0])).all()


def test_the_tail_law_of_a_power_law_is_that_law_and_its_crossover_the_end_of_the_head():
    ranks = np.arange(1.0, 33)
    curve = np.append(1.0, 0.2 * ranks**-3.0)
    law = tail_law(curve, (5, 20))
    assert (law.exponent, law.prefactor) == pytest.approx((3.0, 0.2))
    assert law.at(ranks) == pytest.approx(curve[1:])
    assert crossover_rank(curve, law) == 1
    curve[1:4] *= 0.1
    assert crossover_rank(curve, law) == 4
    curve[20] = 1.0
    assert np.isnan(crossover_rank(curve, law))


def test_the_required_rank_of_an_exact_scan_is_that_of_pca_and_what_is_not_reached_says_so():
    coarse = np.append([1.0, 0.04], np.full(LATENTS - 1, 0.02))
    fine = np.append([1.0, 0.3], np.full(LATENTS - 1, 0.008))
    made = suite(
        *(cell("linear", seed, measurement()) for seed in range(3)),
        *(cell("mlp", seed, measurement(curve=curve)) for seed, curve in enumerate((coarse, coarse, fine))),
        *(cell("lost", seed, None, "failed") for seed in range(3)),
    )
    ranks = required_ranks(made)
    found = ranks.set_index(["model", "tolerance_percent"])
    assert found.loc[("PCA", 5.0), "value"] == np.flatnonzero(1 - np.cumsum(SHARES) <= 0.05)[0] + 1
    assert found.loc[("mlp", 5.0), "value"] == pytest.approx(4 / 3)
    assert found.loc[("mlp", 1.0), ["value", "reached", "runs"]].tolist() == [np.inf, 1, 3]
    assert found.loc[("best VAE", 5.0), "architecture"] == "mlp"
    page = required_rank_page(ranks)
    assert "| not reached (2 of 3) |" in page
    assert "| not measured |" in page
    assert "1.3 ± 1.4 (mlp)" in page
    csv = pd.read_csv(io.StringIO(required_rank_csv(ranks)), dtype="str", keep_default_na=False)
    assert csv["tolerance_percent"].tolist() == [*("50.0", "30.0", "10.0", "5.0", "1.0", "0.5", "0.1", "0.01", "0.001")]
    assert csv["mlp"].tolist()[4:] == ["not reached (2 of 3)", *["not reached"] * 4]
    assert csv["lost"].tolist() == ["not measured"] * 9
    assert csv["best VAE architecture"].tolist()[3:] == ["mlp", *[""] * 5]
    assert list(csv)[-2:] == ["best VAE", "best VAE architecture"]


def test_the_table_of_required_ranks_is_written_beside_the_others(results, tmp_path):
    names = {path.relative_to(tmp_path).as_posix() for path in write_outputs(results, tmp_path)}
    assert {"tables/required-rank.csv", "tables/required-rank.md"} <= names
    assert (tmp_path / "tables" / "required-rank.md").read_text(encoding="utf-8").startswith("# Required rank\n")
