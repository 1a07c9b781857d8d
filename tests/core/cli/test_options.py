"""KEY=VALUE options become the parameters of a component."""

from __future__ import annotations

import pytest

from collapsebench.cli.options import parameters_from
from collapsebench.errors import UserError


def test_values_are_read_as_toml_where_they_are_toml() -> None:
    found = parameters_from(["width=32", "noise = 0.5", "names=['a', 'b']", "kind=white", "path=a=b.csv"])
    assert found == {"width": 32, "noise": 0.5, "names": ["a", "b"], "kind": "white", "path": "a=b.csv"}


def test_dots_lead_into_tables_and_the_last_of_two_values_counts() -> None:
    found = parameters_from(["law.exponent=2", "law.floor=0.1", "law.exponent=3"])
    assert found == {"law": {"exponent": 3, "floor": 0.1}}


def test_nothing_given_is_no_parameter() -> None:
    assert parameters_from(()) == {}


@pytest.mark.parametrize("text", ["width", "=3", "law.=3", ".width=3", "a..b=1"])
def test_a_text_that_is_no_key_and_value_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=f"--set: found '{text}', expected KEY=VALUE"):
        parameters_from([text])


def test_a_value_and_a_table_of_one_name_are_refused() -> None:
    with pytest.raises(UserError, match=r"--set law\.floor: 'law' has a value already, expected a table"):
        parameters_from(["law=power", "law.floor=0.1"])
