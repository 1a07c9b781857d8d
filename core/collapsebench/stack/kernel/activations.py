"""The activations that the compiled kernel knows, by the number and the parameter that `vectors.h` takes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Activation:
    """kind: its number in the kernel, 0 for none. parameter: alpha of ELU, the slope of a leaky ReLU."""

    kind: int = 0
    parameter: float = 0.0


NONE = Activation()
_PLAIN: dict[type[nn.Module] | type[None], int] = {nn.SiLU: 1, nn.ReLU: 2, nn.Tanh: 3, nn.Sigmoid: 9}
_GELU = {"none": 4, "tanh": 5}
_TORCH_THRESHOLD = 20.0  # beyond it PyTorch's Softplus is the identity, which it is there within float32 anyway


def activation_of(module: nn.Module | None) -> Activation | None:
    """Return the kernel's activation for a module, or None if it has none.

    >>> from torch import nn
    >>> from collapsebench.stack.kernel.activations import activation_of
    >>> activation_of(nn.GELU()), activation_of(nn.LeakyReLU(0.2)), activation_of(nn.Softsign())
    (Activation(kind=4, parameter=0.0), Activation(kind=8, parameter=0.2), None)
    """
    if type(module) in _PLAIN:
        return Activation(_PLAIN[type(module)])
    if type(module) is nn.GELU and module.approximate in _GELU:
        return Activation(_GELU[module.approximate])
    if type(module) is nn.ELU:
        return Activation(6, module.alpha)
    if type(module) is nn.Softplus and (module.beta, module.threshold) == (1, _TORCH_THRESHOLD):
        return Activation(7)
    return Activation(8, module.negative_slope) if type(module) is nn.LeakyReLU else None
