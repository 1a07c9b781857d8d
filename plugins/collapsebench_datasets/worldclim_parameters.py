"""The parameters of the WorldClim dataset, and where its publisher keeps it."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from collapsebench import Parameters

Version = Literal["1.4", "2.1"]
Resolution = Literal["10m", "5m", "2.5m"]
Sampling = Literal["area", "weights", "all"]

ALL_VARIABLES = tuple(range(1, 20))
PUBLISHER = "https://geodata.ucdavis.edu/climate/worldclim"


class WorldClimParameters(Parameters):
    """What to take from WorldClim, and how to split and sample it.

    variables: which of BIO1 to BIO19. path: an archive (zip) or a folder of layers that is already there;
    nothing is downloaded then. url: another place to download the archive from. sha256: the checksum that the
    archive must have; without it, the checksum of the first download is trusted and recorded. block_km: side
    of the equal-area blocks that a split never shares, km. train_cells: cells whose blocks go to
    train, whatever is drawn from them. train_samples: target size of train.
    evaluation_samples: upper limit on the samples of validation and of test. sampling: "area" draws each cell
    a number of times proportional to its area, "weights" takes each cell once with its area as weight, "all"
    takes each cell once, unweighted.
    """

    places: ClassVar[tuple[str, ...]] = ("path", "url", "sha256")

    version: Version = "2.1"
    resolution: Resolution = "10m"
    variables: tuple[int, ...] = ALL_VARIABLES
    path: Path | None = None
    url: str | None = Field(default=None, pattern=r"^https?://")
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    block_km: float = Field(default=500.0, ge=10.0, le=20_000.0)
    train_cells: int = Field(default=500_000, ge=2)
    train_samples: int = Field(default=500_000, ge=2)
    evaluation_samples: int | None = Field(default=None, ge=2)
    sampling: Sampling = "area"

    @field_validator("variables")
    @classmethod
    def _in_order(cls, variables: tuple[int, ...]) -> tuple[int, ...]:
        if not variables or len(set(variables)) < len(variables) or not set(variables) <= set(ALL_VARIABLES):
            raise ValueError(f"found {list(variables)}, expected distinct numbers from 1 to 19. Name each BIO once.")
        return tuple(sorted(variables))

    @model_validator(mode="after")
    def _one_source(self) -> WorldClimParameters:
        if self.path is not None and self.url is not None:
            raise ValueError("found both path and url, expected at most one of them. Remove one.")
        return self

    @property
    def source_url(self) -> str:
        """The address of the archive at its publisher, unless `url` says otherwise."""
        if self.url is not None:
            return self.url
        if self.version == "2.1":
            return f"{PUBLISHER}/2_1/base/wc2.1_{self.resolution}_bio.zip"
        return f"{PUBLISHER}/1_4/grid/cur/bio_{self.resolution.replace('.', '-')}_bil.zip"
