"""Pictures of latents: the right ones at the right temperature, beside components of the right sign, repeatable."""

from __future__ import annotations

from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest
import torch
from flow import digests
from measured_results import (
    MODES,
    SHARES,
    TEMPERATURES,
    captions,
    contenders_of,
    exact_cell,
    exact_scan,
    exact_suite,
    table,
)
from PIL import Image

from collapsebench import publish
from collapsebench.publishing.bundle import read_bundle
from collapsebench.publishing.figures import draw
from collapsebench.publishing.figures.draw import _KINDS, draw_figures
from collapsebench.publishing.figures.style import RC
from collapsebench.publishing.figures.traversals import ROWS, VALUES, Strip, _averaged, _strip, shrunk
from collapsebench.publishing.folder import write_everything
from collapsebench.ranking.standings import comparisons
from collapsebench_observables.traversals import shrink


def images(shape=(4, 6), sign=-1.0):
    """Return an exact scan of images, its latents along the components and numbered in a fixed random order."""
    scan = exact_scan()
    order = np.random.default_rng(0).permutation(MODES)
    gain = sign * np.sqrt(np.maximum(0, SHARES[:MODES] - TEMPERATURES[:, None]))
    directions = gain[:, :, None] * np.eye(SHARES.size)[:MODES]
    moments = scan.tables["latent-moments"].copy()
    moments["latent"] = np.argsort(order)[moments["latent"]]
    columns = {f"at_{v}_{i}": 0.1 + v * directions[:, order, i] for v in VALUES for i in range(SHARES.size)}
    tables = {**scan.tables, "latent-moments": moments, "traversals": table("latent", columns, TEMPERATURES)}
    return replace(scan, tables=tables, shape=shape)


def strip_of(scan):
    return _strip(contenders_of(exact_cell(scan=scan))[0], "train")


def test_the_strongest_latents_are_shown_in_order_at_the_highest_temperature_that_keeps_them():
    strip = strip_of(images())
    assert isinstance(strip, Strip)
    kept = 1 - TEMPERATURES / SHARES[ROWS - 1] > 0.1
    assert strip.temperature == TEMPERATURES[kept].max()
    assert strip.fractions == pytest.approx(1 - strip.temperature / SHARES[:ROWS])
    slopes = (strip.pictures[:, -1] - strip.pictures[:, 0]).reshape(ROWS, -1)
    assert (np.abs(slopes).argmax(axis=1) == np.arange(ROWS)).all()


def test_components_have_the_sign_of_the_latent_beside_them():
    for sign in (-1.0, 1.0):
        strip = strip_of(images(sign=sign))
        assert (np.sign(strip.components.reshape(ROWS, -1)[np.arange(ROWS), np.arange(ROWS)]) == sign).all()


@pytest.mark.parametrize("shape", [(4, 6), (1, 4, 6), (2, 3, 4)])
def test_pictures_are_drawn_for_images_of_every_shape_and_repeat_to_the_byte(shape, tmp_path):
    results = exact_suite(exact_cell(scan=images(shape)), exact_cell("mlp", scan=images(shape, 1.0)))
    first, second = (draw_figures(results, tmp_path / name, kinds=["traversals"]) for name in "ab")
    assert [path.name for path in first] == ["traversals-data.pdf", "traversals-data.png", "captions.json"]
    assert all(one.read_bytes() == two.read_bytes() for one, two in zip(first, second, strict=True))
    caption = captions(tmp_path / "a")["traversals-data"]
    assert "-3 to 3 prior standard deviations" in caption
    assert f"linear {strip_of(images(shape)).temperature:.3g}, mlp" in caption


def test_published_results_hold_the_pictures_and_draw_them_again_to_the_byte(tmp_path, monkeypatch):
    monkeypatch.setattr(draw, "_KINDS", {"traversals": draw._KINDS["traversals"]})
    results = exact_suite(exact_cell(scan=images((2, 3, 4))), exact_cell("mlp", scan=images((2, 3, 4), 1.0)))
    write_everything(results, tmp_path / "first")
    held = read_bundle(tmp_path / "first")
    ours, theirs = (
        [_strip(contender, "train") for contender in comparisons(found)["data", "beta-vae"]]
        for found in (held, results)
    )
    for one, other in zip(ours, theirs, strict=True):
        assert (one.architecture, one.temperature) == (other.architecture, other.temperature)
        for name in ("pictures", "components", "fractions"):
            np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-6, atol=1e-7)
    assert (tmp_path / "first" / "figures" / "traversals-data.png").is_file()
    publish(tmp_path / "first", tmp_path / "again")
    assert digests(tmp_path / "again") == digests(tmp_path / "first")


def test_png_files_look_like_the_figure_in_few_bytes(tmp_path):
    results = exact_suite(exact_cell(scan=images()))
    _, png, _ = draw_figures(results, tmp_path, kinds=["signal-fraction"])
    picture = Image.open(png)
    assert (picture.mode, picture.info["dpi"][0]) == ("P", pytest.approx(160, abs=0.1))
    with mpl.rc_context(RC):
        figure = _KINDS["signal-fraction"](comparisons(results)["data", "beta-vae"], "train").panels.figure
        figure.savefig(tmp_path / "whole.png", dpi=160)
    whole = Image.open(tmp_path / "whole.png").convert("RGB")
    assert np.abs(np.asarray(picture.convert("RGB"), float) - np.asarray(whole, float)).max() < 26
    assert png.stat().st_size < 0.5 * (tmp_path / "whole.png").stat().st_size


@pytest.mark.parametrize(
    ("scan", "reason"),
    [
        (replace(images(), shape=(24,)), "its samples are no images"),
        (replace(exact_scan(), shape=(4, 6)), "no metric of the suite asked for traversals"),
        (None, "nothing was measured"),
    ],
)
def test_without_pictures_the_caption_says_why(scan, reason, tmp_path):
    draw_figures(exact_suite(exact_cell(scan=scan)), tmp_path, kinds=["traversals"])
    assert reason in captions(tmp_path)["traversals-data"]


@pytest.mark.parametrize("shape", [(8, 8), (1, 29, 30), (3, 32, 32), (64, 64), (3, 33, 31)])
def test_components_are_averaged_as_the_pictures_are(shape):
    picture = np.random.default_rng(0).normal(size=shape)
    small = shrink(torch.from_numpy(picture)[None], shape)[0].numpy()
    size = shrunk(shape, small.size)
    assert _averaged(picture.reshape(size[0], *shape[-2:]), size).ravel() == pytest.approx(small, abs=1e-6)
