"""The sentences of a board claim what its ranks and intervals carry, whatever the scores."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from scored_results import COMPARED, compared_suite, full, suite

from collapsebench import Evaluation
from collapsebench.publishing.board_report import render
from collapsebench.ranking.differences import paired_difference
from collapsebench.ranking.findings import findings
from collapsebench.ranking.ranks import t_interval
from collapsebench.ranking.standings import comparisons, confidence_of, standings
from collapsebench.scoring.results import CellResult, Question, SuiteResults

PCA = Question("pca", "Does collapse reproduce PCA?", ("pca-agreement/r2",), "agrees more with PCA")
FEW = Question("latents", "How few latents does it need?", ("effective-dimension/at-1%",), "needs fewer latents")
NUMBER = r"-?\d+(?:\.\d+)?(?:e-?\d+)?"


def random_suite(seed):
    """Return results of two to five architectures on one dataset, whose scores differ by much or by little."""
    rng = np.random.default_rng(seed)
    count, seeds, spread = rng.integers(2, 6), int(rng.choice([2, 3, 5, 8])), rng.choice([0.01, 0.3, 3.0])
    agreement, sizes = rng.normal(size=count), rng.integers(3, 12, count)
    cells = []
    for place in range(count):
        for number in range(seeds):
            r2 = float(agreement[place] + spread * rng.normal())
            size = float(np.clip(sizes[place] + round(spread * rng.normal()), 1, 16))
            found = {"pca-agreement": {"r2": r2}, "effective-dimension": {"at-1%": size, "pca-at-1%": 8.0}}
            evaluations = {metric: Evaluation(values) for metric, values in found.items()}
            names = (f"{place}-{number}", "digits", f"net-{place}", "beta-vae", number, "ok")
            cells.append(CellResult(*names, evaluations=evaluations))
    return SuiteResults("random", "Random", cells, COMPARED, (PCA, FEW))


@pytest.mark.parametrize("seed", range(60))
def test_every_claim_holds_by_the_ranks_and_intervals_of_the_board(seed):
    results = random_suite(seed)
    ((_, compared),) = comparisons(results).items()
    for one in findings(results, compared):
        ranks = {
            name: found.rank
            for name, found in standings(results, compared, PCA if one.question == "pca" else FEW).items()
        }
        contenders = {contender.architecture: contender for contender in compared}
        if one.kind == "first":
            (name,) = one.ahead
            assert ranks[name].text == "1"
            assert all(ranks[other].best > 1 for other in one.behind)
            assert {*one.ahead, *one.behind} == {*ranks}
        elif one.kind == "together":
            assert all(ranks[name].best == 1 for name in one.ahead)
            assert all(ranks[name].best > 1 for name in one.behind)
            assert {*one.ahead, *one.behind} == {*ranks}
        else:
            level = 1 - (1 - confidence_of(results)) / len(ranks)
            for name in ranks:
                values = contenders[name].values("effective-dimension", "at-1%")
                difference = paired_difference([[*values.values()]], [[8.0] * len(values)], level)
                assert (difference.decided and difference.value < 0) == (name in one.ahead)
        for name in (*one.ahead, *one.behind):
            assert name in one.text or "all" in one.text


@pytest.mark.parametrize("seed", range(60))
def test_every_number_is_that_of_the_architecture_it_stands_beside(seed):
    results = random_suite(seed)
    ((_, compared),) = comparisons(results).items()
    contenders = {contender.architecture: contender for contender in compared}
    scores = {"pca": ("pca-agreement", "r2"), "latents": ("effective-dimension", "at-1%")}
    for one in findings(results, compared):
        metric, score = scores[one.question]
        means = {name: t_interval([*found.values(metric, score).values()])[0] for name, found in contenders.items()}
        stated = re.findall(rf"(net-\d) (?:needs )?({NUMBER})(?: ± ({NUMBER}))?", one.text)
        stated += re.findall(rf"of (net-\d) less that of (net-\d): ({NUMBER})", one.text)
        for first, *numbers in stated:
            if numbers[0].startswith("net"):
                assert float(numbers[1]) == pytest.approx(means[first] - means[numbers[0]], rel=0.5, abs=0.6)
            else:
                half = float(numbers[1] or 0)
                assert float(numbers[0]) == pytest.approx(
                    means[first], abs=max(0.5 * half, 6e-4 * abs(means[first]), 1e-9)
                )


def test_the_sentences_of_a_decided_board_read_as_they_should():
    results = replace(compared_suite(seeds=8), questions=(PCA, FEW))
    said = [one.text for one in findings(results, comparisons(results)["digits", "beta-vae"])]
    assert re.fullmatch(
        r"Does collapse reproduce PCA\? On digits, linear agrees more with PCA than conv \(r2 0\.9\d+ ± 0\.\d+; conv "
        r"0\.6\d+ ± 0\.\d+\)\.",
        said[0],
    )
    assert (
        said[1] == "How few latents does it need? On digits, conv needs fewer latents than linear (at-1% 6; linear 9)."
    )
    assert said[2] == (
        "On digits, effective-dimension/at-1%: linear needs 9 latents and conv needs 6 latents where PCA needs 12."
    )


def test_where_seeds_do_not_decide_the_difference_stands_with_its_interval():
    cells = [
        full(name, seed, 0.9 + 0.01 * ((seed * step) % 5)) for name, step in (("a", 1), ("b", 2)) for seed in range(5)
    ]
    question = replace(PCA, scores=("agreement/r2",))
    results = suite(cells, questions=(question,))
    (one,) = findings(results, comparisons(results)["digits", "beta-vae"])
    assert (one.kind, one.behind) == ("together", ())
    assert re.search(
        r"nothing is decided between (a and b|b and a) \(r2 of \w less that of \w: -?0\.0\d* ± 0\.0\d+\)", one.text
    )


@pytest.mark.parametrize("format", ["text", "md", "tex", "html"])
def test_every_format_says_it_above_the_table(format):
    results = replace(compared_suite(seeds=8), questions=(PCA, FEW))
    text = " ".join(render(results, format).split())
    sentence = "On digits, linear agrees more with PCA than conv"
    assert sentence in text
    assert text.index(sentence) < text.rindex("linear")


def test_nothing_is_said_of_a_question_without_a_title_of_one_architecture_or_of_one_seed():
    results = compared_suite(seeds=8)
    assert findings(results, comparisons(results)["digits", "beta-vae"]) == []
    alone = replace(results, questions=(PCA,), cells=[one for one in results.cells if one.architecture == "conv"])
    assert findings(alone, comparisons(alone)["digits", "beta-vae"]) == []
    one_seed = replace(results, questions=(PCA, FEW), cells=[one for one in results.cells if one.seed == 0])
    assert findings(one_seed, comparisons(one_seed)["digits", "beta-vae"]) == []
