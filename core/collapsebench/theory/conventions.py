"""Convert the `beta` of other codebases to the temperature T and back.

Each of their losses is this project's objective times a constant. With V the total variance and d the number of
features of the data as the model sees them, and sigma_dec^2 = 1:

    T V = beta * factor(d, kl_weight, eta)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from collapsebench.errors import UserError

Scaling = Literal["dataset", "per-feature", "global", "raw"]
"""How a model was trained to see its data; see `collapsebench.measure`."""

SCALINGS: tuple[Scaling, ...] = get_args(Scaling)


@dataclass(frozen=True)
class Convention:
    """How a codebase weighs reconstruction against KL. needs: which of `kl_weight` and `eta` its loss has beside beta.

    factor(features, kl_weight, eta): T V / beta.
    """

    loss: str
    temperature: str
    factor: Callable[[int, float, float], float]
    needs: tuple[str, ...] = ()


CONVENTIONS = {
    "pythae": Convention("0.5 sum (x - x_hat)^2 + beta KL", "T V = beta", lambda d, w, eta: 1.0),
    "disentanglement_lib": Convention("sum (x - x_hat)^2 + beta KL", "T V = beta / 2", lambda d, w, eta: 0.5),
    "pytorch-vae-h": Convention(
        "mean (x - x_hat)^2 + beta kl_weight KL",
        "T V = beta kl_weight d / 2",
        lambda d, w, eta: w * d / 2,
        ("kl_weight",),
    ),
    "linear-vae": Convention(
        "sum (x - x_hat)^2 / (2 eta^2) + beta KL", "T V = beta eta^2", lambda d, w, eta: eta**2, ("eta",)
    ),
}
"""Sources: pythae's BetaVAE with reconstruction_loss="mse" (releases without the factor 0.5 follow the convention
of disentanglement_lib); disentanglement_lib's beta-VAE with the l2 loss; PyTorch-VAE's BetaVAE with
`loss_type='H'`, where kl_weight is called M_N; LinearVAE, where eta^2 is the decoder variance."""


def temperature_of(
    beta: float,
    convention: str,
    total_variance: float,
    features: int,
    *,
    kl_weight: float | None = None,
    eta: float | None = None,
) -> float:
    """Return the temperature T of a model that was trained with the beta of another codebase.

    total_variance: V of the data as the model sees them. features: d. kl_weight, eta: if the convention has one.

    >>> temperature_of(4.0, "pythae", total_variance=16.0, features=16)
    0.25
    """
    return _positive("beta", beta) * _factor(convention, features, kl_weight, eta) / total_variance


def beta_of(
    temperature: float,
    convention: str,
    total_variance: float,
    features: int,
    *,
    kl_weight: float | None = None,
    eta: float | None = None,
) -> float:
    """Return the beta that gives another codebase's loss the temperature T: the inverse of `temperature_of`.

    >>> beta_of(0.25, "pythae", total_variance=16.0, features=16)
    4.0
    """
    scale = _factor(convention, features, kl_weight, eta)
    return _positive("temperature", temperature) * total_variance / scale


def _factor(convention: str, features: int, kl_weight: float | None, eta: float | None) -> float:
    if convention not in CONVENTIONS:
        raise UserError(
            f"convention: found '{convention}', expected one of {', '.join(CONVENTIONS)}. Choose the one whose "
            f"loss is yours: {'; '.join(f'{name}: {one.loss}' for name, one in CONVENTIONS.items())}."
        )
    chosen = CONVENTIONS[convention]
    given = {name: value for name, value in (("kl_weight", kl_weight), ("eta", eta)) if value is not None}
    for name in chosen.needs:
        if name not in given:
            raise UserError(
                f"convention '{convention}': found no {name}, expected the {name} of its loss, {chosen.loss}. Give it."
            )
    for name in given:
        if name not in chosen.needs:
            raise UserError(f"convention '{convention}': found {name}, but its loss is {chosen.loss}. Leave it out.")
    weights = [_positive(name, given.get(name, 1.0)) for name in ("kl_weight", "eta")]
    return chosen.factor(features, *weights)


def _positive(name: str, value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise UserError(f"{name}: found {value}, expected a finite number above 0. Correct it.")
    return float(value)
