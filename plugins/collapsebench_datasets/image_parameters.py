"""Parameters of the datasets that are read with the package `datasets`; this module imports neither it nor Pillow."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, FiniteFloat, model_validator

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


class OriginalParameters(Division):
    """A dataset of four well-known files, from a folder or from the Hub."""

    places: ClassVar[tuple[str, ...]] = ("path",)

    path: Path | None = Field(
        default=None,
        description="folder with the four original IDX files (.gz or not), or with their Parquet files; nothing is "
        "downloaded then",
    )


class HuggingFaceParameters(Division):
    """Images, or vectors of numbers, in one column of a dataset of the Hub or of local files."""

    places: ClassVar[tuple[str, ...]] = ("path",)

    name: str | None = Field(
        default=None, pattern=r"^[\w.-]+(/[\w.-]+)?$", description="name of the dataset on the Hub, OWNER/NAME"
    )
    path: Path | None = Field(
        default=None,
        description="Parquet or Arrow file, folder of such files or of images, or folder written by `save_to_disk`; "
        "nothing is downloaded then",
    )
    config: str | None = Field(default=None, description="configuration of the dataset, where it has several")
    revision: str | None = Field(
        default=None,
        description="commit, tag or branch on the Hub; without it the commit that the main branch has when the data "
        "are first prepared is recorded, and kept",
    )
    column: str | None = Field(default=None, description="column to read; without it the only one that holds images")
    train_split: str = Field(default="train", description="its split to train on")
    validation_split: str | None = Field(
        default=None, description="its validation split; without it a share of its train split is used"
    )
    test_split: str | None = Field(
        default=None, description="its test split; without it a share of its train split is used"
    )
    colour: Colour | None = Field(
        default=None,
        description="grey: one channel, the luminance of coloured images; rgb: three, and grey images are refused; "
        "without it as stored",
    )
    size: int | None = Field(default=None, ge=2, le=512, description="side of the square image, pixels; or as stored")
    fit: Fit = Field(
        default="exact",
        description="how an image gets that size: exact: it must have it; crop: the largest square in its middle, "
        "then scaled; resize: scaled along each axis (bilinear, averaging where it shrinks)",
    )
    max_samples: int | None = Field(
        default=None,
        ge=6,
        description="samples of each of its splits to fetch at most: the first ones of a stream that is mixed as it "
        "passes; the rest is not downloaded",
    )
    mixing: int = Field(
        default=10_000, ge=1, description="samples of that stream which wait at a time, to be drawn in random order"
    )
    test_share: FiniteFloat = Field(
        default=0.1, gt=0, lt=1, description="share of its train split that becomes the test split, where it has none"
    )
    scaling: Literal["per-feature", "global", "none"] | None = Field(
        default=None,
        description="each number by its standard deviation, all by one, or not at all; without it global for images, "
        "per-feature for vectors",
    )

    @model_validator(mode="after")
    def _check(self) -> HuggingFaceParameters:
        given = [option for option in ("name", "path") if getattr(self, option) is not None]
        if len(given) != 1:
            raise ValueError(
                f"found {' and '.join(given) or 'neither name nor path'}, expected one of the two: name, of a dataset "
                "on the Hub, or path, of local files."
            )
        splits = [split for split in (self.train_split, self.validation_split, self.test_split) if split is not None]
        twice = sorted({split for split in splits if splits.count(split) > 1})
        if twice:
            raise ValueError(f"found the split '{twice[0]}' in two roles, expected distinct ones; leave one out.")
        if self.fit != "exact" and self.size is None:
            raise ValueError(f"found fit = '{self.fit}' without size, expected a size to {self.fit} to; give one.")
        if self.revision is not None and self.name is None:
            raise ValueError("found revision without name, expected it for a dataset of the Hub only; remove it.")
        return self
