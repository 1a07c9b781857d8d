"""Two architectures compared: what differs, where that is decided, and the same differences in every format."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scored_results import compared_suite

from collapsebench import UserError
from collapsebench.publishing.comparison import COLUMNS, compare_architectures
from collapsebench.publishing.report import FORMATS
from collapsebench.ranking.board import OVERALL


def verdicts(found):
    frame = found.differences.set_index(["dataset", "score"])["verdict"]
    return {key: frame[key] for key in frame.index}


def test_it_says_who_is_better_where_and_where_that_is_not_decided():
    found = compare_architectures(compared_suite(), "conv", "linear")
    said = verdicts(found)
    assert said["digits", "r2"] == "linear"
    assert said["gaussian", "r2"] == "not decided"
    assert said["gaussian", "at-1%"] == said["digits", "at-1%"] == said[OVERALL, "at-1%"] == "conv"
    assert said["gaussian", "pca-at-1%"] == "equal"
    text = found.text()
    assert "Agrees more with PCA, by pca-agreement/r2: linear on all datasets together, digits; not decided on" in text
    assert "Needs fewer latents, by effective-dimension/at-1%: conv on all datasets together, gaussian, digits." in text
    assert "chance alone would decide" in text
    assert "suite images 0123456789ab, collapsebench 0.1.0, date 2026-01-02" in text


def test_the_other_order_gives_the_other_sign_and_the_same_verdict():
    one = compare_architectures(compared_suite(), "conv", "linear")
    other = compare_architectures(compared_suite(), "linear", "conv")
    assert verdicts(one) == verdicts(other)
    assert np.allclose(one.differences["difference"], -other.differences["difference"])
    assert np.allclose(one.differences["low"], -other.differences["high"])


def test_the_difference_over_datasets_is_the_mean_of_theirs():
    frame = (
        compare_architectures(compared_suite(), "conv", "linear")
        .differences.query("score == 'r2'")
        .set_index("dataset")
    )
    assert frame.loc[OVERALL, "difference"] == pytest.approx(frame.drop(index=OVERALL)["difference"].mean())
    assert frame.loc[OVERALL, "n"] == 6


def test_the_difference_over_datasets_leaves_out_those_that_one_is_not_meant_for():
    skipped = {"status": "skipped", "reason": "no images", "evaluations": {}}
    given = compared_suite(datasets=("gaussian", "digits", "vectors"))
    cells = [
        replace(row, **skipped) if (row.architecture, row.dataset) == ("conv", "vectors") else row
        for row in given.cells
    ]
    found = compare_architectures(replace(given, cells=cells), "conv", "linear").differences
    rows = found[found["score"] == "at-1%"].set_index("dataset")
    assert rows.loc[OVERALL, "difference"] == -3
    assert (rows.loc[OVERALL, "n"], rows.loc["vectors", "verdict"]) == (6, "no value")
    with pytest.raises(UserError, match="'conv' is not meant for any of its datasets"):
        compare_architectures(replace(given, cells=cells[-6:]), "linear", "conv")


def test_a_tolerance_that_one_does_not_reach_is_decided_by_the_latents_there_are_and_never_hidden():
    class Measured:
        latent_dim = 16

    made = compared_suite({("linear", "effective-dimension", "at-1%"): math.inf})
    made = replace(made, cells=[replace(cell, measurement=Measured()) for cell in made.cells])
    frame = compare_architectures(made, "conv", "linear").differences.query("score == 'at-1%'").set_index("dataset")
    assert frame.loc["digits", "second"] == math.inf
    assert frame.loc["digits", "difference"] == 6 - 17
    assert frame.loc["digits", "verdict"] == "conv"
    neither = {(name, "effective-dimension", "at-1%"): math.inf for name in ("linear", "conv")}
    assert (
        verdicts(compare_architectures(compared_suite(neither), "conv", "linear"))["digits", "at-1%"] == "not reached"
    )


def test_seeds_without_a_value_are_rows_that_say_so():
    made = compared_suite()
    cells = [replace(cell, status="failed", evaluations={}) if cell.dataset == "digits" and cell.seed else cell
             for cell in made.cells]  # fmt: skip
    found = compare_architectures(replace(made, cells=cells), "conv", "linear")
    frame = found.differences.set_index(["dataset", "score"])
    assert frame.loc[("digits", "r2"), "n"] == 1
    assert frame.loc[("digits", "r2"), "verdict"] == "not decided"
    assert "fewer than two seeds" in frame.loc[("digits", "r2"), "note"]


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_holds_the_same_differences(format):
    found = compare_architectures(compared_suite(), "conv", "linear")
    text = found.text(format)
    if format == "csv":
        frame = pd.read_csv(io.StringIO(text))
        assert list(frame) == list(COLUMNS)
        assert np.allclose(frame["difference"], found.differences["difference"])
    elif format == "json":
        content = json.loads(text)
        assert [row["verdict"] for row in content["differences"]] == found.differences["verdict"].tolist()
        assert content["summary"] == list(found.summary)
    else:
        assert "effective-dimension" in text
        assert "2026-01-02" in text


def test_a_notebook_shows_it_and_the_repr_counts_it():
    found = compare_architectures(compared_suite(), "conv", "linear")
    assert "<table>" in found._repr_html_()
    assert repr(found) == "Comparison('conv', 'linear', {'conv': 3, 'linear': 2, 'not decided': 1})"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("conv", "mlp"), "no architecture 'mlp'. Its architectures: linear, conv"),
        (("conv", "conv"), "compared with itself"),
    ],
)
def test_names_that_cannot_be_compared_are_refused(names, message):
    with pytest.raises(UserError, match=message):
        compare_architectures(compared_suite(), *names)
    cells = [replace(cell, status="missing", evaluations={}) for cell in compared_suite().cells]
    with pytest.raises(UserError, match=r"no run of 'conv' ended ok .found: missing.*collapsebench run images"):
        compare_architectures(replace(compared_suite(), cells=cells), "conv", "linear")
