"""WorldClim: bioclimatic variables of the land, split by spatial blocks.

Sources: Hirn, arXiv 2608.10599, for the protocol; Dinnage 2023, "How many variables does WorldClim have,
really?".
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from collapsebench import SPLITS, Data, DataError, Dataset, Split
from collapsebench_datasets.resumable_download import recorded_sha256, verified
from collapsebench_datasets.spatial_blocks import (
    EARTH_RADIUS_KM,
    spatial_blocks,
    split_by_block,
    systematic_sample,
)
from collapsebench_datasets.worldclim_cells import Cells, content_sha256, prepared_cells
from collapsebench_datasets.worldclim_parameters import ALL_VARIABLES, Resolution, Version, WorldClimParameters

LICENCE = (
    "WorldClim: free for academic and other non-commercial use; redistribution and commercial use need the "
    "publisher's permission (worldclim.org)"
)
CITATIONS = {
    "2.1": "S. E. Fick, R. J. Hijmans (2017), WorldClim 2: new 1-km spatial resolution climate surfaces for "
    "global land areas, International Journal of Climatology 37, 4302-4315, doi:10.1002/joc.5086",
    "1.4": "R. J. Hijmans, S. E. Cameron, J. L. Parra, P. G. Jones, A. Jarvis (2005), Very high resolution "
    "interpolated climate surfaces for global land areas, International Journal of Climatology 25, "
    "1965-1978, doi:10.1002/joc.1276",
}


def _read_layers(source: Path, version: Version, resolution: Resolution, variables: tuple[int, ...]) -> Cells:
    from collapsebench_datasets.worldclim_archive import read_cells  # prepared cells need no raster library

    return read_cells(source, version, resolution, variables)


class WorldClim(Dataset[WorldClimParameters]):
    """The WorldClim bioclimatic variables at the cells that are valid in all of them.

    The paper specifies equal-area blocks of side 500 km, area-weighted sampling, a target of 500,000 training samples,
    and an equal split of the other blocks into validation and test. It leaves the following open, which we chose: the
    shape of the blocks (`spatial_blocks`); train takes shuffled blocks until they hold `train_cells` cells, at most 0.9
    of all; the other blocks are divided so that validation and test have equal areas. With sampling "area", each split
    is a systematic sample in proportion to the cells' areas, with `train_samples` draws for train and never more draws
    than cells. Drawing without replacement would not weight the cells, since nearly all of them are drawn; drawing with
    replacement would miss a third of them by chance. With "weights" each cell occurs once, weighted by its area: the
    same means without sampling noise.
    """

    def prepare(self, cache: Path) -> None:
        """Download the archive unless `path` is given, verify it, and store its valid cells in `cache`."""
        if self.is_prepared(cache):
            return
        p = self.parameters
        if p.path is not None:
            read = prepared_cells if p.path.suffix == ".npz" else _read_layers
            cells = read(p.path, p.version, p.resolution, p.variables)
            cache.mkdir(parents=True, exist_ok=True)
            cells.save(self._cells_file(cache, content_sha256(p.path)))
            return
        cache.mkdir(parents=True, exist_ok=True)
        with verified(p.source_url, self._archive(cache), p.sha256) as (archive, sha256):
            _read_layers(archive, p.version, p.resolution, p.variables).save(self._cells_file(cache, sha256))

    def is_prepared(self, cache: Path) -> bool:
        """Return whether the cells of this archive and these variables are in `cache`."""
        sha256 = self._sha256(cache)
        return sha256 is not None and self._cells_file(cache, sha256).exists()

    def cells(self, cache: Path) -> Cells:
        """Return every valid cell once, before any split: the whole table."""
        sha256 = self._sha256(cache)
        if sha256 is None or not self._cells_file(cache, sha256).exists():
            raise DataError(f"{cache}: WorldClim is not there, expected its cells in this folder. Call prepare first.")
        return Cells.load(self._cells_file(cache, sha256))

    def load(self, seed: int, cache: Path) -> Data:
        """Return the three splits; the seed shuffles the blocks and starts the draws."""
        p = self.parameters
        cells = self.cells(cache)
        blocks = spatial_blocks(cells.latitude, cells.longitude, p.block_km)
        of_blocks, *of_splits = (np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(4))
        parts = split_by_block(blocks, cells.area, p.train_cells, of_blocks)
        limits = {"train": p.train_samples, "validation": p.evaluation_samples, "test": p.evaluation_samples}
        train, validation, test = (
            self._sample(cells, parts[name], limits[name], generator)
            for name, generator in zip(SPLITS, of_splits, strict=True)
        )
        return Data(
            train=train,
            validation=validation,
            test=test,
            feature_names=cells.names,
            revision=f"{cells.origin or self._origin}, archive sha256:{self._sha256(cache)}",
            licence=LICENCE,
            citation=CITATIONS[p.version],
            notes={
                "valid cells": len(blocks),
                "blocks": {name: len(np.unique(blocks[parts[name]])) for name in SPLITS},
                "cells": {name: len(parts[name]) for name in SPLITS},
                "sampling": p.sampling,
                "block side, km": p.block_km,
                "Earth radius, km": EARTH_RADIUS_KM,
                "units": "degC; BIO3 and BIO15 %; BIO4 0.01 degC; BIO12-14 and BIO16-19 mm",
            },
        )

    def _sample(
        self, cells: Cells, part: NDArray[np.int64], limit: int | None, generator: np.random.Generator
    ) -> Split:
        area = cells.area[part]
        count = len(part) if limit is None else min(limit, len(part))
        if self.parameters.sampling == "area":
            drawn = generator.permutation(systematic_sample(area, count, generator))
            return Split(cells.values[part[drawn]])
        drawn = generator.permutation(len(part))[:count]
        weights = area[drawn] if self.parameters.sampling == "weights" else None
        return Split(
            cells.values[part[drawn]],
            None if weights is None else (weights / weights.mean()).astype(np.float32),
        )

    @property
    def _origin(self) -> str:
        return f"WorldClim {self.parameters.version}, {self.parameters.resolution}"

    def _archive(self, cache: Path) -> Path:
        p = self.parameters
        other = "" if p.url is None else f"-{hashlib.sha256(p.url.encode()).hexdigest()[:8]}"
        return cache / f"worldclim-{p.version}-{p.resolution}{other}.zip"

    def _sha256(self, cache: Path) -> str | None:
        """Return the checksum of the archive, None if there is no archive yet."""
        p = self.parameters
        if p.path is None:
            return p.sha256 or recorded_sha256(self._archive(cache))
        if not p.path.exists():
            return None
        actual = content_sha256(p.path)
        if p.sha256 not in (None, actual):
            raise DataError(
                f"{p.path}: its SHA-256 is {actual}, expected {p.sha256} (given by the parameter sha256). "
                "Give the archive that belongs to this checksum, or change sha256."
            )
        return actual

    def _cells_file(self, cache: Path, sha256: str) -> Path:
        p = self.parameters
        chosen = "all" if p.variables == ALL_VARIABLES else "-".join(str(number) for number in p.variables)
        return cache / f"worldclim-{p.version}-{p.resolution}-{sha256[:16]}-{chosen}.npz"
