"""A model that was trained elsewhere, as observables see a model: one replica, its outputs checked at every call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from collapsebench.contracts import Model
from collapsebench.errors import ModelError
from collapsebench.stack.stack import observation_noise

_PROBES = 64
_LINEAR = 1e-5
EXPECTED = (
    "Expected (encode, decode), or an object with encode and decode or with encoder and decoder; encode maps x "
    "(n, *shape) to (mean, log_variance), or to an object with embedding and log_covariance, decode maps z (n, latent) "
    "to x_hat (n, *shape), or to an object with reconstruction"
)


@dataclass(frozen=True)
class ModelPair:
    """Encode and decode, and the modules behind them, whose mode and device matter."""

    encode: Callable[[Tensor], Any]
    decode: Callable[[Tensor], Any]
    modules: tuple[nn.Module, ...]

    @property
    def parameter(self) -> Tensor | None:
        """The first floating-point weight or buffer, which tells the device and precision; None if there is none."""
        tensors = (t for module in self.modules for group in (module.parameters(), module.buffers()) for t in group)
        return next((tensor for tensor in tensors if tensor.is_floating_point()), None)


def pair_of(model: Any) -> ModelPair:
    """Return encode and decode of a model in any of the forms that `EXPECTED` lists."""
    if isinstance(model, tuple | list):
        parts = list(model)
    else:
        parts = [getattr(model, name, None) for name in ("encode", "decode")]
        if not all(map(callable, parts)):
            parts = [getattr(model, name, None) for name in ("encoder", "decoder")]
    if len(parts) != 2 or not all(map(callable, parts)):
        raise ModelError(f"model: found {_named(model)} without a pair of callables. {EXPECTED}.")
    owners = (model, *parts, *(getattr(part, "__self__", None) for part in parts))
    modules = {id(owner): owner for owner in owners if isinstance(owner, nn.Module)}
    return ModelPair(parts[0], parts[1], tuple(modules.values()))


@contextmanager
def evaluation_mode(pair: ModelPair) -> Iterator[None]:
    """Put the modules into evaluation mode without gradients, and restore their mode afterwards."""
    modes = {module: module.training for owner in pair.modules for module in owner.modules()}
    for owner in pair.modules:
        # The mode of a program of torch.export is fixed, and setting it raises an error.
        if not isinstance(owner, torch.fx.GraphModule):
            owner.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


class ExternalModel(Model):
    """A pair as one replica. rows: a few samples `(n, *shape)`, on which its outputs are checked first.

    If the decoder is affine in z, expectations over z are taken in closed form.
    """

    def __init__(self, pair: ModelPair, rows: Tensor, temperature: float, total_variance: float) -> None:
        self._pair, self._shape = pair, tuple(rows.shape[1:])
        self.device, self.dtype = rows.device, rows.dtype
        self.temperatures = np.array([temperature])
        self.total_variance, self.decoder_variance = total_variance, 1.0
        self.latent_dim = self._latent_dim(rows)
        mean = self.encode(rows)[0]
        if not torch.equal(mean, self.encode(rows)[0]):
            raise ModelError(
                "model: encode returned two means for the same x. Expected the posterior's mean and log-variance, not "
                "a sample; return them, and turn dropout off."
            )
        self.linear_decoder = self._is_linear(mean)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map x `(b, *shape)` to mean and log_variance, each `(1, b, k)`."""
        posterior = _posterior(_called("encode", self._pair.encode, x))
        expected = (len(x), self.latent_dim)
        if [tuple(part.shape) for part in posterior] != [expected] * 2:
            raise ModelError(_wrong_shapes(posterior, expected))
        mean, log_variance = (_finite("encode", name, part) for name, part in zip(_NAMES, posterior, strict=True))
        return mean[None], log_variance[None]

    def decode(self, z: Tensor) -> Tensor:
        """Map z `(1, b, k)` to x_hat `(1, b, *shape)`."""
        given = z[0].to(self.device, self.dtype)
        decoded = _called("decode", self._pair.decode, given)
        x_hat = _tensor(getattr(decoded, "reconstruction", decoded))
        expected = (len(given), *self._shape)
        if x_hat is None or tuple(x_hat.shape) != expected:
            returned = _named(decoded) if x_hat is None else f"shape {tuple(x_hat.shape)}"
            raise ModelError(
                f"model: decode returned {returned} for z {tuple(given.shape)}, expected x_hat {expected}, the shape "
                "of the data. Give the data in the shape that the model was trained on, or reshape in decode."
            )
        return _finite("decode", "x_hat", x_hat)[None]

    def noise(self, chunk: int, shape: tuple[int, ...]) -> Tensor:
        """Return standard normal noise of a shape, the same for the same chunk number."""
        return observation_noise(chunk, shape).to(self.device, self.dtype)

    def _latent_dim(self, rows: Tensor) -> int:
        posterior = _posterior(_called("encode", self._pair.encode, rows))
        if posterior[0].dim() != 2 or len(posterior[0]) != len(rows):
            raise ModelError(_wrong_shapes(posterior, (len(rows), "latent")))
        return int(posterior[0].shape[1])

    def _is_linear(self, mean: Tensor) -> bool:
        """Return whether f(a + b) + f(0) = f(a) + f(b) to rounding, for posterior means a and widely spread b."""
        a = mean[0, :_PROBES].to(self.dtype)
        b = 3 * self.noise(0, tuple(a.shape))
        sums, left, right, origin = (self.decode(z[None]) for z in (a + b, a, b, torch.zeros_like(a)))
        gap = (sums + origin - left - right).abs().max()
        return bool(gap <= _LINEAR * (sums.abs() + left.abs() + right.abs()).max())


_NAMES = ("mean", "log_variance")


def _called(name: str, function: Callable[[Tensor], Any], value: Tensor) -> Any:
    try:
        return function(value)
    except Exception as error:
        letter = "x" if name == "encode" else "z"
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ModelError(
            f"model: {name} raised {type(error).__name__} for {letter} of shape {tuple(value.shape)}, {value.dtype}: "
            f"{reason}. Give the data that the model was trained on (scaling 'dataset' leaves out constant features, "
            "'raw' keeps all); it must accept any number of rows."
        ) from error


def _posterior(output: Any) -> tuple[Tensor, Tensor]:
    if isinstance(output, tuple | list):
        parts = list(output)
    else:
        parts = [getattr(output, name, None) for name in ("embedding", "log_covariance")]
    tensors = [_tensor(part) for part in parts]
    if len(tensors) != 2 or tensors[0] is None or tensors[1] is None:
        kinds = [_named(part) for part in parts] if isinstance(output, tuple | list) else _named(output)
        raise ModelError(
            f"model: encode returned {kinds}, expected (mean, log_variance), each (n, latent), or an object with "
            "embedding and log_covariance. Return log sigma^2, not sigma."
        )
    return tensors[0], tensors[1]


def _tensor(value: Any) -> Tensor | None:
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    return value.detach() if isinstance(value, Tensor) else None


def _wrong_shapes(posterior: tuple[Tensor, Tensor], expected: tuple[object, ...]) -> str:
    shape = f"({', '.join(map(str, expected))})"
    return (
        f"model: encode returned shapes {tuple(posterior[0].shape)} and {tuple(posterior[1].shape)}, expected mean and "
        f"log_variance of shape {shape} each. Flatten latents of several axes, and return one row per sample."
    )


def _finite(function: str, name: str, value: Tensor) -> Tensor:
    if not torch.isfinite(value).all():
        bad = ~torch.isfinite(value.flatten(1)).all(1)
        raise ModelError(
            f"model: {function} returned NaN or infinity in {name} for {int(bad.sum())} of {len(bad)} rows, expected "
            "finite numbers. Give the data in the scaling that the model was trained on, or check its weights."
        )
    return value


def _named(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
