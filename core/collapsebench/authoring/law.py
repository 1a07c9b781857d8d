"""What a conformance law is: a sentence about a component, and a check that holds or says why not.

A law that could not be checked, because a law that it presupposes is broken, counts as broken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from collapsebench.contracts import Registered, Registry
from collapsebench.errors import PluginError

T = TypeVar("T")


class BrokenLawError(PluginError):
    """A component breaks a law; the message is the reason."""


@dataclass(frozen=True)
class Subject:
    """A component under examination.

    parameters: what it is created with; defaults apply to the rest. shape: the shape of the samples that encoders and
    decoders are built for. cache: the folder in which a dataset prepares its files.
    """

    registered: Registered
    registry: Registry
    cache: Path
    parameters: Mapping[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] = (8,)
    _made: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def name(self) -> str:
        """The name of the component in messages, as in "encoder 'mlp'"."""
        return f"{self.registered.kind} '{self.registered.component.id}'"

    def create(self) -> Any:
        """Return the component, constructed anew."""
        return self.registered.component.create(self.parameters)

    def once(self, name: str, make: Callable[[], T]) -> T:
        """Return something that several laws examine; it is made on the first request and then kept."""
        if name not in self._made:
            self._made[name] = make()
        return cast(T, self._made[name])


@dataclass(frozen=True)
class Law:
    """A law. check: returns a remark, empty for none; raises if the law is broken.

    presupposed: whether the laws after it cannot be checked if it is broken.
    """

    name: str
    sentence: str
    check: Callable[[Subject], str]
    presupposed: bool = False


@dataclass(frozen=True)
class Finding:
    """The result for one law. reason: why it is broken or was not checked, or a remark if it holds."""

    law: str
    sentence: str
    status: Literal["pass", "fail", "not checked"]
    reason: str = ""

    @property
    def holds(self) -> bool:
        """Whether the law was checked and holds."""
        return self.status == "pass"


def examine(subject: Subject, laws: Sequence[Law]) -> list[Finding]:
    """Check every law on a component, in order; each law has a finding, whatever the component does."""
    findings: list[Finding] = []
    broken = ""
    for law in laws:
        if broken:
            findings.append(Finding(law.name, law.sentence, "not checked", f"presupposes '{broken}', which is broken"))
            continue
        try:
            findings.append(Finding(law.name, law.sentence, "pass", law.check(subject)))
        except (Exception, SystemExit) as error:  # the component's own doing, whatever it is
            findings.append(Finding(law.name, law.sentence, "fail", _reason(error)))
            broken = law.name if law.presupposed else ""
    return findings


def require(holds: bool, reason: str) -> None:
    """Raise with the reason unless something holds."""
    if not holds:
        raise BrokenLawError(reason)


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, BrokenLawError) else f"{type(error).__name__}: {text}"
