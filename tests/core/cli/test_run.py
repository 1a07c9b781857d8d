"""Progress of a run: what a stack says of itself, and how often."""

from __future__ import annotations

import pytest

from collapsebench.cli import run
from collapsebench.cli.run import ProgressLines, describe
from collapsebench.contracts import Progress


def progress(update: int, settled: int = 0) -> Progress:
    return Progress(update=update, budget=100, settled=settled, replicas=4, updates_per_second=10.0)


def test_a_stack_says_how_far_it_is_and_how_long_it_takes_at_most() -> None:
    assert describe(progress(20, 1)) == "1/4 replicas settled, update 20/100, 10 updates/s, at most 8 s left"


def test_a_stack_that_has_settled_has_no_time_left_to_tell() -> None:
    assert describe(progress(20, 4)) == "4/4 replicas settled, update 20/100, 10 updates/s"


def test_outside_a_terminal_a_line_is_written_every_few_seconds_and_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr(run.time, "monotonic", lambda: clock[0])
    with ProgressLines() as lines:
        for seconds, update, settled in ((0.0, 1, 0), (1.0, 2, 0), (6.0, 3, 0), (7.0, 4, 4)):
            clock[0] = seconds
            lines.report("a stack", progress(update, settled))
        lines.say("done")
    written = capsys.readouterr().err.splitlines()
    assert [line.partition("update ")[2].partition("/")[0] for line in written] == ["1", "3", "4", ""]
    assert written[-1] == "done"
    assert all(line.startswith("a stack: ") for line in written[:-1])
