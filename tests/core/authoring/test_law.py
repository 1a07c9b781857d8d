"""An examination has a finding for every law, whatever the component does."""

from __future__ import annotations

import pytest

from collapsebench.authoring.law import BrokenLawError, Law, examine, require
from collapsebench.authoring.reference_scan import PlainObjective


def broken(subject) -> str:
    raise BrokenLawError("it is broken")


def test_a_law_that_holds_has_its_remark(subject) -> None:
    (found,) = examine(subject("objective", PlainObjective), [Law("holds", "it holds", lambda subject: "barely")])
    assert (found.law, found.sentence, found.status, found.reason) == ("holds", "it holds", "pass", "barely")


def test_a_broken_law_has_its_reason_and_the_next_is_checked(subject) -> None:
    laws = [Law("first", "it breaks", broken), Law("second", "it holds", lambda subject: "")]
    found = examine(subject("objective", PlainObjective), laws)
    assert [(finding.status, finding.reason) for finding in found] == [("fail", "it is broken"), ("pass", "")]


def test_what_presupposes_a_broken_law_is_not_checked(subject) -> None:
    laws = [Law("first", "it breaks", broken, presupposed=True), Law("second", "it holds", lambda subject: "")]
    second = examine(subject("objective", PlainObjective), laws)[1]
    assert (second.status, second.reason) == ("not checked", "presupposes 'first', which is broken")
    assert not second.holds


def test_a_component_that_exits_is_a_finding_and_does_not_end_the_process(subject) -> None:
    def leave(subject) -> str:
        raise SystemExit(3)

    (found,) = examine(subject("objective", PlainObjective), [Law("stays", "it stays", leave)])
    assert (found.status, found.reason) == ("fail", "SystemExit: 3")


def test_what_several_laws_look_at_is_made_once(subject) -> None:
    made: list[int] = []
    examined = subject("objective", PlainObjective)
    for _ in range(2):
        examined.once("thing", lambda: made.append(1))
    assert made == [1]


def test_require_raises_its_reason() -> None:
    require(True, "unused")
    with pytest.raises(BrokenLawError, match="the reason"):
        require(False, "the reason")
