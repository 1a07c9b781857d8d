"""A stack: R replicas of one encoder and decoder, trained or observed as one batched computation.

Any `torch.nn.Module` written for one model works here: `torch.func` maps it over parameters whose first axis is the
replica axis. Modules that cannot be mapped (data-dependent control flow, batch statistics) run one replica at a time,
with the same results.

Axis letters: r replica, s seed, b batch, k latent, d feature.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from collapsebench.contracts import Decoder, Model, Objective
from collapsebench.seeds import seed_of
from collapsebench.stack.computation import COMPUTATIONS, Computation
from collapsebench.stack.groups import Batch, GroupedGradients
from collapsebench.stack.kernel.pair import PairInOnePass, prices_of
from collapsebench.theory.envelope import Line

if TYPE_CHECKING:
    from collapsebench.contracts import Floats, Tensors
    from collapsebench.theory.equilibrium import Equilibrium


Prices = tuple[Tensor, Tensor, Tensor]


class Stack:
    """R replicas that share their architecture, objective and data, and differ in temperature and seed.

    dials: the value that the objective receives for each replica, `(r,)`; for a temperature, beta. seeds: index of
    the seed of each replica, `(r,)`. total_variance: V. Losses are divided by V / (2 decoder_variance), the distortion
    of total collapse, so that gradients depend on beta and decoder_variance only through the temperature.
    computation: how the stack is computed; all computations agree within rounding.
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
        computation: Computation = COMPUTATIONS["batched"],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.objective, self.decoder, self.linear = objective, decoder, decoder.linear
        self.device, self.dtype = device, dtype
        self.total_variance, self.shape = total_variance, shape
        self.dials, self.seeds = dials.to(device=device, dtype=dtype), seeds.to(device)
        states = [self._state_of(pair) for pair in pairs]
        self.plain = pairs[0].to(device=device, dtype=dtype)
        chosen = [states[int(seed)] for seed in seeds]
        self.parameters: Tensors = {}
        self.buffers: Tensors = {}
        trained = {name for name, _ in self.plain.named_parameters()} | {
            name for name, value in states[0].items() if isinstance(value, nn.Parameter)
        }
        for name in chosen[0]:
            value = torch.stack([state[name].detach() for state in chosen]).to(device)
            if name in trained:
                self.parameters[name] = value.to(dtype).requires_grad_()
            else:
                self.buffers[name] = value.to(dtype) if value.is_floating_point() else value
        self._compute(computation)

    def _compute(self, computation: Computation) -> None:
        engine = computation.engine
        self.computation = computation
        self.template = engine.modules(self.plain, self.device, self.dtype)
        self._groups: GroupedGradients | None = None
        self._one_pass = engine.one_pass(
            self.plain, self.objective, self.parameters, math.prod(self.shape), linear=self.linear
        )

    def computed(self, computation: Computation) -> Stack:
        """Return a stack of the same tensors with another computation; this one is unchanged."""
        other = copy.copy(self)
        other.parameters, other.buffers = dict(self.parameters), dict(self.buffers)
        other._compute(computation)
        return other

    def _state_of(self, pair: nn.ModuleDict) -> Tensors:
        state = self.objective.init_state(math.prod(self.shape), self.total_variance)
        weights = {name: value.detach() for name, value in pair.state_dict().items()}
        return {**weights, **{f"objective.{name}": value for name, value in state.items()}}

    def __len__(self) -> int:
        return len(self.dials)

    @torch.no_grad()
    def prices_at(self, dials: Tensor, progress: Tensor, latent_dim: int) -> Prices | None:
        """Return what loss and gradient in one pass depend on besides batch and weights, or None for other ways.

        The coefficients of the normalised loss: of squared errors `(r,)` and of rates `(r, k)`, and a constant `(r,)`.
        """
        if self._one_pass is None:
            return None
        paid = prices_of(self.objective, self._state(), dials, latent_dim, progress)
        scale = 0.5 / self.objective.decoder_variance
        per_error, per_rate, constant = (part / (self.total_variance * scale) for part in paid)
        return per_error * scale, per_rate, constant

    @torch.no_grad()
    def _gradients_in_one_pass(self, pair: PairInOnePass, batch: Batch, prices: Prices) -> tuple[Tensor, Tensors]:
        x, noise, weights = batch
        assert x is not None
        assert noise is not None
        x = x if x.dim() > 1 + len(self.shape) else x[None]
        noise = noise if noise.dim() > 2 else noise[None]
        weights = weights if weights is None or weights.dim() > 1 else weights[None]
        return pair.gradients(self.parameters, x, noise, weights, self.seeds, prices)

    def losses(
        self, x: Tensor, noise: Tensor | None, weights: Tensor | None, progress: float, price: Tensor | float = 1.0
    ) -> Tensor:
        """Return each replica's normalised loss `(r,)` on a batch.

        x: `(b, *shape)`, noise: `(b, k)`, weights: `(b,)`; with a leading seed axis where seeds differ.
        price: the fraction of its dial that a replica pays, one for all or one for each `(r,)`.
        """
        return self.mapped_losses((x, noise, weights), self.dials * price, self._number(progress))

    def mapped_losses(self, batch: Batch, dials: Tensor, progress: Tensor) -> Tensor:
        """Return each replica's normalised loss `(r,)` at given dials `(r,)`, by mapping over replicas."""
        arguments, axes = [], []
        for value, plain_axes in zip(batch, self._batch_axes, strict=True):
            if value is not None and value.dim() > plain_axes and len(value) == 1:
                value = value[0]  # one seed: all replicas share it, so the first layer is a single matrix product
            differs = value is not None and value.dim() > plain_axes
            arguments.append(value[self.seeds] if value is not None and differs else value)
            axes.append(0 if differs else None)
        losses: Tensor = self._map(
            lambda state, dial, *parts: self._loss(state, dial, progress, *parts), (dials, *arguments), (0, *axes)
        )
        return losses

    def gradients(
        self, x: Tensor, noise: Tensor | None, weights: Tensor | None, progress: float, price: Tensor | float = 1.0
    ) -> tuple[Tensor, Tensors]:
        """Return the `losses`, and the gradients of their sum `(r, ...)` by parameter, valid until the next call."""
        return self.gradients_at((x, noise, weights), self.dials * price, self._number(progress))

    def gradients_at(
        self, batch: Batch, dials: Tensor, progress: Tensor, prices: Prices | None = None
    ) -> tuple[Tensor, Tensors]:
        """Return the same at given dials `(r,)`, price included. progress: a scalar. prices: `prices_at`, if known."""
        noise = batch[1]
        if self._one_pass is not None and noise is not None:
            prices = prices or self.prices_at(dials, progress, noise.shape[-1])
            assert prices is not None
            return self._gradients_in_one_pass(self._one_pass, batch, prices)
        return self.computation.grouping.gradients(self, batch, dials, progress)

    @property
    def _batch_axes(self) -> tuple[int, int, int]:
        """The numbers of axes of x, noise and weights without a leading seed axis."""
        return 1 + len(self.shape), 2, 1

    def _number(self, value: float) -> Tensor:
        return torch.as_tensor(value, device=self.device, dtype=self.dtype)

    def groups(self, size: int) -> GroupedGradients:
        """Return the groups of `size` replicas that compute gradients; cached until the parameters are replaced."""
        if self._groups is None or not self._groups.serves(size, self.parameters):

            def loss_of(pair: nn.ModuleDict) -> Callable[..., Tensor]:
                alone = copy.copy(self)
                alone.template, alone._groups = pair, None
                return alone._loss

            self._groups = GroupedGradients(
                size, loss_of, self.template, self.parameters, self.buffers, self._batch_axes
            )
        return self._groups

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
            z, rate = self.computation.engine.sample(mean, log_variance, noise)
            distortion = (x - self._decode(state, z)).flatten(1).square().sum(1) * scale
        loss = self.objective.batch_loss(distortion, rate, weights, dial, _part(state, "objective."), progress)
        penalty = self.objective.penalty({**dict(self.template.named_parameters()), **state})
        return (loss if penalty is None else loss + penalty) / (self.total_variance * scale)

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
        return self.computation.grouping.map(function, {**self.parameters, **self.buffers}, arguments, axes)

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
        """Return the price of a nat in normalised distortion, `(r,)`: T, unless the objective sets its own price."""

        def price(state: Tensors, dial: Tensor) -> Tensor:
            return self.objective.price(dial, _part(state, "objective."))

        prices: Tensor = self._map(price, (self.dials,), (0,))
        return np.asarray(prices.double().cpu().numpy()) / self.total_variance

    @torch.no_grad()
    def lines(self, found: Equilibrium) -> list[Line]:
        """Return what the weights of each replica cost at every value of the dial, in nats, from what was measured.

        The loss at the end of training counts. There is no line, only NaN, unless it is affine in distortion and rates,
        as the objective declares, and in the dial.
        """
        if self.objective.affine and type(self.objective).batch_loss is Objective.batch_loss:
            try:
                return self._lines(found)
            except RuntimeError:  # torch.func cannot map the loss or the penalty
                pass
        return [Line(dial) for dial in self.dials.double().tolist()]

    def _lines(self, found: Equilibrium) -> list[Line]:
        own = self.dials.double().cpu()
        state = {name: value.double().cpu() for name, value in self._state().items()}
        distortion, rates = torch.from_numpy(found.distortion), torch.from_numpy(found.rates)
        end = torch.ones((), dtype=torch.float64)
        paid, nats, free = prices_of(self.objective, state, own, rates.shape[1], end)
        expected = paid * distortion + (nats * rates).sum(1) + free

        def loss(state: Tensors, distortion: Tensor, rates: Tensor, dial: Tensor) -> Tensor:
            return self.objective.loss(distortion[None], rates[None], dial, state, end)[0]

        here, there, beyond = (vmap(loss)(state, distortion, rates, own * factor) for factor in (1.0, 2.0, 3.0))
        tolerance = 1e-6 * (here - free).abs()
        bent = ((beyond - 2 * there + here).abs() > tolerance) | ((here - expected).abs() > tolerance)
        slope = (there - here) / own
        intercept, constant = here - slope * own, free
        if type(self.objective).penalty is not Objective.penalty:
            penalty = vmap(self.objective.penalty)({**self.parameters, **self.buffers})
            assert penalty is not None
            intercept, constant = intercept + penalty.double().cpu(), free + penalty.double().cpu()
        error = paid.abs() * torch.from_numpy(found.distortion_error)
        rows = torch.stack([own, intercept, slope, constant, error], 1)
        straight = ~bent & rows.isfinite().all(1)
        return [
            Line(*row) if good else Line(row[0]) for row, good in zip(rows.tolist(), straight.tolist(), strict=True)
        ]

    def _state(self) -> Tensors:
        return _part({**self.parameters, **self.buffers}, "objective.")

    @torch.no_grad()
    def keep(self, replicas: Tensor) -> None:
        """Drop every replica whose index is not listed."""
        self.parameters = {name: value[replicas].requires_grad_() for name, value in self.parameters.items()}
        self.buffers = {name: value[replicas] for name, value in self.buffers.items()}
        self.dials, self.seeds = self.dials[replicas], self.seeds[replicas]

    @torch.no_grad()
    def become(self, weights: Mapping[str, Tensor], dials: Tensor, seeds: Tensor) -> None:
        """Turn into a stack of other replicas of the same kind. weights: as `load` takes them. dials, seeds: `(r,)`."""
        self.dials, self.seeds = dials.to(self.dials), seeds.to(self.seeds)
        self.load(weights)

    @torch.no_grad()
    def select(self, replicas: Tensor) -> Stack:
        """Return a stack of copies of the listed replicas; this one is unchanged."""
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
        """Return copies of everything that training may change: parameters and buffers, each `(r, ...)`."""
        return {name: value.detach().clone() for name, value in {**self.parameters, **self.buffers}.items()}

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Replace all parameters and buffers by those that `weights` returned."""
        for name in self.parameters:
            self.parameters[name] = weights[name].to(self.device, self.dtype).requires_grad_()
        for name in self.buffers:
            self.buffers[name] = weights[name].to(self.device)


class StackModel(Model):
    """The view of a stack that observables receive: in evaluation mode and without gradients."""

    def __init__(self, stack: Stack, temperatures: Sequence[float] | Floats, latent_dim: int) -> None:
        stack.template.eval()
        self._stack, self.device, self.dtype = stack, stack.device, stack.dtype
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
        """Map z `(r, b, k)` to x_hat `(r, b, *shape)`, in the precision of the stack."""
        return self._stack.decode(z.to(self._stack.device, self._stack.dtype))

    def noise(self, chunk: int, shape: tuple[int, ...]) -> Tensor:
        """Return standard normal noise of the given shape; it is always the same for the same chunk number."""
        return observation_noise(chunk, shape).to(self._stack.device, self._stack.dtype)


def observation_noise(chunk: int, shape: tuple[int, ...]) -> Tensor:
    """Return the standard normal noise of a chunk number, which is the same for every model."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed_of(use="observe", chunk=chunk)))


def _part(state: Tensors, prefix: str) -> Tensors:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _call(module: nn.Module, state: Tensors, value: Tensor) -> Any:
    """Call a module with the given state, or with its own if the given one is empty."""
    return functional_call(module, state, (value,)) if state else module(value)
