"""Rare events: what is drawn, and the optimum of a nonlinear pair against brute force and the laws of an optimum."""

from __future__ import annotations

import math
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import integrate, optimize

from collapsebench import oracle
from collapsebench.contracts import SPLITS
from collapsebench.data.standardise import fingerprint, standardise
from collapsebench.stack.stack import StackModel
from collapsebench.training.trainer import Controls
from collapsebench_datasets.parameters import Event, RareEventsParameters
from collapsebench_datasets.rare_event_optimum import (
    best_event,
    event_threshold,
    event_variance,
    least_cost,
    least_threshold,
    optimum,
)
from collapsebench_datasets.rare_events import combinations

PROBABILITIES = (0.005, 0.02, 0.05, 0.1, 0.3)
# Where the event is coded: a share of the first-order threshold.
SHARES = (0.9, 0.5, 0.1, 1e-2, 1e-4)


@pytest.fixture
def load(component):
    def make(seed=0, **parameters):
        return component("dataset", "rare-events", **parameters).load(seed, Path("unused"))

    return make


def cost_of(code, p, beta, amplitude=1.0):
    """Return D + beta R of mu_0, log s_0, mu_1, log s_1 by adaptive quadrature, with nothing minimised."""
    mean, log_scale = np.array(code)[[0, 2]], np.array(code)[[1, 3]]
    weight = np.array([1 - p, p])

    def left(z):
        density = weight * np.exp(-0.5 * ((z - mean) / np.exp(log_scale)) ** 2 - log_scale) / math.sqrt(2 * math.pi)
        return density.prod() / max(density.sum(), 1e-300)

    low, high = (mean - 12 * np.exp(log_scale)).min(), (mean + 12 * np.exp(log_scale)).max()
    distortion = 0.5 * amplitude**2 * integrate.quad(left, low, high, points=sorted(mean), limit=400)[0]
    kl = 0.5 * (mean**2 + np.exp(2 * log_scale) - 1) - log_scale
    return distortion + beta * float(weight @ kl)


@pytest.mark.parametrize(("p", "price"), [(0.02, 0.06), (0.1, 0.05), (0.3, 0.21)])
def test_the_best_code_is_that_of_a_search_over_all_four_numbers(p, price):
    starts = [(-0.1, 0.0, mean, log_scale) for mean in (0.5, 2.5) for log_scale in (-1.0, 0.2)]
    found = min(optimize.minimize(lambda code: cost_of(code, p, price) / p, start).fun for start in starts)
    assert best_event(p, 1.0, price).cost == pytest.approx(found * p, rel=1e-7)


def test_gradient_descent_with_a_free_decoder_ends_at_the_best_code():
    """The decoder is a table of x_hat over a fine grid of z, and encoder and table descend together."""
    p, price = 0.02, 0.06
    z = torch.linspace(-8, 8, 401, dtype=torch.float64)
    step, weight = float(z[1] - z[0]), torch.tensor([1 - p, p], dtype=torch.float64)
    code = torch.tensor([[-0.1, 2.5], [0.0, -1.0]], dtype=torch.float64, requires_grad=True)
    x_hat = torch.sigmoid(4 * (z - 2)).requires_grad_()
    descent = torch.optim.LBFGS([code, x_hat], max_iter=1000, line_search_fn="strong_wolfe", tolerance_change=1e-15)

    def loss():
        descent.zero_grad()
        mean, scale = code[0], code[1].exp()
        density = torch.exp(-0.5 * ((z[:, None] - mean) / scale) ** 2) / scale * step / math.sqrt(2 * math.pi)
        error = 0.5 * (torch.tensor([0.0, 1.0]) - x_hat[:, None]) ** 2
        kl = 0.5 * (mean**2 + scale**2 - 1) - code[1]
        total = (weight * ((density * error).sum(0) + price * kl)).sum()
        total.backward()
        return total

    descent.step(loss)
    assert float(loss().detach()) == pytest.approx(best_event(p, 1.0, price).cost, rel=1e-4)


@pytest.mark.parametrize("p", PROBABILITIES)
@pytest.mark.parametrize("share", SHARES)
def test_the_slope_of_the_cost_in_beta_is_the_rate(p, share):
    beta = share * event_threshold(p, 3.0)
    step = 1e-4 * beta
    slope = (best_event(p, 3.0, beta + step).cost - best_event(p, 3.0, beta - step).cost) / (2 * step)
    assert slope == pytest.approx(best_event(p, 3.0, beta).rate, rel=1e-5)


@pytest.mark.parametrize("p", PROBABILITIES)
def test_the_cost_is_concave_and_increases_with_beta_while_the_rate_falls(p):
    betas = np.geomspace(1e-6, 2, 30) * event_threshold(p, 1.0)
    states = [best_event(p, 1.0, beta) for beta in betas]
    costs, rates = (np.array([getattr(state, name) for state in states]) for name in ("cost", "rate"))
    slopes = np.diff(costs) / np.diff(betas)
    assert (np.diff(slopes) <= 1e-12).all()
    assert (np.diff(rates) <= 1e-9).all()
    assert (slopes <= rates[:-1] + 1e-9).all()
    assert (slopes >= rates[1:] - 1e-9).all()


@pytest.mark.parametrize("p", PROBABILITIES)
def test_as_beta_vanishes_the_event_is_told_at_a_rate_above_its_entropy(p):
    entropy = -p * math.log(p) - (1 - p) * math.log(1 - p)
    variance = event_variance(p, 2.0)
    for beta, left in ((1e-3, 0.02), (1e-6, 1e-4), (1e-10, 1e-7)):
        state = best_event(p, 2.0, beta * variance)
        assert state.distortion < left * variance
        assert state.rate > entropy
    assert best_event(p, 2.0, 1e-10 * variance).cost < 1e-9 * variance


@pytest.mark.parametrize("p", PROBABILITIES)
def test_an_event_is_collapsed_above_its_threshold_and_coded_with_a_jump_below(p):
    threshold, variance = event_threshold(p, 2.0), event_variance(p, 2.0)
    above = best_event(p, 2.0, threshold * (1 + 1e-6))
    assert (above.rate, above.signal_fraction, above.cost) == (0, 0, pytest.approx(variance / 2, rel=1e-12))
    below = best_event(p, 2.0, threshold * (1 - 1e-6))
    assert below.cost < variance / 2
    assert below.rate > 1e-3
    assert below.signal_fraction > 1e-3


@pytest.mark.parametrize("p", [0.001, *PROBABILITIES, 0.4])
def test_the_threshold_lies_between_that_of_a_linear_decoder_and_shannons(p):
    assert event_variance(p, 2.0) < event_threshold(p, 2.0) < least_threshold(p, 2.0)


def test_the_rarer_an_event_of_given_variance_the_higher_its_threshold():
    thresholds = [event_threshold(p, 1 / math.sqrt(p * (1 - p))) for p in (0.001, 0.01, 0.1, 0.3, 0.5)]
    assert all(one > other for one, other in pairwise(thresholds))
    assert thresholds[-1] == pytest.approx(1, rel=1e-9)  # continuous for a fair coin, as for a Gaussian feature


def test_at_the_threshold_no_code_saves_more_than_the_threshold_per_nat():
    """Independently of the search at given beta: the threshold is the largest (lambda / 2 - D) / R."""
    p, rng = 0.05, np.random.default_rng(0)
    threshold, variance = event_threshold(p, 1.0), event_variance(p, 1.0)
    for mean, log_scale in zip(rng.uniform(0.1, 6, 100), rng.uniform(-3, 0.7, 100), strict=True):
        code = (0.0, 0.0, mean, log_scale)
        rate = (cost_of(code, p, 2.0) - cost_of(code, p, 1.0)) / 1.0
        assert variance / 2 - cost_of(code, p, 0.0) < threshold * rate * (1 + 1e-9)


def test_amplitude_is_a_unit():
    one, other = best_event(0.02, 1.0, 0.05), best_event(0.02, 7.0, 0.05 * 49)
    assert other.cost == pytest.approx(49 * one.cost)
    assert (other.rate, other.signal_fraction) == (pytest.approx(one.rate), pytest.approx(one.signal_fraction))
    assert event_threshold(0.02, 7.0) == pytest.approx(49 * event_threshold(0.02, 1.0))


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5])
def test_shannons_bound_is_the_best_of_all_ways_to_spread_the_probability_given_z(p):
    """Against linear programming over distributions of r = P(on | z) on a grid, with mean p."""
    r = np.linspace(0, 1, 4001)
    entropy = np.where((r > 0) & (r < 1), -r * np.log(r.clip(1e-300)) - (1 - r) * np.log((1 - r).clip(1e-300)), 0)
    own = -p * math.log(p) - (1 - p) * math.log(1 - p)
    for price in (0.02, 0.1, 0.2, 0.3):
        cost = 0.5 * r * (1 - r) - price * entropy
        found = optimize.linprog(cost, A_eq=np.stack([r, np.ones_like(r)]), b_eq=[p, 1.0])
        assert least_cost(p, 1.0, price) == pytest.approx(found.fun + price * own, abs=1e-6)
        assert least_cost(p, 1.0, price) <= best_event(p, 1.0, price).cost * (1 + 1e-12)


@pytest.mark.parametrize("p", [0.01, 0.1])
def test_above_shannons_threshold_alone_no_code_pays(p):
    threshold, collapsed = least_threshold(p, 2.0), event_variance(p, 2.0) / 2
    assert least_cost(p, 2.0, 1.001 * threshold) == pytest.approx(collapsed, rel=1e-12)
    assert least_cost(p, 2.0, 0.99 * threshold) < collapsed * (1 - 1e-6)


def test_features_add_up_and_gaussian_ones_are_the_oracles():
    own = RareEventsParameters(dimension=3)
    temperatures = np.geomspace(2, 1e-4, 9)
    found = optimum(own, temperatures)
    exact = oracle(np.diag([1.0, 1 / 2, 1 / 3]), temperatures * found.total_variance / (1 + 1 / 2 + 1 / 3))
    states = [
        [best_event(event.probability, event.amplitude, beta) for event in own.events]
        for beta in temperatures * found.total_variance
    ]
    assert found.loss == pytest.approx(exact.loss + [sum(state.cost for state in row) for row in states])
    assert found.rate == pytest.approx(exact.total_rate + [sum(state.rate for state in row) for row in states])
    assert found.signal_fraction[:, 3:] == pytest.approx(exact.signal_fraction, abs=1e-12)
    assert found.thresholds[3:] == pytest.approx(found.linear_thresholds[3:])
    assert (found.thresholds[:3] > found.linear_thresholds[:3]).all()
    assert (found.least_loss <= found.loss * (1 + 1e-12)).all()


def test_the_slope_of_the_whole_loss_in_beta_is_the_whole_rate():
    own = RareEventsParameters()
    for temperature in (0.5, 0.2, 0.01):
        ends = optimum(own, [temperature * (1 - 1e-4), temperature * (1 + 1e-4)])
        slope = np.diff(ends.loss)[0] / (2e-4 * temperature * ends.total_variance)
        assert slope == pytest.approx(optimum(own, [temperature]).rate[0], rel=1e-5)


def test_above_every_threshold_the_loss_is_half_of_the_variance():
    found = optimum(RareEventsParameters(), [1.2 * optimum(RareEventsParameters(), [1.0]).thresholds.max()])
    assert found.loss[0] == pytest.approx(found.total_variance / 2)
    assert found.rate[0] == 0


def test_the_exact_training_split_has_the_variances_of_the_population_and_no_covariance(load):
    data = load()
    x = data.train.values.astype(np.float64)
    centred = x - x.mean(0)
    covariance = centred.T @ centred / len(x)
    assert np.diag(covariance) == pytest.approx(np.diag(data.covariance), rel=1e-5)
    scale = np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    assert np.abs(covariance - data.covariance).max() == pytest.approx(0, abs=2e-3)
    gaussian = (covariance - data.covariance)[:, 3:] / scale[:, 3:]
    assert gaussian == pytest.approx(np.zeros_like(gaussian), abs=1e-6)
    ready = standardise(data, "rare-events")
    assert ready.total_variance == pytest.approx(optimum(RareEventsParameters(), [1.0]).total_variance, rel=1e-5)
    assert ready.left_out == ()


def test_events_take_two_values_each_as_often_as_their_probability_says(load):
    data = load(events=[{"probability": 0.02, "amplitude": 3.0}, {"probability": 0.25, "amplitude": 0.5}], dimension=1)
    for column, (probability, amplitude) in enumerate([(0.02, 3.0), (0.25, 0.5)]):
        values = data.train.values[:, column]
        assert np.unique(values).tolist() == [0.0, amplitude]
        assert (values > 0).sum() == probability * 10_000


def test_every_combination_of_events_is_as_frequent_as_its_probability_rounded():
    probabilities = np.array([0.02, 0.1, 0.3, 0.5])
    happens = combinations(probabilities, 3000)
    assert happens.sum(0).tolist() == [60, 300, 900, 1500]
    for combination in product([False, True], repeat=4):
        share = np.where(combination, probabilities, 1 - probabilities).prod()
        assert (happens == combination).all(1).sum() == pytest.approx(3000 * share, abs=2)


@pytest.mark.parametrize("exact", [True, False])
def test_evaluation_splits_are_samples_of_the_same_distribution(load, exact):
    """Second moments within five standard errors of the population's."""
    data = load(samples=20_000, evaluation_samples=20_000, exact=exact)
    mean = np.array([0.04, 0.08, 0.2, *np.zeros(5)])
    for name in SPLITS:
        x = getattr(data, name).values.astype(np.float64) - mean
        products = x[:, :, None] * x[:, None]
        error = np.abs(products.mean(0) - data.covariance) / (products.std(0) / np.sqrt(len(x)))
        assert error.max() < 5


def test_a_seed_gives_the_same_arrays_every_time_and_another_seed_others(load):
    assert fingerprint(load(3)) == fingerprint(load(3)) != fingerprint(load(4))


def test_sizes_are_those_asked_for_and_splits_share_no_row(load):
    data = load(samples=300, evaluation_samples=77, dimension=4, events=[{"probability": 0.5, "amplitude": 1.0}])
    assert [getattr(data, name).values.shape for name in SPLITS] == [(300, 5), (77, 5), (77, 5)]
    assert data.feature_names == ("event 0", "x0", "x1", "x2", "x3")
    rows = np.concatenate([getattr(data, name).values for name in SPLITS])
    assert len(np.unique(rows, axis=0)) == len(rows)


def test_an_event_alone_is_a_dataset_of_one_feature(load):
    own = RareEventsParameters(events=(Event(probability=0.02, amplitude=4.0),), dimension=0, samples=1000)
    data = load(**own.model_dump())
    assert data.train.values.shape == (1000, 1)
    assert (data.train.values > 0).sum() == 20
    found = optimum(own, [0.5])
    assert found.total_variance == pytest.approx(standardise(data, "rare-events").total_variance)
    assert found.loss[0] == pytest.approx(best_event(0.02, 4.0, 0.5 * found.total_variance).cost)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"samples": 100}, "samples = 100 for an event of probability 0.005, expected at least one"),
        ({"events": []}, "at least 1 item"),
        ({"events": [{"probability": 0.6, "amplitude": 1.0}]}, "less than or equal to 0.5"),
        ({"events": [{"probability": 0.5, "amplitude": 1.0}], "samples": 6}, "samples = 6 for 6 features"),
        ({"spectrum": {"kind": "explicit", "values": [1.0]}}, "1 eigenvalues, expected dimension = 5"),
    ],
)
def test_parameters_that_cannot_be_met_are_refused(component, parameters, message):
    with pytest.raises(ValueError, match=message):
        component("dataset", "rare-events", **parameters)


def test_the_default_events_are_of_similar_variance_and_outlast_in_the_order_of_their_rarity():
    own = RareEventsParameters()
    found = optimum(own, [1.0])
    assert isinstance(own.events[0], Event)
    assert np.ptp(found.linear_thresholds[:3]) < 0.02
    assert found.thresholds[0] > found.thresholds[3] > found.thresholds[2] > found.linear_thresholds[:3].max()


def test_a_trained_pair_attains_the_best_code_of_an_event(load, make_trainer, make_stack):
    """Within 5 %, at T below lambda / V = 1, where fresh weights leave the prior; averaged over draws of the noise."""
    own = RareEventsParameters(events=(Event(probability=0.05, amplitude=1.0),), dimension=0, samples=400)
    data = standardise(load(**own.model_dump()), "rare-events")
    temperatures = [0.8, 0.6]
    pair = {part: ("mlp", {"depth": 2, "width": 32}) for part in ("encoder", "decoder")}
    training = {
        "optimiser": {"use": "preconditioned", "learning_rate": 0.003},
        "max_updates": 2000,
        "antithetic": True,
        "average": 0.1,
        "convergence": {"checks": 2},
    }
    trained = make_trainer(data, temperatures, latent_dim=1, training=training, **pair).run(Controls())
    stack = make_stack(data, temperatures, latent_dim=1, **pair)
    stack.load(trained.weights)
    model = StackModel(stack, temperatures, 1)
    x, generator = torch.from_numpy(data.splits["train"].values), torch.Generator().manual_seed(0)
    mean, log_variance = model.encode(x)
    rate = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(2).mean(1).detach().numpy()
    errors = [
        (x - model.decode(mean + (log_variance / 2).exp() * torch.randn(mean.shape, generator=generator)))
        for _ in range(200)
    ]
    distortion = 0.5 * torch.stack(errors).square().sum(3).mean((0, 2)).detach().numpy()
    best = optimum(own, temperatures)
    assert rate == pytest.approx(best.rate, rel=0.05)
    assert distortion + np.array(temperatures) * data.total_variance * rate == pytest.approx(best.loss, rel=0.05)
