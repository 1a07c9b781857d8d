"""Chains of affine maps and activations, computed for a whole stack by the compiled kernel.

`with_chains` prepares an ordinary module: within each `nn.Sequential`, every `nn.Linear` and the activations between
them become chains; everything else is unchanged. Under `torch.func.vmap` over stacked parameters, a chain is one call
of the kernel. Its results agree with those of PyTorch within float32 rounding, and those of a replica do not depend on
the other replicas in its stack.
"""

from __future__ import annotations

import copy
import ctypes
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from collapsebench.stack.gaussian_head import GaussianHead
from collapsebench.stack.kernel.library import (
    NONE,
    Activation,
    ChainCall,
    KernelError,
    activation_of,
    load_kernel,
    remember_signature,
)


class StackedPosterior(torch.autograd.Function):
    """z = mu + sigma noise and rate = 1/2 (mu^2 + sigma^2 - 1 - log sigma^2), float32 on the CPU.

    mean, log_variance: `(r, ...)`. noise: `(r, ...)`, or `(1, ...)` if all replicas share it. Returns z and rate,
    each `(r, ...)`.
    """

    @staticmethod
    def forward(mean: Tensor, log_variance: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Compute z and the rate."""
        mean, log_variance, noise = mean.contiguous(), log_variance.contiguous(), noise.contiguous()
        z, rate = torch.empty_like(mean), torch.empty_like(mean)
        load_kernel().posterior_forward(
            *_extent(mean, noise), *(part.data_ptr() for part in (mean, log_variance, noise, z, rate))
        )
        return z, rate

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        """Save the inputs for the backward pass."""
        ctx.save_for_backward(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_z: Tensor, grad_rate: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return the gradients with respect to mean and log_variance; noise has none."""
        mean, log_variance, noise, grad_z, grad_rate = (
            part.contiguous() for part in (*ctx.saved_tensors, grad_z, grad_rate)
        )
        results = torch.empty_like(mean), torch.empty_like(mean)
        parts = (mean, log_variance, noise, grad_z, grad_rate, *results)
        load_kernel().posterior_backward(*_extent(mean, noise), *(part.data_ptr() for part in parts))
        return *results, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], mean: Tensor, log_variance: Tensor, noise: Tensor
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        """Merge the mapped axis into the replica axis, so that one call computes everything."""
        count, inner = info.batch_size, mean.shape[0 if in_dims[0] is None else int(in_dims[0] == 0)]

        def folded(part: Tensor, axis: int | None) -> Tensor:
            part = part.unsqueeze(0) if axis is None else part.movedim(axis, 0)
            return part.expand(count, inner, *part.shape[2:]).flatten(0, 1)

        shared = in_dims[2] is None and len(noise) == 1
        z, rate = StackedPosterior.apply(  # type: ignore[no-untyped-call]
            folded(mean, in_dims[0]),
            folded(log_variance, in_dims[1]),
            noise if shared else folded(noise, in_dims[2]),
        )
        return (z.unflatten(0, (count, inner)), rate.unflatten(0, (count, inner))), (0, 0)


remember_signature(StackedPosterior.forward)


def _extent(mean: Tensor, noise: Tensor) -> tuple[int, int, int]:
    count = mean.numel() // len(mean)
    return len(mean), count, count if len(noise) > 1 else 0


_MOST_LAYERS = 64
_Module = TypeVar("_Module", bound=nn.Module)


@dataclass(frozen=True)
class ChainShape:
    """The structure of a chain without its weights.

    activations: one for each layer; only the last layer may have none. split: number of columns in the first part of
    the result; the second part has the others.
    """

    activations: tuple[Activation, ...]
    split: int

    @property
    def kinds(self) -> tuple[int, ...]:
        """The number of the activation of each layer."""
        return tuple(activation.kind for activation in self.activations)


class StackedChain(torch.autograd.Function):
    """y = f_n(W_n ... f_1(W_1 x + b_1) ... + b_n) per replica, float32 on the CPU.

    x: `(r, b, in)`, or `(1, b, in)` if all replicas share it. affine: for each layer the weight `(r, out, in)` and the
    bias `(r, out)` or None. Returns the two parts of y, `(r, b, split)` and `(r, b, out - split)`, and the values that
    the backward pass needs.
    """

    @staticmethod
    def forward(layout: ChainShape, x: Tensor, *affine: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Compute both parts of y, and the pre-activations of every layer `(r, ...)`."""
        weights, biases = affine[::2], affine[1::2]
        sizes = _sizes(weights)
        kernel, replicas, rows = load_kernel(), _replicas(weights), x.shape[1]
        kept = sum(rows * kernel.chain_padded(out) for out, kind in zip(sizes[1:], layout.kinds, strict=True) if kind)
        saved = x.new_empty(replicas, kept)
        y = x.new_empty(replicas, rows, layout.split)
        rest = x.new_empty(replicas, rows, sizes[-1] - layout.split)
        _run(layout, x.contiguous(), _contiguous(weights), _contiguous(biases), saved, y=y, y_rest=rest)
        return y, rest, saved

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        """Save what the backward pass needs."""
        ctx.layout, x, *affine = inputs
        ctx.mark_non_differentiable(output[2])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, output[2], *affine)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor | None, grad_rest: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        """Return the gradients in the order of the inputs: x (None if unused), then weight and bias of each layer."""
        if grad_y is None and grad_rest is None:
            return (None,) * len(ctx.needs_input_grad)
        x, saved, *affine = ctx.saved_tensors
        weights, biases = _contiguous(affine[::2]), _contiguous(affine[1::2])
        grad_x = x.new_empty(len(saved), *x.shape[1:]) if ctx.needs_input_grad[1] else None
        grads = [None if part is None else torch.empty_like(part) for part in (*weights, *biases)]
        grad_weights, grad_biases = grads[: len(weights)], grads[len(weights) :]
        grad_y, grad_rest = _contiguous((grad_y, grad_rest))
        _run(
            ctx.layout, x.contiguous(), weights, biases, saved, grad_y=grad_y, grad_y_rest=grad_rest,
            grad_x=grad_x, grad_weights=grad_weights, grad_biases=grad_biases,
        )  # fmt: skip
        if grad_x is not None and len(x) < len(grad_x):
            grad_x = grad_x.sum(0, keepdim=True)
        pairs = zip(grad_weights, grad_biases, strict=True)
        return None, grad_x, *(part for pair in pairs for part in pair)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], layout: ChainShape, x: Tensor, *affine: Tensor | None
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        """Merge the mapped axis into the replica axis, so that one call computes everything."""
        count = info.batch_size
        parts = [
            None if part is None else part.unsqueeze(0) if axis is None else part.movedim(axis, 0)
            for part, axis in zip((x, *affine), in_dims[1:], strict=True)
        ]
        inner = max(part.shape[1] for part in parts if part is not None)

        def folded(part: Tensor | None) -> Tensor | None:
            return None if part is None else part.expand(count, inner, *part.shape[2:]).flatten(0, 1)

        shared = in_dims[1] is None and len(x) == 1
        first = x if shared else folded(parts[0])
        results = StackedChain.apply(layout, first, *map(folded, parts[1:]))  # type: ignore[no-untyped-call]
        return tuple(result.unflatten(0, (count, inner)) for result in results), (0, 0, 0)


remember_signature(StackedChain.forward)


def _run(
    layout: ChainShape,
    x: Tensor,
    weights: Sequence[Tensor | None],
    biases: Sequence[Tensor | None],
    saved: Tensor,
    *,
    y: Tensor | None = None,
    y_rest: Tensor | None = None,
    grad_y: Tensor | None = None,
    grad_y_rest: Tensor | None = None,
    grad_x: Tensor | None = None,
    grad_weights: Sequence[Tensor | None] = (),
    grad_biases: Sequence[Tensor | None] = (),
) -> None:
    sizes = _sizes(weights)
    longs = [(ctypes.c_long * len(values))(*values) for values in (sizes, layout.kinds)]
    floats = (ctypes.c_float * len(layout.kinds))(*(activation.parameter for activation in layout.activations))
    rows = x.shape[1]
    chain = ChainCall(
        len(saved), rows, len(layout.kinds), rows * sizes[0] if len(x) > 1 else 0, saved.shape[1], *longs, floats,
        x.data_ptr(), _addresses(weights), _addresses(biases), saved.data_ptr(), layout.split,
        *map(_address, (y, y_rest, grad_y, grad_y_rest, grad_x)), _addresses(grad_weights), _addresses(grad_biases),
    )  # fmt: skip
    if load_kernel().chain_run(ctypes.byref(chain)):
        raise MemoryError("no memory for the scratch space of a chain")


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _addresses(tensors: Sequence[Tensor | None]) -> Any:
    return (ctypes.c_void_p * len(tensors))(*map(_address, tensors))


def _contiguous(parts: Iterable[Tensor | None]) -> list[Tensor | None]:
    return [None if part is None else part.contiguous() for part in parts]


def _sizes(weights: Sequence[Tensor | None]) -> list[int]:
    shapes = [weight.shape for weight in weights if weight is not None]
    return [shapes[0][2], *(shape[1] for shape in shapes)]


def _replicas(weights: Sequence[Tensor | None]) -> int:
    return max(len(weight) for weight in weights if weight is not None)


class _ChainedSequential(nn.Sequential):
    """A Sequential that computes the longest possible runs of affine maps and activations as chains."""

    def forward(self, value: Any) -> Any:
        run: list[nn.Module] = []
        for module in self:
            if _is_head(module) and not (run and _is_affine(run[-1])):
                assert isinstance(module, GaussianHead)
                value, run = _chain(value, run, module), []
                continue
            if run and (not _continues(module, run) or len(run) >= 2 * _MOST_LAYERS - 2):
                value, run = _chain(value, run), []
            if _continues(module, run):
                run.append(module)
            else:
                value = module(value)
        return _chain(value, run) if run else value


class _ChainedLinear(nn.Linear):
    def forward(self, value: Tensor) -> Tensor:
        y: Tensor = _chain(value, [self])
        return y


class _ChainedHead(GaussianHead):
    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = _chain(features, [], self)
        return mean, log_variance


def _is_affine(module: nn.Module) -> bool:
    return type(module) in (nn.Linear, _ChainedLinear) and not is_hooked(module)


def _is_head(module: nn.Module) -> bool:
    return type(module) in (GaussianHead, _ChainedHead) and not any(map(is_hooked, module.modules()))


def is_hooked(module: nn.Module) -> bool:
    """Whether calling a module runs more than its forward pass."""
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


def _continues(module: nn.Module, run: Sequence[nn.Module]) -> bool:
    """Whether a module extends a run: an affine map first or after an activation, an activation after a map."""
    if run and _is_affine(run[-1]):
        return activation_of(module) is not None and not is_hooked(module)
    return _is_affine(module)


def _chain(value: Tensor, run: Sequence[nn.Module], head: GaussianHead | None = None) -> Any:
    """Apply a run of modules to a value. If it ends in a head, return mean and log-variance."""
    affine = [module for module in run if isinstance(module, nn.Linear)]
    activations = [activation for module in run if (activation := activation_of(module))]
    parts: list[Tensor | None] = [part for module in affine for part in (module.weight, module.bias)]
    if head is not None:
        both = (head.mean, head.log_variance)
        parts += [torch.cat([m.weight for m in both]), torch.cat([m.bias for m in both])]
    layers = len(parts) // 2
    activations += [NONE] * (layers - len(activations))
    width = next(part for part in reversed(parts) if part is not None).shape[0]
    split = width if head is None else head.mean.out_features
    stacked = [None if part is None else part.unsqueeze(0) for part in parts]
    layout, flat = ChainShape(tuple(activations), split), value.reshape(1, -1, value.shape[-1])
    results = StackedChain.apply(layout, flat, *stacked)  # type: ignore[no-untyped-call]
    y, rest = (result.reshape(*value.shape[:-1], result.shape[-1]) for result in results[:2])
    return y if head is None else (y, rest)


def with_chains(module: _Module) -> _Module:
    """Return a copy of a module, with the same parameter names, whose chains are computed by the kernel.

    Raises KernelError if there is no kernel or the module has nothing to chain.
    """
    load_kernel()
    chained = copy.deepcopy(module)
    for part in chained.modules():
        if type(part) is nn.Sequential:
            part.__class__ = _ChainedSequential
        elif _is_head(part):
            part.__class__ = _ChainedHead
        elif _is_affine(part):
            part.__class__ = _ChainedLinear
    if not any(isinstance(part, _ChainedLinear) for part in chained.modules()):
        raise KernelError("its modules have no affine map that can be chained")
    return chained


def covers(module: nn.Module) -> bool:
    """Return whether every parameter of a module belongs to an affine map that the kernel computes."""
    parts = [part for part in module.modules() if _is_affine(part) or _is_head(part)]
    computed = {id(parameter) for part in parts for parameter in part.parameters()}
    return all(id(parameter) in computed for parameter in module.parameters())
