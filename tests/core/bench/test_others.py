"""Other people's code: the third party's pair is a lawful component, and pythae is timed only where it can be."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from torch import nn

from collapsebench.authoring.check import check_component
from collapsebench.bench import others, throughput
from collapsebench.planning.jobs import ComponentSpec


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_the_third_party_s_pair_keeps_the_laws_of_its_kind(kind, tmp_path) -> None:
    registry = others.registry_with_foreign()
    findings = check_component(registry.find(kind, others.FOREIGN), registry, tmp_path)
    listing = {"light", "quick"}  # installed nowhere, so that a fresh process cannot list it
    assert [f for f in findings if not f.holds and f.law not in listing] == []
    assert len(findings) > 10


def test_the_third_party_s_pair_has_about_the_weights_of_the_published_one() -> None:
    registry = others.registry_with_foreign()

    def weights(parts: throughput.Networks) -> int:
        pair = throughput.bench_pair(registry, parts, (throughput.INPUTS,), throughput.LATENTS)
        return sum(parameter.numel() for parameter in pair.parameters())

    foreign = ComponentSpec(use=others.FOREIGN)
    published = weights(throughput.networks("published"))
    assert weights(throughput.Networks(foreign, foreign)) == pytest.approx(published, rel=0.3)


def pair() -> nn.ModuleDict:
    part = ComponentSpec(use="mlp", parameters={"depth": 1, "width": 4})
    parts = throughput.Networks(part, part)
    return throughput.bench_pair(others.registry_with_foreign(), parts, (5,), 2)


def test_where_pythae_is_not_installed_there_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert others.pythae_epoch(np.zeros((8, 5), np.float32), pair(), 2, 4) == others.NO_PYTHAE


def test_a_pythae_that_breaks_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise RuntimeError("another interface\nand a traceback")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(others, "_pythae_epoch", broken)
    found = others.pythae_epoch(np.zeros((8, 5), np.float32), pair(), 2, 4)
    assert found == "pythae cannot be used: RuntimeError: another interface"


def test_an_epoch_of_pythae_leaves_the_pair_that_it_was_given_alone() -> None:
    pytest.importorskip("pythae")
    given = pair()
    before = {name: value.clone() for name, value in given.state_dict().items()}
    epoch = others.pythae_epoch(np.random.default_rng(0).standard_normal((8, 5)).astype(np.float32), given, 2, 4)
    assert callable(epoch)
    epoch()
    assert all(torch.equal(value, before[name]) for name, value in given.state_dict().items())
