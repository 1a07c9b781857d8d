"""Pictures of latents: the right ones at the right temperature, beside components of the right sign, repeatable."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_figures_papers import SHARES, TEMPERATURES, cell, measurement, suite, table

from collapsebench.figure_traversals import ROWS, VALUES, Strip, _averaged, _strip, shrunk
from collapsebench.figures import draw_figures
from collapsebench.standings import comparisons
from collapsebench_observables.traversals import shrink

LATENTS = 20


def images(shape=(4, 6), sign=-1.0):
    """Return an exact scan of images, its latents along the components and numbered in a fixed random order."""
    scan = measurement()
    order = np.random.default_rng(0).permutation(LATENTS)
    gain = sign * np.sqrt(np.maximum(0, SHARES[:LATENTS] - TEMPERATURES[:, None]))
    directions = gain[:, :, None] * np.eye(SHARES.size)[:LATENTS]
    moments = scan.tables["latent-moments"].copy()
    moments["latent"] = np.argsort(order)[moments["latent"]]
    columns = {f"at_{v}_{i}": 0.1 + v * directions[:, order, i] for v in VALUES for i in range(SHARES.size)}
    tables = {**scan.tables, "latent-moments": moments, "traversals": table("latent", columns, TEMPERATURES)}
    return replace(scan, tables=tables, shape=shape)


def strip_of(scan):
    return _strip(comparisons(suite(cell(scan=scan)))["data", "beta-vae"][0], "train")


def captions(folder):
    return json.loads((folder / "captions.json").read_text(encoding="utf-8"))


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
    results = suite(cell(scan=images(shape)), cell("mlp", scan=images(shape, 1.0)))
    first, second = (draw_figures(results, tmp_path / name, kinds=["traversals"]) for name in "ab")
    assert [path.name for path in first] == ["traversals-data.svg", "traversals-data.png", "captions.json"]
    assert all(one.read_bytes() == two.read_bytes() for one, two in zip(first, second, strict=True))
    caption = captions(tmp_path / "a")["traversals-data"]
    assert "-3 to 3 prior standard deviations" in caption
    assert f"linear {strip_of(images(shape)).temperature:.3g}, mlp" in caption


@pytest.mark.parametrize(
    ("scan", "reason"),
    [
        (replace(images(), shape=(24,)), "its samples are no images"),
        (replace(measurement(), shape=(4, 6)), "no metric of the suite asked for traversals"),
        (None, "nothing was measured"),
    ],
)
def test_without_pictures_the_caption_says_why(scan, reason, tmp_path):
    draw_figures(suite(cell(scan=scan)), tmp_path, kinds=["traversals"])
    assert reason in captions(tmp_path)["traversals-data"]


@pytest.mark.parametrize("shape", [(8, 8), (1, 29, 30), (3, 32, 32), (64, 64), (3, 33, 31)])
def test_components_are_averaged_as_the_pictures_are(shape):
    picture = np.random.default_rng(0).normal(size=shape)
    small = shrink(torch.from_numpy(picture)[None], shape)[0].numpy()
    size = shrunk(shape, small.size)
    assert _averaged(picture.reshape(size[0], *shape[-2:]), size).ravel() == pytest.approx(small, abs=1e-6)
