"""Laws of every component: the probe of a fresh process, parameters and the class."""

from __future__ import annotations

import os
import sys

import pytest
from pydantic import Field

from collapsebench.authoring import listing
from collapsebench.authoring.law import BrokenLawError, Subject
from collapsebench.authoring.reference_scan import PlainObjective
from collapsebench.contracts import Component, Owner, Parameters, Registered, load_registry

TARGET = f"{PlainObjective.__module__}:{PlainObjective.__name__}"


class Required(Parameters):
    """A parameter without a default."""

    width: int = Field(ge=1)


class Open(Parameters, extra="allow"):
    """Takes whatever is given."""


def with_parameters(model: type[Parameters], tmp_path, **given) -> Subject:
    component = Component("examined", TARGET, "examined", parameters=f"{model.__module__}:{model.__name__}")
    return Subject(Registered("objective", component, Owner("here", "1")), load_registry(), tmp_path, given)


@pytest.fixture
def gaussian_dataset(tmp_path) -> Subject:
    registry = load_registry()
    return Subject(registry.find("dataset", "gaussian"), registry, tmp_path)


def test_a_fresh_process_lists_an_installed_component(gaussian_dataset) -> None:
    seconds, heavy = listing._probed(gaussian_dataset)
    assert 0 < seconds < 60
    assert heavy == ()
    assert listing._light(gaussian_dataset) == ""


def test_what_is_heavy_or_slow_is_named(gaussian_dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "_probed", lambda subject: (9.0, ("torch",)))
    with pytest.raises(BrokenLawError, match="listing it imports torch, expected none of"):
        listing._light(gaussian_dataset)
    with pytest.raises(BrokenLawError, match=r"takes 9\.0 s, expected at most"):
        listing._quick(gaussian_dataset)


def test_a_probe_that_fails_says_its_last_words() -> None:
    path = os.pathsep.join(filter(None, sys.path))
    with pytest.raises(BrokenLawError, match=r"cannot list it: .*unknown dataset 'collapsebench/absent'"):
        listing._probe(path, "collapsebench", "datasets", "dataset absent")


def test_a_parameter_without_a_default_must_be_given(tmp_path) -> None:
    with pytest.raises(BrokenLawError, match=r"without any given: width: Field required"):
        listing._defaults(with_parameters(Required, tmp_path))
    assert listing._defaults(with_parameters(Required, tmp_path, width=3)) == ""


def test_unknown_parameters_must_be_refused(tmp_path) -> None:
    assert listing._closed(with_parameters(Parameters, tmp_path)) == ""
    with pytest.raises(BrokenLawError, match="takes the unknown key 'no_such_parameter'"):
        listing._closed(with_parameters(Open, tmp_path))


def test_a_class_of_another_kind_is_refused(tmp_path) -> None:
    component = Component("examined", TARGET, "examined")
    examined = Subject(Registered("metric", component, Owner("here", "1")), load_registry(), tmp_path)
    with pytest.raises(BrokenLawError, match=r"is not a subclass of collapsebench\.Metric"):
        listing._constructs(examined)
