"""What a newcomer does first: look, run, run again, use it from Python."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from flow import SCRIPT, boards, digests, environment, invoke, script, weights
from warmed import python

from collapsebench.publishing.board_report import read_board
from collapsebench.ranking.board import COLUMNS, FOOTER, QUESTION, RANKS

ORACLE = """
import sys
import collapsebench
assert not {"torch", "pandas", "numpy"} & set(sys.modules)
found = collapsebench.oracle([[0.75, 0.0], [0.0, 0.25]], [0.5, 0.1])
print(found.signal_fraction.round(6).tolist())
"""
RUN = """
import sys
import collapsebench
outcome = collapsebench.run(sys.argv[1], store=sys.argv[2])
print(type(outcome.board).__name__, len(outcome.board.columns), outcome.ok)
"""


def listing(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_help_takes_less_than_half_a_second() -> None:
    def seconds() -> float:
        start = time.perf_counter()
        subprocess.run([str(SCRIPT), "--help"], capture_output=True, check=True, env=environment())
        return time.perf_counter() - start

    assert statistics.median(seconds() for _ in range(5)) < 0.5


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["check", "quickstart"]], ids=" ".join)
def test_looking_imports_neither_torch_nor_pandas_nor_scikit_learn(arguments: list[str]) -> None:
    done = script(*arguments, PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "click" in imported
    assert not {"torch", "pandas", "sklearn"} & imported


def test_from_python_the_oracle_and_a_run_need_nothing_but_the_import(run_once: Path, tmp_path: Path) -> None:
    oracle = subprocess.run(
        [sys.executable, "-c", ORACLE], capture_output=True, text=True, env=environment(), check=False
    )
    assert oracle.returncode == 0, oracle.stderr
    assert oracle.stdout.splitlines() == ["[[0.333333, 0.0], [0.866667, 0.6]]"]
    done = python(RUN, run_once / "tiny.toml", tmp_path / "store")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["DataFrame 13 True"]
    assert boards(tmp_path / "store") == boards(run_once / "store")


@pytest.mark.usefixtures("no_figures")
def test_two_runs_in_fresh_stores_leave_the_same_bytes(run_once: Path, folder: Path) -> None:
    assert invoke("run", folder / "tiny.toml", "--store", folder / "store").exit_code == 0
    assert boards(folder / "store") == boards(run_once / "store")
    assert boards(folder / "store").keys() >= {"board.csv", "board.json", "tables/effective-dimension.csv"}
    assert weights(folder / "store") == weights(run_once / "store")


def test_a_run_leaves_a_board_in_every_format_and_says_where(run_once: Path) -> None:
    outputs = run_once / "store/suites/tiny"
    board = read_board((outputs / "board.csv").read_text())
    assert list(board) == [*COLUMNS, *RANKS, *FOOTER, *QUESTION]
    assert set(board["architecture"]) == {"linear", "mlp"}
    records = json.loads((outputs / "board.json").read_text())
    assert [list(record) for record in records] == [list(board)] * len(board)
    assert list(pd.read_csv(outputs / "cells.csv")["status"]) == ["ok"] * 4
    assert "linear" in (outputs / "board.md").read_text()


@pytest.mark.parametrize("arguments", [["run", "--dry-run"], ["plan"], ["plan", "--json"], ["status"], ["explain"]])
def test_looking_at_what_would_run_writes_nothing(folder: Path, arguments: list[str]) -> None:
    before = listing(folder)
    verb, *options = arguments
    done = invoke(verb, folder / "tiny.toml", "--store", folder / "store", *options)
    assert done.exit_code == 0, done.output
    assert listing(folder) == before
    assert "gaussian/mlp/beta-vae/1" in done.stdout


def test_a_dry_run_says_what_would_be_trained(folder: Path) -> None:
    done = invoke("run", folder / "tiny.toml", "--store", folder / "store", "--dry-run")
    assert "4 cells, 4 to train: 16 replicas, at most 60 updates each, on cpu. Nothing was written." in done.stdout


@pytest.mark.usefixtures("no_figures")
def test_strict_turns_a_replica_that_did_not_converge_into_exit_code_1(ran: Path) -> None:
    run = ("run", ran / "tiny.toml", "--store", ran / "store")
    assert invoke(*run).exit_code == 0
    assert invoke(*run, "--strict").exit_code == 1


@pytest.mark.usefixtures("no_figures")
def test_strict_is_content_where_every_replica_converged(folder: Path) -> None:
    tolerant = [
        "training.convergence.ward_residual=100.0", "training.convergence.edge_tolerance=100.0",
        "training.convergence.drift=100.0", "training.convergence.relative_tolerance=1.0",
        "training.convergence.predicted_decrease=100.0", "training.convergence.trial_decrease=100.0",
        "training.convergence.envelope_gap=100.0", "training.convergence.threshold_shift=100.0",
    ]  # fmt: skip
    options = [part for override in tolerant for part in ("--set", override)]
    done = invoke("run", folder / "tiny.toml", "--store", folder / "store", "--strict", *options)
    assert done.exit_code == 0, done.output
    marks = [row["converged"] for row in json.loads(status(folder, *options))]
    assert marks == ["4/4"] * 4


def status(folder: Path, *options: str) -> str:
    return invoke("status", folder / "tiny.toml", "--store", folder / "store", "--json", *options).stdout


def test_publish_copies_everything_with_the_hash_of_every_file(ran: Path) -> None:
    done = invoke("publish", ran / "tiny.toml", ran / "published", "--store", ran / "store")
    assert done.exit_code == 0, done.output
    hashes = json.loads((ran / "published/manifest.json").read_text())
    files = {path for path in listing(ran / "published") if (ran / "published" / path).is_file()}
    assert files == {*hashes, "manifest.json"}
    assert {"board.csv", "provenance.json", "cells.csv"} <= hashes.keys()


def test_what_was_published_makes_itself_again_when_the_store_is_gone(ran: Path) -> None:
    assert invoke("publish", ran / "tiny.toml", ran / "published", "--store", ran / "store").exit_code == 0
    shutil.rmtree(ran / "store")
    (ran / "tiny.toml").unlink()
    done = invoke("publish", ran / "published", ran / "again")
    assert done.exit_code == 0, done.output
    assert digests(ran / "again") == digests(ran / "published")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_shipped_quickstart_comes_to_rest_lands_on_pca_and_beats_it_on_arcs_alone(tmp_path: Path) -> None:
    done = script("run", "quickstart", "--store", tmp_path / "store")
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "On arcs, effective-dimension/at-10%: mlp needs 2 latents where PCA needs 4; linear and mlp-linear" in said
    assert "On gaussian, effective-dimension/at-10%: none of linear, mlp and mlp-linear needs decidedly fewer" in said
    board = read_board((tmp_path / "store/suites/quickstart/board.csv").read_text())
    assert set(board["n_planned"]) == {4}
    shares = board.groupby("architecture")["converged_share"].mean()
    assert shares["linear"] >= 0.95
    assert shares["mlp-linear"] >= 0.95
    assert shares["mlp"] >= 0.9
    name = (board["dataset"] == "gaussian") & (board["architecture"] == "linear")
    r2 = board[name & (board["metric"] == "pca-agreement") & (board["score"] == "threshold-identity-r2")]
    assert float(r2["value"].iloc[0]) > 0.99
