"""Decoders for which collapse is not spectral pruning do what their pages say, by quadrature, without sampling."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.polynomial.hermite_e import hermegauss

from collapsebench import WARD_IDENTITIES, Data, Split, UserError
from collapsebench.data.standardise import standardise
from collapsebench.training.trainer import Controls

NODES, WEIGHTS = (torch.from_numpy(part) for part in hermegauss(48))
WEIGHTS = WEIGHTS / WEIGHTS.sum()


class OneMode:
    """One Gaussian mode of eigenvalue 1 (V = 1, T = beta), one latent with mean a x and variance s^2."""

    def __init__(self, decoder, gain, slope, log_variance):
        self.decoder = decoder.double()
        self.slope, self.log_variance = (torch.tensor(v, dtype=torch.float64) for v in (slope, log_variance))
        with torch.no_grad():
            for name, value in decoder.named_parameters():
                value.fill_(gain if name.endswith("weight") else 0.0)
        self.free = [self.slope.requires_grad_(), self.log_variance.requires_grad_(), *decoder.parameters()]

    def loss(self, temperature):
        z = self.slope * NODES[:, None] + (0.5 * self.log_variance).exp() * NODES
        error = (NODES[:, None] - self.decoder(z.reshape(-1, 1)).reshape(z.shape)).square()
        rate = 0.5 * (self.slope**2 + self.log_variance.exp() - 1 - self.log_variance)
        return 0.5 * WEIGHTS @ error @ WEIGHTS + temperature * rate

    def settle(self, temperature):
        """Descend to the nearest minimum and return its signal fraction and posterior scale."""
        optimiser = torch.optim.LBFGS(
            self.free,
            max_iter=2000,
            max_eval=4000,
            tolerance_grad=1e-11,
            tolerance_change=0,
            line_search_fn="strong_wolfe",
        )

        def closure():
            optimiser.zero_grad()
            loss = self.loss(temperature)
            loss.backward()
            return loss

        optimiser.step(closure)
        square, variance = self.slope.item() ** 2, self.log_variance.exp().item()
        return square / (square + variance), square + variance


def first_order(component, power=2.0, level=1.0):
    return component("decoder", "first-order", power=power, level=level).build(1, (1,))


def test_kappa_is_what_the_page_of_the_first_order_decoder_says(component):
    kappa = [component("decoder", "first-order", power=power).collapse_limit for power in (1, 2, 3)]
    assert kappa == pytest.approx([0.849, 0.6, 0.388], abs=5e-4)
    assert component("decoder", "injective").collapse_limit == component("decoder", "linear").collapse_limit == 1


@pytest.mark.parametrize("power", [2.0, 4.0])
def test_the_collapsed_state_of_the_first_order_decoder_loses_stability_at_kappa(component, power):
    kappa = component("decoder", "first-order", power=power).collapse_limit

    def lowest_curvature(temperature):
        mode = OneMode(first_order(component, power), 0.0, 0.0, 0.0)
        slope, gain = mode.free[0], mode.decoder.columns.weight
        gradients = torch.autograd.grad(mode.loss(temperature), [slope, gain], create_graph=True)
        rows = [torch.autograd.grad(g.sum(), [slope, gain], retain_graph=True) for g in gradients]
        hessian = torch.tensor([[part.sum().item() for part in row] for row in rows])
        return torch.linalg.eigvalsh(hessian)[0].item()

    assert lowest_curvature(kappa * (1 + 1e-6)) > 0 > lowest_curvature(kappa * (1 - 1e-6))


def test_between_its_two_limits_of_stability_the_first_order_decoder_has_two_states(component):
    active = OneMode(first_order(component), 1.0, 0.7, -1.0).settle(0.68)
    collapsed = OneMode(first_order(component), 0.01, 0.01, 0.0).settle(0.68)
    assert active[0] == pytest.approx(0.29, abs=0.005)
    assert collapsed[0] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(("temperature", "jumps"), [(0.61, False), (0.59, True)])
def test_cooling_the_first_order_decoder_jumps_at_the_limit_of_stability(component, temperature, jumps):
    found, _ = OneMode(first_order(component), 0.01, 0.01, 0.0).settle(temperature)
    assert found == pytest.approx(0.39 if jumps else 0.0, abs=0.01)


def test_heating_the_first_order_decoder_jumps_to_zero_from_well_above_it(component):
    mode = OneMode(first_order(component), 1.0, 0.7, -1.0)
    followed = {temperature: mode.settle(temperature) for temperature in (0.6, 0.65, 0.7, 0.74, 0.76, 0.775, 0.785)}
    fractions = [fraction for fraction, _ in followed.values()]
    assert fractions[:-1] == sorted(fractions[:-1], reverse=True)
    assert fractions[-2] > 0.1
    assert fractions[-1] < 1e-4


def test_the_two_states_of_the_first_order_decoder_cost_the_same_where_its_page_says(component):
    def advantage(temperature):
        active = OneMode(first_order(component), 1.0, 0.7, -1.0)
        fraction, _ = active.settle(temperature)
        assert fraction > 0.1
        return 0.5 - active.loss(temperature).item()

    assert advantage(0.752) > 0 > advantage(0.755)


def test_rescaling_is_absorbed_so_that_the_posterior_scale_is_one(component):
    for temperature in (0.3, 0.6, 0.7):
        assert OneMode(first_order(component), 1.0, 0.7, -1.0).settle(temperature)[1] == pytest.approx(1, abs=1e-6)


def test_weak_modes_collapse_continuously_behind_a_high_level(component):
    """lambda / level^2 = 1e-6: the same decoder has one state at every temperature, and M^2 starts from zero."""
    for temperature in (0.55, 0.59, 0.61):
        for gain, slope in ((0.5, 0.5), (0.02, 0.05)):
            found, _ = OneMode(first_order(component, level=1000.0), gain, slope, -slope).settle(temperature)
            assert found == pytest.approx(max(0, 1 - temperature / 0.6), abs=1e-4)


@pytest.mark.parametrize("temperature", [0.02, 0.3, 1.0, 5.0])
def test_without_its_bend_the_injective_decoder_has_no_threshold_but_a_closed_form(component, temperature):
    gain = 0.5
    decoder = component("decoder", "injective", gain=gain, width=2).build(1, (1,))
    mode = OneMode(decoder, 0.0, 0.3, -0.3)
    with torch.no_grad():
        decoder.frame.fill_(-1.0)  # the QR decomposition makes the sign of Q that of minus the frame
    mode.free = mode.free[:2]
    found, scale = mode.settle(temperature)
    cost = temperature * (gain**2 + temperature)
    assert found == pytest.approx(gain**2 / (gain**2 + cost), abs=1e-7)
    variance = temperature / (gain**2 + temperature)
    assert scale == pytest.approx(gain**2 / (gain**2 + temperature) ** 2 + variance, abs=1e-7)


def test_the_injective_decoder_moves_no_two_points_closer_than_its_gain(component):
    torch.manual_seed(0)
    for _ in range(20):
        decoder = component("decoder", "injective", gain=0.3, width=9).build(4, (3, 3))
        with torch.no_grad():
            for value in decoder.parameters():
                value.mul_(10 * torch.rand(()))
        z, y = torch.randn(2, 100, 4)
        moved = (decoder(z) - decoder(y)).flatten(1).norm(dim=1)
        assert (moved >= 0.3 * (z - y).norm(dim=1) * (1 - 1e-4)).all()


def test_an_injective_decoder_with_more_latents_than_features_is_refused(component):
    with pytest.raises(UserError, match=r"5 latents for 4 features.*Lower scan\.latent_dim"):
        component("decoder", "injective").build(5, (2, 2))


@pytest.mark.parametrize(
    ("decoder", "updates", "broken"),
    [
        pytest.param("first-order", 6000, {"mean", "orthogonality"}, marks=pytest.mark.slow),
        ("injective", 1500, {"scale", "orthogonality"}),
    ],
)
def test_trained_to_rest_each_obeys_the_identities_that_it_declares_and_no_other(
    make_trainer, decoder, updates, broken
):
    """Skewed data: were they symmetric, E mu = 0 would hold behind the gates too."""
    rows = np.random.default_rng(0).exponential(size=(1024, 2)).astype(np.float32) * np.array([2.0, 1.0], np.float32)
    part = Split(rows)
    data = standardise(Data(part, part, part, feature_names=("a", "b"), scaling="none"), "skewed")
    training = {
        "optimiser": {"use": "preconditioned", "learning_rate": 0.02}, "antithetic": True, "average": 0.1,
        "max_updates": updates, "settle_latents": False, "convergence": {"patience": 1.0},
    }  # fmt: skip
    trainer = make_trainer(data, [0.05], decoder=(decoder, {}), latent_dim=2, training=training)
    while trainer.update < updates:
        trainer.advance()
    found = trainer.measure(trainer.judged())
    residuals = {identity: replace(found, identities=(identity,)).ward_residual[0] for identity in WARD_IDENTITIES}
    assert set(found.identities) == set(WARD_IDENTITIES) - broken
    assert max(residuals[identity] for identity in found.identities) == found.ward_residual[0] < 0.01
    assert min(residuals[identity] for identity in broken) > 0.02


@pytest.mark.parametrize(("decoder", "shares"), [("first-order", [0.7, 0.62]), ("linear", [1.1, 1.02])])
def test_the_prior_is_called_stable_down_to_the_limit_of_the_decoder(
    make_gaussian, make_stack, make_trainer, decoder, shares
):
    data = make_gaussian(spectrum={"kind": "power-law", "exponent": 2.0})
    limit = float(data.eigenvalues[0] / data.total_variance)
    temperatures = [share * limit for share in (*shares, 0.8 * shares[1])]
    stack = make_stack(data, temperatures, decoder=(decoder, {}))
    stack.load({name: torch.zeros_like(value) for name, value in stack.weights().items()})
    training = {"optimiser": {"use": "adam", "learning_rate": 1e-30}, "max_updates": 100, "convergence": {}}
    trained = make_trainer(data, temperatures, stack=stack, training=training).run(Controls())
    assert trained.marks == ["converged", "converged", "unstable"]
