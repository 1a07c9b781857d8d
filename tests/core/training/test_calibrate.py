"""The fastest path is found by measuring, recorded, and not measured where it is known."""

from __future__ import annotations

import time

import pytest
import torch

from collapsebench.training.calibrate import fastest, on_threads, report, time_paths


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
    stacks = {"grouped": Sleeper(0.01), "batched": Sleeper(0.04)}
    times = time_paths(stacks, torch.zeros(1), None)
    assert times["grouped"] == pytest.approx(5, rel=0.5)
    assert times["batched"] == pytest.approx(20, rel=0.5)
    assert stacks["batched"].calls < stacks["grouped"].calls


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ({"batched": 1.0, "side-by-side": 1.2}, "batched"),
        ({"batched": 1.0, "side-by-side": 1.05}, "side-by-side"),
        ({"grouped": 1.0, "side-by-side": 1.05}, "grouped"),
        ({"one-by-one": 1.0, "side-by-side": 1.05, "chained": 3.0}, "one-by-one"),
    ],
)
def test_the_fastest_path_is_taken_a_whole_stack_only_if_it_is_faster_by_a_tenth(times, expected):
    assert fastest(times) == expected


def test_the_report_names_every_path_with_its_time_the_fastest_first():
    text = report({"batched": 7.123, "side-by-side": 4.5}, 16)
    assert text.startswith("measured with 16 replicas on ")
    assert text.endswith("threads, ms per replica-update: side-by-side 4.5, batched 7.12")


def test_threads_are_given_back():
    before = torch.get_num_threads()
    with on_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
