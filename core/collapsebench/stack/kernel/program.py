"""What a pair of networks computes, read from its traces (`torch.fx`) as the steps that the compiled kernel takes.

A step makes a value of its own from the values of earlier ones, or of its network's input: an affine map with the
activation that follows, an activation alone, a sum of two values, a layer norm.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import fx, nn
from torch.nn import functional

from collapsebench.stack.gaussian_head import GaussianHead
from collapsebench.stack.kernel.chains import is_hooked
from collapsebench.stack.kernel.library import NONE, Activation, KernelError, activation_of

INPUT = -1
WHATS = ("affine", "activation", "sum", "norm")
What = Literal["affine", "activation", "sum", "norm"]


@dataclass(frozen=True)
class Step:
    """One step. sources: the steps whose values it takes, INPUT for that of its network.

    names: of its modules, two if it is two affine maps side by side. epsilon: of a norm. slot, adds: where its value's
    gradient is gathered, and what becomes of a source's: 0 written, 1 added, 2 left, the place being the same.
    """

    what: What
    sources: tuple[int, ...]
    inputs: int
    outputs: int
    names: tuple[str, ...] = ()
    activation: Activation = NONE
    epsilon: float = 0.0
    slot: int = 0
    adds: tuple[int, ...] = (0, 0)


@dataclass(frozen=True)
class Program:
    """The steps of encoder and decoder in a row. slots: how many places for gradients; latent_slot: that of z's."""

    steps: tuple[Step, ...]
    encoder_steps: int
    slots: int
    latent_slot: int


@dataclass(frozen=True)
class _Value:
    """The value of a step, or one half of it. width: of the whole."""

    step: int
    width: int
    half: int | None = None


_ROWS = object()  # the number of samples, as in x.view(x.size(0), -1)
_AS_MODULE: dict[Any, Callable[..., nn.Module]] = {
    functional.silu: nn.SiLU, functional.relu: nn.ReLU, torch.relu: nn.ReLU, "relu": nn.ReLU,
    functional.tanh: nn.Tanh, torch.tanh: nn.Tanh, "tanh": nn.Tanh, functional.gelu: nn.GELU, functional.elu: nn.ELU,
    functional.softplus: nn.Softplus, functional.leaky_relu: nn.LeakyReLU, functional.sigmoid: nn.Sigmoid,
    torch.sigmoid: nn.Sigmoid, "sigmoid": nn.Sigmoid,
}  # fmt: skip
_ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
_CHUNKS = (torch.chunk, "chunk")
_RESHAPES = ("view", "reshape", torch.reshape)
_FLATTEN = ("flatten", torch.flatten)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) is GaussianHead or super().is_leaf_module(m, module_qualified_name)


class _Reader:
    """Follows the trace of one network. offset: the number of its first step."""

    def __init__(self, module: nn.Module, name: str, features: int, offset: int = 0) -> None:
        self.module, self.name, self.offset = module, name, offset
        self.steps: list[Step] = []
        if any(is_hooked(part) for part in module.modules()):
            raise KernelError(f"a module of the {name} carries hooks")
        try:
            nodes = list(_Tracer().trace(module).nodes)
        except Exception as error:
            raise KernelError(f"the {name} cannot be traced: {type(error).__name__}") from error
        values: dict[Any, Any] = {nodes[0]: _Value(INPUT, features)}
        for node in nodes[1:-1]:
            values[node] = self._value(node, values)
            if values[node] is None:
                raise KernelError(f"the {name} does more than affine maps, activations, sums and layer norms: {node}")
        found = nodes[-1].args[0]
        ends = [values.get(node) for node in found] if isinstance(found, (tuple, list)) else values.get(found)
        self.ends: list[Any] = ends if isinstance(ends, list) else [ends]

    def _value(self, node: fx.Node, values: dict[Any, Any]) -> Any:
        """Return the value of a node, its halves, or the number of samples; None if the kernel cannot make it."""
        arguments = [values.get(part, part) if isinstance(part, fx.Node) else part for part in node.args]
        named = {
            key: values.get(part, part) if isinstance(part, fx.Node) else part for key, part in node.kwargs.items()
        }
        before, rest = (arguments[0], arguments[1:]) if arguments else (None, [])
        target = node.target
        if target is operator.getitem and isinstance(before, list):
            return before[rest[0]] if isinstance(rest[0], int) else None
        if target is operator.getitem and before == "shape":
            return _ROWS if rest == [0] else None
        if not isinstance(before, _Value) or before.half is not None:
            return None
        if node.op == "call_module":
            return self._of_module(self.module.get_submodule(str(target)), f"{self.name}.{target}", before)
        if target is getattr and rest == ["shape"]:
            return "shape"
        if target == "size" and (rest == [0] or named == {"dim": 0}):
            return _ROWS
        if target in _FLATTEN:
            return before if (rest, named) in (([1], {}), ([], {"start_dim": 1})) else None
        if target in _RESHAPES and not named:
            return before if _keeps_rows(rest, before.width) else None
        if target in _CHUNKS:
            return _halves(before, rest, named)
        if target is functional.dropout:
            return before if named.get("training") is False or (rest or [named.get("p")])[0] == 0 else None
        if target in _ADDITIONS and not named:
            return self._sum(before, rest)
        if target in _AS_MODULE:
            return self._activated(before, _AS_MODULE[target](*rest, **named))
        return None

    def _of_module(self, part: nn.Module, name: str, before: _Value) -> Any:
        width = before.width
        if type(part) is nn.Linear and part.in_features == width:
            return self._add(Step("affine", (before.step,), width, part.out_features, (name,)))
        if type(part) is GaussianHead and part.mean.in_features == width:
            outputs = part.mean.out_features
            return [
                self._add(Step("affine", (before.step,), width, outputs, (f"{name}.{end}",)))
                for end in ("mean", "log_variance")
            ]
        if type(part) is nn.LayerNorm and part.normalized_shape == (width,):
            return self._add(Step("norm", (before.step,), width, width, (name,), epsilon=part.eps))
        if type(part) is nn.Dropout:
            return before if part.p == 0 else None
        return before if type(part) in (nn.Flatten, nn.Unflatten, nn.Identity) else self._activated(before, part)

    def _activated(self, before: _Value, part: nn.Module) -> _Value | None:
        activation = activation_of(part)
        if activation is None:
            return None
        return self._add(Step("activation", (before.step,), before.width, before.width, activation=activation))

    def _sum(self, before: _Value, rest: Sequence[Any]) -> _Value | None:
        other = rest[0] if len(rest) == 1 else None
        if not isinstance(other, _Value) or other.half is not None or other.width != before.width:
            return None
        return self._add(Step("sum", (before.step, other.step), before.width, before.width))

    def _add(self, step: Step) -> _Value:
        self.steps.append(step)
        return _Value(self.offset + len(self.steps) - 1, step.outputs)


def _keeps_rows(shape: Sequence[Any], width: int) -> bool:
    """Whether a reshape leaves samples where they are: to (rows, -1), to (rows, *shape) or to (-1, *shape)."""
    sizes = list(shape[0]) if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else list(shape)
    if not sizes or not (sizes[0] is _ROWS or sizes[0] == -1):
        return False
    if sizes[0] is _ROWS and sizes[1:] == [-1]:
        return True
    return all(isinstance(size, int) for size in sizes[1:]) and math.prod(sizes[1:]) == width


def _halves(value: _Value, rest: Sequence[Any], named: dict[str, Any]) -> list[_Value] | None:
    chunks, axis = [*rest, *named.values()] if len(rest) + len(named) == 2 else (None, None)
    if set(named) - {"chunks", "dim"} or chunks != 2 or axis not in (1, -1) or value.width % 2 or value.step < 0:
        return None
    return [replace(value, half=half) for half in (0, 1)]


def read_pair(pair: nn.ModuleDict, features: int) -> Program:
    """Return the program of a pair; KernelError with the reason if it computes anything else."""
    encoder = _Reader(pair["encoder"], "encoder", features)
    first = _with_heads(encoder)
    latents = first[-1].outputs // (1 if len(first[-1].names) > 1 else 2)
    decoder = _Reader(pair["decoder"], "decoder", latents, len(first))
    (end,) = decoder.ends if len(decoder.ends) == 1 else (None,)
    if not isinstance(end, _Value) or end.half is not None or end.width != features or end.step == INPUT:
        raise KernelError("the decoder's result is not the value of a step")
    second = _packed(decoder.steps, [end.step], len(first))
    steps = [*first, *second]
    names = [name for step in steps for name in step.names]
    if len(set(names)) < len(names):
        raise KernelError("a map is used twice")
    return _with_slots(steps, len(first))


def _with_heads(encoder: _Reader) -> list[Step]:
    """Return the encoder's steps, whose last gives mean and log-variance side by side."""
    problem = KernelError("the encoder does not end in two affine heads")
    if len(encoder.ends) != 2 or not all(isinstance(end, _Value) and end.step >= 0 for end in encoder.ends):
        raise problem
    mean, log_variance = encoder.ends
    steps = encoder.steps
    heads = [steps[end.step] for end in encoder.ends]
    if any(head.what != "affine" for head in heads):
        raise problem
    if (mean.half, log_variance.half) == (0, 1) and mean.step == log_variance.step:
        return _packed(steps, [mean.step], 0)
    alike = heads[0].sources == heads[1].sources and heads[0].outputs == heads[1].outputs
    if (mean.half, log_variance.half) != (None, None) or not alike or mean.step == log_variance.step:
        raise problem
    if any(end.step in step.sources for end in encoder.ends for step in steps):
        raise problem
    both = replace(heads[0], names=(*heads[0].names, *heads[1].names))
    return _packed([*steps, both], [len(steps)], 0)


def _packed(steps: Sequence[Step], ends: Sequence[int], offset: int) -> list[Step]:
    """Return the steps that lead to some, numbered anew, an affine map taken with the activation that alone follows it.

    offset: the number of the first.
    """
    needed, users = set(ends), dict.fromkeys(ends, 1)
    for number in range(offset + len(steps) - 1, offset - 1, -1):
        for source in steps[number - offset].sources if number in needed else ():
            needed.add(source)
            users[source] = users.get(source, 0) + 1
    packed: list[Step] = []
    places = {INPUT: INPUT}
    for number in sorted(needed - {INPUT}):
        step = steps[number - offset]
        source = step.sources[0]
        before = packed[places[source] - offset] if source >= 0 else None
        bare = before is not None and before.what == "affine" and not before.activation.kind
        if before is not None and bare and step.what == "activation" and users[source] == 1:
            packed[places[source] - offset] = replace(before, activation=step.activation)
            places[number] = places[source]
            continue
        places[number] = offset + len(packed)
        packed.append(replace(step, sources=tuple(places[source] for source in step.sources)))
    return packed


def _with_slots(steps: Sequence[Step], encoder_steps: int) -> Program:
    """Give every value a place for its gradient, going back; a place is free again when the step is done with it."""
    found, free, count = list(steps), list[int](), 0
    live: dict[int, int] = {}

    def take() -> int:
        nonlocal count
        if free:
            return free.pop()
        count += 1
        return count - 1

    live[len(steps) - 1] = take()
    latent_slot = 0
    for number in range(len(steps) - 1, -1, -1):
        step = found[number]
        if number == encoder_steps - 1:
            if INPUT not in live:
                raise KernelError("the decoder does not depend on its input")
            latent_slot = live.pop(INPUT)
            live[number] = take()
            free.append(latent_slot)
        own, adds, kept = live.pop(number), [], False
        for source in step.sources:
            if source == INPUT and number < encoder_steps:
                adds.append(0)
            elif source in live:
                adds.append(1)
            elif step.what != "affine" and not kept:
                live[source], kept = own, True
                adds.append(2)
            else:
                live[source] = take()
                adds.append(0)
        if not kept:
            free.append(own)
        found[number] = replace(step, slot=own, adds=tuple(adds))
    return Program(tuple(found), encoder_steps, count, latent_slot)
