"""The command line: the group of commands, each loaded when it is used, and the rules for exit codes.

0 all good    1 some cell not ok    2 usage or a mistake of the user    130 interrupted
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click

from collapsebench.cli.version import version_options
from collapsebench.errors import CollapsebenchError, UserError
from collapsebench.training.allocator import share_cores

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
