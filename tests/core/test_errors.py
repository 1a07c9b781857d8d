"""Errors of the project are told from others, in one line."""

from __future__ import annotations

from collapsebench.errors import StoreError, error_text


def test_an_error_is_one_line_with_its_type_unless_it_is_one_of_ours() -> None:
    assert error_text(ValueError("two\n  lines")) == "ValueError: two lines"
    assert error_text(StoreError("says what\nto do")) == "says what to do"
