"""An interrupted run continues where it was and ends with the same bytes; nothing finished is ever done again."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from flow import (
    TINY,
    boards,
    command,
    invoke,
    records,
    stamps,
    start,
    weights,
    without,
    without_figures,
    write_suite,
)

pytestmark = pytest.mark.usefixtures("no_figures")

LONG = (
    TINY.replace("max_updates = 60", "max_updates = 400\ncheckpoint_every_seconds = 0.02")
    .replace("checks = 4", "checks = 16")
    .replace('id = "mlp"', 'id = "mlp"\nprotocol = "exchange"')
    .replace("cost_samples = 256", "cost_samples = 1024")
    .replace("samples = 64\ncost", "samples = 1024\ncost")
)
CHECK_EVERY = 25
PATIENCE = 120.0


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a run that nobody interrupted."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    with without_figures():
        done = invoke("run", write_suite(folder, LONG), "--store", folder / "store")
    assert done.exit_code == 0, done.output
    return folder / "store"


@pytest.fixture
def running(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A run in a process of its own that is in the middle of its second job."""
    process = start("run", write_suite(tmp_path, LONG), "--store", tmp_path / "store")
    try:
        deadline = time.monotonic() + PATIENCE
        while update_of_second_job(tmp_path / "store") < 2 * CHECK_EVERY:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield process
    finally:
        process.kill()
        process.communicate()


def update_of_second_job(store: Path) -> int:
    """Return the update of the last checkpoint of the mlp's job, 0 while there is none."""
    from safetensors import safe_open

    for path in store.glob("jobs/*.safetensors"):
        try:
            job = json.loads(path.with_suffix(".json").read_text())
            with safe_open(path, framework="np") as file:
                update = int(json.loads(file.metadata()["meta"])["update"])
        except FileNotFoundError:
            continue
        if job["scan"]["encoder"]["use"].endswith("mlp"):
            return update
    return 0


def takeovers(store: Path) -> int:
    """Return how many times a replica continued from the weights of another one."""
    logs = [pd.read_parquet(path) for path in store.glob("cells/??/*/log.parquet")]
    return sum(int(log["taken_from"].notna().sum()) for log in logs if "taken_from" in log)


def first_update(stderr: str, job: str) -> int:
    """Return the first update that a job reported."""
    found = re.search(rf"^{job}: .* update (\d+)/400", stderr, re.MULTILINE)
    assert found, stderr
    return int(found[1])


def hold(folder: Path, uninterrupted: Path, again: Callable[..., tuple[int, str]]) -> None:
    """Give the same command again, and hold what comes out against a run that nobody interrupted."""
    store = folder / "store"
    finished = stamps(store)
    assert {name.split("/")[0] for name in records(store)} == {"linear"}
    kept = update_of_second_job(store)
    assert kept >= 2 * CHECK_EVERY

    code, stderr = again("run", folder / "tiny.toml", "--store", store)

    assert code == 0, stderr
    assert "4 cells: 2 done, 2 to train in 1 jobs" in stderr
    assert "gaussian/linear/beta-vae:" not in stderr
    assert kept < first_update(stderr, "gaussian/mlp/beta-vae") <= kept + CHECK_EVERY
    assert finished.items() < stamps(store).items()
    assert boards(store) == boards(uninterrupted)
    assert weights(store) == weights(uninterrupted)
    assert takeovers(store) == takeovers(uninterrupted) > 0
    assert list((store / "jobs").iterdir()) == []


def in_a_process(*arguments: Any) -> tuple[int, str]:
    done = command(*arguments)
    return done.returncode, done.stderr


def in_this_process(*arguments: Any) -> tuple[int, str]:
    done = invoke(*arguments)
    return done.exit_code, done.stderr


def test_a_run_killed_in_its_second_job_continues_from_the_checkpoint_and_ends_the_same(
    running: subprocess.Popen[str], tmp_path: Path, uninterrupted: Path
) -> None:
    running.kill()
    assert running.wait(PATIENCE) == -signal.SIGKILL
    hold(tmp_path, uninterrupted, in_a_process)


def test_ctrl_c_exits_with_130_after_a_checkpoint_and_the_run_ends_the_same(
    running: subprocess.Popen[str], tmp_path: Path, uninterrupted: Path
) -> None:
    running.send_signal(signal.SIGINT)
    _, stderr = running.communicate(timeout=PATIENCE)
    assert running.returncode == 130
    assert stderr.splitlines()[-1] == "interrupted"
    assert "Traceback" not in stderr
    hold(tmp_path, uninterrupted, in_this_process)


def test_out_of_time_is_a_row_and_the_same_command_goes_on_from_there(tmp_path: Path) -> None:
    path, store = write_suite(tmp_path, without("linear", LONG)), tmp_path / "store"
    limited = ("run", path, "--store", store, "--set", "compute.time_limit=1e-3")
    for _ in range(2):
        before = update_of_second_job(store)
        done = invoke(*limited)
        assert done.exit_code == 1
        assert update_of_second_job(store) > before
        assert "timeout:" in done.stdout
        assert f"{update_of_second_job(store)} of 400 updates done when the time limit passed" in done.stdout
        assert {record["status"] for record in records(store).values()} == {"timeout"}


def test_with_more_time_a_run_that_had_too_little_continues_and_ends_the_same(
    tmp_path: Path, uninterrupted: Path
) -> None:
    path, store = write_suite(tmp_path, without("linear", LONG)), tmp_path / "store"
    assert invoke("run", path, "--store", store, "--set", "compute.time_limit=0.05").exit_code == 1
    kept = update_of_second_job(store)
    done = invoke("run", path, "--store", store)
    assert done.exit_code == 0, done.output
    assert first_update(done.stderr, "gaussian/mlp/beta-vae") > kept
    assert weights(store).items() < weights(uninterrupted).items()


def test_a_new_metric_is_scored_without_training(ran: Path) -> None:
    store = ran / "store"
    before = stamps(store, "cells/*/*/*.*")
    done = invoke(
        "score", ran / "tiny.toml", "--store", store, "--set", 'metrics=["effective-dimension", "exponent-fit"]'
    )
    assert done.exit_code == 0, done.output
    assert stamps(store, "cells/*/*/*.*") == before
    assert "exponent-fit" in (store / "suites/tiny/board.csv").read_text()


def test_a_new_seed_trains_that_seed_alone(ran: Path) -> None:
    store = ran / "store"
    before = stamps(store)
    done = invoke("run", ran / "tiny.toml", "--store", store, "--seeds", 3)
    assert done.exit_code == 0, done.output
    assert "6 cells: 4 done, 2 to train in 2 jobs" in done.stderr
    assert before.items() < stamps(store).items()
    assert records(store).keys() == {f"{name}/{seed}" for name in ("linear", "mlp") for seed in range(3)}


def test_a_changed_parameter_is_named_and_what_changes_no_number_trains_nothing(ran: Path) -> None:
    where = (ran / "tiny.toml", "--store", ran / "store")
    changed = invoke("explain", *where, "gaussian/mlp/beta-vae/0", "--set", "architectures.mlp.encoder.width=16")
    assert changed.exit_code == 0
    assert "encoder.parameters.width: 16 here, 8 there" in changed.stdout
    for override in ('title="Other"', "training.checkpoint_every_seconds=1.0", "compute.threads=2"):
        same = json.loads(invoke("plan", *where, "--json", "--set", override).stdout)
        assert same["to_train"] == 0, override


def test_a_store_that_was_moved_has_the_same_status_and_trains_nothing(ran: Path) -> None:
    before = invoke("status", ran / "tiny.toml", "--store", ran / "store", "--json")
    (ran / "store").rename(ran / "elsewhere")
    after = invoke("status", ran / "tiny.toml", "--store", ran / "elsewhere", "--json")
    assert after.stdout == before.stdout
    assert {row["status"] for row in json.loads(after.stdout)} == {"ok"}
    stamped, board = stamps(ran / "elsewhere"), boards(ran / "elsewhere")
    assert invoke("run", ran / "tiny.toml", "--store", ran / "elsewhere").exit_code == 0
    assert (stamps(ran / "elsewhere"), boards(ran / "elsewhere")) == (stamped, board)


def test_damaged_weights_end_in_a_row_that_names_the_file_and_exit_code_1(ran: Path) -> None:
    path = sorted((ran / "store").glob("cells/*/*/weights.safetensors"))[0]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    done = invoke("run", ran / "tiny.toml", "--store", ran / "store", "--set", 'metrics=["equilibrium"]')
    assert done.exit_code == 1
    text = " ".join(done.stdout.split())
    assert "the metric failed: equilibrium:" in text
    assert "SHA-256" in text
    assert path.parent.name in "".join(done.stdout.split())
