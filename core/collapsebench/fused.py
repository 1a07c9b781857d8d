"""The loss of a whole encoder and decoder and its gradient in one pass of the compiled kernel.

It takes pairs that consist of nothing but affine maps and activations in a row, with two affine heads at the encoder's
end, whoever wrote them, and objectives whose loss is affine in distortion and rates. What a pair computes is read from
its trace (`torch.fx`), and the numbers are tried against those of one model at a time before they are used.
"""

from __future__ import annotations

import ctypes
import operator
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import vmap
from torch.nn import functional

from collapsebench.chains import ACTIVATIONS, is_hooked
from collapsebench.heads import GaussianHead
from collapsebench.kernel import KernelError, Map, Pair, load_kernel
from collapsebench.objective import Objective

Tensors = dict[str, Tensor]
_FUNCTIONS: dict[Any, type[nn.Module]] = {
    functional.silu: nn.SiLU,
    functional.relu: nn.ReLU,
    torch.relu: nn.ReLU,
    functional.tanh: nn.Tanh,
    torch.tanh: nn.Tanh,
}
_PROBES = ((0.0, 1.0), (1e-6, 1e-6), (1e-3, 10.0), (1.0, 1e-3), (30.0, 0.1), (1e4, 1e3))
_TIMES = (0.0, 0.1, 0.35, 0.7, 1.0)


@dataclass(frozen=True)
class Affine:
    """One affine map, or two side by side: the names of its modules, its sizes, and the activation that follows."""

    names: tuple[str, ...]
    inputs: int
    outputs: int
    kind: int = 0


class FusedPair:
    """The loss and gradient of a stack of plain pairs. Raises KernelError, with the reason, for any other pair."""

    def __init__(
        self, pair: nn.ModuleDict, objective: Objective[Any], parameters: Mapping[str, Tensor], features: int
    ) -> None:
        load_kernel()
        check_affine(objective, parameters)
        encoder, decoder = _maps(pair, features)
        self._maps, self._encoder_maps = [*encoder, *decoder], len(encoder)
        known = {f"{name}.{part}" for affine in self._maps for name in affine.names for part in ("weight", "bias")}
        if other := sorted(set(parameters) - known):
            raise KernelError(f"{other[0]} belongs to no affine map of the pair")
        used = {name: pair.get_submodule(name) for affine in self._maps for name in affine.names}
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
        """Return the losses `(r,)` and the gradient of each parameter `(r, ...)`.

        x: `(s, b, *shape)`, noise `(s, b, k)`, weights `(s, b)` of mean one; s is 1 where all replicas share them.
        seeds: per replica the index of its seed `(r,)`. prices: of squared errors `(r,)`, of rates `(r, k)`, of nothing
        `(r,)`, as `prices_of` returns them.
        """
        gradients = {name: torch.empty_like(value) for name, value in parameters.items()}
        maps = (Map * len(self._maps))(*(self._map(affine, parameters, gradients) for affine in self._maps))
        x, noise = x.flatten(2).contiguous(), noise.contiguous()
        weights = None if weights is None else (weights / weights.shape[-1]).contiguous()
        batch = (ctypes.c_long * len(seeds))(*seeds.tolist())
        losses = torch.empty(len(seeds), dtype=torch.float64)
        error, rate, constant = (price.detach().contiguous() for price in prices)
        call = Pair(
            len(seeds), x.shape[1], noise.shape[2], self._encoder_maps, len(maps), maps, batch,
            _stride(x), _stride(noise), 0 if weights is None else _stride(weights),
            x.data_ptr(), noise.data_ptr(), None if weights is None else weights.data_ptr(),
            error.data_ptr(), rate.data_ptr(), losses.data_ptr(),
        )  # fmt: skip
        if load_kernel().pair_run(ctypes.byref(call)):
            raise MemoryError("no memory for the scratch space of a pair")
        return losses.to(constant.dtype) + constant, gradients

    def _map(self, affine: Affine, parameters: Tensors, gradients: Tensors) -> Map:
        def addresses(tensors: Tensors, part: str) -> list[int | None]:
            found = [tensors.get(f"{name}.{part}") for name in affine.names]
            return [None if tensor is None else tensor.data_ptr() for tensor in found] + [None] * (2 - len(found))

        values = [addresses(tensors, part) for tensors in (parameters, gradients) for part in ("weight", "bias")]
        pointers = [(ctypes.c_void_p * 2)(*found) for found in values]
        return Map(affine.inputs, affine.outputs, len(affine.names), affine.kind, *pointers)


def _has(module: nn.Module, part: str) -> bool:
    return getattr(module, part, None) is not None


def _stride(batches: Tensor) -> int:
    return batches[0].numel() if len(batches) > 1 else 0


def prices_of(
    objective: Objective[Any], state: Tensors, dials: Tensor, latent_dim: int, progress: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what an affine objective charges for distortion `(r,)`, for the rate of each latent `(r, k)`, and always.

    state: what each replica owns `(r, ...)`. dials: `(r,)`.
    """
    distortion = torch.zeros(2 + latent_dim, dtype=dials.dtype)
    distortion[1] = 1.0
    rate = torch.zeros(2 + latent_dim, latent_dim, dtype=dials.dtype)
    rate[2:] = torch.eye(latent_dim, dtype=dials.dtype)
    found = vmap(lambda own, dial: objective.loss(distortion, rate, dial, own, progress))(state, dials)
    constant = found[:, 0]
    return found[:, 1] - constant, found[:, 2:] - constant[:, None], constant


def check_affine(objective: Objective[Any], parameters: Mapping[str, Tensor], latent_dim: int = 3) -> None:
    """Raise KernelError unless an objective's loss is affine in distortion and rates, sample by sample, as declared."""
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
            found = vmap(lambda own, one, at=progress: objective.loss(distortion, rate, one, own, at))(state, dial)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise KernelError(f"torch.func cannot map the objective's loss: {reason}") from error
        expected = paid[:, None] * distortion + nats @ rate.T + constant[:, None]
        if not torch.allclose(found, expected, rtol=1e-4, atol=1e-9):
            raise KernelError("the objective declares its loss affine in distortion and rates, and it is not")


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) is GaussianHead or super().is_leaf_module(m, module_qualified_name)


def _read(module: nn.Module, name: str, features: int) -> list[tuple[Affine, ...]]:
    """Return, for each result of a module, the affine maps that lead to it; KernelError if it does anything else."""
    if any(is_hooked(part) for part in module.modules()):
        raise KernelError(f"a module of the {name} carries hooks")
    try:
        nodes = list(_Tracer().trace(module).nodes)
    except Exception as error:
        raise KernelError(f"the {name} cannot be traced: {type(error).__name__}") from error
    values: dict[Any, Any] = {nodes[0]: ()}
    for node in nodes[1:-1]:
        before = values.get(node.args[0]) if node.args else None  # a parameter of its own, say, depends on nothing
        part = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        values[node] = _value(node, part, before, f"{name}.{node.target}", features)
        if values[node] is None or set(node.kwargs) - {"inplace"}:
            raise KernelError(f"the {name} does more than affine maps and activations in a row: {node}")
    result = nodes[-1].args[0]
    if isinstance(result, tuple):
        return [values[node] for node in result]
    return values[result] if isinstance(values[result], list) else [values[result]]


def _value(node: fx.Node, part: nn.Module | None, before: Any, name: str, features: int) -> Any:
    """Return the maps that lead to a node, given those that lead to its input; for a head, both of its results."""
    if node.op == "call_function" and node.target is operator.getitem and isinstance(before, list):
        return before[int(node.args[1])]  # type: ignore[arg-type]
    if not isinstance(before, tuple):
        return None
    if node.op == "call_method" and node.target == "flatten" and node.args[1:] == (1,):
        return before
    width = before[-1].outputs if before else features
    if type(part) is nn.Linear and part.in_features == width:
        return (*before, Affine((name,), width, part.out_features))
    if type(part) is GaussianHead and part.mean.in_features == width:
        return [
            (*before, Affine((f"{name}.{end}",), width, part.mean.out_features)) for end in ("mean", "log_variance")
        ]
    activation = _FUNCTIONS.get(node.target) if node.op == "call_function" else type(part)
    if activation in ACTIVATIONS and before and before[-1].kind == 0:
        return (*before[:-1], replace(before[-1], kind=ACTIVATIONS[activation]))
    return before if type(part) in (nn.Flatten, nn.Unflatten, nn.Identity) else None


def _maps(pair: nn.ModuleDict, features: int) -> tuple[list[Affine], list[Affine]]:
    """Return the maps of encoder and decoder; the encoder's last is the pair of its heads."""
    ends = _read(pair["encoder"], "encoder", features)
    if len(ends) != 2 or not ends[0] or ends[0][:-1] != ends[1][:-1] or any(end[-1].kind for end in ends):
        raise KernelError("the encoder does not end in two affine heads")
    mean, log_variance = (end[-1] for end in ends)
    encoder = [*ends[0][:-1], replace(mean, names=(*mean.names, *log_variance.names))]
    decoder = [affine for end in _read(pair["decoder"], "decoder", mean.outputs) for affine in end]
    names = [name for affine in (*encoder, *decoder) for name in affine.names]
    if len(set(names)) < len(names) or not decoder:
        raise KernelError("a map is used twice, or the decoder has none")
    return encoder, decoder
