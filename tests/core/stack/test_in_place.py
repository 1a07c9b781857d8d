"""The optimisers of devices: the numbers of the others, in tensors that stay in place."""

from __future__ import annotations

import pytest
import torch

from collapsebench.stack.in_place import InPlacePreconditioned, cholesky_qr
from collapsebench.stack.optimisers import Adam, Preconditioned

SHAPES = {
    "a.weight": (7, 5), "a.bias": (7,), "b.weight": (7, 5), "b.bias": (7,), "c.weight": (4, 7),
    "d.weight": (6, 2, 3, 3), "d.bias": (6,), "gate": (9,), "scale": (),
}  # fmt: skip


def parameters(replicas=3, shapes=None):
    generator = torch.Generator().manual_seed(0)
    shapes = SHAPES if shapes is None else shapes
    return {
        name: torch.randn(replicas, *shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()
    }


def trained(optimiser, values, updates, start=0, drawn=None):
    """Return the parameters after updates on a noisy quadratic function. drawn: replicas whose noise is used."""
    for update in range(start, start + updates):
        generator = torch.Generator().manual_seed(update)
        noise = {
            name: torch.randn((4, *value.shape[1:]), generator=generator).to(value) for name, value in values.items()
        }
        rows = torch.arange(len(next(iter(values.values())))) if drawn is None else drawn
        optimiser.step(values, {name: 0.3 * value + noise[name][rows] for name, value in values.items()}, 0.01)
    return values


@pytest.mark.parametrize("max_dimension", [1024, 6, 1])
def test_updates_are_those_of_the_ordinary_preconditioner(max_dimension):
    """25 updates in float64, over two refreshes: maps alone or in groups, kernels, vectors, numbers."""
    ours, theirs = (
        trained(kind(max_dimension=max_dimension), parameters(), 25) for kind in (InPlacePreconditioned, Preconditioned)
    )
    for name, value in theirs.items():
        assert torch.allclose(ours[name], value, rtol=1e-9, atol=1e-12), name


@pytest.mark.parametrize("kinds", [(InPlacePreconditioned, Preconditioned), (Preconditioned, InPlacePreconditioned)])
def test_either_optimiser_continues_from_the_state_of_the_other(kinds):
    expected = trained(Preconditioned(), parameters(), 22)
    before, after = (kind() for kind in kinds)
    values = trained(before, parameters(), 13)
    after.load({name: value.clone() for name, value in before.state().items()})
    values = trained(after, values, 9, start=13)
    for name, value in expected.items():
        assert torch.allclose(values[name], value, rtol=1e-9, atol=1e-12), name


def test_replicas_that_stay_go_on_as_if_no_other_had_been_there():
    optimiser, kept = InPlacePreconditioned(), torch.tensor([1, 3])
    expected = trained(InPlacePreconditioned(), parameters(4), 24)
    values = trained(optimiser, parameters(4), 12)
    optimiser.keep(kept)
    fewer = trained(optimiser, {name: value[kept] for name, value in values.items()}, 12, 12, kept)
    for name, value in expected.items():
        assert torch.allclose(fewer[name], value[kept], rtol=1e-9, atol=1e-12), name


def test_phases_change_tensors_in_place_only():
    optimiser, values = InPlacePreconditioned(refresh_every=2), parameters()
    trained(optimiser, values, 1)
    places = {name: tensor.data_ptr() for name, tensor in {**optimiser.state(), **values}.items() if tensor.dim()}
    trained(optimiser, values, 5, start=1)
    state = {**optimiser.state(), **values}
    assert all(state[name].data_ptr() == place for name, place in places.items())


def test_cholesky_qr_is_qr_up_to_signs():
    """Condition numbers up to 1e5, in float32 as on a device: orthogonal to 1e-6, and R upper triangular."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(5, 40, 40, generator=generator, dtype=torch.float64))[0]
    spread = torch.logspace(0, -5, 40, dtype=torch.float64)
    other = torch.linalg.qr(torch.randn(5, 40, 40, generator=generator, dtype=torch.float64))[0]
    matrix = (basis * spread @ basis.mT @ other).float()
    ours, theirs = cholesky_qr(matrix), torch.linalg.qr(matrix.double())[0]
    signs = (ours.double() * theirs).sum(-2, keepdim=True).sign()
    assert torch.allclose(ours.mT @ ours, torch.eye(40), atol=2e-6)
    assert torch.allclose(ours.double(), theirs * signs, atol=2e-6)


def test_a_matrix_of_nan_spoils_no_other():
    matrix = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0))
    spoilt = matrix.clone()
    spoilt[1] = torch.nan
    assert torch.equal(cholesky_qr(spoilt)[[0, 2]], cholesky_qr(matrix)[[0, 2]])
    assert cholesky_qr(spoilt)[1].isnan().all()


def test_without_any_gradient_nothing_moves():
    values, before = parameters(), parameters()
    optimiser = InPlacePreconditioned(refresh_every=2)
    for _ in range(5):
        optimiser.step(values, {name: torch.zeros_like(value) for name, value in values.items()}, 0.1)
    assert all(torch.equal(values[name], value) for name, value in before.items())


def test_adam_in_place_is_adam():
    ours, theirs = (trained(Adam(in_place=in_place), parameters(), 20) for in_place in (True, False))
    assert all(torch.allclose(ours[name], value, rtol=1e-6) for name, value in theirs.items())


MIXED = {
    "conv and map": {"a.weight": (4, 3, 1, 1), "a.bias": (4,), "b.weight": (4, 3), "b.bias": (4,)},
    "kernels of two shapes": {"a.weight": (4, 3, 1, 2), "b.weight": (4, 6, 1, 1), "c.weight": (4, 2, 3)},
    "a bias, and none": {"a.weight": (4, 3), "a.bias": (4,), "b.weight": (4, 4)},
}


@pytest.mark.parametrize("name", MIXED)
def test_maps_that_look_different_may_share_a_group(name):
    """As matrices they have the same shape; each gets the update that it would get alone."""
    kinds = InPlacePreconditioned, Preconditioned
    ours, theirs = (trained(kind(), parameters(shapes=MIXED[name]), 14) for kind in kinds)
    for key, value in theirs.items():
        assert torch.allclose(ours[key], value, rtol=1e-9, atol=1e-12), key


def test_the_gradients_of_every_update_are_taken_to_the_same_place():
    """What is recorded for batches of one shape reads what was recorded for another."""
    optimiser, values = InPlacePreconditioned(refresh_every=2), parameters()
    trained(optimiser, values, 1)
    places = [group.gradient.data_ptr() for group in optimiser._groups]
    trained(optimiser, values, 4, start=1)
    assert [group.gradient.data_ptr() for group in optimiser._groups] == places
