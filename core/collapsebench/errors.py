"""The exceptions that collapsebench raises on purpose.

    CollapsebenchError
    ├── UserError              the caller's input cannot be used; the command line exits with 2
    │   ├── SuiteError         a suite file with mistakes, all of them listed
    │   ├── ComponentError     an unknown, ambiguous or misconfigured component
    │   ├── UnsuitableError    a component that does not support samples of this shape; its cells are skipped
    │   ├── DataError          data that cannot be read or do not satisfy their contract
    │   ├── ModelError         a trained model that cannot be read or measured
    │   └── StoreError         a store that cannot be read or written
    └── PluginError            a plugin broke its contract; carries the component's id

Every message says where the problem is, what was found, what was expected and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager


class CollapsebenchError(Exception):
    """The root of every error that collapsebench raises on purpose."""


class UserError(CollapsebenchError):
    """The caller's input cannot be used."""


class SuiteError(UserError):
    """A suite file with one or more mistakes, all of them listed."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class ComponentError(UserError):
    """A component that is unknown, ambiguous or misconfigured."""


class UnsuitableError(UserError):
    """A component that is meant for samples of another shape; this is no mistake, and its cells are skipped."""


class DataError(UserError):
    """Data that cannot be read or do not satisfy their contract."""


class ModelError(UserError):
    """A trained model of the caller that cannot be read or measured."""


class StoreError(UserError):
    """A store that cannot be read or written."""


class PluginError(CollapsebenchError):
    """A plugin broke its contract."""


@contextmanager
def blaming(owner: str) -> Iterator[None]:
    """Name the component responsible in every exception raised inside, as in "encoder 'mlp'"."""
    try:
        yield
    except Exception as error:
        error.add_note(owner)
        raise


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Return the sentence that says a name is unknown, with the nearest known name and the list of all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return f"unknown {kind} '{name}'.{hint} Installed: {', '.join(names) or 'none'}."


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception means that the host or the device ran out of memory."""
    text = f"{type(error).__name__}: {error}"
    signs = ("OutOfMemoryError", "not enough memory", "can't allocate memory", "Cannot allocate memory", "bad_alloc")
    return isinstance(error, MemoryError) or any(sign in text for sign in signs)


def classify(error: Exception) -> str:
    """Return the status of a cell whose training ended with an exception."""
    if isinstance(error, UnsuitableError):
        return "skipped"
    if is_out_of_memory(error):
        return "out-of-memory"
    return "not-installed" if isinstance(error, ModuleNotFoundError) else "failed"


def error_text(error: BaseException) -> str:
    """Return an error as one line: its notes, its type unless it is a CollapsebenchError, and its message."""
    text = " ".join(str(error).split())
    text = text if isinstance(error, CollapsebenchError) else f"{type(error).__name__}: {text}"
    return ": ".join([*getattr(error, "__notes__", [])[::-1], text])
