"""Sampling and rate of a stack's diagonal Gaussian posteriors, in one pass of the compiled kernel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from collapsebench.stack.kernel.library import load_kernel, remember_signature


class StackedPosterior(torch.autograd.Function):
    """z = mu + sigma noise and rate = 1/2 (mu^2 + sigma^2 - 1 - log sigma^2), float32 on the CPU.

    mean, log_variance: `(r, ...)`. noise: `(r, ...)`, or `(1, ...)` shared by all. Returns z and rate `(r, ...)`.
    """

    @staticmethod
    def forward(mean: Tensor, log_variance: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Compute both."""
        mean, log_variance, noise = mean.contiguous(), log_variance.contiguous(), noise.contiguous()
        z, rate = torch.empty_like(mean), torch.empty_like(mean)
        load_kernel().posterior_forward(
            *_extent(mean, noise), *(part.data_ptr() for part in (mean, log_variance, noise, z, rate))
        )
        return z, rate

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        """Keep the inputs."""
        ctx.save_for_backward(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_z: Tensor, grad_rate: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return the gradients of mean and log_variance; noise has none."""
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
        """Fold the mapped axis into the replica axis: one call for all."""
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
