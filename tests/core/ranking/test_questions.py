"""Questions: each has ranks of its own, which contradict those of another where the scores do."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scored_results import full, suite

from collapsebench.publishing.board_report import board_report, read_board, render
from collapsebench.publishing.report import pieces
from collapsebench.ranking.board import complete_board, ranking
from collapsebench.ranking.ranks import CONFIDENCE
from collapsebench.ranking.standings import comparisons, confidence_of, standings
from collapsebench.scoring.results import Question

PCA = Question("pca", "Does collapse reproduce PCA?", ("agreement/r2",), "agrees more with PCA")
SIZE = Question("size", "How few latents does it need?", ("dimension/at-1%",), "needs fewer latents")


@pytest.fixture
def asked():
    """The linear pair agrees with PCA, and the other one needs fewer latents; two datasets, eight seeds."""
    cells = [
        full(name, seed, r2 + 0.001 * seed, size + seed % 2, dataset=dataset)
        for dataset in ("digits", "climate")
        for name, r2, size in (("linear", 0.99, 9.0), ("mlp", 0.8, 4.0))
        for seed in range(8)
    ]
    return suite(cells, questions=(PCA, SIZE))


def placed(results, question):
    found = standings(results, comparisons(results)["digits", "beta-vae"], question)
    return {name: one.rank.text for name, one in found.items()}


def test_every_question_ranks_by_its_own_scores(asked):
    assert placed(asked, PCA) == {"linear": "1", "mlp": "2"}
    assert placed(asked, SIZE) == {"linear": "2", "mlp": "1"}
    together = ranking(asked).query("dataset == '(all)'").set_index(["question", "architecture"])["rank_best"]
    assert together.to_dict() == {("pca", "linear"): 1, ("pca", "mlp"): 2, ("size", "linear"): 2, ("size", "mlp"): 1}


def test_questions_share_the_doubt_of_the_board(asked):
    assert confidence_of(asked) == pytest.approx(1 - (1 - CONFIDENCE) / 2)
    assert confidence_of(replace(asked, questions=(PCA,))) == CONFIDENCE
    assert confidence_of(replace(asked, questions=())) == CONFIDENCE


def test_a_board_has_a_column_of_ranks_for_every_question_and_no_rank_that_mixes_them(asked):
    text = " ".join(render(asked, "md").replace("<br>", " ").split())
    assert "rank pca ↓" in text
    assert "rank size ↓" in text
    assert "All 2 datasets together, beta-vae: Does collapse reproduce PCA?" in text
    assert "All 2 datasets together, beta-vae: How few latents does it need?" in text
    assert "pca: Does collapse reproduce PCA? Ranked by agreement/r2." in text
    assert "over all pairs and questions together" in text
    single = text.split("digits, beta-vae")[1]
    assert "mean rank" not in single.split("Provenance")[0].replace("differences in mean rank", "")


def test_every_piece_of_a_wide_table_and_every_row_is_named_by_the_architecture(asked):
    (table,) = [one for one in board_report(asked).tables if one.title.startswith("digits")]
    assert [column.header for column in table.fixed][table.named] == ("architecture",)
    assert all(("architecture",) in [column.header for column in piece] for piece in pieces(table, 60))
    assert '<th scope="row">linear</th>' in render(asked, "html")


def test_a_long_table_says_which_question_a_score_answers_and_has_its_ranks(asked):
    frame = read_board(render(asked, "csv"))
    digits = frame[frame["dataset"] == "digits"].set_index(["architecture", "metric", "score"])
    assert digits.loc["linear", "agreement", "r2"][["question", "rank_best"]].tolist() == ["pca", 1]
    assert digits.loc["linear", "dimension", "at-1%"][["question", "rank_best"]].tolist() == ["size", 2]
    assert digits.loc["linear", "agreement", "gap"]["question"] == ""
    assert digits.loc["linear", "agreement"]["rank_best"].isna().tolist() == [False, True]


def test_scores_that_are_mixed_into_one_rank_are_said_to_be(asked):
    notice = "These scores are mixed into one rank; a suite with [[questions]] ranks by each question alone."
    mixed = replace(asked, questions=(Question("rank", "", (*PCA.scores, *SIZE.scores)),))
    assert notice in " ".join(render(mixed, "text").split())
    for plain in (asked, replace(asked, questions=(replace(PCA, id="rank", title=""),))):
        assert notice not in " ".join(render(plain, "text").split())


def test_a_suite_with_one_question_has_its_ranks_on_every_row(asked):
    frame = complete_board(replace(asked, questions=(replace(PCA, id="rank", title=""),)))
    assert frame["rank_best"].notna().all()


def test_a_question_without_a_score_that_can_rank_is_said_to_rank_nothing(asked):
    broken = replace(asked, questions=(PCA, replace(SIZE, scores=("dimension/typo",))))
    text = " ".join(render(broken, "text").split())
    assert "linear, mlp are not ranked by size: no metric of the suite declares dimension/typo." in text
    assert "Not ranked by every score asked for by size: no metric of the suite declares dimension/typo." in text
