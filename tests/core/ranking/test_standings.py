"""Standings: no rank claims more than the seeds decide, and who is not ranked says why."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scored_results import across, full, mixed_suite, ranked_by, standing, suite

from collapsebench.publishing.board_report import render
from collapsebench.ranking.standings import comparisons, overall_standings, standings


@pytest.fixture
def results():
    return mixed_suite()


def test_incomplete_architectures_are_not_ranked_and_say_why(results):
    found = standing(results)
    assert [name for name, place in found.items() if place.rank is None] == ["conv", "short"]
    assert found["conv"].reason == "1 of 3 runs ended ok"
    assert "dimension/at-1% in 0 of 3 runs" in found["short"].reason
    assert (found["linear"].rank.text, found["linear"].rank.mean) == ("1", 1.0)
    assert found["mlp"].rank.text == "2"
    text = render(results, "text")
    assert "conv is not ranked: 1 of 3 runs ended ok." in text
    assert "conv, seed 2: failed: RuntimeError: out of memory." in text
    assert "short has no equilibrium/converged-share, equilibrium/residual in 3 of 3 runs" in text


def test_ranks_do_not_depend_on_architectures_that_are_not_ranked(results):
    alone = suite([row for row in results.cells if row.architecture in ("linear", "mlp")])
    assert standing(alone)["mlp"] == standing(results)["mlp"]


@pytest.mark.parametrize(
    ("rank_by", "message"),
    [
        ((), "names no score"),
        (("agreement/typo",), "declares agreement/typo"),
        (("dimension/curvature",), "neither high"),
    ],
)
def test_without_a_score_to_rank_by_nothing_is_ranked_and_the_reason_is_said(results, rank_by, message):
    found = standing(replace(results, questions=ranked_by(*rank_by))).values()
    assert all(place.rank is None and message in place.reason for place in found)
    assert "Nothing is ranked." in render(replace(results, questions=ranked_by(*rank_by)), "text")


def test_what_one_dataset_leaves_open_several_decide():
    better, worse = [0.9, 0.8, 0.87], [0.83, 0.78, 0.79]
    found = across(*({"a": better, "b": worse} for _ in range(4)))
    alone = standings(found, comparisons(found)["data-0", "beta-vae"], found.questions[0])
    assert alone["a"].rank.text == alone["b"].rank.text == "1-2"
    together, used, left_out = overall_standings(found, "beta-vae", found.questions[0])
    assert (together["a"].rank.text, together["b"].rank.text, len(used), left_out) == ("1", "2", 4, [])
    text = render(found, "text")
    assert "All 4 datasets together, beta-vae" in text
    assert "All" not in render(across({"a": better, "b": worse}), "text")


def test_incomplete_on_one_dataset_is_unranked_overall_and_a_dataset_without_any_run_is_left_out_and_said():
    fine = {"a": [0.9, 0.8, 0.87], "b": [0.83, 0.78, 0.79]}
    found = across(fine, fine, fine)
    cells = [
        replace(row, status="failed", reason="no data", evaluations={})
        if row.dataset == "data-2" or (row.dataset == "data-1" and row.architecture == "b" and row.seed == 1)
        else row
        for row in found.cells
    ]
    broken = replace(found, cells=cells)
    together, used, left_out = overall_standings(broken, "beta-vae", broken.questions[0])
    assert (together["a"].rank.text, together["b"].rank) == ("1", None)
    assert together["b"].reason == "on data-1, 2 of 3 runs ended ok"
    assert (used, left_out) == (["data-0", "data-1"], ["data-2"])
    text = render(broken, "text")
    assert "Left out of the overall rank, since nothing is complete there: data-2." in text
    assert "unranked  b" in text


def test_an_architecture_that_is_not_meant_for_some_data_is_said_once_and_unranked_overall():
    fine = {"a": [0.9, 0.8, 0.87], "b": [0.83, 0.78, 0.79]}
    found = across(fine, fine, fine)
    why = "encoder 'conv': samples have shape (16,), expected images."
    cells = [
        replace(row, status="skipped", reason=why, evaluations={})
        if row.dataset != "data-2" and row.architecture == "b"
        else row
        for row in found.cells
    ]
    given = replace(found, cells=cells)
    assert standing(given, "data-0")["b"].reason == "not meant for these data"
    together, used, left_out = overall_standings(given, "beta-vae", given.questions[0])
    assert (together["b"].rank, together["a"].rank.text) == (None, "1")
    assert together["b"].reason == "on data-0, data-1, not meant for these data"
    assert (len(used), left_out) == (3, [])
    text = " ".join(render(given, "text").split())
    assert text.count(f"b is not ranked: not meant for these data: {why}") == 2
    assert text.count("not meant for these data") == 3
    assert "skipped" not in text
    assert "seed 0:" not in text


def test_what_several_architectures_lack_for_one_reason_is_one_sentence():
    names = ("a", "b", "c")
    cells = [full(name, seed, 0.9, dimension__at_1=None) for name in names for seed in range(3)]
    text = " ".join(render(suite([*cells, *(full("d", seed, 0.9) for seed in range(3))]), "text").split())
    assert "a, b, c are not ranked: not every run has every score of the ranking: dimension/at-1% in 0 of 3" in text
    assert "a, b, c have no dimension/at-1% in 3 of 3 runs: no at-1% here." in text
    assert text.count("no at-1% here") == 1
