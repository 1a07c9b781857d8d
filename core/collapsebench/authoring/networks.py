"""Laws of encoders and decoders: shapes, gradients, repeatability, and whether replicas can be stacked."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from collapsebench.authoring.law import BrokenLawError, Law, Subject, require
from collapsebench.authoring.reference_scan import FlatDecoder, FlatEncoder, PlainObjective, stack_of
from collapsebench.contracts import SPLITS, WARD_IDENTITIES, Data, Decoder, Encoder, Parameters, Split
from collapsebench.data.standardise import Standardised, standardise
from collapsebench.stack.computation import why_not

_LATENTS = 3
_BATCHES = (1, 2, 32)
_TEMPERATURES = (0.3, 0.03)


def _module(subject: Subject, seed: int = 0) -> nn.Module:
    """Build the module with the weights that belong to a seed, in evaluation mode."""
    component = subject.create()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encodes = isinstance(component, Encoder)
        built = component.build(subject.shape, _LATENTS) if encodes else component.build(_LATENTS, subject.shape)
    require(isinstance(built, nn.Module), f"build returned {type(built).__name__}, expected a torch.nn.Module.")
    return built.eval()  # type: ignore[no-any-return]


def _input(subject: Subject, batch: int) -> Tensor:
    shape = subject.shape if subject.registered.kind == "encoder" else (_LATENTS,)
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(batch))


def _outputs(subject: Subject, module: nn.Module, x: Tensor) -> dict[str, Tensor]:
    output = module(x)
    if subject.registered.kind == "decoder":
        require(isinstance(output, Tensor), f"returned {type(output).__name__}, expected x_hat, a tensor.")
        return {"x_hat": output}
    pair = isinstance(output, tuple | list) and len(output) == 2 and all(isinstance(part, Tensor) for part in output)
    require(pair, f"returned {_described(output)}, expected (mean, log_variance), two tensors.")
    return {"mean": output[0], "log_variance": output[1]}


def _described(output: Any) -> str:
    return f"{len(output)} values" if isinstance(output, tuple | list) else type(output).__name__


def _builds(subject: Subject) -> str:
    module = _module(subject)
    require(any(True for _ in module.parameters()), "it has no parameters to train.")
    return f"{sum(value.numel() for value in module.parameters())} parameters for samples {subject.shape}"


@torch.no_grad()
def _shapes(subject: Subject) -> str:
    module = _module(subject)
    expected = subject.shape if subject.registered.kind == "decoder" else (_LATENTS,)
    for batch in _BATCHES:
        for name, value in _outputs(subject, module, _input(subject, batch)).items():
            shape = tuple(value.shape)
            require(
                shape == (batch, *expected), f"{name} is {shape} for a batch of {batch}, expected {(batch, *expected)}."
            )
            require(value.dtype == torch.float32, f"{name} is {value.dtype} for float32 input, expected float32.")
    return ""


@torch.no_grad()
def _finite(subject: Subject) -> str:
    module = _module(subject)
    for batch in _BATCHES:
        for name, value in _outputs(subject, module, _input(subject, batch)).items():
            good = bool(torch.isfinite(value).all())
            require(good, f"{name} holds NaN or infinity for standard normal input, batch of {batch}, untrained.")
    return ""


@torch.no_grad()
def _by_sample(subject: Subject) -> str:
    module, x = _module(subject), _input(subject, 32)
    whole, part = _outputs(subject, module, x), _outputs(subject, module, x[:5])
    for name, value in whole.items():
        require(
            torch.allclose(value[:5], part[name], rtol=1e-4, atol=1e-5),
            f"{name} of a sample depends on the rest of its batch in evaluation mode; expected each sample by itself.",
        )
    return ""


def _gradients(subject: Subject) -> str:
    module = _module(subject).train()
    loss = torch.stack([value.square().mean() for value in _outputs(subject, module, _input(subject, 32)).values()])
    loss.sum().backward()  # type: ignore[no-untyped-call]
    for name, value in module.named_parameters():
        if value.grad is None:
            raise BrokenLawError(f"parameter {name} has no gradient: no output depends on it; use it or remove it.")
        require(bool(torch.isfinite(value.grad).all()), f"the gradient of parameter {name} holds NaN or infinity.")
    return ""


def _repeatable(subject: Subject) -> str:
    first, second = (_module(subject).state_dict() for _ in range(2))
    differing = [name for name, value in first.items() if not torch.equal(value, second[name])]
    require(
        not differing,
        f"built twice after one torch.manual_seed, {', '.join(differing[:3])} differ; draw initial weights from "
        "torch's global generator and nothing else.",
    )
    return ""


def _batchable(subject: Subject) -> str:
    component = subject.create()
    parts: dict[str, Any] = {
        "encoder": FlatEncoder(Parameters()),
        "decoder": FlatDecoder(Parameters()),
        "objective": PlainObjective(Parameters()),
        subject.registered.kind: component,
    }
    data = _noise_data(subject.shape)
    stack = stack_of(data, parts["encoder"], parts["decoder"], parts["objective"], _TEMPERATURES, _LATENTS, seeds=2)
    reason = why_not(stack, _LATENTS)
    if reason is None:
        require(component.batchable, "declares batchable = False, but replicas can be stacked; remove the declaration.")
        return ""
    require(
        not component.batchable,
        f"{reason}. Replicas run one by one, which is slow: make it mappable by torch.func, or declare "
        "`batchable = False` if that is meant.",
    )
    return f"as declared, one by one: {reason}"


def _noise_data(shape: tuple[int, ...]) -> Standardised:
    generator = np.random.default_rng(0)
    splits: dict[str, Any] = {name: Split(generator.standard_normal((8, *shape)).astype(np.float32)) for name in SPLITS}
    names = tuple(f"x{i}" for i in range(math.prod(shape)))
    return standardise(Data(**splits, feature_names=names), "noise")


@torch.no_grad()
def _linear(subject: Subject) -> str:
    component: Encoder[Any] | Decoder[Any] = subject.create()
    module, (a, b) = _module(subject), _input(subject, 2)
    values = next(iter(_outputs(subject, module, torch.stack([a, b, a + b, torch.zeros_like(a)])).values()))
    gap = float((values[0] + values[1] - values[2] - values[3]).abs().max())
    affine = gap <= 1e-4 * (1 + float(values.abs().max()))
    if component.linear and not affine:
        raise BrokenLawError(f"f(a) + f(b) differs from f(a + b) + f(0) by {gap:.2g}; remove `linear = True`.")
    if affine and not component.linear:
        gain = "would take the expectation over z in closed form" if isinstance(component, Decoder) else "would say so"
        return f"affine, though not declared: `linear = True` {gain}"
    return "declared and true" if component.linear else "not declared"


def _declares_criteria(subject: Subject) -> str:
    decoder: Decoder[Any] = subject.create()
    declared, limit = decoder.ward_identities, decoder.collapse_limit
    require(
        bool(declared) and set(declared) <= set(WARD_IDENTITIES),
        f"ward_identities is {declared!r}, expected at least one of {', '.join(WARD_IDENTITIES)}.",
    )
    require(0 < limit < math.inf, f"collapse_limit is {limit}, expected a finite number above 0; 1 if in doubt.")
    broken = [identity for identity in WARD_IDENTITIES if identity not in declared]
    return "; ".join([f"is not held to: {', '.join(broken)}"] * bool(broken) + [f"kappa {limit:.3g}"] * (limit != 1))


BATCHABLE = Law("batchable", "replicas can be stacked, or it declares that they cannot", _batchable)
_MODULES = (
    Law("builds", "build returns a module with parameters", _builds, presupposed=True),
    Law("shapes", "outputs have the contract's shapes, in float32", _shapes, presupposed=True),
    Law("finite", "outputs are finite before any training", _finite),
    Law("by-sample", "a sample's output does not depend on its batch", _by_sample),
    Law("gradients", "every parameter has a finite gradient", _gradients),
    Law("repeatable", "one seed gives the same initial weights", _repeatable),
    BATCHABLE,
)
_LINEAR = Law("linear", "if declared linear, it is", _linear)
ENCODER = (*_MODULES, _LINEAR)
DECODER = (
    *_MODULES,
    _LINEAR,
    Law(
        "declares-equilibrium-criteria",
        "it declares which identities hold at equilibrium and where its latents collapse",
        _declares_criteria,
    ),
)
