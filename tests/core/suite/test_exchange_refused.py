"""Objectives under which replicas cannot exchange weights are refused where the suite asks for it."""

from __future__ import annotations

import pytest

from collapsebench.errors import SuiteError
from collapsebench.suite.resolve import resolve_suite

LINEAR = {"id": "linear", "encoder": {"use": "linear"}, "decoder": {"use": "linear"}}


def suite(objective, scan=None, architecture=None):
    return resolve_suite(
        {
            "metrics": ["equilibrium"],
            "scan": {"latent_dim": 2, "temperatures": [0.1], **(scan or {})},
            "training": {"max_updates": 10},
            "datasets": [{"use": "gaussian"}],
            "architectures": [{**LINEAR, **(architecture or {})}],
            "objectives": [objective],
        },
        id="asked",
    )


@pytest.mark.parametrize(
    ("objective", "reason"),
    [
        ({"use": "capacity"}, "its dial, capacity, is no price"),
        ({"use": "free-bits", "kappa": 0.1}, "its loss is not affine in distortion and rates"),
    ],
)
@pytest.mark.parametrize("place", ["scan", "architecture"])
def test_an_objective_whose_cost_elsewhere_is_unknown_is_refused_with_the_reason(objective, reason, place):
    with pytest.raises(SuiteError, match=reason) as caught:
        suite(objective, **{place: {"protocol": "exchange"}})
    assert objective["use"] in str(caught.value)
    suite(objective, **{place: {"protocol": "up"}})


@pytest.mark.parametrize("use", ["beta-vae", "warm-up", "learned-variance", "weight-decay"])
def test_affine_objectives_with_a_price_are_accepted(use):
    assert suite({"use": use}, {"protocol": "exchange"}).architectures[0].protocol == "exchange"
