"""A published folder names every file of its own; writing and copying leave no old one and take no other's."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

from flow import digests

from collapsebench.publishing.bundle import read_bundle
from collapsebench.publishing.folder import copy_outputs, write_everything, write_outputs


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
