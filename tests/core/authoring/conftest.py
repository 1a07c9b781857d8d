"""Examine a class of a test file as if it were an installed component."""

from __future__ import annotations

import pytest

from collapsebench.authoring.check import LAWS
from collapsebench.authoring.law import Subject, examine
from collapsebench.contracts import Component, Owner, Registered, load_registry


@pytest.fixture
def subject(tmp_path):
    """Return a class, of a kind, as the subject of an examination."""

    def make(kind, examined):
        component = Component(examined.__name__.lower(), f"{examined.__module__}:{examined.__name__}", "examined")
        return Subject(Registered(kind, component, Owner("here", "1")), load_registry(), tmp_path)

    return make


@pytest.fixture
def findings(subject):
    """Return what became of every law of a class's kind, by its name, but for those of a plugin's installation."""

    def find(kind, examined):
        laws = [law for law in LAWS[kind] if law.name not in ("light", "quick")]
        return {finding.law: finding for finding in examine(subject(kind, examined), laws)}

    return find
