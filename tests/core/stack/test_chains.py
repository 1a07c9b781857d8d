"""The compiled kernel computes what PyTorch computes, for a stack as for each of its replicas."""

from __future__ import annotations

import copy
import itertools
import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.func import functional_call, vmap

from collapsebench.stack.computation import why_not
from collapsebench.stack.gaussian_head import GaussianHead
from collapsebench.stack.kernel import library as kernel
from collapsebench.stack.kernel.chains import ChainShape, StackedChain, StackedPosterior, with_chains
from collapsebench.stack.kernel.library import KernelError, activation_of
from collapsebench.training.trainer import Controls

ACTIVATIONS = {
    "silu": nn.SiLU, "relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU, "gelu-tanh": lambda: nn.GELU("tanh"),
    "elu": lambda: nn.ELU(0.7), "softplus": nn.Softplus, "leaky-relu": lambda: nn.LeakyReLU(0.2), "sigmoid": nn.Sigmoid,
}  # fmt: skip
REPLICAS = 5


def stacked(build, replicas=REPLICAS):
    """Return one module with float64 parameters of several, and those stacked."""
    torch.manual_seed(0)
    modules = [build().double() for _ in range(replicas)]
    parameters = {
        name: torch.stack([dict(module.named_parameters())[name].detach() for module in modules])
        for name, _ in modules[0].named_parameters()
    }
    return modules[0], parameters


def outcome(module, parameters, x, *, shared, dtype):
    """Return outputs and the gradients of parameters and x of a random linear functional, mapped over replicas."""
    state = {name: value.to(dtype).requires_grad_() for name, value in parameters.items()}
    x = x.to(dtype).detach().requires_grad_()
    call = vmap(lambda one, part: functional_call(module, one, (part,)), in_dims=(0, None if shared else 0))
    found = call(state, x)
    outputs = found if isinstance(found, tuple) else (found,)
    generator = torch.Generator().manual_seed(1)
    total = sum((out * torch.randn(out.shape, generator=generator).to(dtype)).sum() for out in outputs)
    return [*outputs, *torch.autograd.grad(total, [*state.values(), x])]


def mlp(sizes, activation, bias=True, last=False):
    layers = []
    for place, (features, width) in enumerate(itertools.pairwise(sizes)):
        layers.append(nn.Linear(features, width, bias=bias))
        if last or place < len(sizes) - 2:
            layers.append(activation())
    return nn.Sequential(*layers)


CHAINS = {
    "one map": lambda: nn.Linear(7, 3),
    "without bias": lambda: mlp([5, 33, 2], nn.SiLU, bias=False),
    "sides of one": lambda: mlp([1, 1, 1], nn.Tanh),
    "activation last": lambda: mlp([19, 40, 64], nn.SiLU, last=True),
    "maps in a row": lambda: nn.Sequential(nn.Linear(6, 9), nn.Linear(9, 4), nn.ReLU(), nn.Linear(4, 4)),
    "activation first": lambda: nn.Sequential(nn.Tanh(), nn.Linear(6, 9), nn.SiLU(), nn.LayerNorm(9), nn.Linear(9, 2)),
    "unknown activation": lambda: mlp([6, 20, 3], nn.GELU),
    "head": lambda: nn.Sequential(*mlp([6, 20, 10], nn.SiLU, last=True), GaussianHead(10, 5, -4.0)),
    "head alone": lambda: GaussianHead(6, 5),
    "head after a map": lambda: nn.Sequential(nn.Linear(6, 3), GaussianHead(3, 5)),
    "nested": lambda: nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(6, 9), nn.SiLU()), nn.Linear(9, 2)),
    **{name: partial(mlp, [6, 17, 130, 3], part) for name, part in ACTIVATIONS.items()},
}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("rows", [1, 37, 600])
def test_outputs_and_gradients_equal_those_of_pytorch_in_double_precision(name, shared, rows):
    module, parameters = stacked(CHAINS[name])
    features = next(value for value in parameters.values() if value.dim() == 3).shape[2]
    x = torch.randn(rows, features) if shared else torch.randn(REPLICAS, rows, features)
    chained = with_chains(copy.deepcopy(module).float())
    assert [n for n, _ in chained.named_parameters()] == list(parameters)
    exact = outcome(module, parameters, x, shared=shared, dtype=torch.float64)
    ours = outcome(chained, parameters, x, shared=shared, dtype=torch.float32)
    plain = outcome(copy.deepcopy(module).float(), parameters, x, shared=shared, dtype=torch.float32)
    for found, usual, expected in zip(ours, plain, exact, strict=True):
        error, allowed = (found - expected).abs().max(), (usual - expected).abs().max()
        assert error <= 4 * allowed + 3e-6 * (1 + expected.abs().max())


def test_a_replica_s_numbers_do_not_depend_on_what_it_is_stacked_with_nor_on_threads():
    module, parameters = stacked(CHAINS["head"], replicas=9)
    chained = with_chains(module.float())
    x = torch.randn(9, 300, 6)
    before = torch.get_num_threads()
    whole = outcome(chained, parameters, x, shared=False, dtype=torch.float32)
    torch.set_num_threads(3)
    try:
        again = outcome(chained, parameters, x, shared=False, dtype=torch.float32)
        assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))
    finally:
        torch.set_num_threads(before)
    call = vmap(lambda one, part: functional_call(chained, one, (part,)))
    for r in (0, 4, 8):
        alone = call({name: value[r : r + 1].float() for name, value in parameters.items()}, x[r : r + 1])
        assert all(torch.equal(part[0], both[r]) for part, both in zip(alone, whole[:2], strict=True))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_values_that_are_not_finite_stay_with_their_replica_and_are_not_hidden(name):
    module, parameters = stacked(lambda: mlp([6, 17, 3], ACTIVATIONS[name]), replicas=3)
    parameters["0.weight"][1, 0, 0] = math.nan
    found = outcome(with_chains(module.float()), parameters, torch.randn(20, 6), shared=True, dtype=torch.float32)
    for part in found[:-1]:
        assert torch.isfinite(part[[0, 2]]).all()
    assert torch.isnan(found[0][1]).all()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_at_the_ends_of_the_range_and_within_it_are_those_of_pytorch_in_float64(name):
    ends = torch.tensor([-1e30, -200.0, -88.0, -20.0, -1e-6, 0.0, 1e-6, 20.0, 88.0, 200.0, 1e30])
    values = torch.cat([ends, torch.linspace(-12, 12, 1001)])[:, None]
    activation = ACTIVATIONS[name]()
    layout = ChainShape((activation_of(activation),), 1)
    x = values[None].clone().requires_grad_()
    y, _, _ = StackedChain.apply(layout, x, torch.ones(1, 1, 1), torch.zeros(1, 1))
    reference = values.double().requires_grad_()
    expected = activation(reference)
    assert torch.allclose(y[0].double(), expected, rtol=1e-6, atol=1e-6)
    (slope,) = torch.autograd.grad(y.sum(), x)
    (wanted,) = torch.autograd.grad(expected.sum(), reference)
    assert torch.allclose(slope[0].double(), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shared", [True, False])
def test_the_posterior_is_sampled_and_priced_as_its_formula_says(shared):
    torch.manual_seed(0)
    mean, log_variance = (torch.randn(4, 30, 7, dtype=torch.float64) for _ in range(2))
    noise = torch.randn(1 if shared else 4, 30, 7, dtype=torch.float64)
    weights = torch.randn(2, 4, 30, 7, dtype=torch.float64)

    def gradients(dtype, sample):
        leaves = [part.to(dtype).requires_grad_() for part in (mean, log_variance)]
        results = sample(*leaves, noise.to(dtype))
        total = sum((weight.to(dtype) * part).sum() for weight, part in zip(weights, results, strict=True))
        return [*results, *torch.autograd.grad(total, leaves)]

    def formula(mu, log_var, eps):
        return mu + (0.5 * log_var).exp() * eps, 0.5 * (mu.square() + log_var.exp() - 1 - log_var)

    expected = gradients(torch.float64, formula)
    for ours, reference in zip(gradients(torch.float32, StackedPosterior.apply), expected, strict=True):
        assert torch.allclose(ours.double(), reference, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("use", ["adam", "preconditioned"])
@pytest.mark.parametrize("decoder", ["linear", "mlp"])
def test_training_along_the_kernel_equals_training_through_torch_func(gaussian, make_trainer, use, decoder):
    """40 updates in float32: losses to 1e-5, Adam's weights to 1e-3; the preconditioner magnifies rounding errors."""
    training = {"optimiser": {"use": use, "learning_rate": 0.01}, "batch_size": 64, "max_updates": 40}
    parts = {"encoder": ("mlp", {"depth": 2, "width": 12}), "decoder": (decoder, {})}
    ours, reference = (
        make_trainer(gaussian, [0.3, 0.03], training=training, computation=computation, **parts).run(Controls())
        for computation in ("kernel-chains", "batched")
    )
    assert ours.losses == pytest.approx(reference.losses, rel=1e-5)
    for name, value in ours.weights.items() if use == "adam" else ():
        assert torch.allclose(value, reference.weights[name], rtol=1e-3, atol=1e-3)


def test_a_replica_in_a_chained_stack_of_32_has_the_losses_it_has_alone(gaussian, make_trainer):
    """Adam, sampled decoder, mini-batches, 40 updates: to rounding errors in the sums outside the kernel."""
    training = {"optimiser": {"use": "adam", "learning_rate": 0.01}, "batch_size": 64, "max_updates": 40}
    parts = {"encoder": ("mlp", {"depth": 2, "width": 12}), "decoder": ("mlp", {"depth": 2, "width": 12})}
    temperatures = [0.5 * 0.8**k for k in range(32)]
    whole = make_trainer(gaussian, temperatures, training=training, computation="kernel-chains", **parts).run(
        Controls()
    )
    for replica in (3, 31):
        alone = make_trainer(gaussian, [temperatures[replica]], training=training, computation="kernel-chains", **parts)
        trained = alone.run(Controls())
        assert trained.losses[0] == pytest.approx(whole.losses[replica], rel=1e-6)
        for name, value in trained.weights.items():
            assert torch.allclose(value[0], whole.weights[name][replica], rtol=1e-4, atol=1e-4)


def test_a_module_with_hooks_or_nothing_to_chain_is_left_alone():
    hooked = nn.Sequential(nn.Linear(3, 4), nn.SiLU(), nn.Linear(4, 2))
    seen = []
    hooked[0].register_forward_hook(lambda module, inputs, output: seen.append(output))
    with_chains(hooked)(torch.randn(5, 3))
    assert len(seen) == 1
    with pytest.raises(KernelError, match="no affine map"):
        with_chains(nn.Sequential(nn.Conv2d(1, 1, 3)))


def test_double_precision_and_other_devices_are_refused_with_the_reason(gaussian, make_stack):
    with pytest.raises(KernelError, match=r"float32 on the CPU, not torch\.float64 on cpu"):
        make_stack(gaussian, [0.1], computation="kernel-chains", dtype=torch.float64)


def test_the_path_is_tried_against_one_by_one(gaussian, make_stack):
    assert why_not(make_stack(gaussian, [0.3, 0.1], seeds=(0, 1), computation="kernel-chains"), 8) is None


@pytest.mark.parametrize(
    ("cc", "message"), [("", "no C compiler"), ("false", "false failed|returned non-zero|failed:")]
)
def test_a_machine_without_a_working_compiler_is_told_so(monkeypatch, tmp_path, cc, message):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if cc:
        monkeypatch.setenv("CC", cc)
    else:
        monkeypatch.setattr(kernel.shutil, "which", lambda name: None)
    reason = kernel._load.__wrapped__()
    assert isinstance(reason, str)
    assert any(part in reason for part in message.split("|"))
    assert not list(tmp_path.rglob("*.so"))


def test_the_kernel_is_compiled_once_and_kept_private(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert not isinstance(kernel._load.__wrapped__(), str)
    (made,) = tmp_path.rglob("*.so")
    assert made.parent.stat().st_mode & 0o077 == 0
    before = made.stat().st_mtime_ns
    assert not isinstance(kernel._load.__wrapped__(), str)
    assert made.stat().st_mtime_ns == before
    assert [path.name for path in made.parent.iterdir()] == [made.name]
