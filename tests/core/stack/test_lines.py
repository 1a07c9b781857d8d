"""What weights cost at other prices: the line of each replica is the loss that a stack at that price has."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from collapsebench import Objective, Parameters
from collapsebench.stack.stack import StackModel
from collapsebench.theory.equilibrium import measure_equilibrium

TEMPERATURES = [0.4, 0.1, 0.03]
STATES = {"objective.log_variance": 0.3}


class Lying(Objective[Parameters]):
    """Declared affine; the first nats are free."""

    affine = True

    def loss(self, distortion, rate, dial, state, progress):
        """Return the loss of each sample."""
        return distortion + dial * rate.clamp(min=0.01).sum(-1)


class Deciding(Lying):
    """Affine, by a decision that only a single replica can take."""

    def loss(self, distortion, rate, dial, state, progress):
        """Return the loss of each sample."""
        return distortion + (dial if dial > 0 else 0 * dial) * rate.sum(-1)


def lines_of(stack, samples):
    model = StackModel(stack, TEMPERATURES, 8)
    return stack.lines(measure_equilibrium(model, samples))


def losses_at(stack, data, dials):
    """Return the loss in nats of a stack's weights at other dials, on the whole train split."""
    x = torch.from_numpy(data.splits["train"].values).to(stack.dtype)
    other = stack.select(torch.arange(len(stack)))
    other.dials = dials
    scale = data.total_variance / (2 * stack.objective.decoder_variance)
    return other.losses(x, None, None, 1.0).detach().numpy() * scale


@pytest.mark.parametrize(
    "objective",
    [
        ("beta-vae", {"decoder_variance": 0.3}),
        ("warm-up", {"share": 0.5}),
        ("weight-decay", {"omega": 0.02}),
        ("learned-variance", {}),
    ],
    ids=lambda part: part[0],
)
def test_the_line_of_a_replica_is_the_loss_of_its_weights_at_every_price(gaussian, make_stack, make_samples, objective):
    stack = make_stack(gaussian, TEMPERATURES, objective=objective, dtype=torch.float64)
    with torch.no_grad():
        for name, value in STATES.items():
            if name in stack.parameters:
                stack.parameters[name] += value * torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    found = lines_of(stack, make_samples(gaussian, replicas=3, dtype=torch.float64))
    for dials in (stack.dials, stack.dials.flip(0), stack.dials + 1):
        costs = [line.intercept + line.slope * dial for line, dial in zip(found, dials.tolist(), strict=True)]
        assert costs == pytest.approx(losses_at(stack, gaussian, dials), rel=1e-9)
    assert [line.dial for line in found] == pytest.approx(stack.dials.tolist())
    assert all(line.error == 0 for line in found)


def test_the_constant_is_what_remains_without_distortion_and_rate(gaussian, make_stack, make_samples):
    stack = make_stack(gaussian, TEMPERATURES, objective=("weight-decay", {"omega": 0.02}), dtype=torch.float64)
    found = lines_of(stack, make_samples(gaussian, replicas=3, dtype=torch.float64))
    penalty = torch.func.vmap(stack.objective.penalty)({**stack.parameters, **stack.buffers}).detach()
    assert [line.constant for line in found] == pytest.approx(penalty.tolist())
    assert all(line.constant > 0 for line in found)


@pytest.mark.parametrize(
    "objective",
    [("free-bits", {}), ("capacity", {}), Lying(Parameters()), Deciding(Parameters())],
    ids=["free-bits", "capacity", "not affine", "cannot be mapped"],
)
def test_without_an_affine_loss_there_is_no_line(gaussian, make_stack, make_samples, objective):
    stack = make_stack(gaussian, TEMPERATURES, objective=objective, computation="one-by-one")
    found = lines_of(stack, make_samples(gaussian, replicas=3))
    assert all(math.isnan(line.intercept) and math.isnan(line.slope) for line in found)
    assert [line.dial for line in found] == pytest.approx(stack.dials.tolist())


def test_a_replica_that_is_not_finite_has_no_line_and_leaves_the_others_theirs(gaussian, make_stack, make_samples):
    stack, whole = (make_stack(gaussian, TEMPERATURES) for _ in range(2))
    with torch.no_grad():
        stack.parameters["decoder.0.weight"][1] = math.nan
    samples = make_samples(gaussian, replicas=3)
    found, expected = lines_of(stack, samples), lines_of(whole, samples)
    assert math.isnan(found[1].intercept)
    assert np.array_equal(found[0], expected[0])
    assert np.array_equal(found[2], expected[2])
