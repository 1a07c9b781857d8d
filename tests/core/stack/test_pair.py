"""A whole pair in one pass of the compiled kernel: the numbers of torch.func, or a reason why not."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from collapsebench import Decoder, Encoder, GaussianHead, Objective, Parameters
from collapsebench.stack.computation import why_not
from collapsebench.stack.kernel.library import KernelError
from collapsebench.training.trainer import Controls

ACTIVATIONS = ("silu", "relu", "tanh", "gelu", "elu", "softplus")
BY_PASSES = ("kernel", "batched")
MLP = {"encoder": ("mlp", {"depth": 2, "width": 12}), "decoder": ("mlp", {"depth": 2, "width": 12})}


def both(make_stack, data, temperatures, batch, *, weighted=False, shared=True, latent_dim=8, progress=0.5, **parts):
    """Return losses and gradients of a random batch in one pass and, in float64, through torch.func."""
    found = []
    for computation, dtype in (("kernel", torch.float32), ("batched", torch.float64)):
        stack = make_stack(data, temperatures, computation=computation, dtype=dtype, latent_dim=latent_dim, **parts)
        generator = torch.Generator().manual_seed(0)
        axis = () if shared else (int(stack.seeds.max()) + 1,)
        x = torch.randn(*axis, batch, *data.shape, generator=generator).to(dtype)
        noise = torch.randn(*axis, batch, latent_dim, generator=generator).to(dtype)
        weights = torch.rand(*axis, batch, generator=generator).to(dtype) if weighted else None
        found.append(stack.gradients(x, noise, weights, progress, 0.7))
    return found


def assert_same(ours, reference):
    (losses, gradients), (expected, slopes) = ours, reference
    assert torch.allclose(losses.double(), expected, rtol=1e-5, atol=1e-7)
    assert gradients.keys() == slopes.keys()
    for name, slope in slopes.items():
        assert torch.allclose(gradients[name].double(), slope, rtol=1e-4, atol=1e-5 * float(1 + slope.abs().max())), (
            name
        )


@pytest.mark.parametrize("batch", [1, 5, 96, 97, 256])
@pytest.mark.parametrize("width", [3, 16, 33])
def test_loss_and_gradient_are_those_of_torch_func(gaussian, make_stack, batch, width):
    parts = {kind: ("mlp", {"depth": 2, "width": width}) for kind in ("encoder", "decoder")}
    assert_same(*both(make_stack, gaussian, [0.5, 0.05, 1e-3], batch, **parts))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("latent_dim", [1, 8, 19])
def test_every_activation_and_any_number_of_latents(gaussian, make_stack, activation, latent_dim):
    layers = {"depth": 3, "width": 12, "activation": activation}
    parts = {"encoder": ("mlp", layers), "decoder": ("mlp", layers)}
    assert_same(*both(make_stack, gaussian, [0.3, 0.01], 40, latent_dim=latent_dim, **parts))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_weights_seeds_and_the_decoder_variance_enter_as_they_should(gaussian, make_stack, weighted, shared):
    parts = {**MLP, "seeds": (0, 1), "decoder_variance": 0.25}
    assert_same(*both(make_stack, gaussian, [0.3, 0.01], 40, weighted=weighted, shared=shared, **parts))


def test_an_objective_that_changes_with_progress_is_followed(gaussian, make_stack):
    parts = {**MLP, "objective": ("warm-up", {"share": 0.9})}
    early, late = (both(make_stack, gaussian, [0.3], 40, progress=progress, **parts) for progress in (0.1, 0.6))
    assert_same(*early)
    assert_same(*late)
    assert not torch.allclose(early[0][0], late[0][0], rtol=1e-3)


def test_a_replica_has_the_same_bits_whatever_it_is_stacked_with(gaussian, make_trainer):
    """Adam, mini-batches, 40 updates: the kernel takes a replica at a time, so not even rounding differs.

    Latents are not settled: what a check measures is rounded with its stack.
    """
    training = {
        "optimiser": {"use": "adam", "learning_rate": 0.01}, "batch_size": 64, "max_updates": 40,
        "settle_latents": False,
    }  # fmt: skip
    temperatures = [0.5 * 0.8**k for k in range(32)]
    whole = make_trainer(gaussian, temperatures, training=training, computation="kernel", **MLP).run(Controls())
    for replica in (3, 31):
        alone = make_trainer(gaussian, [temperatures[replica]], training=training, computation="kernel", **MLP).run(
            Controls()
        )
        assert alone.losses[0] == whole.losses[replica]
        for name, value in alone.weights.items():
            assert torch.allclose(value[0], whole.weights[name][replica], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("use", ["adam", "preconditioned"])
def test_training_in_one_pass_equals_training_through_torch_func(gaussian, make_trainer, use):
    """40 updates in float32: losses to 1e-5, Adam's weights to 1e-3; the preconditioner magnifies rounding errors."""
    training = {"optimiser": {"use": use, "learning_rate": 0.01}, "batch_size": 64, "max_updates": 40}
    ours, reference = (
        make_trainer(gaussian, [0.3, 0.03], training=training, computation=computation, **MLP).run(Controls())
        for computation in BY_PASSES
    )
    assert ours.losses == pytest.approx(reference.losses, rel=1e-5)
    for name, value in ours.weights.items() if use == "adam" else ():
        assert torch.allclose(value, reference.weights[name], rtol=1e-3, atol=1e-3)


def test_a_replica_of_nan_leaves_the_others_as_they_are(gaussian, make_stack):
    stack, spoilt = (make_stack(gaussian, [0.3, 0.1, 0.03], computation="kernel", **MLP) for _ in range(2))
    name = next(iter(spoilt.parameters))
    with torch.no_grad():
        spoilt.parameters[name][1] = torch.nan
    x, noise = torch.randn(50, 8), torch.randn(50, 8)
    (losses, gradients), (with_nan, beside) = (s.gradients(x, noise, None, 0.0) for s in (stack, spoilt))
    assert with_nan.isnan().tolist() == [False, True, False]
    for name, gradient in gradients.items():
        assert torch.equal(gradient[[0, 2]], beside[name][[0, 2]])
    assert torch.equal(losses[[0, 2]], with_nan[[0, 2]])


class Plain(nn.Module):
    """What someone writes who never heard of stacks: its own forward pass, functional activations."""

    def __init__(self, features, latent_dim):
        super().__init__()
        self.first, self.second = nn.Linear(features, 10), nn.Linear(10, 6)
        self.mean, self.spread = nn.Linear(6, latent_dim), nn.Linear(6, latent_dim)

    def forward(self, x):
        h = functional.silu(self.first(x.flatten(1)))
        h = torch.tanh(self.second(h))
        return self.mean(h), self.spread(h)


class Block(nn.Module):
    """A residual block as transformers have them."""

    def __init__(self, width):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(0.0)

    def forward(self, h):
        return h + self.dropout(self.down(functional.gelu(self.up(self.norm(h)))))


class Blocks(nn.Module):
    """Residual blocks with layer norms, and one map for both heads."""

    def __init__(self, features, latent_dim):
        super().__init__()
        self.first, self.blocks = nn.Linear(features, 9), nn.Sequential(Block(9), Block(9))
        self.norm, self.head = nn.LayerNorm(9, elementwise_affine=False), nn.Linear(9, 2 * latent_dim)

    def forward(self, x):
        h = self.norm(self.blocks(self.first(x.reshape(x.size(0), -1))))
        return self.head(h).chunk(2, dim=-1)


class Functional(Plain):
    """Every activation as a function or a method, its result used twice, the sum in place, no bias anywhere."""

    def __init__(self, features, latent_dim):
        super().__init__(features, latent_dim)
        self.third = nn.Linear(6, 6, bias=False)

    def forward(self, x):
        h = functional.elu(self.first(x.view(x.shape[0], -1)), alpha=0.5)
        h = functional.leaky_relu(self.second(functional.softplus(h)), 0.2).sigmoid()
        g = h + torch.tanh(functional.gelu(h, approximate="tanh"))
        g += functional.dropout(self.third(h), 0.3, training=False)
        mean, log_variance = self.mean(g), self.spread(g)
        return mean, log_variance


class Normed(nn.Module):
    """Layer norm of the input itself, whose gradient nobody needs, and after an activation that is no zero at zero."""

    def __init__(self, features, latent_dim):
        super().__init__()
        self.body = nn.Sequential(
            nn.LayerNorm(features), nn.Linear(features, 5), nn.Softplus(), nn.LayerNorm(5, bias=False), nn.Identity()
        )
        self.head = GaussianHead(5, latent_dim)

    def forward(self, x):
        return self.head(self.body(x.flatten(1)))


class Dropping(Plain):
    def forward(self, x):
        return super().forward(functional.dropout(x, 0.5))


class Doubled(Plain):
    def forward(self, x):
        mean, log_variance = super().forward(x)
        return 2 * mean, log_variance


class Branching(Plain):
    def forward(self, x):
        return super().forward(x if x.sum() > 0 else -x)


class Twice(nn.Module):
    def __init__(self, features, latent_dim):
        super().__init__()
        self.inner, self.head = nn.Linear(features, features), GaussianHead(features, latent_dim)

    def forward(self, x):
        return self.head(torch.relu(self.inner(torch.relu(self.inner(x)))))


class Scaled(Plain):
    """With a parameter of its own, which no module holds."""

    def __init__(self, features, latent_dim):
        super().__init__(features, latent_dim)
        self.scale = nn.Parameter(torch.ones(latent_dim))

    def forward(self, x):
        mean, log_variance = super().forward(x)
        return mean * self.scale, log_variance


class Tied(nn.Module):
    """Two maps that share one weight, of which a stack holds but one as a parameter."""

    def __init__(self, features, latent_dim):
        super().__init__()
        self.first, self.second = nn.Linear(features, features), nn.Linear(features, features)
        self.second.weight = self.first.weight
        self.head = GaussianHead(features, latent_dim)

    def forward(self, x):
        return self.head(torch.relu(self.second(torch.relu(self.first(x)))))


class Frozen(Plain):
    """With a bias that is a buffer."""

    def __init__(self, features, latent_dim):
        super().__init__(features, latent_dim)
        del self.first.bias
        self.first.register_buffer("bias", torch.ones(10))


class Swapped(Plain):
    """The same maps, with the latents' two heads the other way round."""

    def forward(self, x):
        mean, log_variance = super().forward(x)
        return log_variance, mean


def encoder_of(module):
    class Foreign(Encoder[Parameters]):
        def build(self, shape, latent_dim):
            return module(int(np.prod(shape)), latent_dim)

    return Foreign(Parameters())


@pytest.mark.parametrize("module", [Plain, Swapped, Blocks, Functional, Normed])
def test_a_foreign_module_of_affine_maps_takes_it_too(gaussian, make_stack, module):
    parts = {"encoder": encoder_of(module), "decoder": MLP["decoder"]}
    assert_same(*both(make_stack, gaussian, [0.3, 0.01], 40, **parts))
    assert why_not(make_stack(gaussian, [0.3, 0.1], computation="kernel", **parts), 8) is None


class Ends(nn.Module):
    """A decoder of residual blocks that takes its input up again at the end, and ends in an activation."""

    def __init__(self, latent_dim, features, activation):
        super().__init__()
        self.block, self.out = Block(latent_dim), nn.Linear(latent_dim, features)
        self.again, self.activation = nn.Linear(latent_dim, features), activation

    def forward(self, z):
        return self.activation(self.out(self.block(z)) + self.again(z))


def decoder_of(build):
    class Foreign(Decoder[Parameters]):
        def build(self, latent_dim, shape):
            return build(latent_dim, int(np.prod(shape)))

    return Foreign(Parameters())


@pytest.mark.parametrize("activation", [nn.Softplus(), nn.GELU("tanh"), nn.Sigmoid(), nn.Identity()])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_foreign_decoder_whose_latents_are_used_twice(gaussian, make_stack, activation, weighted):
    decoder = decoder_of(lambda latent_dim, features: Ends(latent_dim, features, activation))
    parts = {"encoder": encoder_of(Blocks), "decoder": decoder, "seeds": (0, 1)}
    assert_same(*both(make_stack, gaussian, [0.3, 0.01], 200, weighted=weighted, shared=False, latent_dim=5, **parts))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_shipped_residual_networks_take_it_with_every_activation(gaussian, make_stack, activation):
    layers = {"depth": 2, "width": 12, "activation": activation}
    parts = {"encoder": ("residual-mlp", layers), "decoder": ("residual-mlp", layers)}
    assert_same(*both(make_stack, gaussian, [0.3, 0.01], 100, **parts))


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (Doubled, "does more than"),
        (Dropping, "does more than"),
        (Scaled, "does more than"),
        (Branching, "cannot be traced"),
        (Twice, "used twice"),
        (Tied, r"encoder\.second\.weight is not a parameter of its own"),
        (Frozen, r"encoder\.first\.bias is not a parameter of its own"),
    ],
)
def test_a_module_that_does_anything_else_is_refused_with_the_reason(gaussian, make_stack, module, reason):
    with pytest.raises(KernelError, match=reason):
        make_stack(gaussian, [0.3], computation="kernel", encoder=encoder_of(module), decoder=MLP["decoder"])


def test_linear_decoders_hooks_and_double_precision_are_refused_with_the_reason(gaussian, make_stack):
    class Hooked(Decoder[Parameters]):
        def build(self, latent_dim, shape):
            made = nn.Linear(latent_dim, shape[0])
            made.register_forward_hook(lambda *_: None)
            return made

    with pytest.raises(KernelError, match="closed form"):
        make_stack(gaussian, [0.3], computation="kernel", encoder=MLP["encoder"])
    with pytest.raises(KernelError, match="hooks"):
        make_stack(gaussian, [0.3], computation="kernel", encoder=MLP["encoder"], decoder=Hooked(Parameters()))
    with pytest.raises(KernelError, match=r"torch\.float64"):
        make_stack(gaussian, [0.3], computation="kernel", dtype=torch.float64, **MLP)


class Lying(Objective[Parameters]):
    affine: ClassVar[bool] = True

    def loss(
        self, distortion: Tensor, rate: Tensor, dial: Tensor, state: Mapping[str, Tensor], progress: Tensor
    ) -> Tensor:
        return distortion + dial * rate.clamp(min=0.01).sum(-1)


class Deciding(Lying):
    """Affine, by a decision that only a single replica can take."""

    def loss(
        self, distortion: Tensor, rate: Tensor, dial: Tensor, state: Mapping[str, Tensor], progress: Tensor
    ) -> Tensor:
        return distortion + (dial if dial > 0 else 0 * dial) * rate.sum(-1)


@pytest.mark.parametrize(
    ("objective", "reason"),
    [
        (Lying(Parameters()), "and it is not"),
        (Deciding(Parameters()), "torch.func cannot map"),
        (("free-bits", {}), "does not declare"),
        (("learned-variance", {}), "trains a state of its own"),
        (("weight-decay", {}), "not a mean over samples"),
    ],
)
def test_an_objective_that_is_not_affine_is_refused(gaussian, make_stack, objective, reason):
    with pytest.raises(KernelError, match=reason):
        make_stack(gaussian, [0.3], computation="kernel", objective=objective, **MLP)


def test_the_gradients_of_one_call_are_not_those_of_the_next(gaussian, make_stack):
    stack = make_stack(gaussian, [0.3], computation="kernel", **MLP)
    x, noise = torch.randn(20, 8), torch.randn(20, 8)
    _, first = stack.gradients(x, noise, None, 0.0)
    kept = copy.deepcopy(first)
    stack.gradients(-x, noise, None, 0.0)
    assert all(torch.equal(first[name], kept[name]) for name in first)
