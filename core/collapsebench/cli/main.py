"""The command line: the group of commands, each loaded when it is used, and the rules for exit codes.

0 all good    1 some cell not ok    2 usage or a mistake of the user    130 interrupted
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import click

from collapsebench import __version__
from collapsebench.errors import CollapsebenchError, UserError
from collapsebench.process import share_cores

_DISTRIBUTION = "collapsebench"
_SECONDS = 10


def version_options(command: Any) -> Any:
    """Add `--version`, and `--json`, which goes with it."""
    version = click.option(
        "--version",
        is_flag=True,
        expose_value=False,
        callback=_print_version,
        help="Show the version and exit; with --json, the packages, plugins, devices and compiler too.",
    )
    as_json = click.option("--json", "as_json", is_flag=True, is_eager=True, help="With --version: print JSON.")
    return version(as_json(command))


def _print_version(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if not wanted or context.resilient_parsing:
        return
    as_json = context.params["as_json"]  # eager, so that it is known by now
    click.echo(json.dumps(environment(), indent=2) if as_json else f"{_DISTRIBUTION} {__version__}")
    context.exit()


def environment() -> dict[str, Any]:
    """Describe this environment as JSON values. This imports torch, and compiles the kernel if it is not cached."""
    from collapsebench.contracts import load_registry
    from collapsebench.planning.provenance import git_state

    plugins = [asdict(report) for report in load_registry().plugins()]
    return {
        "collapsebench": __version__,
        "git": git_state(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages(),
        "plugins": [{key: value for key, value in plugin.items() if key != "components"} for plugin in plugins],
        "devices": _devices(),
        "compiler": _compiler(),
    }


def packages() -> dict[str, str | None]:
    """Return the version of every package that collapsebench needs at run time; None for one that is missing."""
    try:
        required = importlib.metadata.requires(_DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return {}  # it runs from a folder that nobody has installed
    names = (re.split(r"[^A-Za-z0-9._-]", text, maxsplit=1)[0] for text in required if "extra ==" not in text)
    return {name: _version(name) for name in sorted(names)}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices() -> dict[str, Any]:
    from collapsebench.planning.provenance import processor

    devices: dict[str, Any] = {"cpu": {"name": processor(), "cores": os.cpu_count()}}
    try:
        import torch
    except (ImportError, OSError) as error:  # a broken installation is what such a report is for
        return {**devices, "torch": f"cannot be imported: {error}"}
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {**devices, "cuda": names, "mps": torch.backends.mps.is_available()}


def _compiler() -> dict[str, Any]:
    """Return the path of the C compiler, its version line, and why the kernel is not available (None if it is)."""
    try:
        from collapsebench.stack.kernel.library import KernelError, find_compiler, load_kernel
    except (ImportError, OSError) as error:
        return {"path": None, "version": None, "why_no_kernel": str(error)}
    path, reason = find_compiler(), None
    try:
        load_kernel()
    except KernelError as error:
        reason = str(error)
    return {"path": path, "version": None if path is None else _first_line(path), "why_no_kernel": reason}


def _first_line(compiler: str) -> str | None:
    try:
        done = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(done.stdout.splitlines()), None)


LAZY = {
    "run": ("collapsebench.cli.run:run", "Run a suite: train what is missing, observe, score, rank."),
    "scan": ("collapsebench.cli.measure:scan", "Measure the latent spectrum of a table of your own."),
    "plan": ("collapsebench.cli.run:plan", "Show what a run would do, and why."),
    "status": ("collapsebench.cli.run:status", "Show the state of every cell of a suite."),
    "explain": ("collapsebench.cli.run:explain", "Say why a cell would be trained anew."),
    "prepare": ("collapsebench.cli.run:prepare", "Fetch and verify a suite's data ahead of a run."),
    "score": ("collapsebench.cli.results:score", "Score what has been trained, without training."),
    "board": ("collapsebench.cli.results:board", "Rank the architectures of a suite."),
    "compare": ("collapsebench.cli.results:compare", "Compare two architectures, or two published folders."),
    "publish": ("collapsebench.cli.results:publish", "Write boards, tables and figures to a folder."),
    "measure": ("collapsebench.cli.measure:measure", "Measure a VAE that is trained already."),
    "bench": ("collapsebench.cli.bench:bench", "Measure how fast this machine is."),
    "check": ("collapsebench.cli.plugins:check", "Validate a suite, presets included; train nothing."),
    "list": ("collapsebench.cli.plugins:list_components", "List components and suites."),
    "info": ("collapsebench.cli.plugins:info", "Describe a component and its parameters."),
    "plugins": ("collapsebench.cli.plugins:plugins", "Inspect the installed plugins, check one, or write a new one."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are used; help needs only their names and sentences.

    lazy: command name -> ("module:attribute", sentence for the list of commands).
    """

    def __init__(self, *args: Any, lazy: Mapping[str, tuple[str, str]] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = dict(lazy or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, sorted."""
        return sorted({*super().list_commands(ctx), *self.lazy})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, imported if need be."""
        if cmd_name not in self.lazy:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = self.lazy[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing any."""
        rows = []
        for name in self.list_commands(ctx):
            if name in self.lazy:
                rows.append((name, self.lazy[name][1]))
            else:
                command = super().get_command(ctx, name)
                rows.append((name, command.get_short_help_str(80) if command else ""))
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was asked for, and turn exceptions into messages and exit codes."""
        try:
            return super().invoke(ctx)
        except UserError as error:
            raise _Refusal(str(error)) from error
        except CollapsebenchError as error:
            raise _Failure(str(error)) from error
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            raise click.exceptions.Exit(130) from None


class _Failure(click.ClickException):
    exit_code = 1

    def show(self, file: Any = None) -> None:
        """Write every line of the message to standard error."""
        for line in self.message.splitlines():
            click.echo(f"error: {line}", err=True, file=file)


class _Refusal(_Failure):
    exit_code = 2


@click.group(cls=LazyGroup, lazy=LAZY, context_settings={"help_option_names": ["-h", "--help"]})
@version_options
def main(as_json: bool) -> None:
    """Measure which latents a beta-VAE keeps, in which order, at what price, and how it compares with PCA."""
    if as_json:
        raise click.UsageError("--json before a command goes with --version; give a command's own --json after it.")
    share_cores()


if __name__ == "__main__":
    main()
