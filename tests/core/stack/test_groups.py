"""Groups of replicas, one on each core, compute what the whole stack computes at once."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from collapsebench.contracts import Data, Split
from collapsebench.data.standardise import standardise
from collapsebench.stack.computation import why_not
from collapsebench.stack.gaussian_head import GaussianHead
from collapsebench.stack.kernel.chains import covers
from collapsebench.training.trainer import Controls

MLP = ("mlp", {"depth": 1, "width": 12})
CONV = ("conv", {"channels": 3})
PAIRS = {
    "linear": {"encoder": ("linear", {}), "decoder": ("linear", {})},
    "mlp": {"encoder": MLP, "decoder": MLP},
    "conv": {"encoder": CONV, "decoder": CONV},
    "conv-linear": {"encoder": CONV, "decoder": ("linear", {})},
    "mlp-conv": {"encoder": MLP, "decoder": CONV},
}
TEMPERATURES = [0.5, 0.1, 0.02]
SEEDS = (0, 7)
BRIEF = {"batch_size": 16, "max_updates": 12, "convergence": {"checks": 1}}


@pytest.fixture(scope="module")
def images(make_gaussian):
    """Gaussian data as images of 5 x 5."""
    data = make_gaussian(dimension=25, samples=256)
    splits = {name: Split(data.splits[name].values.reshape(-1, 1, 5, 5)) for name in ("train", "validation", "test")}
    names = tuple(f"pixel {i}" for i in range(25))
    return standardise(Data(**splits, feature_names=names, scaling="none"), "images")


@pytest.fixture(params=[1, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def batch(data, *, seeds=2, rows=16, weighted=False):
    """Return x, noise and weights with a leading seed axis, in double precision."""
    generator = torch.Generator().manual_seed(3)
    x = torch.from_numpy(data.splits["train"].values[: seeds * rows]).unflatten(0, (seeds, rows)).double()
    noise = torch.randn(seeds, rows, 8, generator=generator, dtype=torch.float64)
    return x, noise, torch.rand(seeds, rows, generator=generator).double() + 0.5 if weighted else None


def outcome(stack, arguments):
    losses, gradients = stack.gradients(*arguments, 0.0)
    return {"loss": losses.clone(), **{name: value.clone() for name, value in gradients.items()}}


def assert_equal(ours, expected, places=slice(None)):
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.allclose(ours[name], value[places], rtol=1e-9, atol=1e-13), name


@pytest.mark.parametrize("computation", ["one-by-one", "replicas-on-cores", "groups-on-cores"])
@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("weighted", [False, True])
def test_losses_and_gradients_of_groups_equal_those_of_the_whole_stack(
    images, make_stack, threads, computation, name, weighted
):
    options = {"seeds": SEEDS, "dtype": torch.float64, **PAIRS[name]}
    arguments = batch(images, weighted=weighted)
    ours = make_stack(images, TEMPERATURES, computation=computation, **options)
    expected = outcome(make_stack(images, TEMPERATURES, **options), arguments)
    assert_equal(outcome(ours, arguments), expected)
    assert_equal(outcome(ours, arguments), expected)  # nothing is left of the first time


@pytest.mark.parametrize("computation", ["one-by-one", "replicas-on-cores", "groups-on-cores"])
def test_a_batch_that_all_seeds_share_may_come_with_or_without_their_axis(images, make_stack, computation):
    stack = make_stack(images, TEMPERATURES, computation=computation, dtype=torch.float64, **PAIRS["conv"])
    x, noise, _ = batch(images, seeds=1)
    assert_equal(outcome(stack, (x, noise, None)), outcome(stack, (x[0], noise[0], None)))


@pytest.mark.parametrize("computation", ["one-by-one", "replicas-on-cores", "groups-on-cores"])
def test_groups_follow_a_stack_that_loses_replicas_or_loads_others(images, make_stack, computation):
    stack = make_stack(images, TEMPERATURES, seeds=SEEDS, computation=computation, dtype=torch.float64, **PAIRS["conv"])
    arguments = batch(images)
    first, kept = outcome(stack, arguments), stack.weights()
    part = stack.select(torch.tensor([1, 5]))
    assert_equal(outcome(part, arguments), first, [1, 5])
    stack.load({name: 0.9 * value for name, value in kept.items()})
    assert not torch.equal(outcome(stack, arguments)["loss"], first["loss"])
    stack.load(kept)
    assert_equal(outcome(stack, arguments), first)
    stack.keep(torch.tensor([0, 3, 4]))
    assert_equal(outcome(stack, arguments), first, [0, 3, 4])


@pytest.mark.parametrize("computation", ["replicas-on-cores", "groups-on-cores"])
@pytest.mark.parametrize("use", ["adam", "preconditioned"])
def test_training_in_groups_equals_training_the_whole_stack(images, make_trainer, computation, use):
    """12 updates of conv encoder and decoder in float32: losses to 1e-4."""
    options = {"training": {**BRIEF, "optimiser": {"use": use, "learning_rate": 0.003}}, "evaluation": {"samples": 64}}
    ours, expected = (
        make_trainer(images, TEMPERATURES, seeds=SEEDS, computation=way, **options, **PAIRS["conv"]).run(Controls())
        for way in (computation, "batched")
    )
    assert ours.losses == pytest.approx(expected.losses, rel=1e-4)
    assert ours.marks == expected.marks


@pytest.mark.parametrize("computation", ["replicas-on-cores", "groups-on-cores"])
def test_a_replica_trained_side_by_side_equals_the_same_trained_alone(images, make_trainer, threads, computation):
    options = {"training": BRIEF, "evaluation": {"samples": 64}, "computation": computation, **PAIRS["conv"]}
    whole = make_trainer(images, TEMPERATURES, **options).run(Controls())
    for replica, temperature in enumerate(TEMPERATURES):
        alone = make_trainer(images, [temperature], **options).run(Controls())
        assert alone.losses[0] == pytest.approx(whole.losses[replica], rel=1e-4)


def test_numbers_do_not_depend_on_how_many_cores_share_the_work(images, make_stack):
    stack = make_stack(images, TEMPERATURES, seeds=SEEDS, computation="replicas-on-cores", **PAIRS["conv"])
    arguments = [part if part is None else part.float() for part in batch(images)]
    before, found = torch.get_num_threads(), []
    try:
        for count in (2, 5):
            torch.set_num_threads(count)
            found.append(outcome(stack, arguments))
            assert torch.get_num_threads() == count
            elsewhere = []
            thread = threading.Thread(target=lambda there=elsewhere: there.append(torch.get_num_threads()))
            thread.start()
            thread.join()
            assert elsewhere == [count]
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


@pytest.mark.parametrize("computation", ["replicas-on-cores", "groups-on-cores"])
def test_a_replica_that_is_not_finite_leaves_its_neighbours_unchanged(images, make_stack, computation):
    stack = make_stack(images, TEMPERATURES, computation=computation, dtype=torch.float64, **PAIRS["conv"])
    arguments = batch(images, seeds=1)
    before = outcome(stack, arguments)
    with torch.no_grad():
        stack.parameters["encoder.1.weight"][1] = torch.nan
    after = outcome(stack, arguments)
    assert torch.isnan(after["loss"][1])
    assert_equal({name: value[[0, 2]] for name, value in after.items()}, before, [0, 2])


@pytest.mark.parametrize("computation", ["replicas-on-cores", "groups-on-cores"])
def test_encoding_and_decoding_by_groups_equal_those_of_the_whole_stack(images, make_stack, computation):
    whole, ours = (
        make_stack(images, TEMPERATURES, computation=way, **PAIRS["conv"]) for way in ("batched", computation)
    )
    x = torch.from_numpy(images.splits["test"].values[:20])
    with torch.no_grad():
        for a, b in zip(ours.encode(x), whole.encode(x), strict=True):
            assert torch.allclose(a, b, atol=1e-6)
        z = torch.randn(3, 20, 8)
        assert torch.allclose(ours.decode(z), whole.decode(z), atol=1e-6)


@pytest.mark.parametrize("computation", ["kernel-chains", "batched", "groups-on-cores", "replicas-on-cores"])
@pytest.mark.parametrize("name", PAIRS)
def test_every_path_of_every_pair_is_tried_against_one_by_one(images, make_stack, computation, name):
    assert why_not(make_stack(images, TEMPERATURES[:2], seeds=SEEDS, computation=computation, **PAIRS[name]), 8) is None


def test_only_modules_that_are_affine_throughout_are_the_kernel_s_alone():
    assert covers(nn.Sequential(nn.Linear(3, 4), nn.GELU(), GaussianHead(4, 2)))
    assert not covers(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(4, 2)))
    assert not covers(nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)))
