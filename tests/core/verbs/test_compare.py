"""compare: what differs between two architectures or two published folders, and whether that is decided."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from collapsebench import DataError, Evaluation, Score, UserError
from collapsebench.cli.main import main
from collapsebench.publishing.comparison import COLUMNS, compare_architectures
from collapsebench.publishing.folder import add_to_manifest, read_published, write_outputs
from collapsebench.publishing.report import FORMATS
from collapsebench.ranking.board import OVERALL
from collapsebench.scoring.results import CellResult, SuiteResults
from collapsebench.verbs.compare import compare, compare_published

ROOT = Path(__file__).parents[3]
DECLARED = {
    "pca-agreement": [Score("r2", "Agreement.", "higher", high=1)],
    "effective-dimension": [Score("at-1%", "Latents.", "lower", "latents"), Score("pca-at-1%", "Components.")],
}


def results(changes=(), datasets=("gaussian", "digits"), seeds=3):
    """Return results where conv agrees less with PCA on digits alone and needs three latents less everywhere."""
    rng, cells = np.random.default_rng(0), []
    for dataset in datasets:
        for architecture in ("linear", "conv"):
            for seed in range(seeds):
                worse = 0.3 if (architecture, dataset) == ("conv", "digits") else 0.0
                values = {
                    "pca-agreement": {"r2": 0.95 - worse + 0.01 * rng.normal()},
                    "effective-dimension": {"at-1%": 9.0 - 3 * (architecture == "conv"), "pca-at-1%": 12.0},
                }
                for (name, metric, score), value in dict(changes).items():
                    if name == architecture:
                        values[metric][score] = value
                found = {metric: Evaluation(scores) for metric, scores in values.items()}
                key = f"{dataset}-{architecture}-{seed}"
                cells.append(CellResult(key, dataset, architecture, "beta-vae", seed, "ok", evaluations=found))
    provenance = {"suite_hash": "0123456789abcdef", "collapsebench": "0.1.0", "date": "2026-01-02"}
    return SuiteResults("images", "Images", cells, DECLARED, ("pca-agreement/r2",), provenance)


def verdicts(found):
    frame = found.differences.set_index(["dataset", "score"])["verdict"]
    return {key: frame[key] for key in frame.index}


def test_it_says_who_is_better_where_and_where_that_is_not_decided():
    found = compare_architectures(results(), "conv", "linear")
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
    one = compare_architectures(results(), "conv", "linear")
    other = compare_architectures(results(), "linear", "conv")
    assert verdicts(one) == verdicts(other)
    assert np.allclose(one.differences["difference"], -other.differences["difference"])
    assert np.allclose(one.differences["low"], -other.differences["high"])


def test_the_difference_over_datasets_is_the_mean_of_theirs():
    frame = compare_architectures(results(), "conv", "linear").differences.query("score == 'r2'").set_index("dataset")
    assert frame.loc[OVERALL, "difference"] == pytest.approx(frame.drop(index=OVERALL)["difference"].mean())
    assert frame.loc[OVERALL, "n"] == 6


def test_the_difference_over_datasets_leaves_out_those_that_one_is_not_meant_for():
    skipped = {"status": "skipped", "reason": "no images", "evaluations": {}}
    given = results(datasets=("gaussian", "digits", "vectors"))
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

    made = results({("linear", "effective-dimension", "at-1%"): math.inf})
    made = replace(made, cells=[replace(cell, measurement=Measured()) for cell in made.cells])
    frame = compare_architectures(made, "conv", "linear").differences.query("score == 'at-1%'").set_index("dataset")
    assert frame.loc["digits", "second"] == math.inf
    assert frame.loc["digits", "difference"] == 6 - 17
    assert frame.loc["digits", "verdict"] == "conv"
    neither = {(name, "effective-dimension", "at-1%"): math.inf for name in ("linear", "conv")}
    assert verdicts(compare_architectures(results(neither), "conv", "linear"))["digits", "at-1%"] == "not reached"


def test_seeds_without_a_value_are_rows_that_say_so():
    made = results()
    cells = [replace(cell, status="failed", evaluations={}) if cell.dataset == "digits" and cell.seed else cell
             for cell in made.cells]  # fmt: skip
    found = compare_architectures(replace(made, cells=cells), "conv", "linear")
    frame = found.differences.set_index(["dataset", "score"])
    assert frame.loc[("digits", "r2"), "n"] == 1
    assert frame.loc[("digits", "r2"), "verdict"] == "not decided"
    assert "fewer than two seeds" in frame.loc[("digits", "r2"), "note"]


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_holds_the_same_differences(format):
    found = compare_architectures(results(), "conv", "linear")
    text = found.text(format)
    if format == "csv":
        frame = pd.read_csv(pd.io.common.StringIO(text))
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
    found = compare_architectures(results(), "conv", "linear")
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
        compare_architectures(results(), *names)
    cells = [replace(cell, status="missing", evaluations={}) for cell in results().cells]
    with pytest.raises(UserError, match=r"no run of 'conv' ended ok .found: missing.*collapsebench run images"):
        compare_architectures(replace(results(), cells=cells), "conv", "linear")


@pytest.fixture
def folders(tmp_path):
    """Two published folders, the second with another agreement of conv, and one architecture less on digits."""
    changed = results({("conv", "pca-agreement", "r2"): 0.5}, datasets=("gaussian",))
    moved = []
    for cell in changed.cells:
        value = cell.evaluations["pca-agreement"].values["r2"] + 0.001 * cell.seed
        moved.append(replace(cell, evaluations={**cell.evaluations, "pca-agreement": Evaluation({"r2": value})}))
    for name, made in (("old", results()), ("new", replace(changed, cells=moved, provenance={"git": "abc"}))):
        add_to_manifest(tmp_path / name, write_outputs(made, tmp_path / name))
    return tmp_path / "old", tmp_path / "new"


def test_two_published_folders_are_compared_by_seed_and_what_changed_is_said(folders):
    found = compare(*folders)
    frame = found.differences.set_index(["dataset", "architecture", "score"])
    assert frame.loc[("gaussian", "conv", "r2"), "verdict"] == "old"
    assert frame.loc[("gaussian", "linear", "r2"), "verdict"] == "not decided"
    assert frame.loc[("gaussian", "conv", "at-1%"), "verdict"] == "equal"
    assert frame.loc[("digits", "conv", "r2"), "verdict"] == "no value"
    assert "git: none and abc." in found.changes
    assert "Runs that ended ok: 12 of 12 and 6 of 6." in found.changes
    assert any(line.startswith("Only in old: 6 scores, of digits / beta-vae / conv") for line in found.changes)
    assert "paired by seed" in found.footer[0]


def test_folders_without_values_per_seed_are_compared_by_their_intervals(folders):
    for folder in folders:
        (folder / "tables" / "scores.csv").unlink()
    found = compare(*folders)
    frame = found.differences.set_index(["dataset", "architecture", "score"])
    assert frame.loc[("gaussian", "conv", "r2"), "verdict"] == "old"
    assert "not paired" in found.footer[0]


def test_the_published_results_of_this_project_can_be_compared():
    one, other = (read_published(ROOT / "results" / name) for name in ("worldclim-linear", "worldclim-depth"))
    found = compare_published(one, other)
    assert "The two have no score in common." in found.changes
    assert "nothing is decided" in found.summary[-1]


def test_what_is_no_published_folder_or_was_changed_is_refused(folders, tmp_path):
    with pytest.raises(DataError, match=r"nowhere: no published folder: it has no board\.csv"):
        compare(folders[0], tmp_path / "nowhere")
    with pytest.raises(UserError, match="compared with itself"):
        compare(folders[0], folders[0])
    with pytest.raises(UserError, match="found the option preset"):
        compare(*folders, preset="smoke")
    board = folders[1] / "board.csv"
    board.write_text(board.read_text().replace("gaussian", "Gaussian"))
    with pytest.raises(DataError, match=r"board\.csv: changed since it was published"):
        compare(*folders)


def test_the_command_prints_what_the_verb_returns_and_refuses_with_2(folders):
    runner = CliRunner()
    done = runner.invoke(main, ["compare", *map(str, folders)])
    assert (done.exit_code, done.output) == (0, compare(*folders).text())
    done = runner.invoke(main, ["compare", *map(str, folders), "--json"])
    assert json.loads(done.output)["first"] == "old"
    done = runner.invoke(main, ["compare", "linear", "conv"])
    assert done.exit_code == 2
    assert "or two architectures and --suite SUITE" in done.output
    assert runner.invoke(main, ["compare", "a", "b", "--standalone"]).exit_code == 2
