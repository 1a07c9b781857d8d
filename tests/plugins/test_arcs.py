"""Arcs are what they claim to be: their covariance in closed form, their dimension, and a pair that finds it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.integrate import quad

import collapsebench
from collapsebench_datasets.arcs import arc_variances, rotation
from collapsebench_datasets.parameters import ArcsParameters

CACHE = Path("unused")


@pytest.fixture
def load(component):
    def make(seed=0, **parameters):
        return component("dataset", "arcs", **parameters).load(seed, CACHE)

    return make


@pytest.mark.parametrize("half_angle", [0.3, 2.2, np.pi])
def test_the_variances_are_the_integrals_over_the_arc(half_angle):
    cosine, sine = arc_variances(ArcsParameters(arcs=1, half_angle=half_angle, dimension=2, noise=0.0))

    def mean(function):
        return quad(function, -half_angle, half_angle)[0] / (2 * half_angle)

    assert cosine == pytest.approx(mean(lambda t: np.cos(t) ** 2) - mean(np.cos) ** 2)
    assert sine == pytest.approx(mean(lambda t: np.sin(t) ** 2))


def test_samples_have_the_covariance_that_is_claimed(load):
    data = load(samples=200_000)
    found = np.cov(data.train.values.T)
    assert found == pytest.approx(data.covariance, abs=0.01)


def test_every_sample_lies_on_its_arcs(load):
    data = load(arcs=3, dimension=8, noise=0.0, half_angle=1.0)
    points = data.test.values @ rotation(8).T
    radii = np.hypot(points[:, 0:6:2], points[:, 1:6:2])
    assert radii == pytest.approx(np.tile([1, 0.7, 0.49], (len(radii), 1)), abs=1e-6)
    assert np.abs(np.arctan2(points[:, 1:6:2], points[:, 0:6:2])).max() <= 1.0 + 1e-6
    assert points[:, 6:] == pytest.approx(np.zeros((len(points), 2)), abs=1e-6)
    assert data.notes["dimension of the manifold"] == 3


def test_the_rotation_is_orthogonal_and_the_seed_draws_the_samples_alone(load):
    assert rotation(12) @ rotation(12).T == pytest.approx(np.eye(12), abs=1e-12)
    one, other = load(seed=0), load(seed=1)
    assert (one.covariance == other.covariance).all()
    assert not (one.train.values == other.train.values).any()


def test_arcs_that_do_not_fit_are_refused(component):
    with pytest.raises(ValidationError, match=r"found dimension = 5 for 3 arcs, expected at least 6"):
        component("dataset", "arcs", arcs=3, dimension=5)


SUITE = """
title = "Control"
seeds = 6
metrics = ["effective-dimension"]
[[questions]]
id = "latents"
title = "How few latents does it need?"
scores = ["effective-dimension/at-10%"]
better = "needs fewer latents"
[scan]
latent_dim = 3
temperatures = [0.1, 0.02, 0.005]
[training]
optimiser = { use = "preconditioned", learning_rate = 0.03 }
batch_size = 256
max_updates = 800
convergence.checks = 2
[evaluation]
max_rows = 1000
[[datasets]]
use = "arcs"
arcs = 1
dimension = 3
samples = 1000
evaluation_samples = 500
[[architectures]]
id = "mlp"
encoder = { use = "mlp", depth = 2, width = 32 }
decoder = { use = "mlp", depth = 2, width = 32 }
[[architectures]]
id = "linear"
encoder = { use = "linear" }
decoder = { use = "linear" }
"""


@pytest.mark.slow
def test_an_mlp_needs_one_latent_for_an_arc_where_pca_needs_two_and_the_board_says_so(tmp_path, no_figures):
    """The positive control: the better of two components leaves a quarter of the variance, the arc nothing."""
    cosine, sine = arc_variances(ArcsParameters(arcs=1, dimension=2))
    assert min(cosine, sine) / (cosine + sine) > 0.25
    (tmp_path / "control.toml").write_text(SUITE, encoding="utf-8")
    outcome = collapsebench.run(tmp_path / "control.toml", store=tmp_path / "store")
    assert (
        "On arcs, effective-dimension/at-10%: mlp needs 1 latent where PCA needs 2; linear needs not decidedly fewer."
        in " ".join(outcome.text().split())
    )
