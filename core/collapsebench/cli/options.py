"""Options that several commands share, and what is made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import click

from collapsebench.errors import UserError

AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
STORE = click.option("--store", type=click.Path(), help="Folder of the store, instead of COLLAPSEBENCH_STORE.")


def suite_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the argument SUITE and the options that decide how it is resolved."""
    return click.argument("suite")(session_options(command))


def session_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that decide how a suite is resolved."""
    decorators = [
        click.option("--preset", help="A preset of the suite."),
        click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a value of the suite."),
        click.option("--seeds", type=click.IntRange(min=1), help="Number of training seeds."),
        click.option("--device", help="auto, cpu, cuda or mps."),
        click.option("--executor", help="Id of an executor."),
        STORE,
    ]
    for decorator in reversed(decorators):
        command = decorator(command)
    return command


def parameters_from(settings: Iterable[str]) -> dict[str, Any]:
    """Return the parameters of a component from `dotted.key=value` texts, each value read as TOML where it is TOML.

    >>> parameters_from(["width=32", "noise.scale=0.5", "noise.kind=white"])
    {'width': 32, 'noise': {'scale': 0.5, 'kind': 'white'}}
    """
    from collapsebench.suite.file import parsed_value

    parameters: dict[str, Any] = {}
    for text in settings:
        dotted, equals, value = text.partition("=")
        *path, last = keys = [key.strip() for key in dotted.split(".")]
        if not equals or not all(keys):
            raise UserError(f"--set: found '{text}', expected KEY=VALUE, as in width=32. Correct it.")
        table = parameters
        for key in path:
            table = table.setdefault(key, {})
            if not isinstance(table, dict):
                raise UserError(f"--set {dotted}: '{key}' has a value already, expected a table. Give one of the two.")
        table[last] = parsed_value(value)
    return parameters
