"""The parameters of the WorldClim dataset, and the address of its publisher."""

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
    """Which part of WorldClim to use, and how to split and sample it."""

    location_parameters: ClassVar[tuple[str, ...]] = ("path", "url", "sha256")

    version: Version = Field(default="2.1", description="release of WorldClim")
    resolution: Resolution = Field(default="10m", description="side of a cell in arc-minutes")
    variables: tuple[int, ...] = Field(default=ALL_VARIABLES, description="which of BIO1 to BIO19")
    path: Path | None = Field(
        default=None, description="archive (zip), folder of layers, or prepared cells (npz), instead of a download"
    )
    url: str | None = Field(
        default=None, pattern=r"^https?://", description="another address to download the archive from"
    )
    sha256: str | None = Field(
        default=None,
        pattern=r"^[0-9a-f]{64}$",
        description="checksum that the archive must have; if not given, that of the first download is recorded",
    )
    block_km: float = Field(
        default=500.0,
        ge=10.0,
        le=20_000.0,
        description="side, km, of the equal-area blocks; each block belongs to one split only",
    )
    train_cells: int = Field(
        default=500_000,
        ge=2,
        description="number of cells in the blocks of the train split, from which its samples are drawn",
    )
    train_samples: int = Field(default=500_000, ge=2, description="target size of the train split")
    evaluation_samples: int | None = Field(
        default=None, ge=2, description="largest number of samples in each of validation and test"
    )
    sampling: Sampling = Field(
        default="area",
        description="area: cells drawn in proportion to their areas; weights: each cell once, weighted by its area; "
        "all: each cell once, unweighted",
    )

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
