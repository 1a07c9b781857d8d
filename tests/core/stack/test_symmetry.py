"""The symmetries of the latents: found by trying, and settled without a change of what is reconstructed."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from collapsebench.stack.symmetry import Symmetry, find_symmetry
from collapsebench.training.build import build_pair
from collapsebench.training.trainer import Controls

SHAPE, LATENT = (1, 8, 8), 5
PAIRS = {
    "linear": (("linear", {}), ("linear", {})),
    "mlp": (("mlp", {"width": 12}), ("mlp", {"width": 12})),
    "residual-mlp": (("residual-mlp", {"width": 12}), ("residual-mlp", {"width": 12})),
    "conv": (("conv", {"channels": 2}), ("conv", {"channels": 2})),
    "as wide as the latents": (("mlp", {"width": LATENT}), ("mlp", {"width": LATENT})),
}


@pytest.fixture
def make_pair(component):
    def made(encoder, decoder):
        parts = (component(kind, use, **own) for kind, (use, own) in (("encoder", encoder), ("decoder", decoder)))
        return build_pair(*parts, SHAPE, LATENT, seed=1)

    return made


@pytest.mark.parametrize("name", PAIRS)
def test_every_shipped_pair_has_its_latents_moved_without_a_change_of_reconstruction_or_signal_fraction(
    make_pair, name
):
    """float64; z -> c (z - a) with a of order one and c from 1/2 to 2."""
    pair = make_pair(*PAIRS[name]).double().eval()
    symmetry = find_symmetry(pair, SHAPE, LATENT)
    assert symmetry is not None
    generator = torch.Generator().manual_seed(2)
    x, noise = torch.randn(64, *SHAPE, generator=generator).double(), torch.randn(64, LATENT, generator=generator)
    shift = torch.randn(1, LATENT, generator=generator, dtype=torch.float64)
    factor = 0.5 + torch.rand(1, LATENT, generator=generator, dtype=torch.float64)

    def seen():
        mean, log_variance = pair["encoder"](x)
        deviation = (0.5 * log_variance).exp()
        return mean, log_variance, pair["decoder"](mean + deviation * noise)

    before = seen()
    stacked = {name: value[None].clone() for name, value in pair.state_dict().items()}
    symmetry.move(stacked, shift, factor)
    pair.load_state_dict({name: value[0] for name, value in stacked.items()})
    mean, log_variance, decoded = seen()
    assert torch.allclose(decoded, before[2], atol=1e-10)
    assert torch.allclose(mean, factor * (before[0] - shift), atol=1e-10)
    assert torch.allclose(log_variance, before[1] + 2 * factor.log(), atol=1e-10)


class OwnHeads(nn.Module):
    """An encoder as somebody else writes it: two heads of his own, in an order of his own."""

    def __init__(self, *, shared: bool = False) -> None:
        super().__init__()
        self.body, self.spread, self.centre = nn.Linear(64, 7), nn.Linear(7, LATENT), nn.Linear(7, LATENT)
        self.shared = shared

    def forward(self, x):
        y = torch.tanh(self.body(x.flatten(1)))
        return self.centre(y), self.centre(y) if self.shared else self.spread(y)


def test_heads_are_found_in_a_module_that_knows_nothing_of_them():
    decoder = nn.Sequential(nn.Linear(LATENT, 64), nn.Unflatten(1, SHAPE))
    assert find_symmetry(nn.ModuleDict({"encoder": OwnHeads(), "decoder": decoder}), SHAPE, LATENT) == Symmetry(
        "encoder.centre", "encoder.spread", "decoder.0"
    )


@pytest.mark.parametrize("broken", ["one head for both", "a decoder that squares", "no bias"])
def test_a_pair_without_the_symmetry_is_not_said_to_have_it(broken):
    class Squared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(LATENT, 64)

        def forward(self, z):
            return self.first(z.square()).reshape(-1, *SHAPE)

    plain = nn.Sequential(nn.Linear(LATENT, 64, bias=broken != "no bias"), nn.Unflatten(1, SHAPE))
    pair = nn.ModuleDict(
        {
            "encoder": OwnHeads(shared=broken == "one head for both"),
            "decoder": Squared() if broken == "a decoder that squares" else plain,
        }
    )
    before = copy.deepcopy(pair.state_dict())
    assert find_symmetry(pair, SHAPE, LATENT) is None
    assert all(torch.equal(value, before[name]) for name, value in pair.state_dict().items())


@pytest.mark.parametrize("architecture", ["linear", "mlp"])
def test_settling_meets_the_identities_of_the_latents_and_never_raises_the_loss(gaussian, make_trainer, architecture):
    parts = {"encoder": PAIRS[architecture][0], "decoder": PAIRS[architecture][1]}
    trainer = make_trainer(gaussian, [0.3, 0.03, 0.003], **parts)
    for _ in range(20):
        trainer.advance()
    before, x = trainer.measure(), trainer.batches.draw(0)
    losses = trainer.stack.losses(*x, 0.0).detach()
    trainer.symmetry.settle(trainer.stack.parameters, before.mean, before.scale)
    after = trainer.measure()
    assert np.abs(before.scale - 1).max() > 0.05
    assert np.abs(after.mean).max() < 1e-5
    assert np.abs(after.scale - 1).max() < 1e-5
    centred = (before.scale - before.mean**2) / before.scale  # M^2 is that of the centred latent afterwards
    expected = 1 - (1 - before.signal_fraction) / centred
    assert np.abs(after.signal_fraction - expected).max() < 1e-5
    assert after.distortion == pytest.approx(before.distortion, rel=1e-5)
    assert (after.rate < before.rate).all()
    assert bool((trainer.stack.losses(*x, 0.0).detach() < losses).all())


UNSETTLED = {"settle_latents": False, "max_updates": 100}


@pytest.mark.slow
def test_settling_moves_no_equilibrium(gaussian, make_trainer):
    """Two runs of the linear pair, with and without: the same signal fractions."""
    fractions = []
    for settle in (True, False):
        training = {"max_updates": 2000, "settle_latents": settle, "convergence": {"checks": 20, "ward_residual": 1e-3}}
        trainer = make_trainer(gaussian, [0.3, 0.1, 0.03], training=training)
        trained = trainer.run(Controls())
        assert trained.marks == ["converged"] * 3
        whole = make_trainer(gaussian, [0.3, 0.1, 0.03])
        whole.stack.load(trained.weights)
        fractions.append(-np.sort(-whole.measure().signal_fraction, axis=1))
    assert np.abs(fractions[0] - fractions[1]).max() < 5e-3


@pytest.mark.parametrize("changes", [{"objective": ("weight-decay", {"omega": 0.1})}, {"training": UNSETTLED}])
def test_where_a_penalty_or_the_suite_forbids_it_no_latent_is_settled(gaussian, make_trainer, monkeypatch, changes):
    trainer = make_trainer(gaussian, [0.3], **changes)
    monkeypatch.setattr(trainer, "settle", lambda *_: pytest.fail("settled"))
    trainer.advance()
    trainer.check(final=False)
