"""What a contributor works with agrees: pins, tools, hooks, issue templates and the commands of CONTRIBUTING.md."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from collapsebench import __version__

yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PINS = dict(
    line.split("==")
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
)
HOOKS = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
TEMPLATES = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
TOX = configparser.ConfigParser(interpolation=None)
TOX.read(ROOT / "tox.ini", encoding="utf-8")


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^A-Za-z0-9._-]", text, maxsplit=1)[0] for text in requirements}


def extra(name: str) -> set[str]:
    """Return the packages of an extra, and of the extras that it contains."""
    found = names(PROJECT["project"]["optional-dependencies"][name])
    return (found - {"collapsebench"}) | (extra("test") if "collapsebench" in found else set())


def test_the_version_of_the_project_is_one_number() -> None:
    assert PROJECT["project"]["version"] == __version__
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (\S+)", changelog, flags=re.M)[0] in (__version__, "Unreleased")


def test_ruff_is_the_version_of_the_constraints_file() -> None:
    assert PROJECT["tool"]["ruff"]["required-version"] == f"=={PINS['ruff']}"


def test_every_direct_dependency_and_tool_is_pinned() -> None:
    assert names(PROJECT["project"]["dependencies"]) | extra("dev") <= PINS.keys()


def test_tox_installs_the_tools_that_a_contributor_has_but_for_those_that_call_it() -> None:
    assert set(TOX["testenv"]["deps"].split()) == extra("dev") - {"tox", "pre-commit"}


def test_hooks_run_the_tools_of_the_gate_and_fetch_nothing() -> None:
    (repository,) = HOOKS
    assert repository["repo"] == "local"
    assert {hook["language"] for hook in repository["hooks"]} == {"system"}
    commands = [TOX[f"testenv:{name}"]["commands"] for name in ("lint", "types", "imports")]
    gate = [line for text in commands for line in text.splitlines() if line]
    assert {_tool(hook["entry"]) for hook in repository["hooks"]} == set(map(_tool, gate))


def _tool(command: str) -> str:
    """Return the program and, of ruff, what it is to do."""
    return " ".join([word for word in command.split() if word.isidentifier() or word == "lint-imports"])


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_an_issue_template_asks_for_the_environment_and_names_commands_that_exist(path: Path) -> None:
    from collapsebench.cli.main import LAZY

    template = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert {"name", "description", "body"} <= template.keys()
    assert len({item["id"] for item in template["body"]}) == len(template["body"])
    fields = {item["id"]: item["attributes"] for item in template["body"]}
    assert "`collapsebench --version --json`" in fields["environment"]["description"]
    commands = re.findall(r"`collapsebench ([a-z]+)", path.read_text(encoding="utf-8"))
    assert set(commands) <= LAZY.keys()


def test_there_is_a_template_for_a_fault_a_wish_and_a_plugin() -> None:
    assert {path.stem for path in TEMPLATES} == {"bug_report", "feature_request", "plugin"}


def guide_commands() -> list[list[str]]:
    """Return the commands of CONTRIBUTING.md, word by word."""
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    lines = "\n".join(re.findall(r"^```bash\n(.*?)^```$", guide, flags=re.M | re.S)).splitlines()
    return [part.split() for line in lines if line for part in line.split(" && ")]


def test_the_guide_names_programs_paths_and_tox_environments_that_exist() -> None:
    installed = {"collapsebench", "hatchling", "lint-imports", "mypy", "pre-commit", "pytest", "ruff", "tox"}
    for program, *words in guide_commands():
        assert program in {*installed, "python3", "python", "pip", "."}, program
        if program in ("pytest", "python"):
            paths = [word.partition("::")[0] for word in words if "/" in word]
            assert all((ROOT / path).exists() for path in paths), paths
        if program == "tox" and "-e" in words:
            assert f"testenv:{words[words.index('-e') + 1]}" in TOX


def test_the_single_test_that_the_guide_names_is_there() -> None:
    (target,) = [word for words in guide_commands() for word in words if "::" in word]
    path, _, name = target.partition("::")
    assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8")


@pytest.mark.skipif(shutil.which("pre-commit") is None, reason="needs pre-commit")
def test_pre_commit_accepts_its_configuration() -> None:
    command = ["pre-commit", "validate-config", str(ROOT / ".pre-commit-config.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
