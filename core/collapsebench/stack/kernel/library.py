"""Compile the kernel from `kernel.c`, `pair.c` and `precondition.c` once per machine, and load it.

Any failure (no compiler, no OpenMP in this build of PyTorch, a folder that cannot be written) raises `KernelError` with
the reason. Callers continue without the kernel and report the reason.
"""

from __future__ import annotations

import ctypes
import hashlib
import inspect
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import nn

_HEADER, *_SOURCES = (Path(__file__).with_name(name) for name in ("vectors.h", "kernel.c", "pair.c", "precondition.c"))
_FLAGS = ("-std=gnu11", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-fPIC")
_SECONDS = 120
_Long, _Pointer = ctypes.c_long, ctypes.c_void_p


class KernelError(Exception):
    """The kernel is not available, or cannot compute what was asked; the message is the reason."""


class ChainCall(ctypes.Structure):
    """The argument of `chain_run`, field by field as in `kernel.c`."""

    _fields_ = [
        *((name, _Long) for name in ("replicas", "rows", "layers", "x_stride", "saved_stride")),
        *((name, ctypes.POINTER(_Long)) for name in ("sizes", "activations")),
        ("parameters", ctypes.POINTER(ctypes.c_float)),
        ("x", _Pointer),
        *((name, ctypes.POINTER(_Pointer)) for name in ("weights", "biases")),
        ("saved", _Pointer),
        ("split", _Long),
        *((name, _Pointer) for name in ("y", "y_rest", "grad_y", "grad_y_rest", "grad_x")),
        *((name, ctypes.POINTER(_Pointer)) for name in ("grad_weights", "grad_biases")),
    ]


class StepCall(ctypes.Structure):
    """A step of a pair, as in `pair.c`."""

    _fields_ = [
        *((name, _Long) for name in ("what", "inputs", "outputs", "parts", "kind")),
        ("parameter", ctypes.c_float),
        *((name, _Long * 2) for name in ("sources", "adds")),
        ("slot", _Long),
        *((name, _Pointer * 2) for name in ("weight", "bias", "weight_gradient", "bias_gradient")),
    ]


class PairCall(ctypes.Structure):
    """The argument of `pair_run`, field by field as in `pair.c`."""

    _fields_ = [
        *((name, _Long) for name in ("replicas", "rows", "features", "latents", "encoder_steps", "steps")),
        *((name, _Long) for name in ("slots", "latent_slot")),
        ("step", ctypes.POINTER(StepCall)),
        ("batch", ctypes.POINTER(_Long)),
        *((name, _Long) for name in ("x_stride", "noise_stride", "weight_stride")),
        *((name, _Pointer) for name in ("x", "noise", "weight", "error_price", "rate_price", "loss")),
    ]


class UpdateCall(ctypes.Structure):
    """The argument of `precondition_run`, field by field as in `precondition.c`."""

    _fields_ = [
        *((name, _Long) for name in ("replicas", "outputs", "inputs", "start", "refresh")),
        *(
            (name, ctypes.c_float)
            for name in ("learning_rate", "beta1", "beta2", "decay", "correction1", "correction2")
        ),
        *((name, ctypes.c_float) for name in ("ridge", "damping", "epsilon")),
        *((name, _Pointer) for name in ("weight", "bias", "weight_gradient", "bias_gradient", "momentum", "square")),
        *((name, _Pointer) for name in ("left", "left_basis", "right", "right_basis")),
    ]


def find_compiler() -> str | None:
    """Return the path of the C compiler: that of CC if it exists, else `cc`, else `gcc`; None if there is none."""
    return shutil.which(os.environ.get("CC", "")) or shutil.which("cc") or shutil.which("gcc")


@cache
def load_kernel() -> ctypes.CDLL:
    """Return the compiled kernel. Raises KernelError with the reason if there is none."""
    kernel = _load()
    if isinstance(kernel, str):
        raise KernelError(kernel)
    return kernel


@cache
def _load() -> ctypes.CDLL | str:
    if os.name != "posix":
        return f"the kernel is not built on {platform.system()}"
    if not torch.backends.openmp.is_available():  # type: ignore[no-untyped-call]
        return "this build of PyTorch has no OpenMP"
    compiler = find_compiler()
    if compiler is None:
        return "no C compiler (cc) on the path"
    try:
        library = _compiled(compiler)
        # OpenMP is resolved immediately from the library that PyTorch has loaded, so both share one thread pool.
        kernel = ctypes.CDLL(str(library), mode=os.RTLD_NOW)
    except subprocess.CalledProcessError as error:
        return f"{compiler} failed: {(error.stderr or error.stdout or str(error)).strip().splitlines()[0]}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return " ".join(str(error).split())
    kernel.chain_run.argtypes = [ctypes.POINTER(ChainCall)]
    kernel.chain_run.restype = ctypes.c_int
    kernel.posterior_forward.argtypes = [_Long, _Long, _Long, *[_Pointer] * 5]
    kernel.posterior_forward.restype = None
    kernel.posterior_backward.argtypes = [_Long, _Long, _Long, *[_Pointer] * 7]
    kernel.posterior_backward.restype = None
    kernel.pair_run.argtypes = [ctypes.POINTER(PairCall)]
    kernel.pair_run.restype = ctypes.c_int
    kernel.precondition_run.argtypes = [ctypes.POINTER(UpdateCall)]
    kernel.precondition_run.restype = ctypes.c_int
    kernel.chain_padded.argtypes = [_Long]
    kernel.chain_padded.restype = _Long
    return kernel


def remember_signature(function: Callable[..., object]) -> None:
    """Cache a function's signature on it, because torch.autograd.Function inspects it, slowly, at every call."""
    function.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]


def _compiled(compiler: str) -> Path:
    """Return the library; compile it only if this compiler has not done so for this source and processor."""
    target = subprocess.run(
        [compiler, *_FLAGS, "-dM", "-E", "-x", "c", os.devnull],
        check=True, capture_output=True, text=True, timeout=_SECONDS,
    ).stdout  # fmt: skip
    texts = [path.read_text() for path in (_HEADER, *_SOURCES)]
    digest = hashlib.sha256("\0".join([*texts, *_FLAGS, compiler, target]).encode()).hexdigest()[:16]
    folder = _folder()
    library = folder / f"kernel-{digest}.so"
    if library.exists() and library.stat().st_uid == os.getuid():
        return library
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        made = Path(scratch)
        objects = [str(made / f"{path.stem}.o") for path in _SOURCES]
        for step in (
            *([compiler, *_FLAGS, "-c", str(path), "-o", name] for path, name in zip(_SOURCES, objects, strict=True)),
            [compiler, "-shared", *objects, "-lm", "-o", str(made / "kernel.so")],
        ):
            subprocess.run(step, check=True, capture_output=True, text=True, timeout=_SECONDS)
        (made / "kernel.so").replace(library)
    return library


def _folder() -> Path:
    """Return the user's cache folder for compiled kernels, or a temporary folder if it cannot be written to."""
    home = os.environ.get("XDG_CACHE_HOME")
    try:
        folder = (Path(home) if home else Path.home() / ".cache") / "collapsebench"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_uid == os.getuid() and os.access(folder, os.W_OK):
            return folder
    except (OSError, RuntimeError):
        pass
    return Path(tempfile.mkdtemp(prefix="collapsebench-"))


@dataclass(frozen=True)
class Activation:
    """An activation. kind: its number in the kernel, 0 for none. parameter: alpha of ELU, slope of a leaky ReLU."""

    kind: int = 0
    parameter: float = 0.0


NONE = Activation()
_PLAIN: dict[type[nn.Module] | type[None], int] = {nn.SiLU: 1, nn.ReLU: 2, nn.Tanh: 3, nn.Sigmoid: 9}
_GELU = {"none": 4, "tanh": 5}
_TORCH_THRESHOLD = 20.0  # above it PyTorch's Softplus is the identity, which is exact within float32 rounding


def activation_of(module: nn.Module | None) -> Activation | None:
    """Return the activation of the kernel that a module computes, or None if the kernel has none for it.

    >>> from torch import nn
    >>> from collapsebench.stack.kernel.library import activation_of
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
