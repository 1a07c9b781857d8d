"""A stack: R replicas of one encoder and decoder, trained or observed as one batched computation.

Any `torch.nn.Module` written for one model works here: `torch.func` maps it over parameters that carry the replica
axis first. What cannot be mapped (data-dependent control flow, batch statistics) runs one by one, with equal results.

Axis letters: r replica, s seed, b batch, k latent, d feature.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from collapsebench.contracts import Decoder, Model, Objective
from collapsebench.seeds import seed_of
from collapsebench.stack.groups import GROUPS, SideBySide
from collapsebench.stack.kernel.chains import StackedPosterior, with_chains
from collapsebench.stack.kernel.library import KernelError
from collapsebench.stack.kernel.pair import FusedPair, prices_of

if TYPE_CHECKING:
    from collapsebench.contracts import Floats, Tensors

Computation = Literal["fused", "chained", "compiled", "batched", "grouped", "side-by-side", "one-by-one"]


class Stack:
    """R replicas that share their architecture, objective and data, and differ in temperature and seed.

    dials: what the objective receives per replica `(r,)`: beta for a temperature. seeds: per replica, the index of
    its seed `(r,)`. total_variance: V. Losses are divided by V / (2 decoder_variance), the distortion of total
    collapse, so that equal temperatures give equal gradients whatever beta and decoder_variance are.

    path: how it is computed, with numbers that agree within rounding. "fused": loss and gradient in one pass of the
    compiled kernel. "chained": batched, affine maps and activations
    by the compiled kernel. "compiled": batched, through torch.compile. "batched": through torch.func alone.
    "grouped": the same for a few replicas at a time, one group on each core. "side-by-side": one replica on each core.
    "one-by-one": a replica after the other.
    """

    def __init__(
        self,
        pairs: Sequence[nn.ModuleDict],
        objective: Objective[Any],
        dials: Tensor,
        seeds: Tensor,
        total_variance: float,
        shape: tuple[int, ...],
        *,
        decoder: Decoder[Any],
        path: Computation = "batched",
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        plain = pairs[0].to(device=device, dtype=dtype)
        by_kernel = path in ("fused", "chained")
        if by_kernel and (device.type != "cpu" or dtype != torch.float32):
            raise KernelError(f"the kernel computes float32 on the CPU, not {dtype} on {device}")
        self.template = with_chains(plain) if by_kernel else plain
        self.plain, self.objective, self.path = plain, objective, path
        self.linear, self.decoder = decoder.linear, decoder
        self.why_not_compiled = ""
        self._compiled: dict[tuple[int | None, ...], Callable[..., Tensor]] = {}
        self._groups: SideBySide | None = None
        self.device, self.dtype = device, dtype
        self.total_variance, self.shape = total_variance, shape
        self.dials, self.seeds = dials.to(device=device, dtype=dtype), seeds.to(device)
        states = [self._state_of(pair) for pair in pairs]
        chosen = [states[int(seed)] for seed in seeds]
        self.parameters: Tensors = {}
        self.buffers: Tensors = {}
        trained = {name for name, _ in self.template.named_parameters()} | {
            name for name, value in states[0].items() if isinstance(value, nn.Parameter)
        }
        for name in chosen[0]:
            value = torch.stack([state[name].detach() for state in chosen]).to(device)
            if name in trained:
                self.parameters[name] = value.to(dtype).requires_grad_()
            else:
                self.buffers[name] = value.to(dtype) if value.is_floating_point() else value

        if path == "fused" and self.linear:
            raise KernelError("a linear decoder has its expectation over z taken in closed form")
        self._fused = FusedPair(plain, objective, self.parameters, math.prod(shape)) if path == "fused" else None

    def _state_of(self, pair: nn.ModuleDict) -> Tensors:
        own = self.objective.init_state(math.prod(self.shape), self.total_variance)
        weights = {name: value.detach() for name, value in pair.state_dict().items()}
        return {**weights, **{f"objective.{name}": value for name, value in own.items()}}

    def __len__(self) -> int:
        return len(self.dials)

    @torch.no_grad()
    def _fused_gradients(
        self, fused: FusedPair, x: Tensor, noise: Tensor, weights: Tensor | None, progress: float, price: Tensor | float
    ) -> tuple[Tensor, Tensors]:
        done = torch.as_tensor(progress, device=self.device, dtype=self.dtype)
        own = _part({**self.parameters, **self.buffers}, "objective.")
        paid = prices_of(self.objective, own, self.dials * price, noise.shape[-1], done)
        scale = 0.5 / self.objective.decoder_variance
        per_error, per_rate, constant = (part / (self.total_variance * scale) for part in paid)
        prices = per_error * scale, per_rate, constant
        x = x if x.dim() > 1 + len(self.shape) else x[None]
        noise = noise if noise.dim() > 2 else noise[None]
        weights = weights if weights is None or weights.dim() > 1 else weights[None]
        return fused.gradients(self.parameters, x, noise, weights, self.seeds, prices)

    def losses(
        self, x: Tensor, noise: Tensor | None, weights: Tensor | None, progress: float, price: Tensor | float = 1.0
    ) -> Tensor:
        """Return each replica's normalised loss `(r,)` on a batch.

        x: `(b, *shape)`, noise `(b, k)`, weights `(b,)`; each may carry a leading seed axis if seeds differ in it.
        price: the share of its dial that every replica pays, or that each does `(r,)`.
        """
        done = torch.as_tensor(progress, device=self.device, dtype=self.dtype)
        arguments, axes = [], []
        for value, own_axes in ((x, 1 + len(self.shape)), (noise, 2), (weights, 1)):
            if value is not None and value.dim() > own_axes and len(value) == 1:
                value = value[0]  # one seed: all replicas share it, and the first layer is a single product
            differs = value is not None and value.dim() > own_axes
            arguments.append(value[self.seeds] if value is not None and differs else value)
            axes.append(0 if differs else None)
        dials = self.dials * price
        if self.path == "compiled":
            try:
                return self._compiled_losses(tuple(axes))({**self.parameters, **self.buffers}, dials, done, *arguments)
            except Exception as error:
                self.path, self.why_not_compiled = "batched", f"{type(error).__name__}: {str(error).splitlines()[0]}"
        losses: Tensor = self._map(
            lambda state, dial, *batch: self._loss(state, dial, done, *batch), (dials, *arguments), (0, *axes)
        )
        return losses

    def gradients(
        self, x: Tensor, noise: Tensor | None, weights: Tensor | None, progress: float, price: Tensor | float = 1.0
    ) -> tuple[Tensor, Tensors]:
        """Return what `losses` does and the gradients of their sum `(r, ...)`, by parameter, until the next call."""
        if self._fused is not None and self.path == "fused" and noise is not None:
            return self._fused_gradients(self._fused, x, noise, weights, progress, price)
        if self.path in GROUPS:
            done = torch.as_tensor(progress, device=self.device, dtype=self.dtype)
            axes = (1 + len(self.shape), 2, 1)
            return self._own_groups().gradients(self.dials * price, self.seeds, done, (x, noise, weights), axes)
        losses = self.losses(x, noise, weights, progress, price)
        parameters = self.parameters
        found = torch.autograd.grad(losses.sum(), list(parameters.values()), allow_unused=True)
        return losses.detach(), {
            name: torch.zeros_like(value) if gradient is None else gradient
            for (name, value), gradient in zip(parameters.items(), found, strict=True)
        }

    def _own_groups(self) -> SideBySide:
        if self._groups is None or not self._groups.serves(self.path, self.parameters):

            def loss_of(pair: nn.ModuleDict) -> Callable[..., Tensor]:
                own = copy.copy(self)
                own.template, own._groups = pair, None
                return own._loss

            self._groups = SideBySide(self.path, loss_of, self.template, self.parameters, self.buffers)
        return self._groups

    def _compiled_losses(self, axes: tuple[int | None, ...]) -> Callable[..., Tensor]:
        """The mapped loss through torch.compile, which fuses what is not a matrix product; compiled once per shape."""
        if axes not in self._compiled:
            mapped = vmap(self._loss, in_dims=(0, 0, None, *axes))
            self._compiled[axes] = torch.compile(mapped, mode="max-autotune-no-cudagraphs", dynamic=False)
        return self._compiled[axes]

    def _loss(
        self, state: Tensors, dial: Tensor, progress: Tensor, x: Tensor, noise: Tensor | None, weights: Tensor | None
    ) -> Tensor:
        scale = 0.5 / self.objective.decoder_variance
        mean, log_variance = self._encode(state, x)
        if self.linear:
            variance = log_variance.exp()
            distortion = self._expected_error(state, x, mean, variance) * scale
            rate = 0.5 * (mean.square() + variance - 1 - log_variance)
        else:
            assert noise is not None
            z, rate = self._sample(mean, log_variance, noise)
            distortion = (x - self._decode(state, z)).flatten(1).square().sum(1) * scale
        own = _part(state, "objective.")
        loss = self.objective.batch_loss(distortion, rate, weights, dial, own, progress)
        penalty = self.objective.penalty({**dict(self.template.named_parameters()), **state})
        return (loss if penalty is None else loss + penalty) / (self.total_variance * scale)

    def _sample(self, mean: Tensor, log_variance: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return z drawn from the posterior, and the rate of every latent in nats, each `(b, k)`."""
        if self.path in ("fused", "chained"):
            parts = (mean[None], log_variance[None], noise[None])
            z, rate = StackedPosterior.apply(*parts)  # type: ignore[no-untyped-call]
            return z[0], rate[0]
        variance = log_variance.exp()
        return mean + variance.sqrt() * noise, 0.5 * (mean.square() + variance - 1 - log_variance)

    def _expected_error(self, state: Tensors, x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        """E_z |x - f(z)|^2 = |x - f(mean)|^2 + sum_k variance_k |f(e_k) - f(0)|^2 for an affine decoder f."""
        latent = mean.shape[-1]
        eye = torch.eye(latent, device=mean.device, dtype=mean.dtype)
        probes = torch.cat([mean, eye, torch.zeros_like(eye[:1])])
        decoded = self._decode(state, probes).flatten(1)
        x_hat, columns, origin = decoded[: len(mean)], decoded[len(mean) : -1], decoded[-1:]
        gains = (columns - origin).square().sum(1)
        return (x.flatten(1) - x_hat).square().sum(1) + variance @ gains

    def _encode(self, state: Tensors, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = _call(self.template["encoder"], _part(state, "encoder."), x)
        return mean, log_variance

    def _decode(self, state: Tensors, z: Tensor) -> Tensor:
        decoded: Tensor = _call(self.template["decoder"], _part(state, "decoder."), z)
        return decoded

    def _map(self, function: Callable[..., Any], arguments: tuple[Any, ...], axes: tuple[int | None, ...]) -> Any:
        state = {**self.parameters, **self.buffers}
        if self.path != "one-by-one":
            return vmap(function, in_dims=(0, *axes), chunk_size=GROUPS.get(self.path))(state, *arguments)
        # One slice per replica through `unbind`, whose gradient is a single stack.
        slices = {name: value.unbind(0) for name, value in state.items()}
        results = [
            function(
                {name: parts[r] for name, parts in slices.items()},
                *(value if axis is None else value[r] for value, axis in zip(arguments, axes, strict=True)),
            )
            for r in range(len(self))
        ]
        if isinstance(results[0], tuple):
            return tuple(torch.stack(parts) for parts in zip(*results, strict=True))
        return torch.stack(results)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map x `(b, *shape)` to mean and log_variance, each `(r, b, k)`."""
        mean, log_variance = self._map(self._encode, (x,), (None,))
        return mean, log_variance

    def decode(self, z: Tensor) -> Tensor:
        """Map z `(r, b, k)` to x_hat `(r, b, *shape)`."""
        decoded: Tensor = self._map(self._decode, (z,), (0,))
        return decoded

    @torch.no_grad()
    def effective_temperatures(self) -> Floats:
        """Return what a nat costs each replica in normalised distortion `(r,)`: T, or where its own price has come."""

        def price(state: Tensors, dial: Tensor) -> Tensor:
            return self.objective.price(dial, _part(state, "objective."))

        found: Tensor = self._map(price, (self.dials,), (0,))
        return np.asarray(found.double().cpu().numpy()) / self.total_variance

    @torch.no_grad()
    def keep(self, replicas: Tensor) -> None:
        """Drop every replica whose index is not listed."""
        self.parameters = {name: value[replicas].requires_grad_() for name, value in self.parameters.items()}
        self.buffers = {name: value[replicas] for name, value in self.buffers.items()}
        self.dials, self.seeds = self.dials[replicas], self.seeds[replicas]

    @torch.no_grad()
    def select(self, replicas: Tensor) -> Stack:
        """Return a stack of copies of some replicas; this one is unchanged."""
        other = copy.copy(self)
        other.keep(replicas)
        return other

    def with_parameters(self, parameters: Tensors) -> Stack:
        """Return a stack of the same replicas with other parameters; this one is unchanged."""
        other = copy.copy(self)
        other.parameters = parameters
        return other

    @torch.no_grad()
    def weights(self) -> Tensors:
        """Return everything that was or may have been changed by training, `(r, ...)` each."""
        return {name: value.detach().clone() for name, value in {**self.parameters, **self.buffers}.items()}

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Replace all weights by what `weights` returned."""
        for name in self.parameters:
            self.parameters[name] = weights[name].to(self.device, self.dtype).requires_grad_()
        for name in self.buffers:
            self.buffers[name] = weights[name].to(self.device)


def why_not(stack: Stack, latent_dim: int) -> str | None:
    """Return why a stack cannot be computed along its path, or None if it can: tried, against one by one."""
    generator = torch.Generator().manual_seed(0)
    seeds, chosen = int(stack.seeds.max()) + 1, stack.path
    x = torch.randn(seeds, 4, *stack.shape, generator=generator).to(stack.device, stack.dtype)
    noise = torch.randn(seeds, 4, latent_dim, generator=generator).to(stack.device, stack.dtype)
    results = []
    paths: tuple[Computation, ...] = ("one-by-one", chosen)  # what fails one by one fails for a reason of its own
    for path in paths:
        stack.path = path
        before = stack.weights()
        try:
            losses, gradients = stack.gradients(x, noise, None, 0.0)
            results.append([losses, *(value.clone() for value in gradients.values())])
        except RuntimeError as error:
            if path == "one-by-one":
                raise
            return f"torch.func cannot map it: {str(error).strip().splitlines()[0]}"
        finally:
            changed = any(not torch.equal(before[name], value) for name, value in stack.weights().items())
            stack.load(before)
            stack.path = chosen
        if changed:
            return "its forward pass changes buffers (batch statistics), which belongs to one model at a time"
    for reference, ours in zip(*results, strict=True):
        if not torch.allclose(ours, reference, rtol=1e-3, atol=1e-5 * float(1 + reference.abs().max())):
            return f"{chosen}, it gives other numbers than one by one"
    return None


class StackModel(Model):
    """A stack as observables see it: evaluation mode, no gradients."""

    def __init__(self, stack: Stack, temperatures: Sequence[float] | Floats, latent_dim: int) -> None:
        stack.template.eval()
        self._stack = stack
        self.temperatures = np.asarray(temperatures, dtype=np.float64)
        self.latent_dim = latent_dim
        self.total_variance = stack.total_variance
        self.decoder_variance = stack.objective.decoder_variance
        self.linear_decoder = stack.linear
        self.ward_identities = stack.decoder.ward_identities

    @torch.no_grad()
    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map x `(b, *shape)` to mean and log_variance, each `(r, b, k)`."""
        return self._stack.encode(x)

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Map z `(r, b, k)` to x_hat `(r, b, *shape)`, in the stack's own precision."""
        return self._stack.decode(z.to(self._stack.device, self._stack.dtype))

    def noise(self, chunk: int, shape: tuple[int, ...]) -> Tensor:
        """Return standard normal noise of a shape, the same for the same chunk number."""
        return observation_noise(chunk, shape).to(self._stack.device, self._stack.dtype)


def observation_noise(chunk: int, shape: tuple[int, ...]) -> Tensor:
    """Return the standard normal noise that belongs to a chunk number, whatever model is observed with it."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed_of(use="observe", chunk=chunk)))


def _part(state: Tensors, prefix: str) -> Tensors:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _call(module: nn.Module, state: Tensors, value: Tensor) -> Any:
    """Call a module with a state in place of its own, where there is one."""
    return functional_call(module, state, (value,)) if state else module(value)
