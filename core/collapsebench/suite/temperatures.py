"""Grids of temperatures, and what all sections of a suite file share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ByteSize, ConfigDict, Field, WithJsonSchema, model_validator

Share = Annotated[float, Field(gt=0, le=1)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
PositiveInt = Annotated[int, Field(ge=1)]
Amount = Annotated[ByteSize, Field(gt=0), WithJsonSchema({"type": "string"})]
Decay = Annotated[float, Field(ge=0, lt=1)]
Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


Auto = Annotated[str, Field(pattern=r"^auto(-([2-9]|[1-9]\d+))?$")]


class Section(BaseModel):
    """A frozen part of a suite file that refuses unknown keys, infinity and NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=True)


class Grid(Section):
    """Temperatures equally spaced in log T, both ends included."""

    start: PositiveFloat = Field(alias="from", description="one end of the grid")
    stop: PositiveFloat = Field(alias="to", description="the other end")
    count: PositiveInt = Field(description="number of temperatures")

    @model_validator(mode="after")
    def _check_distinct(self) -> Grid:
        if (self.start == self.stop) != (self.count == 1):
            raise ValueError(
                f"found from = {self.start:g}, to = {self.stop:g}, count = {self.count}, "
                "expected distinct temperatures; use different ends with count >= 2, "
                "or equal ends with count = 1."
            )
        return self

    def values(self) -> list[float]:
        """Return the temperatures in descending order; those between the ends have 12 significant digits."""
        steps = max(self.count - 1, 1)
        ratio = self.stop / self.start
        inner = [float(f"{self.start * ratio ** (i / steps):.12g}") for i in range(1, self.count - 1)]
        return sorted({self.start, *inner, self.stop}, reverse=True)


@dataclass(frozen=True)
class AutoGrid:
    """Temperatures equally spaced in log T, over a range that the spectrum of a dataset decides.

    From four times lambda_1 / V, above which even nonlinear pairs rarely keep a latent, but at most 1, to a tenth of
    lambda_K / V, so that all K latents can be resolved; over three decades at least.
    """

    count: int = 17

    @classmethod
    def of(cls, text: str) -> AutoGrid:
        """Return the grid that a suite asks for, as "auto" or, with the number of temperatures, "auto-25"."""
        _, _, count = text.partition("-")
        return cls(int(count)) if count else cls()

    def values(self, spectrum: Sequence[float], latent_dim: int) -> list[float]:
        """Return the temperatures in descending order, for eigenvalues lambda_k / V in descending order.

        The ends have two significant digits, so that rounding errors of a spectrum hardly ever decide about a key.

        >>> AutoGrid(4).values([0.6, 0.3, 0.1], latent_dim=2)
        [1.0, 0.1, 0.01, 0.001]
        """
        positive = [value for value in spectrum[:latent_dim] if value > 1e-9 * spectrum[0]]
        highest = min(1.0, _two_digits(4 * positive[0]))
        lowest = min(highest / 1e3, _two_digits(positive[-1] / 10))
        return Grid.model_validate({"from": highest, "to": _two_digits(lowest), "count": self.count}).values()


def _two_digits(value: float) -> float:
    """Return a number rounded to two significant digits."""
    return round(value, 1 - math.floor(math.log10(value)))
