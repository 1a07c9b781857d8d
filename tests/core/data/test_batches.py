"""Batches and noise are functions of seed and update, and of nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from collapsebench.contracts import Data, Split
from collapsebench.data.batches import Batches
from collapsebench.data.standardise import standardise

SEEDS = (0, 3)
MLP = {"encoder": ("mlp", {"depth": 1, "width": 12}), "decoder": ("mlp", {"depth": 1, "width": 12})}


def batches_of(stack, data, seeds, size, latent_dim, **settings):
    return Batches(data, seeds, size, latent_dim, device=stack.device, dtype=stack.dtype, **settings)


@pytest.fixture
def draw(gaussian, make_stack):
    """Return the draws of an update, from fresh `Batches` unless some are given."""

    def make(
        update, *, seeds=SEEDS, size=64, noisy=True, temperatures=(0.5, 0.1), data=gaussian, latent_dim=8, **settings
    ):
        stack = make_stack(data, temperatures, seeds=seeds, latent_dim=latent_dim)
        return batches_of(stack, data, seeds, size, latent_dim, noisy=noisy, **settings).draw(update)

    return make


def test_a_draw_depends_on_the_update_and_not_on_what_was_drawn_before(gaussian, make_stack, draw):
    batches = batches_of(make_stack(gaussian, [0.1], seeds=SEEDS), gaussian, SEEDS, 64, 8, noisy=True)
    for update in (0, 5, 17, 3, 1_000_000, 5):
        for ours, fresh in zip(batches.draw(update)[:2], draw(update)[:2], strict=True):
            assert torch.equal(ours, fresh)


def test_all_temperatures_share_batches_and_noise(draw):
    for few, many in zip(draw(9)[:2], draw(9, temperatures=np.logspace(0, -3, 7))[:2], strict=True):
        assert torch.equal(few, many)
        assert few.shape[0] == len(SEEDS)


def test_a_seeds_draws_do_not_depend_on_which_other_seeds_share_the_stack(draw):
    for both, alone in zip(draw(9)[:2], draw(9, seeds=(3,))[:2], strict=True):
        assert torch.equal(both[1], alone[0])


def test_different_seeds_and_different_updates_differ(draw):
    x, noise, _ = draw(4)
    later, later_noise, _ = draw(5)
    assert not torch.equal(x[0], x[1])
    assert not torch.equal(noise[0], noise[1])
    assert not torch.equal(x, later)
    assert not torch.equal(noise, later_noise)


def test_architectures_of_equal_latent_dim_see_equal_noise_and_all_see_equal_batches(draw):
    x, noise, _ = draw(2, latent_dim=8)
    other, _, _ = draw(2, latent_dim=3, noisy=False)
    assert torch.equal(x, other)
    assert noise.shape == (2, 64, 8)


@pytest.mark.parametrize("epoch", [0, 1])
def test_an_epoch_visits_every_row_once(gaussian, make_stack, epoch):
    batches = batches_of(make_stack(gaussian, [0.1], seeds=SEEDS), gaussian, SEEDS, 64, 8, noisy=False)
    rows = torch.cat([batches.draw(8 * epoch + update)[0] for update in range(8)], dim=1).numpy()
    expected = np.sort(gaussian.splits["train"].values, axis=0)
    for seen in rows:
        assert not np.array_equal(seen, gaussian.splits["train"].values)
        assert np.array_equal(np.sort(seen, axis=0), expected)
        assert len(np.unique(seen, axis=0)) == len(expected)


def test_two_epochs_have_different_orders(draw):
    assert not torch.equal(draw(0)[0], draw(8)[0])


def test_what_is_left_over_at_the_end_of_an_epoch_is_not_used_and_no_row_comes_twice(gaussian, make_stack):
    batches = batches_of(make_stack(gaussian, [0.1]), gaussian, (0,), 100, 8, noisy=False)
    rows = torch.cat([batches.draw(update)[0][0] for update in range(5)]).numpy()
    assert rows.shape == (500, 8)
    assert len(np.unique(rows, axis=0)) == 500


@pytest.mark.parametrize("size", ["full", 512, 100_000])
def test_a_full_batch_is_the_train_split_in_its_order_the_same_for_all_seeds(gaussian, draw, size):
    for update in (0, 11):
        x, noise, weights = draw(update, size=size)
        assert np.array_equal(x.numpy(), gaussian.splits["train"].values)
        assert noise.shape == (2, 512, 8)
        assert weights is None


@pytest.fixture
def weighted(component):
    """Return 128 weighted samples of four variables."""
    data = component("dataset", "gaussian", dimension=4, samples=128).load(0, Path())
    train = Split(data.train.values, np.linspace(0.5, 2, 128, dtype=np.float32))
    return standardise(Data(train, data.validation, data.test, data.feature_names, "none"), "weighted")


def test_a_weight_follows_its_row(weighted, draw):
    train = weighted.splits["train"]
    weight_of = {row.tobytes(): weight for row, weight in zip(train.values, train.weights, strict=True)}
    x, _, weights = draw(3, data=weighted, size=32)
    assert weights.shape == (2, 32)
    for row, weight in zip(x.reshape(-1, 4).numpy(), weights.reshape(-1), strict=True):
        assert weight_of[row.tobytes()] == weight.item()


def test_the_noise_is_standard_normal(draw):
    noise = torch.cat([draw(update)[1] for update in range(6)], dim=1).double()
    count = noise[0].numel()
    assert (noise.mean((1, 2)).abs() < 4 / count**0.5).all()
    assert ((noise.square().mean((1, 2)) - 1).abs() < 4 * (2 / count) ** 0.5).all()


def test_nothing_is_drawn_for_a_decoder_whose_expectation_is_closed(draw):
    assert draw(0, noisy=False)[1] is None


@pytest.mark.parametrize("size", [32, "full"])
def test_an_antithetic_batch_is_the_batch_twice_with_its_noise_and_its_opposite(weighted, draw, size):
    x, noise, weights = draw(3, data=weighted, size=size)
    twice_x, both, twice_weights = draw(3, data=weighted, size=size, antithetic=True)
    assert torch.equal(twice_x, torch.cat([x, x], -2))
    assert torch.equal(both, torch.cat([noise, -noise], 1))
    assert torch.equal(twice_weights, torch.cat([weights, weights], -1))


def test_without_noise_there_is_nothing_to_oppose(draw):
    x, noise, _ = draw(3, noisy=False, antithetic=True)
    assert x.shape[1] == 64
    assert noise is None


def test_at_the_prior_what_noise_does_to_gradients_cancels_in_antithetic_pairs(gaussian, make_trainer):
    """A collapsed latent's decoder column is driven by residual times noise, which is odd in the noise."""
    spread = {}
    for antithetic, rows in ((False, 128), (True, 64)):
        training = {"batch_size": rows, "max_updates": 10, "antithetic": antithetic}
        trainer = make_trainer(gaussian, [0.9], training=training, **MLP)
        stack, heads = trainer.stack, trainer.symmetry
        with torch.no_grad():
            for name in (f"{heads.mean}.weight", f"{heads.mean}.bias", f"{heads.first}.weight"):
                stack.parameters[name].mul_(1e-3)
            for part in ("weight", "bias"):
                stack.parameters[f"{heads.log_variance}.{part}"].zero_()
        drawn = [trainer.batches.draw(update) for update in range(60)]
        columns = [stack.gradients(*batch, 0.0)[1][f"{heads.first}.weight"].clone() for batch in drawn]
        spread[antithetic] = torch.stack(columns).double().std(0).norm().item()
    assert spread[True] < spread[False] / 50


@pytest.mark.parametrize("computation", ["kernel", "kernel-chains", "batched"])
def test_every_path_takes_antithetic_batches_and_finds_the_mean_of_both_halves(gaussian, make_trainer, computation):
    training = {"batch_size": 64, "max_updates": 10, "antithetic": True}
    trainer = make_trainer(gaussian, [0.3, 0.03], training=training, computation=computation, **MLP)
    x, noise, _ = trainer.batches.draw(0)
    losses, gradients = trainer.stack.gradients(x, noise, None, 0.0)
    whole = {name: value.clone() for name, value in gradients.items()}
    halves = []
    for half in (slice(0, 64), slice(64, 128)):
        part, of_part = trainer.stack.gradients(x[:, half], noise[:, half], None, 0.0)
        halves.append((part, {name: value.clone() for name, value in of_part.items()}))
    assert torch.allclose(losses, (halves[0][0] + halves[1][0]) / 2, rtol=1e-5)
    for name, value in whole.items():
        assert torch.allclose(value, (halves[0][1][name] + halves[1][1][name]) / 2, rtol=1e-4, atol=1e-6)
