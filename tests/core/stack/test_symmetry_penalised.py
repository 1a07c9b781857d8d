"""The Ward identities under a penalty on weights: against finite differences, and at an equilibrium."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from collapsebench.data.samples import SplitSamples
from collapsebench.stack.stack import StackModel
from collapsebench.stack.symmetry import less_penalty
from collapsebench.theory.equilibrium import measure_equilibrium
from collapsebench.training.trainer import Controls

DECAY = ("weight-decay", {"omega": 0.02})
TEMPERATURES = [0.3, 0.1, 0.03]
TRAINING = {
    "optimiser": {"use": "preconditioned", "learning_rate": 0.03},
    "batch_size": "full",
    "max_updates": 3000,
    "convergence": {"checks": 30, "ward_residual": 1e-3, "drift": 2e-3},
}


def plain(trainer):
    """What the identities read without any correction."""
    where = {"device": trainer.stack.device, "dtype": trainer.stack.dtype}
    samples = SplitSamples(trainer.data, "train", replicas=len(trainer.stack), width=8, **where)
    return measure_equilibrium(StackModel(trainer.stack, trainer.temperatures, trainer.latent_dim), samples)


def total(trainer):
    """The objective on the whole split, in nats, `(r,)`."""
    found = plain(trainer)
    weights = {**trainer.stack.parameters, **trainer.stack.buffers}
    penalty = torch.func.vmap(trainer.stack.objective.penalty)(weights).detach().numpy()
    prices = np.array(trainer.temperatures) * trainer.data.total_variance
    return found.distortion + prices * found.rate + penalty


def test_each_identity_is_the_slope_of_the_objective_along_its_symmetry(gaussian, make_trainer):
    """Away from any equilibrium: central differences of the objective in log c_k, a_k and log s."""
    trainer = make_trainer(gaussian, TEMPERATURES, objective=DECAY, training=TRAINING)
    for _ in range(60):
        trainer.advance()
    found = less_penalty(plain(trainer), trainer.stack, trainer.symmetry)
    prices = np.array(trainer.temperatures) * trainer.data.total_variance
    step, latent, weights = 0.02, 3, trainer.stack.weights()

    def slope(move):
        sides = []
        for sign in (1, -1):
            trainer.stack.load({name: value.clone() for name, value in weights.items()})
            with torch.no_grad():
                move(sign * step)
            sides.append(total(trainer))
        return (sides[0] - sides[1]) / (2 * step)

    def stretch(size):
        factor = torch.ones(len(TEMPERATURES), 8)
        factor[:, latent] = float(np.exp(size))
        trainer.symmetry.move(trainer.stack.parameters, torch.zeros_like(factor), factor)

    def shift(size):
        shifted = torch.zeros(len(TEMPERATURES), 8)
        shifted[:, latent] = size
        trainer.symmetry.move(trainer.stack.parameters, shifted, torch.ones_like(shifted))

    def scale_output(size):
        for part in ("weight", "bias"):
            trainer.stack.parameters[f"{trainer.symmetry.first}.{part}"].mul_(float(np.exp(size)))

    assert slope(stretch) == pytest.approx(prices * (found.scale[:, latent] - 1), rel=0.01, abs=1e-3)
    assert slope(shift) == pytest.approx(-prices * found.mean[:, latent], rel=0.01, abs=1e-3)
    pulled = -2 * found.distortion * found.orthogonality
    assert slope(scale_output) == pytest.approx(pulled, rel=0.01, abs=1e-3)


def test_a_replica_under_weight_decay_converges_by_its_own_identities_and_not_by_the_plain_ones(gaussian, make_trainer):
    trainer = make_trainer(gaussian, TEMPERATURES, objective=DECAY, training=TRAINING)
    trained = trainer.run(Controls())
    assert trained.marks == ["converged"] * 3
    whole = make_trainer(gaussian, TEMPERATURES, objective=DECAY, training=TRAINING)
    whole.stack.load(trained.weights)
    assert (whole.measure().ward_residual < 1e-3).all()
    assert (plain(whole).ward_residual[1:] > 1e-2).all()


def test_collapsed_latents_under_weight_decay_are_stable_up_to_the_eigenvalue_of_the_closed_form(component):
    decay = component("objective", "weight-decay", omega=0.02)
    for price in (0.01, 0.3, 2.0):
        edge = decay.edge(price)
        assert (price * edge + 0.02) * 1.02 == pytest.approx(edge**2)
        assert edge > price
    assert component("objective", "beta-vae").edge(0.3) == 0.3
