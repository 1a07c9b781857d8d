"""Each conformance law finds the component that breaks it, names the reason, and lets the others through."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from collapsebench import contracts as api
from collapsebench.authoring.check import LAWS, check_component
from collapsebench.authoring.law import Finding, Law, Subject, examine
from collapsebench.authoring.reference_scan import FlatDecoder, FlatEncoder, PlainObjective
from collapsebench.contracts import (
    Component,
    Data,
    Evaluation,
    Owner,
    Parameters,
    Prediction,
    Registered,
    Score,
    Split,
    load_registry,
)


def draw(seed: int, rows: int = 8) -> Data:
    generator = np.random.default_rng(seed)
    parts: dict[str, Any] = {
        name: Split(generator.standard_normal((rows, 3)).astype(np.float32)) for name in api.SPLITS
    }
    return Data(**parts, feature_names=("a", "b", "c"))


class Good(api.Dataset[Parameters]):
    def load(self, seed: int, cache: Path) -> Data:
        return self.changed(draw(seed))

    def changed(self, data: Data) -> Data:
        return data


class Wide(Good):
    def changed(self, data: Data) -> Data:
        return Data(Split(data.train.values.astype(np.float64)), data.validation, data.test, data.feature_names)  # type: ignore[arg-type]


class Ragged(Good):
    def changed(self, data: Data) -> Data:
        return Data(data.train, Split(data.validation.values[:, :2]), data.test, data.feature_names)


class OneRow(Good):
    def changed(self, data: Data) -> Data:
        return Data(data.train, data.validation, Split(data.test.values[:1]), data.feature_names)


class Undefined(Good):
    def changed(self, data: Data) -> Data:
        data.test.values[5] = np.nan
        return data


class Constant(Good):
    def changed(self, data: Data) -> Data:
        return Data(Split(np.ones_like(data.train.values)), data.validation, data.test, data.feature_names)


class Repeated(Good):
    def changed(self, data: Data) -> Data:
        return Data(data.train, data.train, data.test, data.feature_names)


class Changing(Good):
    def load(self, seed: int, cache: Path) -> Data:
        return draw(int(np.random.default_rng().integers(1 << 30)))


class Calling(Good):
    def load(self, seed: int, cache: Path) -> Data:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", 9), timeout=0.1).close()
        return draw(seed)


class Unprepared(Good):
    def is_prepared(self, cache: Path) -> bool:
        return False


class Raising(Good):
    def load(self, seed: int, cache: Path) -> Data:
        raise ValueError("the file is garbled")


class Listed(Good):
    def load(self, seed: int, cache: Path) -> Data:
        return [1, 2]  # type: ignore[return-value]


class Body(FlatEncoder):
    """A flat encoder whose outputs are changed."""

    def build(self, shape: tuple[int, ...], latent_dim: int) -> nn.Module:
        return Around(super().build(shape, latent_dim), self.change)

    @staticmethod
    def change(mean: torch.Tensor, log_variance: torch.Tensor) -> Any:
        return mean, log_variance


class Around(nn.Module):
    def __init__(self, inner: nn.Module, change: Any) -> None:
        super().__init__()
        self.inner, self.change = inner, change

    def forward(self, x: torch.Tensor) -> Any:
        return self.change(*self.inner(x))


class Single(Body):
    @staticmethod
    def change(mean: torch.Tensor, log_variance: torch.Tensor) -> Any:
        return mean


class Narrow(Body):
    @staticmethod
    def change(mean: torch.Tensor, log_variance: torch.Tensor) -> Any:
        return mean[:, :1], log_variance


class Double(Body):
    @staticmethod
    def change(mean: torch.Tensor, log_variance: torch.Tensor) -> Any:
        return mean.double(), log_variance


class Infinite(Body):
    @staticmethod
    def change(mean: torch.Tensor, log_variance: torch.Tensor) -> Any:
        return mean, log_variance + (torch.inf if len(mean) == 32 else 0.0)


class Neighbours(Body):
    @staticmethod
    def change(mean: torch.Tensor, log_variance: torch.Tensor) -> Any:
        return mean - mean.mean(0), log_variance


class Idle(Body):
    @staticmethod
    def change(mean: torch.Tensor, log_variance: torch.Tensor) -> Any:
        return mean, torch.zeros_like(mean)


class Steep(Body):
    @staticmethod
    def change(mean: torch.Tensor, log_variance: torch.Tensor) -> Any:
        return (mean * 0).sqrt(), log_variance


class Branching(Body):
    @staticmethod
    def change(mean: torch.Tensor, log_variance: torch.Tensor) -> Any:
        return (mean if float(mean.detach()[0, 0]) > 0 else 1 * mean), log_variance


class Declared(Branching):
    batchable = False


class Modest(Body):
    batchable = False


class Fresh(Body):
    def build(self, shape: tuple[int, ...], latent_dim: int) -> nn.Module:
        built = super().build(shape, latent_dim)
        start = float(np.random.default_rng().standard_normal())
        nn.init.constant_(built.inner[1].mean.bias, start)  # type: ignore[index, union-attr, arg-type]
        return built


class Unbuilt(Body):
    def build(self, shape: tuple[int, ...], latent_dim: int) -> nn.Module:
        return lambda x: (x, x)  # type: ignore[return-value]


class Empty(Body):
    def build(self, shape: tuple[int, ...], latent_dim: int) -> nn.Module:
        return nn.Identity()


class Liar(FlatDecoder):
    def build(self, latent_dim: int, shape: tuple[int, ...]) -> nn.Module:
        return nn.Sequential(nn.Linear(latent_dim, *shape), nn.Softplus())


class Paired(FlatDecoder):
    def build(self, latent_dim: int, shape: tuple[int, ...]) -> nn.Module:
        return FlatEncoder(Parameters()).build((latent_dim,), *shape)


class Unheld(FlatDecoder):
    ward_identities = ()


class Boundless(FlatDecoder):
    collapse_limit = float("inf")


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
    ("dataset", Wide, "float32", "split train: values are float64"),
    ("dataset", Ragged, "shapes", "expected one shape after the first axis"),
    ("dataset", OneRow, "rows", "found {'test': 1} rows"),
    ("dataset", Undefined, "finite", "split test: row 5 and 0 more hold NaN"),
    ("dataset", Constant, "standardises", "all 3 features are constant"),
    ("dataset", Repeated, "apart", "two splits are equal"),
    ("dataset", Changing, "deterministic", "split train: two loads with seed 0 give different values"),
    ("dataset", Calling, "offline", "uses the network though it is prepared"),
    ("dataset", Unprepared, "prepares", "is_prepared is false after prepare"),
    ("dataset", Raising, "loads", "ValueError: the file is garbled"),
    ("dataset", Listed, "loads", "load returned list, expected collapsebench.Data"),
    ("encoder", Single, "shapes", "returned Tensor, expected (mean, log_variance)"),
    ("encoder", Narrow, "shapes", "mean is (1, 1) for a batch of 1, expected (1, 3)"),
    ("encoder", Double, "shapes", "mean is torch.float64"),
    ("encoder", Infinite, "finite", "log_variance holds NaN or infinity"),
    ("encoder", Neighbours, "by-sample", "mean of a sample depends on the rest of its batch"),
    ("encoder", Idle, "gradients", "parameter inner.1.log_variance.weight has no gradient"),
    ("encoder", Steep, "gradients", "parameter inner.1.mean.weight holds NaN or infinity"),
    ("encoder", Branching, "batchable", "torch.func cannot map it"),
    ("encoder", Modest, "batchable", "declares batchable = False, but replicas can be stacked"),
    ("encoder", Fresh, "repeatable", "inner.1.mean.bias differ"),
    ("encoder", Unbuilt, "builds", "build returned function, expected a torch.nn.Module"),
    ("encoder", Empty, "builds", "it has no parameters to train"),
    ("decoder", Liar, "linear", "remove `linear = True`"),
    ("decoder", Paired, "shapes", "returned tuple, expected x_hat"),
    ("decoder", Unheld, "judged", "expected at least one of mean, scale, residual-mean, orthogonality"),
    ("decoder", Boundless, "judged", "collapse_limit is inf, expected a finite number above 0"),
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


def findings(kind: api.Kind, broken: type[Any], cache: Path) -> dict[str, Finding]:
    """Examine a class of this module by the laws of its kind alone."""
    component = Component(broken.__name__.lower(), f"{__name__}:{broken.__name__}", "broken")
    subject = Subject(Registered(kind, component, Owner("here", "1")), load_registry(), cache)
    own = [law for law in LAWS[kind] if law.name not in ("light", "quick")]
    return {finding.law: finding for finding in examine(subject, own)}


@pytest.mark.parametrize(("kind", "broken", "law", "reason"), BROKEN, ids=lambda v: getattr(v, "__name__", None))
def test_a_law_finds_the_component_that_breaks_it(
    tmp_path: Path, kind: api.Kind, broken: type[Any], law: str, reason: str
) -> None:
    found = findings(kind, broken, tmp_path)
    assert found[law].status == "fail", found
    assert reason in found[law].reason


@pytest.mark.parametrize(
    ("kind", "good"),
    [("dataset", Good), ("encoder", Body), ("decoder", FlatDecoder), ("objective", PlainObjective),
     ("observable", Zeros), ("metric", Half)],
)  # fmt: skip
def test_what_keeps_the_laws_passes_them_all(tmp_path: Path, kind: api.Kind, good: type[Any]) -> None:
    component = Component("good", f"{good.__module__}:{good.__name__}", "good")
    subject = Subject(Registered(kind, component, Owner("here", "1")), load_registry(), tmp_path)
    own = [law for law in LAWS[kind] if law.name not in ("light", "quick")]
    assert [finding for finding in examine(subject, own) if not finding.holds] == []


def test_an_encoder_that_cannot_be_batched_passes_with_the_reason_if_it_says_so(tmp_path: Path) -> None:
    found = findings("encoder", Declared, tmp_path)["batchable"]
    assert found.holds
    assert "as declared, one by one: torch.func cannot map it" in found.reason


def test_a_law_that_presupposes_a_broken_one_is_not_checked_and_does_not_hold(tmp_path: Path) -> None:
    found = findings("dataset", Raising, tmp_path)
    assert found["finite"].status == "not checked"
    assert found["finite"].reason == "presupposes 'loads', which is broken"
    assert not found["finite"].holds


def test_a_component_that_exits_is_a_finding_and_does_not_end_the_process(tmp_path: Path) -> None:
    def leave(subject: Subject) -> str:
        raise SystemExit(3)

    component = Component("good", f"{__name__}:Good", "good")
    subject = Subject(Registered("dataset", component, Owner("here", "1")), load_registry(), tmp_path)
    (found,) = examine(subject, [Law("stays", "it stays", leave)])
    assert (found.status, found.reason) == ("fail", "SystemExit: 3")


def test_a_component_can_be_checked_with_parameters_and_for_a_shape(tmp_path: Path) -> None:
    registry = load_registry()
    mlp = registry.find("encoder", "mlp")
    found = {f.law: f for f in check_component(mlp, registry, tmp_path, {"width": 5, "depth": 1}, (1, 4, 4))}
    assert all(finding.holds for finding in found.values())
    assert found["builds"].reason == f"{16 * 5 + 5 + 2 * (5 * 3 + 3)} parameters for samples (1, 4, 4)"
    (refused,) = [f for f in check_component(mlp, registry, tmp_path, {"wdith": 5}) if f.status == "fail"]
    assert refused.law == "defaults"
    assert "wdith" in refused.reason


def test_the_reference_scan_is_at_the_exact_solution() -> None:
    from collapsebench.authoring.reference_scan import LATENTS, TEMPERATURES, reference_scan
    from collapsebench.observing.observe import measure
    from collapsebench.theory.oracle import oracle

    scan = reference_scan()
    moments = load_registry().get("observable", "latent-moments").create()
    table: pd.DataFrame = measure("latent-moments", moments, scan.model, [scan.samples("train")])
    found = table["signal_fraction"].to_numpy().reshape(len(TEMPERATURES), LATENTS)
    exact = oracle(scan.data.second_moments["train"], TEMPERATURES, LATENTS)
    assert found == pytest.approx(exact.signal_fraction, abs=1e-5)
