"""What `bench` prints and writes of what it measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from collapsebench.bench.timing import Spread
from collapsebench.cli.bench import _deliver, _spread


def test_a_spread_is_its_median_and_its_ends() -> None:
    assert _spread(Spread(2.0, 1.0, 12.5)).split() == ["2.000", "(1.000", "to", "12.500)"]


def test_a_page_and_its_json_say_the_command_without_where_data_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["collapsebench", "bench", "equilibrium", "--set", "path=/home/me/data.zip"])
    _deliver("equilibrium", "A title", {"value": 1}, {"settings": " a|b "}, as_json=False, out=tmp_path / "out")
    printed = capsys.readouterr().out
    assert printed.startswith("A title\n")
    page = (tmp_path / "out/equilibrium.md").read_text(encoding="utf-8")
    assert "`collapsebench bench equilibrium --set path=...`" in page
    assert r"| settings | a\|b |" in page
    told = json.loads((tmp_path / "out/equilibrium.json").read_text(encoding="utf-8"))
    assert told["value"] == 1
    assert {"cpu", "threads", "torch"} <= told["hardware"].keys()
