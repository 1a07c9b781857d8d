"""Each law of objectives finds the component that breaks it and names the reason."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from collapsebench import contracts as api
from collapsebench.authoring.reference_scan import PlainObjective
from collapsebench.contracts import (
    Prediction,
)


class Total(PlainObjective):
    def loss(self, distortion: Any, rate: Any, dial: Any, state: Any, progress: Any) -> Any:
        return (distortion + dial * rate.sum(-1)).mean()


class Lost(PlainObjective):
    def loss(self, distortion: Any, rate: Any, dial: Any, state: Any, progress: Any) -> Any:
        return distortion + dial * rate.sum(-1) / progress


class Rough(PlainObjective):
    has_oracle = False

    def loss(self, distortion: Any, rate: Any, dial: Any, state: Any, progress: Any) -> Any:
        return distortion + dial * rate.sqrt().sum(-1)


class Doubled(PlainObjective):
    def loss(self, distortion: Any, rate: Any, dial: Any, state: Any, progress: Any) -> Any:
        return distortion + 2 * dial * rate.sum(-1)


class Careless(PlainObjective):
    def init_state(self, features: int, total_variance: float) -> dict[str, torch.Tensor]:
        return {"multiplier": torch.tensor(torch.nan)}


class Idler(PlainObjective):
    def init_state(self, features: int, total_variance: float) -> dict[str, torch.Tensor]:
        return {"multiplier": torch.nn.Parameter(torch.tensor(1.0))}


class Negative(PlainObjective):
    decoder_variance = -1.0  # type: ignore[assignment]


class Restless(PlainObjective):
    has_oracle = False

    def loss(self, distortion: Any, rate: Any, dial: Any, state: Any, progress: Any) -> Any:
        return distortion + progress * dial * rate.sum(-1)


class Lopsided(PlainObjective):
    def batch_loss(
        self, distortion: Any, rate: Any, weights: Any, dial: Any, state: Any, progress: Any
    ) -> torch.Tensor:
        loss = self.loss(distortion, rate, dial, state, progress)
        found: torch.Tensor = loss.mean() if weights is None else (loss * weights).sum()
        return found


class Free(PlainObjective):
    def price(self, dial: Any, state: Any) -> Any:
        return 0.0 * dial


class Crooked(PlainObjective):
    def dials(self, temperatures: Any, eigenvalues: Any, latent_dim: int) -> Any:
        return 2 * super().dials(temperatures, eigenvalues, latent_dim)


class Prophet(PlainObjective):
    def prediction(self, temperatures: Any, eigenvalues: Any, latent_dim: int) -> Prediction:
        return Prediction.linear(temperatures, eigenvalues, latent_dim + 1)


BROKEN: list[tuple[api.Kind, type[Any], str, str]] = [
    ("objective", Total, "shapes", "loss is () for a batch of 1"),
    ("objective", Lost, "finite", "loss holds NaN or infinity at dial 1e-06, progress 0"),
    ("objective", Rough, "gradients", "the gradient with respect to rate holds NaN or infinity"),
    ("objective", Doubled, "oracle", "declares has_oracle, but its loss is not"),
    ("objective", Careless, "state", "state 'multiplier' is tensor(nan)"),
    ("objective", Idler, "gradients", "does not depend on state 'multiplier'"),
    ("objective", Negative, "declares", "decoder_variance is -1.0"),
    ("objective", Restless, "settles", "the loss still changes after progress 0"),
    ("objective", Lopsided, "weights", "with weights of one"),
    ("objective", Free, "dials", "expected one positive number"),
    ("objective", Crooked, "dials", "declares has_oracle, but at T = 0.9 a nat costs"),
    ("objective", Prophet, "prediction", "prediction has shapes ((4, 4), (4,), (4,)), expected ((4, 3), (3,), (4,))"),
]


@pytest.mark.parametrize(("kind", "broken", "law", "reason"), BROKEN, ids=lambda v: getattr(v, "__name__", None))
def test_a_law_finds_the_component_that_breaks_it(findings, kind, broken, law, reason) -> None:
    found = findings(kind, broken)
    assert found[law].status == "fail", found
    assert reason in found[law].reason


@pytest.mark.parametrize(("kind", "good"), [("objective", PlainObjective)])
def test_what_keeps_the_laws_passes_them_all(findings, kind, good) -> None:
    assert [finding for finding in findings(kind, good).values() if not finding.holds] == []
