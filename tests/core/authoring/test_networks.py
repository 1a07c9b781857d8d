"""Each law of encoders and decoders finds the component that breaks it and names the reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from collapsebench import contracts as api
from collapsebench.authoring.reference_scan import FlatDecoder, FlatEncoder
from collapsebench.contracts import (
    Parameters,
)


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


BROKEN: list[tuple[api.Kind, type[Any], str, str]] = [
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
    (
        "decoder",
        Unheld,
        "declares-equilibrium-criteria",
        "expected at least one of mean, scale, residual-mean, orthogonality",
    ),
    ("decoder", Boundless, "declares-equilibrium-criteria", "collapse_limit is inf, expected a finite number above 0"),
]


@pytest.mark.parametrize(("kind", "broken", "law", "reason"), BROKEN, ids=lambda v: getattr(v, "__name__", None))
def test_a_law_finds_the_component_that_breaks_it(findings, kind, broken, law, reason) -> None:
    found = findings(kind, broken)
    assert found[law].status == "fail", found
    assert reason in found[law].reason


@pytest.mark.parametrize(("kind", "good"), [("encoder", Body), ("decoder", FlatDecoder)])
def test_what_keeps_the_laws_passes_them_all(findings, kind, good) -> None:
    assert [finding for finding in findings(kind, good).values() if not finding.holds] == []


def test_an_encoder_that_cannot_be_batched_passes_with_the_reason_if_it_says_so(findings) -> None:
    found = findings("encoder", Declared)["batchable"]
    assert found.holds
    assert "as declared, one by one: torch.func cannot map it" in found.reason
