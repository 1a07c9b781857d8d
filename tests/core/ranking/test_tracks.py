"""Tracks: an architecture competes on the data it is meant for, and no table has a row that nothing can fill."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scored_results import full, marked, ranked_by, suite

from collapsebench.publishing.board_report import board_report, render
from collapsebench.ranking.board import ranking
from collapsebench.ranking.standings import overall_standings, tracks

WHY = "encoder 'conv': samples have shape (16,), expected images."


def shaped(cell, shape):
    measured = marked(cell, 3, 4)
    return replace(measured, measurement=replace(measured.measurement, shape=shape))


@pytest.fixture
def results():
    """Two datasets of vectors and two of images; conv is meant for images alone."""
    cells = []
    for dataset, shape in (("climate", (19,)), ("gaussian", (16,)), ("digits", (1, 8, 8)), ("clothes", (1, 28, 28))):
        for name, r2 in (("linear", 0.9), ("conv", 0.99)):
            for seed in range(8):
                cell = full(name, seed, r2 + 0.001 * seed, dataset=dataset)
                if name == "conv" and len(shape) == 1:
                    cells.append(replace(cell, status="skipped", reason=WHY, evaluations={}))
                else:
                    cells.append(shaped(cell, shape))
    return suite(cells, questions=ranked_by("agreement/r2"))


def test_datasets_fall_into_tracks_by_the_shape_of_their_samples(results):
    assert tracks(results, "beta-vae") == {"vectors": ["climate", "gaussian"], "images": ["digits", "clothes"]}
    images = replace(results, cells=[cell for cell in results.cells if cell.dataset in ("digits", "clothes")])
    assert tracks(images, "beta-vae") == {"": ["digits", "clothes"]}


def test_each_track_ranks_those_who_are_meant_for_it(results):
    (question,) = results.questions
    vectors, used, left_out = overall_standings(results, "beta-vae", question, "vectors")
    assert {name: found.rank.text for name, found in vectors.items()} == {"linear": "1"}
    assert (used, left_out) == (["climate", "gaussian"], [])
    images, _, _ = overall_standings(results, "beta-vae", question, "images")
    assert {name: found.rank.text for name, found in images.items()} == {"conv": "1", "linear": "2"}


def test_the_board_has_a_table_for_each_track_and_no_row_that_can_never_be_filled(results):
    report = board_report(results)
    assert [table.title for table in report.tables] == [
        "All 2 datasets of vectors together, beta-vae", "All 2 datasets of images together, beta-vae",
        "climate, beta-vae", "gaussian, beta-vae", "digits, beta-vae", "clothes, beta-vae",
    ]  # fmt: skip
    names = {table.title: table.fixed[1].cells for table in report.tables}
    assert names["All 2 datasets of vectors together, beta-vae"] == names["climate, beta-vae"] == ("linear",)
    assert names["digits, beta-vae"] == ("conv", "linear")
    assert f"conv is not ranked: not meant for these data: {WHY}" in " ".join(render(results, "text").split())


def test_ranks_over_all_datasets_name_the_track(results):
    frame = ranking(results).set_index(["dataset", "architecture"])["rank_best"]
    assert (frame["(all images)", "conv"], frame["(all images)", "linear"], frame["(all vectors)", "linear"]) == (
        1,
        2,
        1,
    )
    assert ("(all vectors)", "conv") not in frame.index
    assert "(all)" not in frame.index.get_level_values("dataset")
