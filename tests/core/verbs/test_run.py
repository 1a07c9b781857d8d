"""The verbs of the command line as functions, which return frames and frozen values."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from flow import boards, invoke, stamps, weights, without, write_suite

import collapsebench
import collapsebench.training.choose as choose
from collapsebench.contracts import Progress
from collapsebench.errors import UserError
from collapsebench.planning.cells import make_plan
from collapsebench.planning.jobs import frozen_computations
from collapsebench.ranking.board import COLUMNS
from collapsebench.verbs.run import Outcome, Session, explain, open_session, plan_jobs, prepare_session

QUICK = ("training.max_updates=16", "scan.temperatures.count=3")


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """What a run of the tiny suite leaves; its store is not to be changed."""
    folder = tmp_path_factory.mktemp("run")
    return collapsebench.run(write_suite(folder), store=folder / "store", overrides=QUICK)


@pytest.fixture
def suite(outcome: Outcome, tmp_path: Path) -> Path:
    """The suite beside a copy of the store that it was run with, called `store`."""
    shutil.copytree(store_of(outcome), tmp_path / "store")
    return write_suite(tmp_path)


def store_of(outcome: Outcome) -> Path:
    return outcome.folder.parents[1]


def options(suite: Path, *overrides: str, **others: Any) -> dict[str, Any]:
    return {"store": suite.with_name("store"), "overrides": [*QUICK, *overrides], **others}


def test_run_returns_the_board_with_the_columns_that_readers_rely_on(outcome: Outcome) -> None:
    assert isinstance(outcome.board, pd.DataFrame)
    assert list(outcome.board) == list(COLUMNS)
    assert len(outcome.board.columns) == 13
    assert set(outcome.board["n_ok"]) == {2}
    assert set(outcome.board["n_planned"]) == {2}
    assert outcome.ok
    assert (outcome.folder / "board.csv").read_text() == outcome.text("csv")
    assert "<table" in outcome._repr_html_()


def test_what_an_interrupted_run_froze_keeps_its_computation_and_is_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = write_suite(tmp_path)
    session = open_session(suite, **options(suite, "compute.path='groups-on-cores'"))
    current = make_plan(session.suite, session.store, session.registry)
    frozen = plan_jobs(session, current)
    assert {*frozen_computations(session.store).values()} == {"groups-on-cores"}

    def measure(*arguments: Any) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(choose, "choose_computation", measure)
    assert sorted(plan_jobs(session, current)) == sorted(frozen)
    done = invoke("plan", suite, "--store", session.store.root, "--json", *sets(*QUICK))
    assert {row["computation"] for row in json.loads(done.output)["plan"]} == {"groups-on-cores"}


def sets(*overrides: str) -> list[str]:
    return [part for override in overrides for part in ("--set", override)]


def test_every_planned_cell_has_a_status(outcome: Outcome) -> None:
    assert list(outcome.statuses["status"]) == ["ok"] * 4
    assert list(outcome.statuses["architecture"]) == ["linear", "linear", "mlp", "mlp"]


def test_what_is_written_is_whole_and_where_the_outcome_says(outcome: Outcome) -> None:
    names = {path.name for path in outcome.folder.iterdir()}
    assert names == {
        "board.txt", "board.md", "board.csv", "board.json", "board.tex", "board.html", "ranking.csv", "cells.csv",
        "tables", "figures", "data", "index.html", "provenance.json", "manifest.json",
    }  # fmt: skip
    assert outcome.figures
    assert all(path.stat().st_size > 0 for path in outcome.figures)


def test_an_unknown_format_is_refused_with_the_legal_ones(outcome: Outcome) -> None:
    with pytest.raises(UserError, match=r"'yaml' is unknown.*text, md, csv, json"):
        outcome.text("yaml")


@pytest.mark.usefixtures("no_figures")
def test_running_again_trains_nothing_and_gives_the_same_board(suite: Path) -> None:
    before, board = stamps(suite.parent, "store/cells/*/*/*"), boards(suite.with_name("store"))
    seen: list[Progress] = []
    again = collapsebench.run(suite, report=lambda name, progress: seen.append(progress), **options(suite))
    assert again.ok
    assert seen == []
    assert stamps(suite.parent, "store/cells/*/*/*") == before
    assert boards(suite.with_name("store")) == board


@pytest.mark.usefixtures("no_figures")
def test_a_new_seed_trains_that_seed_alone(suite: Path) -> None:
    before = stamps(suite.with_name("store"), "cells/*/*/weights.safetensors")
    seen: list[tuple[str, int]] = []
    outcome = collapsebench.run(
        suite, report=lambda name, progress: seen.append((name, progress.replicas)), **options(suite, seeds=3)
    )
    assert {replicas for _, replicas in seen} == {3}
    after = stamps(suite.with_name("store"), "cells/*/*/weights.safetensors")
    assert before.items() < after.items()
    assert len(after) == 6
    assert set(outcome.board["n_ok"]) == {3}


@pytest.mark.usefixtures("no_figures")
def test_a_suite_run_twice_gives_the_same_weights_boards_and_tables(outcome: Outcome, tmp_path: Path) -> None:
    again = collapsebench.run(write_suite(tmp_path), store=tmp_path / "fresh", overrides=QUICK)
    assert boards(tmp_path / "fresh") == boards(store_of(outcome))
    assert len(boards(tmp_path / "fresh")) >= 3
    assert weights(tmp_path / "fresh") == weights(store_of(outcome))
    pd.testing.assert_frame_equal(again.board, outcome.board)


@pytest.mark.usefixtures("no_figures")
def test_plan_score_and_board_are_the_later_stages_alone(suite: Path, outcome: Outcome) -> None:
    plan = collapsebench.plan(suite, **options(suite))
    assert [cell.status for cell in plan.cells] == ["ok"] * 4
    assert plan.missing == []
    pd.testing.assert_frame_equal(collapsebench.score(suite, **options(suite)).board, outcome.board)
    pd.testing.assert_frame_equal(collapsebench.board(suite, **options(suite)), outcome.board)


def explained(suite: Path, *overrides: str) -> dict[str, str]:
    session = open_session(suite, **options(suite, *overrides))
    plan = collapsebench.plan(suite, **options(suite, *overrides))
    return {cell.name: explain(session, cell) for cell in plan.cells}


def test_explain_names_the_field_that_differs_from_the_nearest_cell(suite: Path) -> None:
    found = explained(suite, "architectures.mlp.encoder.width=16")
    done, new = found["gaussian/linear/beta-vae/0"], found["gaussian/mlp/beta-vae/0"]
    assert "a run would not train it again" in done
    assert "differs from the nearest stored cell" in new
    assert "encoder.parameters.width: 16 here, 8 there" in new
    assert len(new.splitlines()) == 2


def test_explain_of_an_empty_store_says_that_there_is_nothing_to_compare_with(tmp_path: Path) -> None:
    texts = explained(write_suite(tmp_path))
    assert all("never trained, and the store holds nothing" in text for text in texts.values())


def test_a_cell_that_is_skipped_is_explained_in_one_sentence_and_shown_without_a_traceback(tmp_path: Path) -> None:
    text = without("linear").replace('use = "mlp", depth = 1, width = 8', 'use = "conv"')
    suite = write_suite(tmp_path, text.replace("seeds = 2", "seeds = 1"))
    assert collapsebench.run(suite, **options(suite)).ok
    (found,) = explained(suite).values()
    assert found.endswith("residual-mlp, linear. A run would ask again whether it takes the samples.")
    shown = invoke("status", suite, "--store", suite.with_name("store"), *(f"--set={key}" for key in QUICK)).output
    assert "samples have shape (4,), expected images" in shown
    assert "Traceback" not in shown


def test_every_dataset_is_prepared_and_those_that_cannot_be_say_why(suite: Path) -> None:
    suite.write_text(suite.read_text() + '[[datasets]]\nuse = "worldclim"\npath = "nowhere.zip"\n')
    said: list[str] = []
    failures = prepare_session(open_session(suite, **options(suite)), said.append)
    assert failures.keys() == {"worldclim"}
    assert "nowhere.zip" in str(failures["worldclim"])
    assert said == ["preparing worldclim"]


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match=rf"compute\.device: '{device}' is not available.*available: cpu\. Choose one"):
        collapsebench.run(write_suite(tmp_path), store=tmp_path / "store", device=device)
    assert not (tmp_path / "store").exists()


def test_auto_is_the_cpu_where_there_is_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    session: Session = open_session(write_suite(tmp_path), device="auto", store=tmp_path / "store")
    assert session.device == "cpu"


@pytest.mark.usefixtures("no_figures")
def test_a_run_outside_of_the_main_thread_works_without_signals(suite: Path) -> None:
    found: list[Outcome] = []
    thread = threading.Thread(target=lambda: found.append(collapsebench.score(suite, **options(suite))))
    thread.start()
    thread.join()
    assert found[0].ok


def test_the_store_s_own_place_is_in_none_of_its_data(outcome: Outcome) -> None:
    place = str(store_of(outcome)).encode()
    holding = [path for path in store_of(outcome).rglob("*") if path.is_file() and place in path.read_bytes()]
    assert holding == []
