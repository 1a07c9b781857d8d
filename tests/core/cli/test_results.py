"""The later stages alone: what their options refuse."""

from __future__ import annotations

import pytest
from flow import invoke


@pytest.mark.parametrize(
    "arguments", [("board", "quickstart"), ("compare", "linear", "mlp", "--suite", "quickstart")], ids=lambda a: a[0]
)
def test_a_document_by_itself_is_for_latex_only(arguments: tuple[str, ...]) -> None:
    done = invoke(*arguments, "--format", "csv", "--standalone")
    assert done.exit_code == 2
    assert "--standalone makes a document of --format tex; found --format csv" in done.stderr
