"""Laws of objectives: losses, state, dials, prices, and the prediction for a linear decoder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from collapsebench.authoring.law import BrokenLawError, Law, Subject, require
from collapsebench.authoring.networks import BATCHABLE
from collapsebench.contracts import Objective

_LATENTS = 3
_BATCHES = (1, 2, 32)
_EIGENVALUES = np.array([3.0, 1.5, 0.8, 0.4, 0.2, 0.1])
_TEMPERATURES = np.array([0.9, 0.3, 0.1, 0.03])
_VARIANCE = float(_EIGENVALUES.sum())


def _state_of(objective: Objective[Any]) -> dict[str, Tensor]:
    """Return the state of one replica; its trained tensors require gradients."""
    state = objective.init_state(len(_EIGENVALUES), _VARIANCE)
    return {
        name: value.detach().clone().requires_grad_(isinstance(value, nn.Parameter)) for name, value in state.items()
    }


def _arguments(objective: Objective[Any], dial: float, progress: float) -> tuple[Tensor, Mapping[str, Tensor], Tensor]:
    return torch.tensor(dial), _state_of(objective), torch.tensor(progress)


def _loss(subject: Subject, terms: tuple[Tensor, Tensor], dial: float = 0.1, progress: float = 0.5) -> Tensor:
    objective: Objective[Any] = subject.create()
    distortion, rate = terms
    loss = objective.loss(distortion, rate, *_arguments(objective, dial, progress))
    require(isinstance(loss, Tensor), f"loss returned {type(loss).__name__}, expected a tensor (batch,).")
    return loss


def _batch_loss(
    subject: Subject, terms: tuple[Tensor, Tensor], dial: float = 0.1, progress: float = 0.5, *, weighted: bool = False
) -> Tensor:
    objective: Objective[Any] = subject.create()
    weights = torch.ones(len(terms[0])) if weighted else None
    distortion, rate = terms
    loss = objective.batch_loss(distortion, rate, weights, *_arguments(objective, dial, progress))
    require(isinstance(loss, Tensor), f"batch_loss returned {type(loss).__name__}, expected a tensor ().")
    return loss


def _terms(batch: int = 16) -> tuple[Tensor, Tensor]:
    """Return distortions `(batch,)` and rates `(batch, latent)` of samples, including those of collapsed latents."""
    generator = torch.Generator().manual_seed(0)
    rate = torch.rand(batch, _LATENTS, generator=generator) * torch.tensor([5.0, 0.1, 0.0])
    return torch.rand(batch, generator=generator) * 10, rate


def _declares(subject: Subject) -> str:
    objective: Objective[Any] = subject.create()
    require(bool(objective.dial), "dial is empty, expected the name of what is scanned.")
    variance, settles = objective.decoder_variance, objective.settles_at
    require(0 < variance < math.inf, f"decoder_variance is {variance}, expected a positive number.")
    require(0 <= settles < 1, f"settles_at is {settles}, expected a progress from 0 to below 1.")
    return ""


def _state(subject: Subject) -> str:
    states = [subject.create().init_state(len(_EIGENVALUES), _VARIANCE) for _ in range(2)]
    require(states[0].keys() == states[1].keys(), "init_state names other tensors when it is called again.")
    for name, value in states[0].items():
        good = isinstance(value, Tensor) and value.is_floating_point() and bool(torch.isfinite(value).all())
        require(good, f"state '{name}' is {value!r}, expected a finite floating-point tensor.")
        require(torch.equal(value, states[1][name]), f"state '{name}' differs between two calls of init_state.")
    return ""


def _shapes(subject: Subject) -> str:
    for batch in _BATCHES:
        loss = _loss(subject, _terms(batch))
        shape = tuple(loss.shape)
        require(shape == (batch,), f"loss is {shape} for a batch of {batch}, expected {(batch,)}, one number a sample.")
        require(loss.dtype == torch.float32, f"loss is {loss.dtype} for float32 terms, expected float32.")
        whole = tuple(_batch_loss(subject, _terms(batch)).shape)
        require(whole == (), f"batch_loss is {whole} for a batch of {batch}, expected (), one number.")
    return ""


def _finite(subject: Subject) -> str:
    for dial in (1e-6, 0.1, 10.0):
        for progress in (0.0, 0.5, 1.0):
            for name, loss in (
                ("loss", _loss(subject, _terms(), dial, progress)),
                ("batch_loss", _batch_loss(subject, _terms(), dial, progress)),
            ):
                good = bool(torch.isfinite(loss).all())
                require(good, f"{name} holds NaN or infinity at dial {dial:g}, progress {progress:g}.")
    return ""


def _weights(subject: Subject) -> str:
    plain, weighted = (_batch_loss(subject, _terms(), weighted=weighted).detach() for weighted in (False, True))
    require(
        torch.allclose(plain, weighted, rtol=1e-5),
        f"batch_loss is {float(plain):.6g} without weights and {float(weighted):.6g} with weights of one.",
    )
    return ""


def _gradients(subject: Subject) -> str:
    objective: Objective[Any] = subject.create()
    distortion, rate = (term.requires_grad_() for term in _terms())
    dial, state, progress = _arguments(objective, 0.1, 0.5)
    loss = objective.batch_loss(distortion, rate, None, dial, state, progress)
    trained = {f"state '{name}'": value for name, value in state.items() if value.requires_grad}
    terms = {"distortion": distortion, "rate": rate, **trained}
    gradients = torch.autograd.grad(loss, list(terms.values()), allow_unused=True)
    for name, gradient in zip(terms, gradients, strict=True):
        if gradient is None:
            raise BrokenLawError(f"the loss does not depend on {name}; without that it cannot be trained.")
        require(bool(torch.isfinite(gradient).all()), f"the gradient with respect to {name} holds NaN or infinity.")
    return ""


def _settles(subject: Subject) -> str:
    objective: Objective[Any] = subject.create()
    first, last = (_batch_loss(subject, _terms(), progress=progress) for progress in (objective.settles_at, 1.0))
    require(
        torch.allclose(first, last, rtol=1e-5),
        f"the loss still changes after progress {objective.settles_at:g}, from which on replicas may be called "
        "converged; let settles_at say when it stops.",
    )
    return "" if objective.settles_at == 0 else f"from progress {objective.settles_at:g}"


def _dials(subject: Subject) -> str:
    objective: Objective[Any] = subject.create()
    dials = np.asarray(objective.dials(_TEMPERATURES, _EIGENVALUES, _LATENTS))
    good = dials.shape == _TEMPERATURES.shape and bool(np.isfinite(dials).all())
    require(good, f"dials are {dials.tolist()}, expected {len(_TEMPERATURES)} finite numbers, one a temperature.")
    for dial, temperature in zip(dials, _TEMPERATURES, strict=True):
        price = objective.price(torch.tensor(float(dial)), _state_of(objective)).detach()
        good = tuple(price.shape) == () and bool(torch.isfinite(price)) and float(price) > 0
        require(good, f"price is {float(price):g} at the start, expected one positive number.")
        if objective.has_oracle:
            require(
                math.isclose(float(price), temperature * _VARIANCE, rel_tol=1e-5),
                f"declares has_oracle, but at T = {temperature:g} a nat costs {float(price):.4g}, not T V.",
            )
    return "" if objective.dial == "temperature" else f"turns the {objective.dial}"


def _prediction(subject: Subject) -> str:
    prediction = subject.create().prediction(_TEMPERATURES, _EIGENVALUES, _LATENTS)
    if prediction is None:
        return "none"
    shape = (len(_TEMPERATURES), _LATENTS)
    shapes = (prediction.signal_fraction.shape, prediction.thresholds.shape, prediction.temperature.shape)
    expected = (shape, shape[1:], shape[:1])
    require(shapes == expected, f"prediction has shapes {shapes}, expected {expected}.")
    fraction = prediction.signal_fraction
    require(
        bool(((fraction >= 0) & (fraction <= 1)).all()),
        "a signal fraction of the prediction is neither within 0 and 1 nor NaN.",
    )
    ranked = not bool((np.diff(fraction, axis=1) > 1e-9).any())
    require(ranked, "the signal fractions of the prediction are not ranked: latents come in descending order.")
    return "" if prediction.exact else "a lower bound"


def _oracle(subject: Subject) -> str:
    objective: Objective[Any] = subject.create()
    if not objective.has_oracle:
        return "not declared"
    distortion, rate = _terms()
    for progress in (objective.settles_at, 1.0):
        loss = _batch_loss(subject, (distortion, rate), 0.3, progress)
        require(
            torch.allclose(loss, (distortion + 0.3 * rate.sum(-1)).mean(), rtol=1e-5),
            "declares has_oracle, but its loss is not distortion + dial * rate summed over latents; remove it.",
        )
    return "declared and true"


OBJECTIVE = (
    Law("declares", "its dial has a name, its decoder variance is positive, it settles before the end", _declares),
    Law("state", "init_state gives the same finite tensors every time", _state, presupposed=True),
    Law("shapes", "the loss is one number a sample and one a batch, in float32", _shapes, presupposed=True),
    Law("finite", "the loss is finite over dials and progress", _finite),
    Law("weights", "weights of one are no weights", _weights),
    Law("gradients", "distortion, rate and trained state have finite gradients", _gradients),
    Law("settles", "the loss no longer changes with progress once it says so", _settles),
    Law("dials", "every temperature has a finite dial, and a nat a positive price", _dials),
    Law("prediction", "its prediction has the contract's shapes, between 0 and 1, ranked", _prediction),
    Law("oracle", "if it declares the exact theory, its loss is that of the theory", _oracle),
    BATCHABLE,
)
