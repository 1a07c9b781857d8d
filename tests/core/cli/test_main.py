"""The command line: what it prints, what it imports, how it ends."""

from __future__ import annotations

import importlib
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from collapsebench.cli.main import LAZY, LazyGroup, main
from collapsebench.errors import PluginError, SuiteError

HEAVY = ("torch", "pandas", "sklearn", "matplotlib", "scipy")
PROBE = """
import sys
from collapsebench.cli.main import main
try:
    main(sys.argv[1:])
finally:
    print("HEAVY", *[name for name in {heavy} if name in sys.modules])
"""


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def ending_in(error: BaseException) -> Result:
    @click.group(cls=LazyGroup)
    def group() -> None:
        """Nothing."""

    @group.command()
    def go() -> None:
        raise error

    return CliRunner().invoke(group, ["go"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"], ["--version"], ["list"], ["list", "metrics", "--json"], ["info", "gaussian"],
        ["check", "quickstart"], ["check", "--schema"], ["plugins", "list"], ["measure", "--help"],
        ["plugins", "check", "--help"],
        ["plugins", "new", "metric", "my-metric"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_looking_around_imports_nothing_heavy(tmp_path: Path, arguments: list[str]) -> None:
    probe = PROBE.format(heavy=HEAVY)
    done = subprocess.run(
        [sys.executable, "-c", probe, *arguments], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.splitlines()[-1] == "HEAVY"


def test_help_takes_less_than_half_a_second() -> None:
    def seconds() -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "collapsebench.cli.main", "--help"], capture_output=True, check=True)
        return time.perf_counter() - start

    assert min(seconds() for _ in range(5)) < 0.5


def test_importing_the_package_takes_less_than_a_tenth_of_a_second() -> None:
    code = "import time; started = time.perf_counter(); import collapsebench; print(time.perf_counter() - started)"
    command = [sys.executable, "-c", code]
    times = [float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(5)]
    assert min(times) < 0.1


def test_help_names_every_command_without_importing_it() -> None:
    output = run("--help").output
    for name, (_, sentence) in LAZY.items():
        assert name in output
        assert sentence in output


@pytest.mark.parametrize(("name", "target"), [(name, target) for name, (target, _) in LAZY.items()])
def test_every_lazy_command_is_where_the_table_says(name: str, target: str) -> None:
    module, _, attribute = target.partition(":")
    command = getattr(importlib.import_module(module), attribute)
    assert isinstance(command, click.Command)
    assert command.name == name
    assert command.help


def test_the_module_of_the_command_line_runs_as_a_script() -> None:
    script = [sys.executable, "-m", "collapsebench.cli.main", "list", "suites"]
    done = subprocess.run(script, capture_output=True, text=True, check=True)
    assert "quickstart" in done.stdout


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (SuiteError(["a: b", "c: d"]), 2, "error: a: b\nerror: c: d\n"),
        (PluginError("broke"), 1, "error: broke\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (click.exceptions.Exit(1), 1, ""),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_the_exit_code_says_how_it_ended(error: Any, code: int, message: str) -> None:
    result = ending_in(error)
    assert (result.exit_code, result.stderr) == (code, message)


def test_a_wrong_option_is_a_usage_error() -> None:
    assert run("check").exit_code == 2
    assert run("no-such-command").exit_code == 2
