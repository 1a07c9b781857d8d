"""Parameters of the datasets that are read with the package `datasets`; this module imports neither it nor Pillow."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, FiniteFloat

from collapsebench import Parameters

Colour = Literal["grey", "rgb"]
Fit = Literal["exact", "crop", "resize"]


class Division(Parameters):
    """How many samples of a source go into which split."""

    validation_share: FiniteFloat = Field(
        default=0.1, gt=0, lt=1, description="share of the source's train split that becomes the validation split"
    )
    train_samples: int | None = Field(default=None, ge=2, description="samples of train at most, drawn by the seed")
    evaluation_samples: int | None = Field(
        default=None, ge=2, description="samples of validation and of test at most, each, drawn by the seed"
    )

    @property
    def test_share(self) -> float:
        """The share of the source's train split that becomes the test split, where the source has none."""
        return 0.0


class OriginalParameters(Division):
    """A dataset of four well-known files, from a folder or from the Hub."""

    places: ClassVar[tuple[str, ...]] = ("path",)

    path: Path | None = Field(
        default=None,
        description="folder with the four original IDX files (.gz or not), or with their Parquet files; nothing is "
        "downloaded then",
    )
