"""A pytest kit: one class per kind of component, one test per conformance law. Needs pytest.

Subclass the class of the kind and name the component; the plugin must be installed (`pip install -e .`):

    from collapsebench.testing import DatasetLaws

    class TestTwoMoons(DatasetLaws):
        id = "two-moons"

A law that cannot be checked because an earlier one is broken fails too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from collapsebench.authoring.check import LAWS, check_component
from collapsebench.authoring.law import Finding
from collapsebench.contracts import Kind, load_registry

__all__ = ["DatasetLaws", "DecoderLaws", "EncoderLaws", "ExecutorLaws", "MetricLaws", "ObjectiveLaws", "ObservableLaws"]

_FOUND: dict[type[Any], dict[str, Finding]] = {}


class ComponentLaws:
    """The conformance laws of one component.

    id: the component's, or `distribution/id`. parameters: those to create it with, beside its defaults. shape: of the
    samples that an encoder or decoder is built for, without the batch axis; None: the component's example_shape.
    """

    kind: ClassVar[Kind]
    id: ClassVar[str]
    parameters: ClassVar[Mapping[str, Any]] = {}
    shape: ClassVar[tuple[int, ...] | None] = None

    def test_law(self, law: str, tmp_path_factory: pytest.TempPathFactory) -> None:
        """Every law of the kind holds."""
        finding = self._findings(tmp_path_factory)[law]
        assert finding.holds, f"{self.kind} '{self.id}': {finding.sentence}: {finding.reason}"

    @classmethod
    def _findings(cls, folders: pytest.TempPathFactory) -> dict[str, Finding]:
        """Return what became of every law, by its name; the component is examined once."""
        if cls not in _FOUND:
            registry = load_registry()
            registered = registry.find(cls.kind, cls.id)
            found = check_component(registered, registry, folders.mktemp("cache"), cls.parameters, cls.shape)
            _FOUND[cls] = {finding.law: finding for finding in found}
        return _FOUND[cls]

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Make a test of every law; a subclass may have tests of its own beside them."""
        if "law" in metafunc.fixturenames:
            metafunc.parametrize("law", [law.name for law in LAWS[self.kind]])


class DatasetLaws(ComponentLaws):
    """The laws of a dataset."""

    kind: ClassVar[Kind] = "dataset"


class EncoderLaws(ComponentLaws):
    """The laws of an encoder."""

    kind: ClassVar[Kind] = "encoder"


class DecoderLaws(ComponentLaws):
    """The laws of a decoder."""

    kind: ClassVar[Kind] = "decoder"


class ObjectiveLaws(ComponentLaws):
    """The laws of an objective."""

    kind: ClassVar[Kind] = "objective"


class ObservableLaws(ComponentLaws):
    """The laws of an observable."""

    kind: ClassVar[Kind] = "observable"


class MetricLaws(ComponentLaws):
    """The laws of a metric."""

    kind: ClassVar[Kind] = "metric"


class ExecutorLaws(ComponentLaws):
    """The laws of an executor."""

    kind: ClassVar[Kind] = "executor"
