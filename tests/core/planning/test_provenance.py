"""The commands that a published folder carries give it again, and tell nothing of the machine they ran on."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from itertools import pairwise

import pytest
from flow import invoke, write_suite

import collapsebench
from collapsebench.planning.provenance import commands
from collapsebench.publishing.bundle import read_bundle
from collapsebench.publishing.folder import write_everything
from collapsebench.suite.resolve import load_suite

HOME = "/home/somebody/data"
QUICK = ("training.max_updates=16", "scan.temperatures.count=3")


def resolved(command: str):
    """Return the suite that a command asks for."""
    _, _, name, *words = shlex.split(command)
    given = list(pairwise(words))
    overrides = [value for option, value in given if option == "--set"]
    return load_suite(name, preset=dict(given).get("--preset"), overrides=overrides)


def test_the_commands_of_a_shipped_suite_ask_for_the_same_suite():
    overrides = [
        'datasets.worldclim.version="1.4"',
        "scan.temperatures.count=5",
        f"datasets.worldclim.path={HOME}/a.zip",
    ]
    suite = load_suite("worldclim-depth", preset="cpu", overrides=overrides, seeds=[0, 2])
    run, publish = commands(suite)
    assert run == (
        "collapsebench run worldclim-depth --preset cpu --set 'datasets.worldclim.version=\"1.4\"' --set "
        "scan.temperatures.count=5 --set datasets.worldclim.path=PATH --set 'seeds=[0, 2]'"
    )
    assert publish == f"{run.replace(' run ', ' publish ')} FOLDER"
    assert resolved(run).suite_hash == suite.suite_hash
    assert load_suite("worldclim-depth").suite_hash != suite.suite_hash


def test_a_plain_run_is_a_plain_command_and_a_file_is_named_without_its_folder(tmp_path):
    assert commands(load_suite("quickstart"))[0] == "collapsebench run quickstart"
    assert commands(load_suite(write_suite(tmp_path, name="my suite")))[0] == "collapsebench run 'my suite.toml'"
    assert commands(replace(load_suite("quickstart"), path=None)) == []


@pytest.mark.parametrize(
    ("override", "published"),
    [
        (f"datasets.own.path={HOME}/t.csv", "datasets.own.path=PATH"),
        (f'datasets.own.path = "{HOME}/t.csv"', "datasets.own.path =PATH"),
        ("datasets.own.path=t.csv", "datasets.own.path=PATH"),
        ("datasets.own.path=~/t.csv", "datasets.own.path=PATH"),
        (f'datasets.own={{use="table", path="{HOME}/t.csv"}}', 'datasets.own={use="table", path="PATH"}'),
        (f"datasets=[{{use='table', path='{HOME}/t.csv'}}]", "datasets=[{use='table', path='PATH'}]"),
        ('datasets.own={use="table", path="C:\\\\t.csv"}', 'datasets.own={use="table", path="PATH"}'),
        ('datasets.own={use="table", path="\\u002fhome/t.csv"}', "datasets.own=VALUE"),
        (f"title={HOME}", "title=PATH"),
        ('datasets.own.columns=["a", "b"]', 'datasets.own.columns=["a", "b"]'),
    ],
)
def test_what_lies_on_one_machine_only_is_named_and_not_told(override, published, tmp_path):
    text = (
        write_suite(tmp_path)
        .read_text()
        .replace(
            'use = "gaussian"\ndimension = 4\nsamples = 64\nevaluation_samples = 64',
            'id = "own"\nuse = "table"\npath = "x.csv"',
        )
    )
    run, _ = commands(load_suite(write_suite(tmp_path, text, "own"), overrides=[override]))
    assert shlex.split(run)[-1] == published


@pytest.mark.usefixtures("no_figures")
def test_a_published_folder_carries_its_commands_in_every_form_for_people(tmp_path):
    suite = write_suite(tmp_path)
    options = {"store": tmp_path / "store", "overrides": QUICK}
    collapsebench.run(suite, **options)
    folder = collapsebench.publish(suite, tmp_path / "published", **options).folder
    about = json.loads((folder / "provenance.json").read_text())["provenance"]
    run = "collapsebench run tiny.toml --set training.max_updates=16 --set scan.temperatures.count=3"
    assert about["commands"] == [run, f"{run.replace(' run ', ' publish ')} FOLDER"]
    assert about["ward_tolerance"] == 0.01
    assert 'data-kind="ward" data-reference="0.01"' in (folder / "index.html").read_text()
    for name in ("board.txt", "board.md", "board.html", "index.html"):
        text = " ".join((folder / name).read_text().replace("\\", "").split())
        assert run in text
        assert str(tmp_path) not in text
    assert "training.max\\_updates=16" in (folder / "board.tex").read_text()
    again = invoke("run", suite, "--store", tmp_path / "again", *shlex.split(run)[3:])
    assert again.exit_code == 0
    assert (tmp_path / "again/suites/tiny/board.csv").read_bytes() == (folder / "board.csv").read_bytes()


@pytest.mark.usefixtures("no_figures")
def test_a_folder_that_was_published_without_commands_still_opens_and_names_none(tmp_path):
    suite = write_suite(tmp_path)
    results = collapsebench.run(suite, store=tmp_path / "store", overrides=QUICK).results
    old = replace(
        results, provenance={k: v for k, v in results.provenance.items() if k not in ("commands", "ward_tolerance")}
    )
    write_everything(old, tmp_path / "old")
    assert read_bundle(tmp_path / "old").provenance == old.provenance
    collapsebench.publish(tmp_path / "old", tmp_path / "again")
    for name in ("board.md", "index.html"):
        text = (tmp_path / "again" / name).read_text()
        assert text == (tmp_path / "old" / name).read_text()
        assert "collapsebench run" not in text
