"""A component is examined by the laws of its kind, with parameters and for a shape."""

from __future__ import annotations

from pathlib import Path

from collapsebench.authoring.check import LAWS, check_component
from collapsebench.contracts import KINDS, load_registry


def test_every_kind_has_laws_with_names_of_their_own() -> None:
    assert set(LAWS) == set(KINDS)
    for laws in LAWS.values():
        names = [law.name for law in laws]
        assert len(set(names)) == len(names)


def test_a_component_can_be_checked_with_parameters_and_for_a_shape(tmp_path: Path) -> None:
    registry = load_registry()
    mlp = registry.find("encoder", "mlp")
    found = {f.law: f for f in check_component(mlp, registry, tmp_path, {"width": 5, "depth": 1}, (1, 4, 4))}
    assert all(finding.holds for finding in found.values())
    assert found["builds"].reason == f"{16 * 5 + 5 + 2 * (5 * 3 + 3)} parameters for samples (1, 4, 4)"
    (refused,) = [f for f in check_component(mlp, registry, tmp_path, {"wdith": 5}) if f.status == "fail"]
    assert refused.law == "defaults"
    assert "wdith" in refused.reason
