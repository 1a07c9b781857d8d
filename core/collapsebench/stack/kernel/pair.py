"""The loss and the gradient of an encoder and decoder in one pass of the compiled kernel.

A pair may consist of affine maps, activations, sums and layer norms only, with two affine heads at the end of the
encoder; the loss must be affine in distortion and rates. What a pair computes is read from its trace (`program.py`), so
it need not be written for this kernel. Before use, the results are compared with those of one model at a time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import vmap

from collapsebench.contracts import Objective
from collapsebench.stack.kernel.library import KernelError, PairCall, StepCall, load_kernel
from collapsebench.stack.kernel.program import OPERATIONS, Step, read_pair

if TYPE_CHECKING:
    from collapsebench.contracts import Tensors

_Two = ctypes.c_void_p * 2
_PROBES = ((0.0, 1.0), (1e-6, 1e-6), (1e-3, 10.0), (1.0, 1e-3), (30.0, 0.1), (1e4, 1e3))
_TIMES = (0.0, 0.1, 0.35, 0.7, 1.0)


class PairInOnePass(Protocol):
    """What computes the loss and the gradient of a stack of pairs in one call."""

    def gradients(
        self,
        parameters: Tensors,
        x: Tensor,
        noise: Tensor,
        weights: Tensor | None,
        seeds: Tensor,
        prices: tuple[Tensor, Tensor, Tensor],
    ) -> tuple[Tensor, Tensors]:
        """Return the losses `(r,)` and the gradient of each parameter `(r, ...)`.

        x: `(s, b, *shape)`, noise: `(s, b, k)`, weights: `(s, b)` with mean one; s is 1 if all replicas share them.
        seeds: index of the seed of each replica, `(r,)`. prices: of squared errors `(r,)` and of rates `(r, k)`, and a
        constant `(r,)`.
        """


class FusedPair:
    """The loss and gradient of a stack of pairs. Raises KernelError with the reason if it cannot compute them."""

    def __init__(
        self, pair: nn.ModuleDict, objective: Objective[Any], parameters: Mapping[str, Tensor], features: int
    ) -> None:
        load_kernel()
        check_affine(objective, parameters)
        self._program, self._features = read_pair(pair, features), features
        names = [name for step in self._program.steps for name in step.names]
        known = {f"{name}.{part}" for name in names for part in ("weight", "bias")}
        if other := sorted(set(parameters) - known):
            raise KernelError(f"{other[0]} belongs to no map of the pair")
        used = {name: pair.get_submodule(name) for name in names}
        taken = {f"{name}.{part}" for name, module in used.items() for part in ("weight", "bias") if _has(module, part)}
        if shared := sorted(taken - set(parameters)):
            raise KernelError(f"{shared[0]} is not a parameter of its own")

    def gradients(
        self,
        parameters: Tensors,
        x: Tensor,
        noise: Tensor,
        weights: Tensor | None,
        seeds: Tensor,
        prices: tuple[Tensor, Tensor, Tensor],
    ) -> tuple[Tensor, Tensors]:
        """Return the losses and the gradients, see `PairInOnePass`."""
        gradients = {name: torch.empty_like(value) for name, value in parameters.items()}
        program = self._program
        taken = (StepCall * len(program.steps))(*(self._step(step, parameters, gradients) for step in program.steps))
        x, noise = x.flatten(2).contiguous(), noise.contiguous()
        weights = None if weights is None else (weights / weights.shape[-1]).contiguous()
        batch = (ctypes.c_long * len(seeds))(*seeds.tolist())
        losses = torch.empty(len(seeds), dtype=torch.float64)
        error, rate, constant = (price.detach().contiguous() for price in prices)
        call = PairCall(
            len(seeds), x.shape[1], self._features, noise.shape[2], program.encoder_steps, len(taken), program.slots,
            program.latent_slot, taken, batch,
            _stride(x), _stride(noise), 0 if weights is None else _stride(weights),
            x.data_ptr(), noise.data_ptr(), None if weights is None else weights.data_ptr(),
            error.data_ptr(), rate.data_ptr(), losses.data_ptr(),
        )  # fmt: skip
        if load_kernel().pair_run(ctypes.byref(call)):
            raise MemoryError("no memory for the scratch space of a pair")
        return losses.to(constant.dtype) + constant, gradients

    def _step(self, step: Step, parameters: Tensors, gradients: Tensors) -> StepCall:
        def addresses(tensors: Tensors, part: str) -> Any:
            found = [tensors.get(f"{name}.{part}") for name in step.names]
            return (_Two)(*(None if tensor is None else tensor.data_ptr() for tensor in found))

        values = [addresses(tensors, part) for tensors in (parameters, gradients) for part in ("weight", "bias")]
        parameter = step.epsilon if step.what == "norm" else step.activation.parameter
        sources, adds = (ctypes.c_long * 2)(*step.sources), (ctypes.c_long * 2)(*step.adds)
        return StepCall(
            OPERATIONS.index(step.what), step.inputs, step.outputs, max(1, len(step.names)), step.activation.kind,
            parameter, sources, adds, step.slot, *values,
        )  # fmt: skip


def _has(module: nn.Module, part: str) -> bool:
    return getattr(module, part, None) is not None


def _stride(batches: Tensor) -> int:
    return batches[0].numel() if len(batches) > 1 else 0


def prices_of(
    objective: Objective[Any], state: Tensors, dials: Tensor, latent_dim: int, progress: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the coefficients of an affine loss: of distortion `(r,)`, of each rate `(r, k)`, and the constant `(r,)`.

    state: the state of the objective, `(r, ...)`. dials: `(r,)`.
    """
    distortion = dials.new_zeros(2 + latent_dim)
    distortion[1:2].fill_(1.0)  # assignment would copy from the host, which no graph records
    rate = dials.new_zeros(2 + latent_dim, latent_dim)
    rate[2:].fill_diagonal_(1.0)
    losses = vmap(lambda each, dial: objective.loss(distortion, rate, dial, each, progress))(state, dials)
    constant = losses[:, 0]
    return losses[:, 1] - constant, losses[:, 2:] - constant[:, None], constant


def check_affine(objective: Objective[Any], parameters: Mapping[str, Tensor], latent_dim: int = 3) -> None:
    """Raise KernelError unless the loss of each sample is affine in distortion and rates, and is declared so."""
    if not objective.affine:
        raise KernelError("the objective does not declare its loss affine in distortion and rates")
    kind = type(objective)
    if kind.batch_loss is not Objective.batch_loss or kind.penalty is not Objective.penalty:
        raise KernelError("the objective's loss is not a mean over samples of distortion and rates")
    if any(name.startswith("objective.") for name in parameters):
        raise KernelError("the objective trains a state of its own")
    state = {name: value[None] for name, value in objective.init_state(1, 1.0).items()}
    distortion = torch.tensor([d for d, _ in _PROBES])
    rate = torch.tensor([r for _, r in _PROBES])[:, None] * torch.linspace(0.5, 1.5, latent_dim)
    for time in _TIMES:
        progress, dial = torch.tensor(time), torch.tensor([0.3])
        try:
            paid, nats, constant = prices_of(objective, state, dial, latent_dim, progress)
            losses = vmap(lambda each, one, at=progress: objective.loss(distortion, rate, one, each, at))(state, dial)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise KernelError(f"torch.func cannot map the objective's loss: {reason}") from error
        expected = paid[:, None] * distortion + nats @ rate.T + constant[:, None]
        if not torch.allclose(losses, expected, rtol=1e-4, atol=1e-9):
            raise KernelError("the objective declares its loss affine in distortion and rates, and it is not")
