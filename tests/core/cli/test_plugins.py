"""Commands that look around: check, list, info, plugins."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from flow import invoke as run


def test_list_shows_every_kind_with_ids_summaries_and_owners_and_the_suites() -> None:
    rows = json.loads(run("list", "--json").output)
    kinds = {row["kind"] for row in rows}
    assert kinds == {
        "dataset",
        "encoder",
        "decoder",
        "objective",
        "observable",
        "metric",
        "executor",
        "suite",
    }
    (gaussian,) = [row for row in rows if row["id"] == "gaussian"]
    assert (gaussian["distribution"], gaussian["version"]) == ("collapsebench", 1)
    text = run("list").output
    assert all(row["id"] in text and row["summary"] in text for row in rows)


def test_list_takes_a_kind_in_singular_or_plural_and_refuses_others() -> None:
    assert run("list", "encoder").output == run("list", "encoders").output
    assert "quickstart" in run("list", "suites").output
    refused = run("list", "encodrs")
    assert refused.exit_code == 2
    assert "unknown kind 'encodrs'. Did you mean 'encoders'?" in refused.output


def test_info_shows_parameters_with_type_default_and_meaning_for_every_kind_with_that_id() -> None:
    output = run("info", "mlp").output
    assert "encoder mlp, version 1, from collapsebench" in output
    assert "decoder mlp, version 1, from collapsebench" in output
    assert "  width = 64\n      integer >= 1; units of each hidden layer" in output
    assert "'silu' | 'relu'" in output
    assert "decoder mlp" not in run("info", "mlp", "--kind", "encoder").output
    (described,) = json.loads(run("info", "collapsebench/gaussian", "--json").output)
    assert described["parameters"]["properties"]["samples"]["default"] == 1024
    unknown = run("info", "gausian")
    assert unknown.exit_code == 2
    assert "Did you mean 'gaussian'?" in unknown.output


def test_plugins_list_reports_the_health_of_every_plugin() -> None:
    reports = json.loads(run("plugins", "list", "--json").output)
    assert [report["entry_point"] for report in reports] == sorted(report["entry_point"] for report in reports)
    assert {report["status"] for report in reports} == {"ok"}
    assert "objectives: objective beta-vae" in run("plugins", "list").output


def test_plugins_check_prints_a_line_for_every_law_and_ends_with_1_if_one_is_broken(tmp_path: Path) -> None:
    held = run("plugins", "check", "linear", "--kind", "decoder", "--store", str(tmp_path))
    assert held.exit_code == 0, held.output
    assert held.output.startswith("decoder linear, version 1, from collapsebench")
    assert held.output.count("  pass  ") == 14
    assert held.output.endswith("14 of 14 laws hold for decoder linear\n")
    broken = run("plugins", "check", "mlp", "--kind", "encoder", "--set", "width=-1")
    assert broken.exit_code == 1
    assert "FAIL  defaults" in broken.output
    assert "width: Input should be greater than or equal to 1" in broken.output
    assert "presupposes 'defaults', which is broken" in broken.output


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--shape", "8x", "--shape: found '8x', expected positive sizes joined by x"),
        ("--set", "width", "--set: found 'width', expected KEY=VALUE"),
        ("--set", "=3", "--set: found '=3', expected KEY=VALUE"),
        ("--kind", "encodr", "unknown kind 'encodr'. Did you mean 'encoders'?"),
        ("--kind", "dataset", "unknown dataset 'mlp'"),
    ],
)
def test_plugins_check_refuses_options_that_it_cannot_use(option: str, value: str, message: str) -> None:
    refused = run("plugins", "check", "mlp", option, value)
    assert refused.exit_code == 2
    assert message in refused.output


def test_check_says_what_a_suite_would_run() -> None:
    output = run("check", "quickstart", "--set", "seeds=2").output
    assert "quickstart: ok" in output
    assert "12 = 6 scans x 2 seeds" in output
    described = json.loads(run("check", "quickstart", "--json").output)
    assert len(described["suite_hash"]) == 64
    assert "properties" in json.loads(run("check", "--schema").output)


def test_check_lists_every_mistake_on_a_line_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("scan = 3\n[presets.x]\ncolour = 1\n", encoding="utf-8")
    result = run("check", path)
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert all(line.startswith(f"error: {path}: ") for line in lines)
    assert any("scan: found 3, expected a table." in line for line in lines)
    assert any("presets.x.colour: unknown key 'colour'" in line for line in lines)
    assert result.stdout == ""
