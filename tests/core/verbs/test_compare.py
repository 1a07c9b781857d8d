"""compare: two published folders, paired by seed where both have the values, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from scored_results import compared_suite

from collapsebench import DataError, Evaluation, UserError
from collapsebench.cli.main import main
from collapsebench.publishing.folder import add_to_manifest, read_published, write_outputs
from collapsebench.verbs.compare import compare, compare_published

ROOT = Path(__file__).parents[3]


@pytest.fixture
def folders(tmp_path):
    """Two published folders, the second with another agreement of conv, and one architecture less on digits."""
    changed = compared_suite({("conv", "pca-agreement", "r2"): 0.5}, datasets=("gaussian",))
    moved = []
    for cell in changed.cells:
        value = cell.evaluations["pca-agreement"].values["r2"] + 0.001 * cell.seed
        moved.append(replace(cell, evaluations={**cell.evaluations, "pca-agreement": Evaluation({"r2": value})}))
    for name, made in (("old", compared_suite()), ("new", replace(changed, cells=moved, provenance={"git": "abc"}))):
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
