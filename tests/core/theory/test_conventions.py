"""The beta of every convention means the same objective."""

from __future__ import annotations

import doctest

import pytest

import collapsebench
from collapsebench.theory import conventions


def losses_of(convention, d, w, eta):
    """The loss of each convention, from the squared error of a sample and its KL."""
    return {
        "pythae": lambda error, kl, beta: 0.5 * error + beta * kl,
        "disentanglement_lib": lambda error, kl, beta: error + beta * kl,
        "pytorch-vae-h": lambda error, kl, beta: error / d + beta * w * kl,
        "linear-vae": lambda error, kl, beta: error / (2 * eta**2) + beta * kl,
    }[convention]


@pytest.mark.parametrize("convention", list(collapsebench.CONVENTIONS))
def test_a_beta_is_converted_to_the_temperature_of_the_same_objective(convention):
    """Up to one factor, each loss is error / 2 + T V KL."""
    d, w, eta, beta, total_variance = 12, 0.00025, 0.7, 3.0, 5.0
    needs = collapsebench.CONVENTIONS[convention].needs
    weights = {name: value for name, value in (("kl_weight", w), ("eta", eta)) if name in needs}
    temperature = collapsebench.temperature_of(beta, convention, total_variance, d, **weights)
    loss = losses_of(convention, d, w, eta)
    price = loss(0.0, 1.0, beta) / loss(2.0, 0.0, beta)
    assert temperature * total_variance == pytest.approx(price)
    assert collapsebench.beta_of(temperature, convention, total_variance, d, **weights) == pytest.approx(beta)


def test_the_examples_in_the_docstrings_run():
    failed, tried = doctest.testmod(conventions)
    assert (failed, tried > 0) == (0, True)
