"""The parameters of the dataset `table`; this module imports neither pandas nor PyArrow."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, FiniteFloat, model_validator

from collapsebench import Parameters

Missing = Literal["error", "drop-rows"]
Scaling = Literal["per-feature", "global", "none"]


class TableParameters(Parameters):
    """Which columns and rows of a table to use, and how to split and scale them."""

    location_parameters: ClassVar[tuple[str, ...]] = ("path",)

    path: Path = Field(description="a CSV, TSV, Parquet, Arrow, Feather, NPY or NPZ file")
    columns: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="the columns to use; all if not given"
    )
    leave_out: tuple[str, ...] = Field(default=(), description="columns to leave out")
    missing: Missing = Field(
        default="error", description="what to do with a missing or infinite value: stop with an error, or drop its row"
    )
    max_rows: int | None = Field(
        default=None,
        ge=6,
        description="largest number of rows to use, a uniform sample of the file; if not given, 2^26 values in all",
    )
    train_share: FiniteFloat = Field(default=0.7, gt=0, lt=1, description="share of the rows in the train split")
    validation_share: FiniteFloat = Field(
        default=0.15, gt=0, lt=1, description="share of the rows in the validation split; the rest is the test split"
    )
    scaling: Scaling = Field(
        default="per-feature",
        description="divide each column by its standard deviation, all columns by one number, or none",
    )

    @model_validator(mode="after")
    def _check(self) -> TableParameters:
        if self.train_share + self.validation_share >= 1:
            raise ValueError(
                f"found train_share + validation_share = {self.train_share + self.validation_share:g}, expected less "
                "than 1, so that rows are left for the test split; lower one of them."
            )
        for option in ("columns", "leave_out"):
            names = getattr(self, option) or ()
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"found '{twice[0]}' more than once in {option}, expected distinct names; remove one.")
        return self
