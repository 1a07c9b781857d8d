"""How a stack is computed: by which `Engine`, and with which `Grouping`, that is, how many replicas at once.

The results of all computations agree within rounding; `why_not` compares one of them with one replica after the other.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from collapsebench.contracts import Objective
from collapsebench.stack.groups import AllAtOnce, Grouping, OnCores, OneByOne
from collapsebench.stack.kernel.chains import StackedPosterior, with_chains
from collapsebench.stack.kernel.library import KernelError
from collapsebench.stack.kernel.pair import FusedPair, PairInOnePass
from collapsebench.stack.kernel.triton_pair import TritonPair
from collapsebench.suite.schema import ComputationName

if TYPE_CHECKING:
    from collapsebench.contracts import Tensors
    from collapsebench.stack.stack import Stack


class Engine(ABC):
    """How the loss and the gradient of a replica are computed. Raises KernelError with the reason if it cannot."""

    by_kernel: ClassVar[bool] = False
    """Whether the compiled kernel of the CPU does some of it."""
    in_one_pass: ClassVar[bool] = False
    """Whether loss and gradient of a pair are computed without torch.func, which needs a decoder that is sampled."""

    @abstractmethod
    def modules(self, plain: nn.ModuleDict, device: torch.device, dtype: torch.dtype) -> nn.ModuleDict:
        """Return modules that compute the same as a plain pair and have the same parameter names."""

    @abstractmethod
    def sample(self, mean: Tensor, log_variance: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return z drawn from the posterior, and the rate of every latent in nats, each `(b, k)`."""

    def one_pass(
        self, plain: nn.ModuleDict, objective: Objective[Any], parameters: Tensors, features: int, *, linear: bool
    ) -> PairInOnePass | None:
        """Return what computes the loss and gradient of a whole stack in one call, or None if the engine cannot."""
        return None


class TorchFunc(Engine):
    """The modules as they are, mapped over replicas by torch.func."""

    def modules(self, plain: nn.ModuleDict, device: torch.device, dtype: torch.dtype) -> nn.ModuleDict:
        """Return the pair itself."""
        return plain

    def sample(self, mean: Tensor, log_variance: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return z drawn from the posterior, and the rate of every latent in nats, each `(b, k)`."""
        variance = log_variance.exp()
        return mean + variance.sqrt() * noise, 0.5 * (mean.square() + variance - 1 - log_variance)


class KernelChains(Engine):
    """The modules, with affine maps, their activations and the sampling computed by the compiled kernel."""

    by_kernel = True

    def modules(self, plain: nn.ModuleDict, device: torch.device, dtype: torch.dtype) -> nn.ModuleDict:
        """Return a copy of the pair whose chains of affine maps are computed by the kernel."""
        if device.type != "cpu" or dtype != torch.float32:
            raise KernelError(f"the kernel computes float32 on the CPU, not {dtype} on {device}")
        return with_chains(plain)

    def sample(self, mean: Tensor, log_variance: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return z drawn from the posterior, and the rate of every latent in nats, each `(b, k)`."""
        parts = (mean[None], log_variance[None], noise[None])
        z, rate = StackedPosterior.apply(*parts)  # type: ignore[no-untyped-call]
        return z[0], rate[0]


class KernelPair(KernelChains):
    """Loss and gradient of a whole pair in one pass of the compiled kernel; observables use its chains."""

    in_one_pass = True

    def one_pass(
        self, plain: nn.ModuleDict, objective: Objective[Any], parameters: Tensors, features: int, *, linear: bool
    ) -> FusedPair | None:
        """Return the pair as the kernel computes it."""
        if linear:
            raise KernelError("a linear decoder has its expectation over z taken in closed form")
        return FusedPair(plain, objective, parameters, features)


class TritonKernels(TorchFunc):
    """Loss and gradient of a whole pair in Triton kernels; observables use torch.func."""

    in_one_pass = True

    def one_pass(
        self, plain: nn.ModuleDict, objective: Objective[Any], parameters: Tensors, features: int, *, linear: bool
    ) -> PairInOnePass | None:
        """Return the pair as Triton kernels compute it."""
        first = next(iter(parameters.values()))
        if first.dtype != torch.float32 or (first.device.type != "cuda" and "TRITON_INTERPRET" not in os.environ):
            raise KernelError(f"Triton kernels compute float32 on CUDA devices, not {first.dtype} on {first.device}")
        if linear:
            raise KernelError("a linear decoder has its expectation over z taken in closed form")
        return TritonPair(plain, objective, parameters, features)


@dataclass(frozen=True)
class Computation:
    """How a stack is computed. name: in suites and results. description: the end of a sentence 'it is computed ...'.

    captured: whether updates only change tensors in place, so that on CUDA they are recorded as graphs and replayed.
    """

    name: ComputationName
    engine: Engine
    grouping: Grouping
    description: str
    captured: bool = False


COMPUTATIONS: dict[str, Computation] = {
    computation.name: computation
    for computation in (
        Computation("kernel", KernelPair(), AllAtOnce(), "by the compiled kernel, loss and gradient in one pass"),
        Computation(
            "kernel-chains", KernelChains(), AllAtOnce(), "through torch.func, affine maps by the compiled kernel"
        ),
        Computation(
            "graph-of-kernels",
            TritonKernels(),
            AllAtOnce(),
            "by Triton kernels, every update replayed as a graph",
            captured=True,
        ),
        Computation(
            "graph", TorchFunc(), AllAtOnce(), "through torch.func, every update replayed as a graph", captured=True
        ),
        Computation("batched", TorchFunc(), AllAtOnce(), "through torch.func, all replicas at once"),
        Computation("groups-on-cores", TorchFunc(), OnCores(4), "in groups of four replicas, one group on each core"),
        Computation("replicas-on-cores", TorchFunc(), OnCores(1), "one replica on each core"),
        Computation("one-by-one", TorchFunc(), OneByOne(), "one replica after the other"),
    )
}
"""Every computation by its name, in the order in which they are tried."""

_FORMER_NAMES = {"grouped": "groups-on-cores", "side-by-side": "replicas-on-cores"}


def observing_computation(trained: set[str]) -> Computation:
    """Return the computation for observing stacks that were trained with computations of these names.

    A module that was not trained with all replicas at once may not fit into memory, or not work, if it is observed so.
    """
    names = {_FORMER_NAMES.get(name, name) for name in trained}
    apart = (name for name in ("one-by-one", "replicas-on-cores", "groups-on-cores") if name in names)
    return COMPUTATIONS[next(apart, "batched")]


def why_not(stack: Stack, latent_dim: int) -> str | None:
    """Return why a stack cannot use its computation, or None if it can: its results are compared with one-by-one."""
    generator = torch.Generator().manual_seed(0)
    seeds = int(stack.seeds.max()) + 1
    x = torch.randn(seeds, 4, *stack.shape, generator=generator).to(stack.device, stack.dtype)
    noise = torch.randn(seeds, 4, latent_dim, generator=generator).to(stack.device, stack.dtype)
    results = []
    # A failure of one-by-one is an error of the modules themselves, so it is raised.
    for computed in (stack.computed(COMPUTATIONS["one-by-one"]), stack):
        before = stack.weights()
        try:
            losses, gradients = computed.gradients(x, noise, None, 0.0)
            results.append([losses, *(value.clone() for value in gradients.values())])
        except RuntimeError as error:
            if computed is not stack:
                raise
            return f"torch.func cannot map it: {str(error).strip().splitlines()[0]}"
        finally:
            changed = any(not torch.equal(before[name], value) for name, value in stack.weights().items())
            stack.load(before)
        if changed:
            return "its forward pass changes buffers (batch statistics), which belongs to one model at a time"
    in_tf32 = torch.backends.cuda.matmul.allow_tf32 and stack.device.type == "cuda"
    for reference, ours in zip(*results, strict=True):
        largest = float(reference.abs().max())
        rounding = 3e-3 * largest + 1e-8 if in_tf32 else 1e-5 * (1 + largest)
        if not torch.allclose(ours, reference, rtol=1e-3, atol=rounding):
            return f"computed {stack.computation.description}, it gives other numbers than one by one"
    return None
