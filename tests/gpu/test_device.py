"""What a stack computes on a CUDA device. Without one, the same functions run on the CPU, called one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from collapsebench import Data, Split
from collapsebench.data.batches import Batches
from collapsebench.data.standardise import standardise
from collapsebench.process import matrix_precision
from collapsebench.stack.computation import why_not
from collapsebench.stack.in_place import InPlacePreconditioned, cholesky_qr
from collapsebench.stack.optimisers import Adam
from collapsebench.stack.update import Update
from collapsebench.theory.oracle import oracle
from collapsebench.training.trainer import Controls

pytestmark = pytest.mark.gpu

HAS_DEVICE = torch.cuda.is_available()
HERE = "cuda" if HAS_DEVICE else "cpu"
ON_DEVICE = pytest.mark.skipif(not HAS_DEVICE, reason="needs a CUDA device")
MLP = {"encoder": ("mlp", {"depth": 2, "width": 24}), "decoder": ("mlp", {"depth": 2, "width": 24})}
TEMPERATURES = [0.5, 0.1, 0.02]
WAYS = ["graph", pytest.param("graph-of-kernels", marks=ON_DEVICE)]


@pytest.fixture(scope="module")
def images(make_gaussian):
    """Gaussian data as images of 5 x 5."""
    data = make_gaussian(dimension=25, samples=256)
    splits = {name: Split(data.splits[name].values.reshape(-1, 1, 5, 5)) for name in ("train", "validation", "test")}
    names = tuple(f"pixel {i}" for i in range(25))
    return standardise(Data(**splits, feature_names=names, scaling="none"), "images")


@pytest.fixture(autouse=True)
def _float32():
    with matrix_precision("float32"):
        yield


def optimisers():
    return [Adam(in_place=True), InPlacePreconditioned(refresh_every=4)]


def run(update, batches, count):
    """Return the losses of every update."""
    found = []
    for number in range(count):
        losses, _ = update.run(batches.draw(number), number / count, 1.0, 0.01)
        found.append(losses.clone())
    return torch.stack(found)


def batches_of(data, stack, size=64, seeds=(0,)):
    return Batches(
        data, seeds, size, 8, device=stack.device, dtype=stack.dtype, noisy=not stack.linear, antithetic=True
    )


@ON_DEVICE
@pytest.mark.parametrize("computation", WAYS)
@pytest.mark.parametrize("number", [0, 1])
def test_a_graph_gives_the_numbers_of_the_same_operations_called_one_by_one(gaussian, make_stack, computation, number):
    found = []
    for recorded in (True, False):
        stack = make_stack(gaussian, TEMPERATURES, computation=computation, device=HERE, **MLP)
        update = Update(stack, optimisers()[number])
        if not recorded:
            update._record = None
        losses = run(update, batches_of(gaussian, stack), 30)
        assert update.why_not == {}
        found.append((losses, stack.weights()))
    (losses, weights), (others, theirs) = found
    assert torch.allclose(losses, others, rtol=1e-5)
    for name, value in weights.items():
        assert torch.allclose(value, theirs[name], rtol=1e-3, atol=1e-4), name


@pytest.mark.parametrize("computation", WAYS)
def test_float32_on_the_device_is_float64_on_the_cpu(gaussian, make_stack, computation):
    """Losses to 1e-5, gradients to 1e-4, of the same weights, batch and noise."""
    ours = make_stack(gaussian, TEMPERATURES, computation=computation, device=HERE, **MLP)
    exact = make_stack(gaussian, TEMPERATURES, dtype=torch.float64, **MLP)
    x, noise, _ = batches_of(gaussian, ours).draw(3)
    losses, gradients = ours.gradients(x, noise, None, 0.5)
    expected, slopes = exact.gradients(x.double().cpu(), noise.double().cpu(), None, 0.5)
    assert torch.allclose(losses.double().cpu(), expected, rtol=1e-5)
    for name, slope in slopes.items():
        tolerance = 1e-4 * float(slope.abs().max())
        assert torch.allclose(gradients[name].double().cpu(), slope, rtol=1e-4, atol=tolerance), name


@pytest.mark.parametrize("computation", WAYS)
def test_a_replica_in_a_stack_is_the_replica_alone(gaussian, make_trainer, computation):
    """40 updates of plain Adam; latents are not settled, because what a check measures is rounded with its stack."""
    training = {
        "optimiser": {"use": "adam", "learning_rate": 0.01}, "batch_size": 64, "max_updates": 40,
        "settle_latents": False,
    }  # fmt: skip
    temperatures = [0.5 * 0.8**k for k in range(16)]
    options = {"training": training, "computation": computation, "device": HERE, **MLP}
    whole = make_trainer(gaussian, temperatures, **options).run(Controls())
    alone = make_trainer(gaussian, [temperatures[11]], **options).run(Controls())
    assert alone.losses[0] == pytest.approx(whole.losses[11], rel=1e-5)
    for name, value in alone.weights.items():
        assert torch.allclose(value[0], whole.weights[name][11], rtol=1e-3, atol=1e-3), name


@pytest.mark.parametrize("computation", WAYS)
def test_a_run_that_was_stopped_ends_with_the_same_numbers(gaussian, make_trainer, tmp_path, computation):
    training = {"optimiser": {"use": "adam", "learning_rate": 0.01}, "batch_size": 64, "max_updates": 40}
    options = {"training": training, "computation": computation, "device": HERE, **MLP}
    whole = make_trainer(gaussian, TEMPERATURES, **options).run(Controls())
    stopped = make_trainer(gaussian, TEMPERATURES, **options)
    with pytest.raises(KeyboardInterrupt):
        stopped.run(Controls(checkpoint=tmp_path / "c.safetensors", stop=lambda: stopped.update == 17))
    resumed = make_trainer(gaussian, TEMPERATURES, **options).run(Controls(checkpoint=tmp_path / "c.safetensors"))
    assert resumed.losses == pytest.approx(whole.losses, rel=1e-6)
    for name, value in whole.weights.items():
        assert torch.allclose(resumed.weights[name], value, rtol=1e-5, atol=1e-6), name


def test_noise_is_a_function_of_seed_and_update(gaussian, make_stack):
    """Draws do not depend on what was drawn before, nor on the other seeds of a stack."""
    stack = make_stack(gaussian, TEMPERATURES, computation="graph", device=HERE, **MLP)
    together, alone = batches_of(gaussian, stack, seeds=(0, 1)), batches_of(gaussian, stack, seeds=(1,))
    draws = [together.draw(update) for update in range(12)]
    for update in (11, 3):
        x, noise, _ = alone.draw(update)
        assert torch.equal(x[0], draws[update][0][1])
        assert torch.equal(noise[0], draws[update][1][1])


def test_linear_decoders_reach_the_exact_solution(gaussian, make_trainer):
    """M^2 to 1e-3 of theory in float32, full batches, 1,500 updates."""
    training = {"optimiser": {"use": "preconditioned", "learning_rate": 0.05}, "max_updates": 1500}
    options = {"training": training, "computation": "graph", "device": HERE}
    trained = make_trainer(gaussian, TEMPERATURES, **options).run(Controls())
    trainer = make_trainer(gaussian, TEMPERATURES, **options)
    trainer.stack.load(trained.weights)
    found = np.sort(trainer.measure().signal_fraction, 1)[:, ::-1]
    exact = oracle(gaussian.second_moments["train"], TEMPERATURES, 8).gain
    assert np.abs(found - np.sort(exact, 1)[:, ::-1]).max() < 1e-3


def test_convolutions_are_computed_as_one_by_one(make_stack, images):
    parts = {"encoder": ("conv", {"depth": 1, "channels": 4}), "decoder": ("conv", {"depth": 1, "channels": 4})}
    stack = make_stack(images, TEMPERATURES, computation="graph", device=HERE, **parts)
    assert why_not(stack, 8) is None
    update = Update(stack, Adam(in_place=True))
    run(update, batches_of(images, stack, 32), 5)
    assert update.why_not == {}


def test_a_network_that_the_kernels_do_not_know_trains_as_a_graph(gaussian, make_stack):
    parts = {kind: ("residual-mlp", {"depth": 1, "width": 12}) for kind in ("encoder", "decoder")}
    stack = make_stack(gaussian, TEMPERATURES, computation="graph", device=HERE, **parts)
    update = Update(stack, InPlacePreconditioned())
    losses = run(update, batches_of(gaussian, stack), 40)
    assert update.why_not == {}
    assert (losses[-5:].mean(0) < losses[:5].mean(0)).all()


def test_orthonormal_bases_are_those_of_qr():
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(50, 65, 65, generator=generator) + 3 * torch.eye(65)
    ours, theirs = cholesky_qr(matrix.to(HERE)).cpu(), torch.linalg.qr(matrix.double())[0]
    assert torch.allclose(ours.double(), theirs * (ours.double() * theirs).sum(-2, keepdim=True).sign(), atol=1e-5)


@ON_DEVICE
def test_memory_that_ends_is_an_error_that_a_run_recovers_from(gaussian, make_stack):
    """What the largest stack needs is not there: the error is the one that halves a piece, and a smaller one trains."""
    wide = {kind: ("mlp", {"depth": 4, "width": 128}) for kind in ("encoder", "decoder")}

    def train(temperatures):
        stack = make_stack(gaussian, temperatures, computation="graph", device=HERE, **wide)
        return run(Update(stack, Adam(in_place=True)), batches_of(gaussian, stack, 256), 5)

    torch.cuda.set_per_process_memory_fraction(0.01)
    try:
        with pytest.raises(torch.OutOfMemoryError):
            train(np.logspace(0, -3, 4096).tolist())
        torch.cuda.empty_cache()
        assert train(TEMPERATURES).isfinite().all()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
