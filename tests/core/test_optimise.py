"""Every replica is updated as if it were alone, and as the reference implementation would."""

from __future__ import annotations

import pytest
import torch

from collapsebench.optimise import Adam, Preconditioned, affine_maps

SHAPES = {"layer.weight": (5, 4), "layer.bias": (5,), "scale": (3,), "kernel.weight": (2, 3, 2, 2), "kernel.bias": (2,)}
OPTIMISERS = {"adam": Adam, "preconditioned": Preconditioned}


def parameters(replicas, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(replicas, *shape, generator=generator).to(dtype) for name, shape in SHAPES.items()}


def copies(tensors):
    return {name: value.clone() for name, value in tensors.items()}


def gradients(values, update):
    """Return gradients that depend on the parameters and on the update, replica by replica."""
    return {name: value**3 + torch.sin(0.3 * update + value) for name, value in values.items()}


def run(optimiser, values, updates, first=0, learning_rate=lambda update: 0.05 / (1 + update)):
    for update in range(first, first + updates):
        optimiser.step(values, gradients(values, update), learning_rate(update))
    return values


@pytest.mark.parametrize("settings", [(0.9, 0.999, 1e-8), (0.5, 0.8, 1e-3)])
def test_adam_equals_torchs_adam_on_every_replica_alone(settings):
    stacked = run(Adam(*settings), parameters(3), 20)
    for replica in range(3):
        alone = {name: value[replica].clone() for name, value in parameters(3).items()}
        reference = torch.optim.Adam(list(alone.values()), betas=settings[:2], eps=settings[2])
        for update in range(20):
            reference.param_groups[0]["lr"] = 0.05 / (1 + update)
            for name, gradient in gradients(alone, update).items():
                alone[name].grad = gradient
            reference.step()
        for name, value in alone.items():
            assert torch.allclose(stacked[name][replica], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("use", OPTIMISERS)
def test_the_memory_layout_of_a_gradient_does_not_matter(use):
    ours, reference = parameters(2), parameters(2)
    one, two = OPTIMISERS[use](), OPTIMISERS[use]()
    for update in range(3):
        found = gradients(ours, update)
        turned = {name: value if value.dim() < 3 else value.mT.contiguous().mT for name, value in found.items()}
        one.step(ours, turned, 0.01)
        two.step(reference, gradients(reference, update), 0.01)
    for name, value in ours.items():
        assert torch.allclose(value, reference[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("use", OPTIMISERS)
def test_state_that_is_loaded_back_continues_bitwise(use):
    whole = run(OPTIMISERS[use](), parameters(3), 27)
    first = OPTIMISERS[use]()
    half = run(first, parameters(3), 13)
    second = OPTIMISERS[use]()
    # As a checkpoint does: in standard memory layout.
    second.load({name: value.contiguous().clone() for name, value in first.state().items()})
    rest = run(second, copies(half), 14, first=13)
    assert all(torch.equal(rest[name], whole[name]) for name in whole)


@pytest.mark.parametrize("use", OPTIMISERS)
def test_dropping_replicas_changes_nothing_for_those_that_stay(use):
    stay = torch.tensor([0, 3])
    whole = run(OPTIMISERS[use](), parameters(5, dtype=torch.float64), 24)
    optimiser = OPTIMISERS[use]()
    values = run(optimiser, parameters(5, dtype=torch.float64), 9)
    optimiser.keep(stay)
    values = run(optimiser, {name: value[stay] for name, value in values.items()}, 15, first=9)
    for name, value in values.items():
        assert torch.allclose(value, whole[name][stay], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("use", OPTIMISERS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_an_infinite_gradient_of_one_replica_leaves_its_neighbours_unchanged_bitwise(use, value):
    healthy, sick = parameters(4), parameters(4)
    ours, theirs = OPTIMISERS[use](), OPTIMISERS[use]()
    for update in range(25):
        ours.step(healthy, gradients(healthy, update), 0.01)
        found = gradients(sick, update)
        if update in (0, 12):
            for gradient in found.values():
                gradient[2] = value
        theirs.step(sick, found, 0.01)
    others = [0, 1, 3]
    assert all(torch.equal(sick[name][others], healthy[name][others]) for name in SHAPES)
    assert not torch.isfinite(sick["scale"][2]).all() or value == 1e30


@pytest.mark.parametrize("use", OPTIMISERS)
def test_nothing_moves_at_zero_gradient_because_no_weight_decays(use):
    values, optimiser = parameters(3), OPTIMISERS[use]()
    for _ in range(12):
        optimiser.step(values, {name: torch.zeros_like(value) for name, value in values.items()}, 0.1)
    assert all(torch.equal(value, parameters(3)[name]) for name, value in values.items())


def test_preconditioning_without_a_basis_is_adam():
    stacked = run(Preconditioned(0.9, 0.99, max_dimension=1, epsilon=1e-12), parameters(3, dtype=torch.float64), 20)
    adam = run(Adam(0.9, 0.99, 1e-12), parameters(3, dtype=torch.float64), 20)
    for name, value in stacked.items():
        assert torch.allclose(value, adam[name], rtol=1e-9, atol=1e-11)


def test_sides_of_size_one_and_vectors_are_not_rotated():
    single = {"a.weight": torch.randn(2, 1, 1, dtype=torch.float64), "b": torch.randn(2, 4, dtype=torch.float64)}
    ours = run(Preconditioned(0.9, 0.99, epsilon=1e-12), copies(single), 20)
    adam = run(Adam(0.9, 0.99, 1e-12), copies(single), 20)
    for name, value in ours.items():
        assert torch.allclose(value, adam[name], rtol=1e-9, atol=1e-11)


def test_a_weight_goes_together_with_the_bias_of_its_module_and_vectors_stay_alone():
    assert affine_maps(parameters(2)) == [
        ("layer.weight", "layer.bias"),
        ("scale",),
        ("kernel.weight", "kernel.bias"),
    ]
    norm = {"norm.weight": torch.zeros(2, 6), "norm.bias": torch.zeros(2, 6)}
    assert affine_maps(norm) == [("norm.weight",), ("norm.bias",)]


@pytest.mark.parametrize(
    ("weight", "bias"), [((3, 5, 2, 2), (5,)), ((4, 6), (4, 6))], ids=["transposed convolution", "layer norm"]
)
def test_a_bias_that_does_not_belong_to_the_rows_of_its_weight_is_preconditioned_alone(weight, bias):
    values = {"m.weight": torch.randn(2, *weight), "m.bias": torch.randn(2, *bias)}
    run(Preconditioned(), values, 3)
    assert all(torch.isfinite(value).all() for value in values.values())
