"""The loss and the gradient of a stack of multilayer perceptrons on a GPU, in three launches of Triton kernels.

float32 products are taken as three products in TF32 (`tf32x3`), which is as exact as float32 and runs on the matrix
units; where PyTorch may use TF32 for matrices, one product is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from collapsebench.contracts import Objective
from collapsebench.stack.kernel.library import KernelError
from collapsebench.stack.kernel.pair import check_affine
from collapsebench.stack.kernel.program import INPUT, Program, Step, read_pair

if TYPE_CHECKING:
    from collapsebench.contracts import Tensors

MOST_UNITS, MOST_FEATURES = 64, 128
_NARROWEST = 16
FORWARD = {"ROWS": 64, "num_warps": 4}
BACKWARD = {"ROWS": 32, "num_warps": 4}
SUMS = {"ROWS": 32, "num_warps": 4, "maxnreg": 128}
"""Rows that a program of each kernel takes at once, and its warps."""


class TritonPair:
    """The loss and gradient of a stack of pairs. Raises KernelError with the reason if it cannot compute them.

    Both networks of a pair are plain chains of affine maps with biases and one kind of activation between them, with
    two affine heads at the end of the encoder, at least one hidden layer in each, all of the same width.
    """

    def __init__(
        self, pair: nn.ModuleDict, objective: Objective[Any], parameters: Mapping[str, Tensor], features: int
    ) -> None:
        try:
            from collapsebench.stack.kernel import triton_steps
        except ImportError as error:
            raise KernelError(f"Triton is not installed ({error})") from error
        check_affine(objective, parameters)
        program = read_pair(pair, features)
        maps = [name for step in program.steps for name in step.names]
        self._shape = _shape_of(program, features)
        self._hidden = program.encoder_steps - 2, len(program.steps) - program.encoder_steps - 2
        self._names = [f"{name}.{part}" for part in ("weight", "bias") for name in maps]
        if set(self._names) != set(parameters):
            other = sorted(set(self._names) ^ set(parameters))[0]
            raise KernelError(f"{other} is not a weight or bias of the chain, or not its own parameter")
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
        error_price, rate_price, constant = (price.detach().contiguous() for price in prices)
        x, noise, replicas = x.flatten(2).contiguous(), noise.contiguous(), len(seeds)
        rows, encoder_hidden, decoder_hidden = x.shape[1], *self._hidden
        shares = x if weights is None else weights.contiguous()
        none = torch.zeros_like(seeds)
        of_x, of_noise, of_shares = (seeds if len(part) > 1 else none for part in (x, noise, shares))
        packed = torch.cat([parameters[name].detach().flatten() for name in self._names])
        layers = encoder_hidden + decoder_hidden + 2
        values, slopes = (x.new_empty(layers, replicas, rows, self._shape["UNITS"]) for _ in range(2))
        ends, end_slopes = (x.new_empty(2, replicas, rows, self._shape["LATENTS"]) for _ in range(2))
        slope, latents = x.new_empty(replicas, *x.shape[1:]), torch.empty_like(ends[0])
        losses, sums = x.new_empty(-(-rows // FORWARD["ROWS"]), replicas), torch.empty_like(packed)
        precision = "tf32" if torch.backends.cuda.matmul.allow_tf32 else "tf32x3"
        common = {**self._shape, "PRECISION": precision}
        sizes = replicas, rows, encoder_hidden, decoder_hidden
        kernels, weighted = self._kernels, {"WEIGHTED": weights is not None}
        kernels.perceptrons_forward[(replicas, len(losses))](
            packed, x, noise, shares, of_x, of_noise, of_shares, error_price, rate_price, values, ends, slope, losses,
            *sizes, **common, **weighted, **FORWARD,
        )  # fmt: skip
        kernels.perceptrons_slopes[(replicas, -(-rows // BACKWARD["ROWS"]))](
            packed, noise, shares, of_noise, of_shares, rate_price, values, ends, latents, slope, slopes, end_slopes,
            *sizes, **common, **weighted, **BACKWARD,
        )  # fmt: skip
        kernels.perceptrons_sums[(replicas, layers + 3)](
            x, of_x, values, latents, slope, slopes, end_slopes, sums, *sizes, **common, **SUMS
        )
        return losses.sum(0) + constant, self._unpacked(sums, parameters)

    def _unpacked(self, packed: Tensor, parameters: Tensors) -> Tensors:
        """Return the gradient of each parameter, in the order of the parameters."""
        parts = torch.split(packed, [parameters[name].numel() for name in self._names])
        found = dict(zip(self._names, parts, strict=True))
        return {name: found[name].view(value.shape) for name, value in parameters.items()}


def _shape_of(program: Program, features: int) -> dict[str, Any]:
    """Return the sizes of a pair, and the number of its activation, as the kernels take them."""
    encoder, decoder = program.steps[: program.encoder_steps], program.steps[program.encoder_steps :]
    hidden = [*encoder[:-1], *decoder[:-1]]
    for number, step in enumerate(program.steps):
        _check_chain(number, step, program)
    if len(encoder) < 2 or len(decoder) < 2:
        raise KernelError("a network has no hidden layer")
    units, activation = encoder[0].outputs, encoder[0].activation
    latents = encoder[-1].outputs
    if any(step.outputs != units or step.activation != activation for step in hidden):
        raise KernelError("hidden layers differ in width or activation")
    if activation.kind == 0 or any(step.activation.kind for step in (encoder[-1], decoder[-1])):
        raise KernelError("activations are not exactly between the maps")
    if max(units, latents) > MOST_UNITS or features > MOST_FEATURES:
        raise KernelError(f"more than {MOST_UNITS} units or latents, or more than {MOST_FEATURES} features")
    padded = {name: _padded(width) for name, width in (("F", features), ("U", units), ("L", latents))}
    sizes = {"FEATURES": features, "UNITS": units, "LATENTS": latents}
    return {**sizes, "KIND": activation.kind, "PARAMETER": activation.parameter, **padded}


def _check_chain(number: int, step: Step, program: Program) -> None:
    first = number in (0, program.encoder_steps)
    if step.what != "affine" or step.sources != ((INPUT,) if first else (number - 1,)):
        raise KernelError("the pair is not a plain chain of affine maps and activations")
    if len(step.names) != (2 if number == program.encoder_steps - 1 else 1):
        raise KernelError("the heads are the halves of one map")


def _padded(width: int) -> int:
    """Return the width of a tile: a power of two of at least 16, the smallest that matrix units take."""
    return max(_NARROWEST, 1 << (width - 1).bit_length())
