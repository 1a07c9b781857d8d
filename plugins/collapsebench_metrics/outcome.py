"""Turn the outcomes of a metric, each a number or a reason, into the `Evaluation` that the harness stores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from collapsebench import Evaluation

if TYPE_CHECKING:
    import pandas as pd

Outcome = float | str


def value_or(value: float, reason: str) -> Outcome:
    """Return the number, or the reason if it is NaN."""
    return reason if math.isnan(value) else float(value)


def evaluation(outcomes: Mapping[str, Outcome], modes: pd.DataFrame | None = None) -> Evaluation:
    """Return an `Evaluation` with the numbers as values and the texts as reasons."""
    return Evaluation(
        values={name: outcome for name, outcome in outcomes.items() if not isinstance(outcome, str)},
        modes=modes,
        reasons={name: outcome for name, outcome in outcomes.items() if isinstance(outcome, str)},
    )
