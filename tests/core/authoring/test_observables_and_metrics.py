"""Each law of observables and metrics finds the component that breaks it and names the reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from collapsebench import contracts as api
from collapsebench.contracts import (
    Evaluation,
    Parameters,
    Score,
)


class Zeros(api.Observable[Parameters]):
    def measure(self, model: api.Model, samples: api.Samples) -> Mapping[str, Any]:
        return {"zero": np.zeros(len(model.temperatures))}


class Nowhere(Zeros):
    splits = ("holdout",)  # type: ignore[assignment]


class Oblong(Zeros):
    axis = "latent"


class Short(Zeros):
    axis = "latent"

    def measure(self, model: api.Model, samples: api.Samples) -> Mapping[str, Any]:
        return {"zero": np.zeros((len(model.temperatures), 2))}


class Words(Zeros):
    def measure(self, model: api.Model, samples: api.Samples) -> Mapping[str, Any]:
        return {"word": np.array(["a"] * len(model.temperatures))}


class Hollow(Zeros):
    def measure(self, model: api.Model, samples: api.Samples) -> Mapping[str, Any]:
        return {"zero": np.full(len(model.temperatures), np.nan)}


class Random(Zeros):
    def measure(self, model: api.Model, samples: api.Samples) -> Mapping[str, Any]:
        return {"noise": np.random.default_rng().standard_normal(len(model.temperatures))}


class Spreading(Zeros):
    def measure(self, model: api.Model, samples: api.Samples) -> Mapping[str, Any]:
        mean, _ = model.encode(next(samples.chunks())[0])
        found = mean.mean((1, 2)).numpy()
        return {"share": found / found.sum()}


class Writing(Zeros):
    def measure(self, model: Any, samples: api.Samples) -> Mapping[str, Any]:
        with torch.no_grad():
            next(iter(model._stack.parameters.values())).add_(1.0)
        return super().measure(model, samples)


class Half(api.Metric[Parameters]):
    scores = (Score("share", "A share.", "lower", low=0, high=1),)

    def evaluate(self, measurement: api.Measurement) -> Evaluation:
        return Evaluation({"share": 0.5})


class Unscored(Half):
    scores = ()


class Loud(Half):
    scores = (Score("A Share", "A share."),)


class Needy(Half):
    requires = ("no-such-observable",)


class Silent(Half):
    def evaluate(self, measurement: api.Measurement) -> Evaluation:
        return Evaluation({})


class Talkative(Half):
    def evaluate(self, measurement: api.Measurement) -> Evaluation:
        return Evaluation({"share": 0.5, "extra": 1.0})


class Evasive(Half):
    def evaluate(self, measurement: api.Measurement) -> Evaluation:
        return Evaluation({}, reasons={"share": "not today"})


class Boastful(Half):
    def evaluate(self, measurement: api.Measurement) -> Evaluation:
        return Evaluation({"share": 7.0})


class Moody(Half):
    def evaluate(self, measurement: api.Measurement) -> Evaluation:
        return Evaluation({"share": float(np.random.default_rng().uniform())})


class Scribbling(Half):
    def evaluate(self, measurement: api.Measurement) -> Evaluation:
        measurement.tables["replicas"]["loss"] = 0.0
        return Evaluation({"share": 0.5})


class Fragile(Half):
    requires = ("latent-moments",)

    def evaluate(self, measurement: api.Measurement) -> Evaluation:
        return Evaluation({"share": float(measurement.tables["latent-moments"]["signal_fraction"].max(skipna=False))})


class Framed(Half):
    def evaluate(self, measurement: api.Measurement) -> Evaluation:
        return Evaluation({"share": 0.5}, modes={"rank": [1]})  # type: ignore[arg-type]


BROKEN: list[tuple[api.Kind, type[Any], str, str]] = [
    ("observable", Nowhere, "declares", "splits names ['holdout']"),
    ("observable", Oblong, "columns", "returned shapes"),
    ("observable", Short, "rows", "split train has 50 rows, expected 500, 25 replicas x 20"),
    ("observable", Words, "columns", "word hold no numbers"),
    ("observable", Hollow, "finite", "zero hold NaN"),
    ("observable", Random, "repeats", "measured twice, noise differ"),
    ("observable", Spreading, "isolated", "share of the other replicas changes"),
    ("observable", Writing, "reads", "measuring it changed"),
    ("metric", Unscored, "declares", "scores is empty"),
    ("metric", Loud, "declares", "score 'A Share': expected lower-case words"),
    ("metric", Needy, "requires", "unknown observable 'no-such-observable'"),
    ("metric", Silent, "complete", "neither a value nor a reason for ['share']"),
    ("metric", Talkative, "complete", "returned undeclared scores ['extra']"),
    ("metric", Framed, "complete", "modes is dict"),
    ("metric", Evasive, "values", "no score has a value"),
    ("metric", Boastful, "bounds", "share is 7, declared within [0, 1]"),
    ("metric", Moody, "pure", "it gives other scores"),
    ("metric", Scribbling, "pure", "evaluating changed table 'replicas'"),
    ("metric", Fragile, "sturdy", "on a diverged replica: PluginError: metric 'fragile': 'share' is nan"),
]


@pytest.mark.parametrize(("kind", "broken", "law", "reason"), BROKEN, ids=lambda v: getattr(v, "__name__", None))
def test_a_law_finds_the_component_that_breaks_it(findings, kind, broken, law, reason) -> None:
    found = findings(kind, broken)
    assert found[law].status == "fail", found
    assert reason in found[law].reason


@pytest.mark.parametrize(("kind", "good"), [("observable", Zeros), ("metric", Half)])
def test_what_keeps_the_laws_passes_them_all(findings, kind, good) -> None:
    assert [finding for finding in findings(kind, good).values() if not finding.holds] == []
