"""Parameters of the datasets that the package `datasets` reads; this module imports neither it nor Pillow."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, FiniteFloat, model_validator

from collapsebench import Parameters

Colour = Literal["grey", "rgb"]
Fit = Literal["exact", "crop", "resize"]


class Division(Parameters):
    """How the samples of a source are divided among the splits."""

    validation_share: FiniteFloat = Field(
        default=0.1, gt=0, lt=1, description="share of the source's train split that becomes the validation split"
    )
    train_samples: int | None = Field(
        default=None, ge=2, description="largest number of training samples, drawn by the seed"
    )
    evaluation_samples: int | None = Field(
        default=None,
        ge=2,
        description="largest number of samples in each of the validation and test splits, drawn by the seed",
    )


class OriginalParameters(Division):
    """A dataset that was published as four IDX files, from a folder or from the Hub."""

    location_parameters: ClassVar[tuple[str, ...]] = ("path",)

    path: Path | None = Field(
        default=None,
        description="folder with the four original IDX files (.gz or not), or with their Parquet files, instead of a "
        "download",
    )


class HuggingFaceParameters(Division):
    """Images, or vectors of numbers, in one column of a dataset of the Hub or of local files."""

    location_parameters: ClassVar[tuple[str, ...]] = ("path",)

    name: str | None = Field(
        default=None, pattern=r"^[\w.-]+(/[\w.-]+)?$", description="name of the dataset on the Hub, OWNER/NAME"
    )
    path: Path | None = Field(
        default=None,
        description="Parquet or Arrow file, folder of such files or of images, or folder written by `save_to_disk`, "
        "instead of a download",
    )
    config: str | None = Field(default=None, description="configuration of the dataset, if it has several")
    revision: str | None = Field(
        default=None,
        description="commit, tag or branch on the Hub; if not given, the commit of the main branch when the data are "
        "first prepared, which is recorded",
    )
    column: str | None = Field(default=None, description="column to read; if not given, the only one that holds images")
    train_split: str = Field(default="train", description="split of the source to train on")
    validation_split: str | None = Field(
        default=None, description="validation split of the source; if not given, a share of its train split"
    )
    test_split: str | None = Field(
        default=None, description="test split of the source; if not given, a share of its train split"
    )
    colour: Colour | None = Field(
        default=None,
        description="grey: one channel, the luminance of coloured images; rgb: three channels, and grey images are "
        "refused; if not given, as stored",
    )
    size: int | None = Field(
        default=None, ge=2, le=512, description="side of the square image, pixels; if not given, as stored"
    )
    fit: Fit = Field(
        default="exact",
        description="how an image gets that size. exact: it must have it already; crop: the largest square in its "
        "middle is scaled; resize: each axis is scaled (bilinear, averaging if it shrinks)",
    )
    max_samples: int | None = Field(
        default=None,
        ge=6,
        description="largest number of samples to fetch from each split: the first ones of a shuffled stream; the rest "
        "is not downloaded",
    )
    mixing: int = Field(
        default=10_000, ge=1, description="size of the buffer in which that stream is shuffled, samples"
    )
    test_share: FiniteFloat = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="share of the source's train split that becomes the test split, if the source has none",
    )
    scaling: Literal["per-feature", "global", "none"] | None = Field(
        default=None,
        description="divide each feature by its standard deviation, all features by one number, or none; if not given, "
        "global for images and per-feature for vectors",
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
