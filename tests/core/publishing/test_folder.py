"""A published folder names every file of its own; writing and copying leave no old one and take no other's."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace

import pytest
from flow import digests

from collapsebench.errors import UserError
from collapsebench.publishing.bundle import read_bundle
from collapsebench.publishing.folder import copy_outputs, read_published, values, write_everything, write_outputs
from collapsebench.verbs.run import publish


def test_the_manifest_names_every_file_and_files_of_before_are_gone(results, published, tmp_path):
    folder = tmp_path / "bundle"
    shutil.copytree(published, folder)
    (folder / "notes.txt").write_text("mine")
    one = replace(results, cells=[replace(results.cells[2])])
    write_everything(one, folder)
    listed = set(json.loads((folder / "manifest.json").read_text()))
    assert {*digests(folder)} == {*listed, "manifest.json", "notes.txt"}
    assert not list(folder.glob("figures/*.pdf"))
    assert read_bundle(folder).cells[0].reason == results.cells[2].reason


def test_a_copy_leaves_nothing_of_an_earlier_copy_behind(results, published, tmp_path):
    one = tmp_path / "one"
    write_everything(replace(results, cells=results.cells[2:]), one)
    folder = tmp_path / "copy"
    copy_outputs(published, folder)
    (folder / "notes.txt").write_text("mine")
    copy_outputs(one, folder)
    (folder / "notes.txt").unlink()
    assert digests(folder) == digests(one)


def test_a_manifest_removes_nothing_outside_its_folder(results, tmp_path):
    folder = tmp_path / "bundle"
    folder.mkdir()
    (tmp_path / "mine.txt").write_text("mine")
    outside = ["../mine.txt", str(tmp_path / "mine.txt")]
    (folder / "manifest.json").write_text(json.dumps(dict.fromkeys(outside, "")))
    write_everything(replace(results, cells=results.cells[2:]), folder)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_the_table_of_required_ranks_is_written_beside_the_others(results, tmp_path):
    names = {path.relative_to(tmp_path).as_posix() for path in write_outputs(results, tmp_path)}
    assert {"tables/required-rank.csv", "tables/required-rank.md"} <= names
    assert (tmp_path / "tables" / "required-rank.md").read_text(encoding="utf-8").startswith("# Required rank\n")


@pytest.fixture(scope="module")
def lean(published, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lean")
    publish(published, folder, lean=True)
    return folder


def test_a_lean_folder_says_nothing_twice_and_brings_back_all_that_it_leaves_out(published, lean, tmp_path):
    left_out = digests(published).keys() - digests(lean).keys()
    assert left_out
    for name in left_out:
        assert name == "board.json" or name.endswith(".pdf") or (name.startswith("tables/") and name.endswith(".csv"))
    size = {
        folder: sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) for folder in (published, lean)
    }
    assert size[lean] < 0.7 * size[published]
    publish(lean, tmp_path / "whole")
    assert digests(tmp_path / "whole") == digests(published)
    publish(tmp_path / "whole", tmp_path / "lean", lean=True)
    assert digests(tmp_path / "lean") == digests(lean)


def test_the_page_of_a_lean_folder_links_what_is_there(lean):
    page = (lean / "index.html").read_text(encoding="utf-8")
    linked = re.findall(r'href="([^"#:]+)"', page)
    assert linked
    for name in linked:
        assert (lean / name).is_file(), name


def test_a_comparison_reads_the_same_values_from_a_lean_folder(published, lean):
    one, other = (values(read_published(folder)) for folder in (published, lean))
    assert one.keys() == other.keys()
    for row, of_seeds in one.items():
        assert other[row] == pytest.approx(of_seeds, rel=1e-12, nan_ok=True)


def test_only_the_figures_that_were_asked_for_are_drawn(published, tmp_path):
    outcome = publish(published, tmp_path, lean=True, figures=["signal-fraction"])
    assert {path.suffix for path in outcome.figures} == {".png", ".json"}
    assert all(path.name.startswith(("signal-fraction-", "captions")) for path in outcome.figures)


def test_a_figure_that_does_not_exist_is_refused_before_anything_is_written(published, tmp_path):
    with pytest.raises(UserError, match=r"there is no figure 'signal'\. Expected some of signal-fraction, moments"):
        publish(published, tmp_path / "folder", figures=["signal"])
    assert not (tmp_path / "folder").exists()
