"""Every replica is updated as if it were alone, and as the reference implementation would."""

from __future__ import annotations

import pytest
import torch

from collapsebench.stack import optimisers as optimise
from collapsebench.stack.optimisers import Adam, Preconditioned, affine_maps

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


MAPS = {"wide": (12, 19), "tall": (19, 12), "square": (16, 16), "one row": (1, 5), "one column": (5, 1)}


def descend(monkeypatch, *, by_kernel, steps, replicas=3, bias=True, spoil=None):
    """Return weights and state after some updates towards noisy targets, through the kernel or through PyTorch."""
    monkeypatch.setattr(optimise, "_WIDEST", 256 if by_kernel else 0)
    generator = torch.Generator().manual_seed(1)
    weights = {}
    for name, (rows, columns) in MAPS.items():
        weights[f"{name}.weight"] = torch.randn(replicas, rows, columns, generator=generator)
        if bias:
            weights[f"{name}.bias"] = torch.randn(replicas, rows, generator=generator)
    targets = {name: torch.randn(value.shape, generator=generator) for name, value in weights.items()}
    optimiser = Preconditioned()
    for _ in range(steps):
        gradients = {}
        for name, value in weights.items():
            slope = (value - targets[name]) * torch.linspace(0.1, 2, value.shape[-1])
            gradients[name] = slope + 0.1 * torch.randn(value.shape, generator=generator)
        if spoil is not None:
            gradients["square.weight"][spoil] = torch.nan
        optimiser.step(weights, gradients, 0.05)
    return weights, optimiser.state()


@pytest.mark.parametrize("bias", [True, False])
def test_the_kernel_takes_the_step_that_pytorch_takes(monkeypatch, bias):
    """25 updates, two renewals of the bases: the same weights; of the state what does not depend on a basis's signs.

    The maps have gradients of nearly full rank: in directions without gradient the preconditioner magnifies rounding.
    """
    (ours, state), (theirs, reference) = (
        descend(monkeypatch, by_kernel=by_kernel, steps=25, bias=bias) for by_kernel in (True, False)
    )
    for name, value in theirs.items():
        assert torch.allclose(ours[name], value, rtol=1e-4, atol=1e-4), name
    assert state.keys() == reference.keys()
    for name, value in reference.items():
        if not name.endswith(("-basis", "/m")):
            assert torch.allclose(state[name].double(), value.double(), rtol=1e-3, atol=1e-3 * float(value.abs().max()))


def test_the_kernel_s_bases_are_orthonormal(monkeypatch):
    _, state = descend(monkeypatch, by_kernel=True, steps=30)
    bases = [value for name, value in state.items() if name.endswith("-basis")]
    assert len(bases) == 9
    for basis in bases:
        assert torch.allclose(basis.mT @ basis, torch.eye(basis.shape[1]).expand_as(basis), atol=1e-5)


@pytest.mark.parametrize("noise", [0.0, 1e-6, 1e-3])
@pytest.mark.parametrize(("rows", "columns"), [(65, 7), (33, 130), (250, 250)])
def test_bases_are_orthonormal_although_gradients_have_few_directions(monkeypatch, rows, columns, noise):
    """Gradients of rank 3, and noise: without a ridge, most directions are made of rounding."""
    monkeypatch.setattr(optimise, "_WIDEST", 256)
    monkeypatch.setattr(optimise, "RIDGE", 0.0)
    generator = torch.Generator().manual_seed(0)
    weights, optimiser = {"a.weight": torch.zeros(2, rows, columns)}, Preconditioned(refresh_every=2)
    left, right = (torch.randn(2, side, 3, generator=generator) for side in (rows, columns))
    for _ in range(8):
        gradient = left @ torch.randn(2, 3, 3, generator=generator) @ right.mT
        gradient += noise * torch.randn(2, rows, columns, generator=generator)
        optimiser.step(weights, {"a.weight": gradient}, 1e-3)
    for name in ("left-basis", "right-basis"):
        basis = optimiser.state()[f"a.weight/{name}"]
        assert torch.allclose(basis.mT @ basis, torch.eye(basis.shape[1]).expand_as(basis), atol=1e-4)


def test_gradients_of_zero_give_a_basis_and_no_step(monkeypatch):
    monkeypatch.setattr(optimise, "_WIDEST", 256)
    weights = {"a.weight": torch.ones(2, 5, 7)}
    optimiser = Preconditioned()
    for _ in range(12):
        optimiser.step(weights, {"a.weight": torch.zeros(2, 5, 7)}, 0.1)
    assert torch.equal(weights["a.weight"], torch.ones(2, 5, 7))
    assert torch.isfinite(optimiser.state()["a.weight/left-basis"]).all()


def test_a_replica_s_step_has_the_same_bits_alone_and_beside_a_diverged_one(monkeypatch):
    (whole, _), (spoilt, _) = (descend(monkeypatch, by_kernel=True, steps=12, spoil=spoil) for spoil in (None, 1))
    for name, value in whole.items():
        assert torch.equal(value[[0, 2]], spoilt[name][[0, 2]]), name
    assert spoilt["square.weight"][1].isnan().any()
