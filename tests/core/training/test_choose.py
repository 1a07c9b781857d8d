"""The fastest computation is found by measuring, and what a stack needs is predicted from small ones."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from flow import invoke, without, write_suite

from collapsebench.cli.main import main
from collapsebench.contracts import load_registry
from collapsebench.planning.cells import Plan, ScanName, make_plan
from collapsebench.stack.computation import COMPUTATIONS, Computation
from collapsebench.store import Store
from collapsebench.suite.resolve import Reference, load_suite
from collapsebench.training import choose
from collapsebench.training.choose import (
    choose_computation,
    fastest,
    on_threads,
    predict_memory,
    predict_seconds,
    report,
    scan_of_all_seeds,
    time_computations,
)
from collapsebench.training.memory import Footprint
from collapsebench.verbs.run import open_session

MLP, CONV = ScanName("gaussian", "mlp", "beta-vae"), ScanName("gaussian", "conv", "beta-vae")
QUICK = ("training.max_updates=16", "training.convergence.checks=4", "scan.temperatures.count=3")


def plan_of(suite: Path, store: Store, *overrides: str) -> Plan:
    return make_plan(load_suite(suite, overrides=[*QUICK, *overrides]), store, load_registry())


def chosen(plan: Plan, name: ScanName) -> tuple[str, str]:
    scan, data = scan_of_all_seeds(plan, name, "cpu"), plan.data[name.dataset]
    computation, reason = choose_computation(scan, data, load_registry(), plan.suite.compute)
    return computation.name, reason


def predicted(plan: Plan, computation: str) -> Footprint | None:
    scan, data = scan_of_all_seeds(plan, CONV, "cpu"), plan.data[CONV.dataset]
    with on_threads(plan.suite.compute.threads):
        return predict_memory(scan, data, load_registry(), COMPUTATIONS[computation])


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return plan_of(write_suite(tmp_path, without("linear")), Store(tmp_path / "store"))


def test_the_first_party_architectures_are_batched_and_what_cannot_be_built_is_left_to_the_job(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert chosen(plan, MLP) == ("kernel", "")

    def broken(*arguments: Any) -> None:
        raise ZeroDivisionError("no such layer")

    monkeypatch.setattr(choose, "build_stack", broken)
    assert chosen(plan, MLP) == ("one-by-one", "")


@pytest.fixture
def convolutions(tmp_path: Path) -> Plan:
    """A plan of the mlp and of conv encoder and decoder on 36 features that are images of 6 x 6."""
    suite = write_suite(tmp_path, without("linear"))
    plan = plan_of(suite, Store(tmp_path / "store"), "datasets.gaussian.dimension=36")
    data = plan.data["gaussian"]
    splits = {name: replace(split, values=split.values.reshape(-1, 1, 6, 6)) for name, split in data.splits.items()}
    mlp = plan.suite.architectures[0]
    conv = {
        kind: Reference(kind, "conv", "conv", {"channels": 4}, 1, "collapsebench") for kind in ("encoder", "decoder")
    }
    suite = replace(plan.suite, architectures=(mlp, replace(mlp, id="conv", **conv)))
    return replace(plan, suite=suite, data={"gaussian": replace(data, shape=(1, 6, 6), splits=splits)})


def test_what_the_kernel_does_not_cover_is_measured_in_every_way(convolutions: Plan) -> None:
    name, reason = chosen(convolutions, CONV)
    found = re.fullmatch(
        r"kernel: the encoder .*; measured with 6 replicas on \d+ threads, ms per replica-update: (.*)", reason
    )
    assert found is not None
    listed = [part.split()[0] for part in found[1].split(", ")]
    assert sorted(listed) == ["batched", "groups-on-cores", "kernel-chains", "one-by-one", "replicas-on-cores"]
    assert name in listed[:2]


def test_the_computation_that_was_measured_fastest_is_taken(
    convolutions: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        choose, "time_computations", lambda stacks, x, noise: {"groups-on-cores": 2.0, "kernel-chains": 2.1}
    )
    name, reason = chosen(convolutions, CONV)
    assert (name, reason.endswith("groups-on-cores 2, kernel-chains 2.1")) == ("groups-on-cores", True)


def test_a_computation_that_fails_when_measured_is_left_out_with_its_reason(
    convolutions: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = choose.build_stack

    def some(scan: Any, seeds: Any, computation: Computation, *arguments: Any) -> Any:
        if computation.name == "groups-on-cores":
            raise MemoryError("no room")
        return build(scan, seeds, computation, *arguments)

    monkeypatch.setattr(choose, "build_stack", some)
    name, reason = chosen(convolutions, CONV)
    assert name != "groups-on-cores"
    assert reason.endswith("; groups-on-cores: MemoryError: no room")


def test_calibration_takes_no_more_replicas_than_memory_holds_in_every_way(
    convolutions: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = predicted(convolutions, "batched")
    assert found is not None
    monkeypatch.setattr(choose, "memory_available", lambda device, limit: 5 * found.bytes(2))
    _, reason = chosen(convolutions, CONV)
    assert "measured with 2 replicas" in reason


def test_the_memory_of_one_replica_on_each_core_counts_the_activations_of_every_core(convolutions: Plan) -> None:
    found = []
    for threads in (1, 3):
        compute = convolutions.suite.compute.model_copy(update={"threads": threads})
        plan = replace(convolutions, suite=replace(convolutions.suite, compute=compute))
        found.append(predicted(plan, "replicas-on-cores"))
    alone, three = found
    assert alone is not None
    assert three is not None
    assert three.update.shared == 3 * alone.update.shared > 0
    assert (three.update.each, three.check) == (alone.update.each, alone.check)


class Sleeper:
    """A stack of two whose update takes a while."""

    def __init__(self, seconds):
        self.seconds, self.calls = seconds, 0

    def __len__(self):
        return 2

    def gradients(self, *arguments):
        self.calls += 1
        time.sleep(self.seconds)


def test_times_are_those_of_an_update_per_replica_and_the_hopeless_are_dropped():
    stacks = {"groups-on-cores": Sleeper(0.01), "batched": Sleeper(0.04)}
    times = time_computations(stacks, torch.zeros(1), None)
    assert times["groups-on-cores"] == pytest.approx(5, rel=0.5)
    assert times["batched"] == pytest.approx(20, rel=0.5)
    assert stacks["batched"].calls < stacks["groups-on-cores"].calls


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ({"batched": 1.0, "replicas-on-cores": 1.2}, "batched"),
        ({"batched": 1.0, "replicas-on-cores": 1.05}, "replicas-on-cores"),
        ({"groups-on-cores": 1.0, "replicas-on-cores": 1.05}, "groups-on-cores"),
        ({"one-by-one": 1.0, "replicas-on-cores": 1.05, "kernel-chains": 3.0}, "one-by-one"),
    ],
)
def test_the_fastest_is_taken_a_whole_stack_only_if_it_is_faster_by_a_tenth(times, expected):
    assert fastest(times) == expected


def test_the_report_names_every_computation_with_its_time_the_fastest_first():
    text = report({"batched": 7.123, "replicas-on-cores": 4.5}, 16)
    assert text.startswith("measured with 16 replicas on ")
    assert text.endswith("threads, ms per replica-update: replicas-on-cores 4.5, batched 7.12")


def test_threads_are_given_back():
    before = torch.get_num_threads()
    with on_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_a_plan_says_how_long_training_takes_at_most(tmp_path, monkeypatch):
    """Seconds of an update of a replica, times replicas, times the budget; a scan that cannot be timed counts none."""
    monkeypatch.setattr(choose, "predict_seconds", lambda plan, names, *rest: None if names[1] == "linear" else 0.5)
    shown = invoke("plan", write_suite(tmp_path), "--store", tmp_path / "store", "--json")
    said = json.loads(shown.output)
    timed = [row for row in said["plan"] if "/mlp/" in row["cell"]]
    budget = said["updates_at_most"] / said["replicas"]
    temperatures = said["replicas"] / said["to_train"]
    assert said["seconds_at_most"] == pytest.approx(0.5 * len(timed) * temperatures * budget)


def test_the_seconds_of_an_update_are_timed_on_a_stack_as_it_would_be_trained(tmp_path):
    session = open_session(write_suite(tmp_path), store=tmp_path / "store")
    planned = make_plan(session.suite, session.store, session.registry)
    found = predict_seconds(planned, MLP, "cpu", COMPUTATIONS["kernel"], session.registry, 4)
    assert found is not None
    assert 0 < found < 1
    assert predict_seconds(planned, MLP, "meta", COMPUTATIONS["kernel"], session.registry, 4) is None


def test_a_device_elsewhere_is_planned_by_small_stacks_and_operations(monkeypatch, tmp_path):
    """Twice the updates take twice the time; memory is predicted."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    said = []
    for updates in (100, 200):
        arguments = ["plan", "gpu-sweep", "--preset", "smoke", "--set", 'compute.device="cuda"', "--json"]
        arguments += ["--set", f"training.max_updates={updates}", "--store", str(tmp_path / "store")]
        ended = CliRunner().invoke(main, arguments, catch_exceptions=False)
        said.append(json.loads(ended.output))
    assert said[1]["seconds_at_most"] == pytest.approx(2 * said[0]["seconds_at_most"])
    assert said[0]["device"] == "cuda"
    assert all(stack["predicted_bytes"] > 0 and stack["available_bytes"] is None for stack in said[0]["stacks"])
