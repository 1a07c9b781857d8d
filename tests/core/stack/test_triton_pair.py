"""A pair in Triton kernels: the numbers of torch.func. Without a GPU, Triton interprets them."""

from __future__ import annotations

import os

import pytest
import torch

from collapsebench.stack.kernel.library import KernelError

HERE = "cuda" if torch.cuda.is_available() else "cpu"
INTERPRETED = HERE == "cpu" and "TRITON_INTERPRET" in os.environ
MLP = {"encoder": ("mlp", {"depth": 2, "width": 12}), "decoder": ("mlp", {"depth": 2, "width": 12})}

runs_kernels = pytest.mark.skipif(HERE == "cpu" and not INTERPRETED, reason="needs CUDA, or TRITON_INTERPRET=1")


def both(make_stack, data, temperatures, batch, *, weighted=False, shared=True, latent_dim=8, progress=0.5, **parts):
    """Return losses and gradients of a random batch by the kernels and, in float64, through torch.func."""
    found = []
    for computation, dtype in (("graph-of-kernels", torch.float32), ("batched", torch.float64)):
        device = HERE if computation == "graph-of-kernels" else "cpu"
        stack = make_stack(
            data, temperatures, computation=computation, dtype=dtype, latent_dim=latent_dim, device=device, **parts
        )
        generator = torch.Generator().manual_seed(0)
        axis = () if shared else (int(stack.seeds.max()) + 1,)
        x = torch.randn(*axis, batch, *data.shape, generator=generator).to(device, dtype)
        noise = torch.randn(*axis, batch, latent_dim, generator=generator).to(device, dtype)
        weights = torch.rand(*axis, batch, generator=generator).to(device, dtype) if weighted else None
        found.append(stack.gradients(x, noise, weights, progress, 0.7))
    return found


def assert_same(ours, reference):
    (losses, gradients), (expected, slopes) = ours, reference
    assert torch.allclose(losses.double().cpu(), expected, rtol=1e-5, atol=1e-7)
    assert gradients.keys() == slopes.keys()
    for name, slope in slopes.items():
        tolerance = 1e-5 * float(1 + slope.abs().max())
        assert torch.allclose(gradients[name].double().cpu(), slope, rtol=1e-4, atol=tolerance), name


@runs_kernels
@pytest.mark.gpu
@pytest.mark.parametrize("batch", [1, 70, 256])
@pytest.mark.parametrize("width", [3, 33, 64])
def test_loss_and_gradient_are_those_of_torch_func(gaussian, make_stack, batch, width):
    parts = {kind: ("mlp", {"depth": 2, "width": width}) for kind in ("encoder", "decoder")}
    assert_same(*both(make_stack, gaussian, [0.5, 0.05, 1e-3], batch, **parts))


@runs_kernels
@pytest.mark.gpu
@pytest.mark.parametrize("activation", ["silu", "relu", "tanh", "gelu", "elu", "softplus"])
@pytest.mark.parametrize("latent_dim", [1, 19])
def test_every_activation_and_any_number_of_latents(gaussian, make_stack, activation, latent_dim):
    layers = {"depth": 3, "width": 12, "activation": activation}
    parts = {"encoder": ("mlp", layers), "decoder": ("mlp", layers)}
    assert_same(*both(make_stack, gaussian, [0.3, 0.01], 40, latent_dim=latent_dim, **parts))


@runs_kernels
@pytest.mark.gpu
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_weights_seeds_and_the_decoder_variance_enter_as_they_should(gaussian, make_stack, weighted, shared):
    parts = {**MLP, "seeds": (0, 1), "decoder_variance": 0.25}
    assert_same(*both(make_stack, gaussian, [0.3, 0.01], 40, weighted=weighted, shared=shared, **parts))


@runs_kernels
@pytest.mark.gpu
def test_networks_may_differ_in_depth(gaussian, make_stack):
    """Any number of hidden layers takes the same kernels; an encoder of one stands before a deep decoder."""
    thin, deep = {"depth": 1, "width": 20}, {"depth": 6, "width": 20}
    assert_same(*both(make_stack, gaussian, [0.3, 0.01], 90, encoder=("mlp", thin), decoder=("mlp", deep)))


@runs_kernels
@pytest.mark.gpu
def test_a_replica_of_nan_leaves_the_others_as_they_are(gaussian, make_stack):
    stack, spoilt = (
        make_stack(gaussian, [0.3, 0.1, 0.03], computation="graph-of-kernels", device=HERE, **MLP) for _ in range(2)
    )
    with torch.no_grad():
        spoilt.parameters[next(iter(spoilt.parameters))][1] = torch.nan
    x, noise = torch.randn(50, 8, device=HERE), torch.randn(50, 8, device=HERE)
    (losses, gradients), (with_nan, beside) = (s.gradients(x, noise, None, 0.0) for s in (stack, spoilt))
    assert with_nan.isnan().tolist() == [False, True, False]
    for name, gradient in gradients.items():
        assert torch.equal(gradient[[0, 2]], beside[name][[0, 2]])
    assert torch.equal(losses[[0, 2]], with_nan[[0, 2]])


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({}, "closed form|compute float32 on CUDA"),
        ({"encoder": ("residual-mlp", {"width": 8}), "decoder": MLP["decoder"]}, "plain chain|compute float32 on CUDA"),
        ({"encoder": ("mlp", {"width": 9}), "decoder": MLP["decoder"]}, "differ in width|compute float32 on CUDA"),
        ({kind: ("mlp", {"width": 200}) for kind in MLP}, "more than 64 units|compute float32 on CUDA"),
        ({**MLP, "dtype": torch.float64}, "not torch.float64"),
    ],
)
def test_what_the_kernels_cannot_compute_is_refused_with_the_reason(gaussian, make_stack, parts, reason):
    with pytest.raises(KernelError, match=reason):
        make_stack(gaussian, [0.3], computation="graph-of-kernels", device=HERE, **parts)
