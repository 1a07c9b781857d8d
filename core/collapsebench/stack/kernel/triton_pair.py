"""The loss and the gradient of a stack of multilayer perceptrons on a GPU, one Triton kernel for each layer and way.

A pair must be two plain chains of affine maps and activations, with two affine heads at the end of the encoder and at
most 128 units in a layer. float32 products are taken as three products in TF32 (`tf32x3`), which is as exact as float32
and runs on the matrix units; where PyTorch may use TF32 for matrices, one product is taken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from collapsebench.contracts import Objective
from collapsebench.stack.kernel.library import Activation, KernelError
from collapsebench.stack.kernel.pair import check_affine
from collapsebench.stack.kernel.program import INPUT, Step, read_pair

if TYPE_CHECKING:
    from collapsebench.contracts import Tensors

_WIDEST, _NARROWEST = 128, 16
_PROGRAMS = 264
"""How many programs fill a large GPU twice; fewer replicas are split into parts of their rows."""


@dataclass(frozen=True)
class _Map:
    """An affine map: its module, its sizes, and the activation that follows it."""

    name: str
    inputs: int
    outputs: int
    activation: Activation


class TritonPair:
    """The loss and gradient of a stack of pairs. Raises KernelError with the reason if it cannot compute them."""

    def __init__(
        self, pair: nn.ModuleDict, objective: Objective[Any], parameters: Mapping[str, Tensor], features: int
    ) -> None:
        try:
            from collapsebench.stack.kernel import triton_steps
        except ImportError as error:
            raise KernelError(f"Triton is not installed ({error})") from error
        check_affine(objective, parameters)
        program = read_pair(pair, features)
        steps = [_map for number, step in enumerate(program.steps) for _map in _maps(number, step, program)]
        self._encoder, self._decoder = steps[: program.encoder_steps + 1], steps[program.encoder_steps + 1 :]
        known = {f"{each.name}.{part}" for each in steps for part in ("weight", "bias")}
        if other := sorted(set(parameters) - known):
            raise KernelError(f"{other[0]} belongs to no map of the pair")
        if missing := sorted(f"{each.name}.weight" for each in steps if f"{each.name}.weight" not in parameters):
            raise KernelError(f"{missing[0]} is not a parameter of its own")
        self._kernels: Any = triton_steps

    def gradients(
        self,
        parameters: Tensors,
        x: Tensor,
        noise: Tensor,
        weights: Tensor | None,
        seeds: Tensor,
        prices: tuple[Tensor, Tensor, Tensor],
    ) -> tuple[Tensor, Tensors]:
        """Return the losses `(r,)` and the gradient of each parameter `(r, ...)`, see `PairInOnePass`."""
        return _Pass(self._kernels, self._encoder, self._decoder, parameters, x, noise, weights, seeds).run(prices)


def _maps(number: int, step: Step, program: Any) -> list[_Map]:
    first = number in (0, program.encoder_steps)
    if step.what != "affine" or step.sources != ((INPUT,) if first else (number - 1,)):
        raise KernelError("the pair is not a plain chain of affine maps and activations")
    if max(step.inputs, step.outputs) > _WIDEST:
        raise KernelError(f"a layer has more than {_WIDEST} units")
    if number == program.encoder_steps - 1 and len(step.names) < 2:
        raise KernelError("the heads are the halves of one map")
    return [_Map(name, step.inputs, step.outputs, step.activation) for name in step.names]


class _Pass:
    """One forward and backward pass over a batch. Tensors of values have the shape `(r, b, width)`."""

    def __init__(
        self, kernels: Any, encoder: list[_Map], decoder: list[_Map], parameters: Tensors, x: Tensor, noise: Tensor,
        weights: Tensor | None, seeds: Tensor,
    ) -> None:  # fmt: skip
        self._kernels, self._parameters = kernels, parameters
        self._encoder, self._decoder = encoder, decoder
        self._x, self._noise = x.flatten(2).contiguous(), noise.contiguous()
        self._weights = x if weights is None else weights.contiguous()
        self._weighted = weights is not None
        none = torch.zeros_like(seeds)
        self._of_x, self._of_noise, self._of_weights = (
            seeds if len(part) > 1 else none for part in (self._x, self._noise, self._weights)
        )
        self._replicas, self._rows = len(seeds), self._x.shape[1]
        self._tile = 64 if max(max(each.inputs, each.outputs) for each in (*encoder, *decoder)) <= 64 else 32
        self._tiles = -(-self._rows // self._tile)
        self._split = min(self._tiles, -(-_PROGRAMS // self._replicas))
        self._precision = "tf32" if torch.backends.cuda.matmul.allow_tf32 else "tf32x3"

    def run(self, prices: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensors]:
        """Return losses and gradients. prices: as `PairInOnePass.gradients` takes them."""
        error_price, rate_price, constant = (price.detach().contiguous() for price in prices)
        *hidden, mean_map, spread_map = self._encoder
        values = self._forward(hidden, self._x)
        mean, spread = (self._affine(each, values[-1], hidden) for each in (mean_map, spread_map))
        latent = torch.empty_like(mean)
        tall = self._tiling(mean.shape[2])
        self._kernels.latent_forward[self._grid](
            mean, spread, self._noise, latent, self._of_noise, self._rows, width=mean.shape[2], **tall
        )
        decoded = self._forward(self._decoder, latent)
        losses = torch.empty(2, self._tiles, self._replicas, device=latent.device)
        slope = torch.empty_like(decoded[-1])
        self._kernels.output_backward[self._grid](
            decoded[-1], self._x, self._weights, error_price, self._of_x, self._of_weights, slope, losses[0],
            self._replicas, self._rows, width=slope.shape[2], WEIGHTED=self._weighted, **self._tiling(slope.shape[2]),
        )  # fmt: skip
        self._start_gradients()
        slope = self._backward(self._decoder, decoded, slope, further=True)
        slopes = torch.empty_like(mean), torch.empty_like(mean)
        self._kernels.latent_backward[self._grid](
            slope, mean, spread, self._noise, self._weights, rate_price, self._of_noise, self._of_weights, *slopes,
            losses[1], self._replicas, self._rows, width=mean.shape[2], WEIGHTED=self._weighted, **tall,
        )  # fmt: skip
        below = torch.empty_like(values[-1]) if hidden else self._x
        for number, (each, above) in enumerate(zip((mean_map, spread_map), slopes, strict=True)):
            self._affine_back(each, hidden, values[-1], above, below if hidden else None, add=number > 0)
        self._backward(hidden, values, below, further=False)
        return losses.sum((0, 1)) + constant, self._gradients()

    @property
    def _grid(self) -> tuple[int, int]:
        return self._replicas, self._tiles

    def _tiling(self, width: int) -> dict[str, int]:
        return {"ROWS": self._tile, "WIDTH": _padded(width)}

    def _forward(self, maps: list[_Map], source: Tensor) -> list[Tensor]:
        """Return the source and the values before the activation of every map."""
        values = [source]
        for number, each in enumerate(maps):
            values.append(self._affine(each, values[-1], maps[:number]))
        return values

    def _affine(self, each: _Map, source: Tensor, before: list[_Map]) -> Tensor:
        """Return a map of activated values; before: the maps that precede it in its network."""
        result = source.new_empty(self._replicas, self._rows, each.outputs)
        self._kernels.affine_forward[self._grid](
            source, self._parameters[f"{each.name}.weight"], self._bias(each), result, self._of_x, self._rows,
            **self._shapes(each, before, source), num_warps=4,
        )  # fmt: skip
        return result

    def _shapes(self, each: _Map, before: list[_Map], source: Tensor) -> dict[str, Any]:
        activation = before[-1].activation if before else Activation()
        return {
            "inputs": each.inputs, "outputs": each.outputs, "kind": activation.kind, "parameter": activation.parameter,
            "SHARED": source is self._x, "HAS_BIAS": f"{each.name}.bias" in self._parameters, "ROWS": self._tile,
            "IN": _padded(each.inputs), "OUT": _padded(each.outputs), "PRECISION": self._precision,
        }  # fmt: skip

    def _bias(self, each: _Map) -> Tensor:
        return self._parameters.get(f"{each.name}.bias", self._parameters[f"{each.name}.weight"])

    def _backward(self, maps: list[_Map], values: list[Tensor], slope: Tensor, *, further: bool) -> Tensor:
        """Go back through a network. further: whether the gradient of its input is wanted, which is returned."""
        for number in range(len(maps) - 1, -1, -1):
            wanted = further or number > 0
            below = torch.empty_like(values[number]) if wanted else None
            self._affine_back(maps[number], maps[:number], values[number], slope, below)
            slope = slope if below is None else below
        return slope

    def _affine_back(
        self, each: _Map, before: list[_Map], source: Tensor, slope: Tensor, below: Tensor | None, *, add: bool = False
    ) -> None:
        """Go back through one map. below: where the gradient of its source goes. add: to what is there."""
        self._kernels.affine_backward[(self._replicas, self._split)](
            slope, source, self._parameters[f"{each.name}.weight"], self._places[f"{each.name}.weight"],
            self._places.get(f"{each.name}.bias", slope), slope if below is None else below, self._of_x, self._rows,
            self._sums.shape[1], self._split, **self._shapes(each, before, source),
            FURTHER=below is not None, ADD=add, num_warps=8,
        )  # fmt: skip

    def _start_gradients(self) -> None:
        """Allocate the sums over the parts of a batch `(part, parameter)`; every number of them is written."""
        sizes = [value.numel() for value in self._parameters.values()]
        # A start at a multiple of 16 bytes lets kernels read several numbers at once.
        starts = [0]
        for size in sizes:
            starts.append(starts[-1] + 4 * math.ceil(size / 4))
        self._starts = starts
        first = next(iter(self._parameters.values()))
        self._sums = torch.empty(self._split, starts[-1], device=first.device)
        self._places = {
            name: self._sums[0, start : start + size]
            for name, start, size in zip(self._parameters, starts[:-1], sizes, strict=True)
        }

    def _gradients(self) -> Tensors:
        whole = self._sums[0] if self._split == 1 else self._sums.sum(0)
        return {
            name: whole[start : start + value.numel()].view(value.shape)
            for (name, value), start in zip(self._parameters.items(), self._starts[:-1], strict=True)
        }


def _padded(width: int) -> int:
    """Return the width of a tile: a power of two of at least 16, the smallest that matrix units take."""
    return max(_NARROWEST, 1 << (width - 1).bit_length())
