"""Convolutional encoders and decoders: any square image, the linear maps among them, and free affine ends."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from collapsebench.contracts import Data, Split
from collapsebench.data.standardise import standardise
from collapsebench.errors import UserError
from collapsebench.theory.oracle import oracle
from collapsebench.training.build import build_pair
from collapsebench.training.trainer import Controls
from collapsebench_autoencoders.mlp import ACTIVATIONS

SMALL = {"channels": 4}
SHAPES = [(8, 8), (1, 8, 8), (3, 7, 7), (2, 5, 5), (28, 28), (1, 3, 3)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("latent_dim", [1, 20])
def test_square_images_of_any_side_and_channels_are_encoded_and_restored(component, shape, latent_dim):
    pair = build_pair(
        component("encoder", "conv", **SMALL), component("decoder", "conv", **SMALL), shape, latent_dim, 0
    )
    mean, log_variance = pair["encoder"](torch.randn(6, *shape))
    assert mean.shape == log_variance.shape == (6, latent_dim)
    assert pair["decoder"](mean).shape == (6, *shape)


@pytest.mark.parametrize("side", range(2, 34))
def test_every_side_is_halved_to_one_pixel_and_back(component, side):
    depth = math.ceil(math.log2(side))
    parameters = {"channels": 1, "depth": depth}
    module = component("decoder", "conv", **parameters).build(3, (side, side))
    assert module(torch.randn(2, 3)).shape == (2, side, side)
    mean, _ = component("encoder", "conv", **parameters).build((side, side), 3)(torch.randn(2, side, side))
    assert mean.shape == (2, 3)


@pytest.mark.parametrize(
    ("encoder", "decoder"), list(itertools.product(["conv", "linear", "mlp", "residual-mlp"], repeat=2))
)
def test_every_mixture_of_encoder_and_decoder_trains_on_images(component, encoder, decoder):
    pair = build_pair(component("encoder", encoder), component("decoder", decoder), (2, 7, 7), 3, 0)
    x = torch.randn(10, 2, 7, 7)
    mean, log_variance = pair["encoder"](x)
    (pair["decoder"](mean + torch.exp(0.5 * log_variance)) - x).square().sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in pair.parameters())


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
@pytest.mark.parametrize(
    ("shape", "parameters", "message"),
    [
        ((64,), {}, r"samples have shape \(64,\), expected images \(side, side\) or \(channels, side, side\)"),
        ((1, 2, 8, 8), {}, r"samples have shape \(1, 2, 8, 8\), expected images"),
        ((8, 6), {}, r"an image of 8 x 6, expected a square one, channels first\. Crop, pad or transpose"),
        ((28, 28, 3), {}, r"shape \(28, 28, 3\), an image of 28 x 3, expected a square one, channels first"),
        ((8, 8), {"depth": 4}, r"depth is 4, but 3 halvings bring an image of side 8.*at most 3\. Lower it"),
    ],
    ids=["a vector", "a volume", "not square", "channels last", "too deep"],
)
def test_samples_that_are_no_square_images_are_refused_with_what_to_do(component, kind, shape, parameters, message):
    made = component(kind, "conv", **parameters)
    with pytest.raises(UserError, match=message):
        made.build(shape, 3) if kind == "encoder" else made.build(3, shape)


@pytest.mark.parametrize("use", ["conv"])
@pytest.mark.parametrize("bias", [None, 0.0, -2.5])
def test_the_log_variance_starts_at_its_bias(component, use, bias):
    given = {} if bias is None else {"log_variance_bias": bias}
    module = component("encoder", use, **given).build((8, 8), 5)
    assert torch.equal(module[-1].log_variance.bias, torch.full((5,), -4.0 if bias is None else bias))


def test_stages_are_as_many_and_as_wide_as_asked_for(component):
    module = component("encoder", "conv", depth=3, channels=5).build((3, 16, 16), 4)
    strided = [part for part in module.modules() if isinstance(part, nn.Conv2d) and part.stride == (2, 2)]
    assert [(part.in_channels, part.out_channels) for part in strided] == [(3, 5), (5, 10), (10, 20)]
    module = component("decoder", "conv", depth=3, channels=5).build(4, (3, 16, 16))
    doubling = [part for part in module.modules() if isinstance(part, nn.Conv2d) and part.kernel_size == (1, 1)]
    assert [(part.in_channels, part.out_channels) for part in doubling] == [(20, 4 * 10), (10, 4 * 5), (5, 4 * 3)]


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_the_scale_of_the_input_is_kept_through_the_depth(component, kind, activation):
    torch.manual_seed(0)
    made = component(kind, "conv", depth=4, activation=activation)
    module = made.build((32, 32), 64) if kind == "encoder" else made.build(64, (32, 32))
    x = torch.randn(100, *((32, 32) if kind == "encoder" else (64,)))
    found = module(x)[0] if kind == "encoder" else module(x)
    assert 0.1 < found.std().item() < 3


@pytest.mark.parametrize("shape", [(8, 8), (1, 7, 7), (2, 4, 4)])
def test_without_its_branches_an_encoder_represents_every_linear_map(component, shape):
    """The maps from pixels to features of the strided convolutions can be inverted: nothing a head needs is lost."""
    torch.manual_seed(0)
    features = math.prod(shape)
    module = component("encoder", "conv").build(shape, 3).double()
    for name, value in module.named_parameters():
        if "branch" in name:
            nn.init.zeros_(value)
    columns = module[:-1](torch.eye(features, dtype=torch.float64).reshape(features, *shape)) - module[:-1](
        torch.zeros(1, *shape, dtype=torch.float64)
    )
    assert torch.linalg.matrix_rank(columns) == features


@pytest.mark.parametrize("shape", [(8, 8), (1, 7, 7), (2, 4, 4)])
def test_without_its_branches_a_decoder_represents_every_linear_map(component, shape):
    torch.manual_seed(0)
    module = component("decoder", "conv").build(3, shape).double()
    for name, value in module.named_parameters():
        if "branch" in name:
            nn.init.zeros_(value)
    size = module[0].out_features
    columns = module[1:](torch.eye(size, dtype=torch.float64)) - module[1:](torch.zeros(1, size, dtype=torch.float64))
    assert torch.linalg.matrix_rank(columns.flatten(1)) == math.prod(shape)


def test_a_decoder_s_mean_error_can_vanish_in_every_pixel(component):
    torch.manual_seed(0)
    module = component("decoder", "conv").build(3, (2, 7, 7))
    z, x = torch.randn(50, 3), torch.randn(50, 2, 7, 7)
    with torch.no_grad():
        module[-2].offset += (x - module(z)).mean(0).flatten()
        assert (x - module(z)).mean(0).abs().max() < 1e-5


def test_a_decoder_s_output_can_be_scaled_by_its_own_parameters(component):
    """That it can is what makes E x_hat.(x - x_hat) vanish at a stationary point."""
    torch.manual_seed(0)
    module = component("decoder", "conv").build(3, (2, 7, 7))
    z = torch.randn(50, 3)
    with torch.no_grad():
        module[-2].offset.normal_()
        before = module(z)
        for parameter in (*module[-4].parameters(), *module[-2].parameters()):
            parameter *= 1.5
        assert torch.allclose(module(z), 1.5 * before, atol=1e-5)


def images(gaussian, side):
    """The Gaussian data as square images of one channel."""
    splits = {
        name: Split(gaussian.splits[name].values.reshape(-1, 1, side, side)) for name in ("train", "validation", "test")
    }
    names = tuple(f"pixel {i}" for i in range(side * side))
    return standardise(Data(**splits, feature_names=names, scaling="none"), "gaussian images")


def test_a_conv_encoder_with_a_linear_decoder_lands_on_pca(make_gaussian, make_trainer):
    """Exact Gaussian data as images of 8 x 8: signal fractions within 0.005 of the theory, Ward identities to 1e-2."""
    data = images(make_gaussian(dimension=64, samples=128, exact=True), 8)
    temperatures = [0.2, 0.05, 0.02]
    settings = {"optimiser": {"use": "preconditioned", "learning_rate": 0.01}, "max_updates": 600}
    options = {"latent_dim": 6, "encoder": ("conv", {"channels": 8, "log_variance_bias": -1.0})}
    trained = make_trainer(data, temperatures, training={**settings, "convergence": {"checks": 1}}, **options).run(
        Controls()
    )
    after = make_trainer(data, temperatures, **options)
    after.stack.load(trained.weights)
    found = after.measure()
    expected = oracle(data.second_moments["train"], temperatures, 6).signal_fraction[:, :6]
    assert abs(np.sort(found.signal_fraction)[:, ::-1] - expected).max() < 0.005
    assert found.ward_residual.max() < 1e-2
