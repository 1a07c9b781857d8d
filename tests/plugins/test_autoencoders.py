"""Encoders and decoders keep their contract, and those that do not are named."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from collapsebench.contracts import Decoder, Encoder, Parameters
from collapsebench.errors import PluginError
from collapsebench.stack.computation import why_not
from collapsebench.training.build import build_pair
from collapsebench.training.trainer import Controls
from collapsebench_autoencoders.mlp import ACTIVATIONS

SHAPES = [(7,), (3, 4), (2, 3, 3)]
ENCODERS = {"linear": {}, "mlp": {"depth": 2, "width": 9}, "residual-mlp": {"depth": 2, "width": 9}}
DECODERS = {"linear": {}, "mlp": {"depth": 2, "width": 9}, "residual-mlp": {"depth": 2, "width": 9}}


def encoder_of(build):
    """Return an encoder whose modules a function of (features, latent_dim) builds."""

    class Custom(Encoder[Parameters]):
        def build(self, shape, latent_dim):
            return build(int(np.prod(shape)), latent_dim)

    return Custom(Parameters())


def decoder_of(build, linear=False):
    """Return a decoder for vectors whose modules a function of (latent_dim, features) builds."""

    class Custom(Decoder[Parameters]):
        def build(self, latent_dim, shape):
            return build(latent_dim, int(np.prod(shape)))

    Custom.linear = linear
    return Custom(Parameters())


class Heads(nn.Module):
    """A body, then a mean and a log-variance; `change` is applied to what is returned."""

    def __init__(self, features, latent_dim, body=None, change=lambda mean, log_variance: (mean, log_variance)):
        super().__init__()
        self.body = body or nn.Identity()
        self.mean, self.log_variance = nn.Linear(features, latent_dim), nn.Linear(features, latent_dim)
        self.change = change

    def forward(self, x):
        x = self.body(x)
        return self.change(self.mean(x), self.log_variance(x))


class DataDependent(nn.Module):
    """Take one of two ways, depending on the data."""

    def forward(self, x):
        return x if x.sum() > 0 else 2 * x


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("latent_dim", [1, 5, 20])
@pytest.mark.parametrize("use", ENCODERS)
def test_an_encoder_maps_samples_of_any_shape_to_two_tensors_of_latents(component, use, shape, latent_dim):
    module = component("encoder", use, **ENCODERS[use]).build(shape, latent_dim)
    mean, log_variance = module(torch.randn(6, *shape))
    assert mean.shape == log_variance.shape == (6, latent_dim)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("latent_dim", [1, 5, 20])
@pytest.mark.parametrize("use", DECODERS)
def test_a_decoder_maps_latents_to_samples_of_any_shape(component, use, shape, latent_dim):
    module = component("decoder", use, **DECODERS[use]).build(latent_dim, shape)
    assert module(torch.randn(6, latent_dim)).shape == (6, *shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_linear_decoder_is_affine_and_declares_it_and_the_mlp_is_not(component, shape):
    def gap(use):
        module = component("decoder", use, **DECODERS[use]).build(5, shape).double()
        a, b = torch.randn(2, 40, 5, dtype=torch.float64)
        return (module(3 * a - 2 * b) - 3 * module(a) + 2 * module(b)).abs().max().item()

    assert component("decoder", "linear").linear
    assert not component("decoder", "mlp").linear
    assert gap("linear") < 1e-12
    assert gap("mlp") > 1e-3


def test_the_linear_encoder_is_affine_in_mean_and_log_variance(component):
    module = component("encoder", "linear").build((7,), 3).double()
    a, b = torch.randn(2, 40, 7, dtype=torch.float64)
    for mixed, one, two in zip(module(3 * a - 2 * b), module(a), module(b), strict=True):
        assert (mixed - 3 * one + 2 * two).abs().max() < 1e-12


@pytest.mark.parametrize("use", ENCODERS)
@pytest.mark.parametrize("bias", [None, 0.0, -2.5])
def test_the_log_variance_starts_at_its_bias(component, use, bias):
    default = {"linear": 0.0}.get(use, -4.0)
    given = {} if bias is None else {"log_variance_bias": bias}
    module = component("encoder", use, **ENCODERS[use], **given).build((7,), 5)
    own = {name: value for name, value in module.named_parameters() if name.endswith("log_variance.bias")}
    (value,) = own.values()
    assert torch.equal(value, torch.full((5,), default if bias is None else bias))


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("depth", [1, 8])
def test_every_activation_gives_finite_outputs_and_gradients(component, activation, depth):
    parameters = {"depth": depth, "width": 16, "activation": activation}
    pair = build_pair(component("encoder", "mlp", **parameters), component("decoder", "mlp", **parameters), (7,), 4, 0)
    mean, log_variance = pair["encoder"](10 * torch.randn(50, 7))
    output = pair["decoder"](mean + torch.exp(0.5 * log_variance))
    assert torch.isfinite(output).all()
    output.square().sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in pair.parameters())
    assert any((parameter.grad != 0).any() for parameter in pair["encoder"].parameters())


def test_a_kaiming_initialised_mlp_keeps_the_scale_of_its_input_through_its_depth(component):
    torch.manual_seed(0)
    layers = component("encoder", "mlp", depth=8, width=256, activation="relu").build((256,), 4).body[:-1]
    x = torch.randn(500, 256)
    assert 0.3 < layers(x).square().mean().item() / x.square().mean().item() < 3


def test_the_hidden_layers_of_an_mlp_are_as_many_and_as_wide_as_asked_for(component):
    module = component("encoder", "mlp", depth=3, width=11).build((7,), 4)
    shapes = [tuple(layer.weight.shape) for layer in module.modules() if isinstance(layer, nn.Linear)]
    assert shapes == [(11, 7), (11, 11), (11, 11), (4, 11), (4, 11)]
    module = component("decoder", "mlp", depth=3, width=11).build(4, (7,))
    shapes = [tuple(layer.weight.shape) for layer in module.modules() if isinstance(layer, nn.Linear)]
    assert shapes == [(11, 4), (11, 11), (11, 11), (7, 11)]


@pytest.mark.parametrize("depth", [2, 30])
def test_a_residual_mlp_keeps_the_scale_of_its_input_through_its_depth(component, depth):
    torch.manual_seed(0)
    layers = component("encoder", "residual-mlp", depth=depth, width=256, activation="relu").build((256,), 4).body[:-1]
    x = torch.randn(500, 256)
    assert 0.5 < layers(x).square().mean().item() / x.square().mean().item() < 6


def test_a_residual_mlp_whose_branches_vanish_is_affine(component):
    module = component("decoder", "residual-mlp").build(5, (7,)).double()
    for name, value in module.named_parameters():
        if "branch" in name:
            nn.init.zeros_(value)
    a, b = torch.randn(2, 40, 5, dtype=torch.float64)
    assert (module(3 * a - 2 * b) - 3 * module(a) + 2 * module(b)).abs().max() < 1e-12


@pytest.mark.parametrize("use", ENCODERS)
def test_a_seed_decides_the_initial_weights_and_nothing_else_does(component, use):
    def weights(seed):
        torch.manual_seed(int(torch.randint(1000, ()).item()))
        pair = build_pair(component("encoder", use), component("decoder", use), (7,), 4, seed)
        return pair.state_dict()

    one, two, other = weights(1), weights(1), weights(2)
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    matrices = [name for name, value in one.items() if value.dim() == 2]
    assert all(not torch.equal(one[name], other[name]) for name in matrices)


def test_building_a_pair_leaves_the_global_random_state_alone(component):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build_pair(component("encoder", "mlp"), component("decoder", "mlp"), (7,), 4, 0)
    assert torch.equal(torch.rand(3), expected)


def test_encoders_of_one_seed_are_equal_whatever_decoder_they_are_paired_with(component):
    one, *others = (build_pair(component("encoder", "mlp"), component("decoder", use), (7,), 4, 0) for use in DECODERS)
    for name, value in one["encoder"].state_dict().items():
        assert all(torch.equal(value, other["encoder"].state_dict()[name]) for other in others)


@pytest.mark.parametrize(
    "build",
    [
        lambda d, k: nn.Sequential(nn.Linear(k, d), nn.ReLU()),
        lambda d, k: nn.Sequential(nn.Linear(k, 9), nn.SiLU(), nn.Linear(9, d)),
        lambda d, k: nn.Sequential(nn.Linear(k, d), nn.Tanh()),
    ],
    ids=["relu", "mlp", "tanh"],
)
def test_a_decoder_that_lies_about_being_linear_is_found_out(component, build):
    liar = decoder_of(lambda latent_dim, features: build(features, latent_dim), linear=True)
    with pytest.raises(PluginError, match=r"decoder: declares itself linear.*Remove `linear = True`"):
        build_pair(component("encoder", "linear"), liar, (7,), 4, 0)


def test_an_affine_decoder_of_several_layers_may_declare_itself_linear(component):
    deep = decoder_of(lambda k, d: nn.Sequential(nn.Linear(k, 9), nn.Linear(9, d)), linear=True)
    assert build_pair(component("encoder", "linear"), deep, (7,), 4, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda mean, log_variance: mean, r"encoder: returned Tensor, expected \(mean, log_variance\)"),
        (lambda mean, log_variance: (mean,), r"encoder: returned \[\(3, 4\)\], expected"),
        (lambda mean, log_variance: (mean, log_variance[:, :3]), r"encoder: returned \[\(3, 4\), \(3, 3\)\], expected"),
        (lambda mean, log_variance: (mean.T, log_variance.T), r"encoder: returned \[\(4, 3\), \(4, 3\)\], expected"),
        (lambda mean, log_variance: (mean / 0 * 0, log_variance), "encoder: returned NaN or infinity"),
        (lambda mean, log_variance: (mean, log_variance + torch.inf), "encoder: returned NaN or infinity"),
    ],
    ids=["one tensor", "one of two", "fewer latents", "transposed", "nan", "infinity"],
)
def test_an_encoder_that_returns_something_else_is_named(component, change, message):
    encoder = encoder_of(lambda features, latent_dim: Heads(features, latent_dim, change=change))
    with pytest.raises(PluginError, match=message):
        build_pair(encoder, component("decoder", "linear"), (7,), 4, 0)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda k, d: nn.Linear(k, d + 1), r"decoder: returned shape \(3, 8\), expected \(3, 7\)"),
        (lambda k, d: nn.Sequential(nn.Linear(k, d), nn.Unflatten(1, (1, d))), r"decoder: returned shape \(3, 1, 7\)"),
        (lambda k, d: nn.Sequential(nn.Linear(k, d), nn.Threshold(1e9, torch.nan)), "decoder: returned NaN"),
    ],
    ids=["features", "axes", "nan"],
)
def test_a_decoder_that_returns_something_else_is_named(component, build, message):
    with pytest.raises(PluginError, match=message):
        build_pair(component("encoder", "linear"), decoder_of(build), (7,), 4, 0)


def test_a_decoder_that_returns_no_tensor_is_named(component):
    class Pair(nn.Linear):
        def forward(self, z):
            return super().forward(z), z

    with pytest.raises(PluginError, match="decoder: returned tuple"):
        build_pair(component("encoder", "linear"), decoder_of(Pair), (7,), 4, 0)


UNBATCHABLE = {
    "data-dependent control flow": (
        lambda features, latent_dim: Heads(
            features, latent_dim, body=nn.Sequential(nn.Linear(features, features), DataDependent())
        ),
        "torch.func cannot map it",
    ),
    "batch statistics": (
        lambda features, latent_dim: Heads(features, latent_dim, body=nn.BatchNorm1d(features)),
        "torch.func cannot map it|batch statistics",
    ),
    "dropout": (
        lambda features, latent_dim: Heads(features, latent_dim, body=nn.Dropout(0.2)),
        "torch.func cannot map it",
    ),
}


@pytest.mark.parametrize("kind", UNBATCHABLE)
def test_a_module_that_cannot_be_batched_is_found_with_a_reason(gaussian, make_stack, kind):
    build, message = UNBATCHABLE[kind]
    stack = make_stack(gaussian, [0.3, 0.1], encoder=encoder_of(build), decoder=("mlp", {}))
    before = stack.weights()
    reason = why_not(stack, 8)
    assert reason is not None
    assert any(part in reason for part in message.split("|"))
    assert all(torch.equal(value, before[name]) for name, value in stack.weights().items())


def test_control_flow_that_depends_on_the_samples_themselves_is_found_too(gaussian, make_stack):
    encoder = encoder_of(lambda features, latent_dim: Heads(features, latent_dim, body=DataDependent()))
    stack = make_stack(gaussian, [0.3, 0.1], seeds=(0, 1), encoder=encoder)
    assert "torch.func cannot map it" in (why_not(stack, 8) or "")


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("decoder", DECODERS)
def test_the_first_party_modules_can_be_batched(gaussian, make_stack, encoder, decoder):
    stack = make_stack(gaussian, [0.3, 0.1], seeds=(0, 1), encoder=(encoder, {}), decoder=(decoder, {}))
    before = stack.weights()
    assert why_not(stack, 8) is None
    assert all(torch.equal(value, before[name]) for name, value in stack.weights().items())


def test_asking_why_not_batched_does_not_change_how_the_stack_computes(gaussian, make_stack):
    stack = make_stack(gaussian, [0.3, 0.1])
    assert why_not(stack, 8) is None
    assert stack.computation.name == "batched"


@pytest.mark.parametrize("kind", ["data-dependent control flow", "batch statistics"])
@pytest.mark.parametrize("use", ["adam", "preconditioned"])
def test_a_module_that_cannot_be_batched_trains_one_by_one(gaussian, make_trainer, kind, use):
    training = {
        "optimiser": {"use": use, "learning_rate": 1e-2},
        "batch_size": 64,
        "max_updates": 60,
        "convergence": {"checks": 6},
    }
    trainer = make_trainer(
        gaussian, [0.3, 0.03], training=training, computation="one-by-one", encoder=encoder_of(UNBATCHABLE[kind][0]),
        decoder=("linear", {}),
    )  # fmt: skip
    trained = trainer.run(Controls())
    for replica in (0, 1):
        losses = [entry["loss"] for entry in trained.log if entry["replica"] == replica]
        assert losses[-1] < losses[0]
        assert trained.marks[replica] != "diverged"


def test_batch_statistics_belong_to_their_own_replica(gaussian, make_trainer):
    """Running means follow the batches of the replica's seed, and are stored with its weights."""

    def run(seeds):
        training = {
            "optimiser": {"use": "adam", "learning_rate": 1e-2},
            "batch_size": 32,
            "max_updates": 10,
            "convergence": {"checks": 1},
        }
        encoder = encoder_of(UNBATCHABLE["batch statistics"][0])
        made = make_trainer(gaussian, [0.3], seeds=seeds, training=training, computation="one-by-one", encoder=encoder)
        return made.run(Controls()).weights

    both, alone = run((0, 1)), run((1,))
    name = "encoder.body.running_mean"
    assert not torch.equal(both[name][0], both[name][1])
    assert torch.allclose(both[name][1], alone[name][0], rtol=1e-5, atol=1e-6)


def test_checking_a_fresh_pair_does_not_change_its_batch_statistics(component):
    pair = build_pair(encoder_of(UNBATCHABLE["batch statistics"][0]), component("decoder", "linear"), (7,), 4, 0)
    assert pair["encoder"].body.num_batches_tracked == 0
    assert not pair["encoder"].body.running_mean.any()


def test_a_decoder_is_not_linear_unless_it_says_so():
    assert not decoder_of(lambda k, d: nn.Linear(k, d)).linear
