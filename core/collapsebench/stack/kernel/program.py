"""Translate an encoder and decoder from their traces (`torch.fx`) to a sequence of steps for the compiled kernel.

A step computes one value from values of earlier steps or from the input of its network. It is an affine map with the
activation that follows it, an activation by itself, a sum of two values, or a layer norm.
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
OPERATIONS = ("affine", "activation", "sum", "norm")
What = Literal["affine", "activation", "sum", "norm"]


@dataclass(frozen=True)
class Step:
    """One step. sources: the numbers of the steps whose values it takes; INPUT for the network's input.

    names: names of its modules; two if two affine maps are concatenated. epsilon: of a layer norm. slot: the
    buffer in which the gradient of its value is accumulated. adds: for each source, how its gradient is passed on: 0
    written to its slot, 1 added to its slot, 2 left where it is, because both share a slot.
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
    """The steps of the encoder, then of the decoder. slots: number of gradient buffers. latent_slot: that of z."""

    steps: tuple[Step, ...]
    encoder_steps: int
    slots: int
    latent_slot: int


@dataclass(frozen=True)
class _Value:
    """The value of a step, or one half of it. width: of the whole value."""

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

_Arguments = Sequence[Any]
_Named = dict[str, Any]


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) is GaussianHead or super().is_leaf_module(m, module_qualified_name)


class _Reader:
    """Turn the trace of one network into steps. offset: the number of its first step."""

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
        output = nodes[-1].args[0]
        ends = [values.get(node) for node in output] if isinstance(output, (tuple, list)) else values.get(output)
        self.ends: list[Any] = ends if isinstance(ends, list) else [ends]

    def _value(self, node: fx.Node, values: dict[Any, Any]) -> Any:
        """Return the value of a node, its halves, or the number of samples; None if the kernel cannot compute it."""
        arguments = [values.get(part, part) if isinstance(part, fx.Node) else part for part in node.args]
        named = {
            key: values.get(part, part) if isinstance(part, fx.Node) else part for key, part in node.kwargs.items()
        }
        operand, rest = (arguments[0], arguments[1:]) if arguments else (None, [])
        if node.target is operator.getitem:
            return _item(operand, rest)
        if not isinstance(operand, _Value) or operand.half is not None:
            return None
        if node.op == "call_module":
            return self._of_module(self.module.get_submodule(str(node.target)), f"{self.name}.{node.target}", operand)
        if node.target in _AS_MODULE:
            return self._activated(operand, _AS_MODULE[node.target](*rest, **named))
        read = _OPERATIONS.get(node.target)
        return read(self, operand, rest, named) if read else None

    def _of_module(self, part: nn.Module, name: str, operand: _Value) -> Any:
        width = operand.width
        if type(part) is nn.Linear and part.in_features == width:
            return self._add(Step("affine", (operand.step,), width, part.out_features, (name,)))
        if type(part) is GaussianHead and part.mean.in_features == width:
            outputs = part.mean.out_features
            return [
                self._add(Step("affine", (operand.step,), width, outputs, (f"{name}.{end}",)))
                for end in ("mean", "log_variance")
            ]
        if type(part) is nn.LayerNorm and part.normalized_shape == (width,):
            return self._add(Step("norm", (operand.step,), width, width, (name,), epsilon=part.eps))
        if type(part) is nn.Dropout:
            return operand if part.p == 0 else None
        return operand if type(part) in (nn.Flatten, nn.Unflatten, nn.Identity) else self._activated(operand, part)

    def _activated(self, operand: _Value, part: nn.Module) -> _Value | None:
        activation = activation_of(part)
        if activation is None:
            return None
        return self._add(Step("activation", (operand.step,), operand.width, operand.width, activation=activation))

    def _sum(self, operand: _Value, rest: _Arguments, named: _Named) -> _Value | None:
        other = rest[0] if len(rest) == 1 and not named else None
        if not isinstance(other, _Value) or other.half is not None or other.width != operand.width:
            return None
        return self._add(Step("sum", (operand.step, other.step), operand.width, operand.width))

    def _add(self, step: Step) -> _Value:
        self.steps.append(step)
        return _Value(self.offset + len(self.steps) - 1, step.outputs)


def _item(operand: Any, rest: _Arguments) -> Any:
    """Return one half of a value, or the number of samples out of a shape."""
    if isinstance(operand, list):
        return operand[rest[0]] if isinstance(rest[0], int) else None
    return _ROWS if operand == "shape" and rest == [0] else None


def _attribute(reader: _Reader, operand: _Value, rest: _Arguments, named: _Named) -> str | None:
    return "shape" if rest == ["shape"] else None


def _size(reader: _Reader, operand: _Value, rest: _Arguments, named: _Named) -> object | None:
    return _ROWS if rest == [0] or named == {"dim": 0} else None


def _flattened(reader: _Reader, operand: _Value, rest: _Arguments, named: _Named) -> _Value | None:
    return operand if (rest, named) in (([1], {}), ([], {"start_dim": 1})) else None


def _reshaped(reader: _Reader, operand: _Value, rest: _Arguments, named: _Named) -> _Value | None:
    return operand if not named and _keeps_rows(rest, operand.width) else None


def _without_dropout(reader: _Reader, operand: _Value, rest: _Arguments, named: _Named) -> _Value | None:
    return operand if named.get("training") is False or (rest or [named.get("p")])[0] == 0 else None


def _keeps_rows(shape: _Arguments, width: int) -> bool:
    """Whether a reshape keeps samples apart: to (rows, -1), to (rows, *shape) or to (-1, *shape)."""
    sizes = list(shape[0]) if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else list(shape)
    if not sizes or not (sizes[0] is _ROWS or sizes[0] == -1):
        return False
    if sizes[0] is _ROWS and sizes[1:] == [-1]:
        return True
    return all(isinstance(size, int) for size in sizes[1:]) and math.prod(sizes[1:]) == width


def _halves(reader: _Reader, operand: _Value, rest: _Arguments, named: _Named) -> list[_Value] | None:
    chunks, axis = [*rest, *named.values()] if len(rest) + len(named) == 2 else (None, None)
    if set(named) - {"chunks", "dim"} or chunks != 2 or axis not in (1, -1) or operand.width % 2 or operand.step < 0:
        return None
    return [replace(operand, half=half) for half in (0, 1)]


_OPERATIONS: dict[Any, Callable[[_Reader, _Value, _Arguments, _Named], Any]] = {
    getattr: _attribute,
    "size": _size,
    functional.dropout: _without_dropout,
    **dict.fromkeys(("flatten", torch.flatten), _flattened),
    **dict.fromkeys(("view", "reshape", torch.reshape), _reshaped),
    **dict.fromkeys((torch.chunk, "chunk"), _halves),
    **dict.fromkeys((operator.add, operator.iadd, torch.add, "add", "add_"), _Reader._sum),
}
"""For each operation of a trace, the function that translates it, given its operand and other arguments."""


def read_pair(pair: nn.ModuleDict, features: int) -> Program:
    """Return the program of a pair. Raises KernelError with the reason if the kernel cannot compute the pair."""
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
    """Return the encoder's steps, the last of which gives mean and log-variance, concatenated."""
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
    """Return the steps that `ends` depend on, renumbered from `offset`.

    An affine map is merged with the activation that follows it, if nothing else uses its value.
    """
    needed, users = set(ends), dict.fromkeys(ends, 1)
    for number in range(offset + len(steps) - 1, offset - 1, -1):
        for source in steps[number - offset].sources if number in needed else ():
            needed.add(source)
            users[source] = users.get(source, 0) + 1
    packed: list[Step] = []
    new_numbers = {INPUT: INPUT}
    for number in sorted(needed - {INPUT}):
        step = steps[number - offset]
        source = step.sources[0]
        before = packed[new_numbers[source] - offset] if source >= 0 else None
        bare = before is not None and before.what == "affine" and not before.activation.kind
        if before is not None and bare and step.what == "activation" and users[source] == 1:
            packed[new_numbers[source] - offset] = replace(before, activation=step.activation)
            new_numbers[number] = new_numbers[source]
            continue
        new_numbers[number] = offset + len(packed)
        packed.append(replace(step, sources=tuple(new_numbers[source] for source in step.sources)))
    return packed


class _Slots:
    """The gradient buffers of a backward pass. of_value: the buffer of every value whose gradient is not complete."""

    def __init__(self) -> None:
        self.count, self.of_value = 0, dict[int, int]()
        self._free: list[int] = []

    def give(self, value: int) -> None:
        """Give a value a free buffer, or a new one."""
        if not self._free:
            self._free.append(self.count)
            self.count += 1
        self.of_value[value] = self._free.pop()

    def release(self, slot: int) -> None:
        """Mark a buffer as free."""
        self._free.append(slot)


def _with_slots(steps: Sequence[Step], encoder_steps: int) -> Program:
    """Assign a gradient buffer to every value, last step first; a buffer is released once its step is done."""
    slotted, slots, latent_slot = list(steps), _Slots(), 0
    slots.give(len(steps) - 1)
    for number in range(len(steps) - 1, -1, -1):
        if number == encoder_steps - 1:
            if INPUT not in slots.of_value:
                raise KernelError("the decoder does not depend on its input")
            latent_slot = slots.of_value.pop(INPUT)
            slots.give(number)
            slots.release(latent_slot)
        slotted[number] = _with_slot(steps[number], number, slots, is_encoder=number < encoder_steps)
    return Program(tuple(slotted), encoder_steps, slots.count, latent_slot)


def _with_slot(step: Step, number: int, slots: _Slots, *, is_encoder: bool) -> Step:
    """Return a step with its gradient buffer, after giving one to each of its sources that has none."""
    slot, adds = slots.of_value.pop(number), list[int]()
    for source in step.sources:
        if source == INPUT and is_encoder:
            adds.append(0)
        elif source in slots.of_value:
            adds.append(1)
        elif step.what != "affine" and 2 not in adds:
            slots.of_value[source] = slot
            adds.append(2)
        else:
            slots.give(source)
            adds.append(0)
    if 2 not in adds:
        slots.release(slot)
    return replace(step, slot=slot, adds=tuple(adds))
