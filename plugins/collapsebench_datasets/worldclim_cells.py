"""The cells of WorldClim that are valid in every layer, in a file of their own; this module needs no raster library.

A sample of cells is a few megabytes, to take along to a machine without network and without rasterio:

    python -m collapsebench_datasets.worldclim_cells bio_10m_bil.zip worldclim-50k.npz --version 1.4 --cells 50000
"""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from collapsebench import DataError
from collapsebench_datasets.resumable_download import sha256_of
from collapsebench_datasets.worldclim_parameters import Resolution, Version


@dataclass(frozen=True)
class Cells:
    """The cells that are valid in every chosen layer, from north to south and west to east.

    values: `(cells, variables)` float32. latitude, longitude: of the cells' centres `(cells,)`, degrees,
    rounded to 1e-9 because headers write the cell size with few digits. variables: the number of the BIO in
    each column. origin: version and resolution, of a sample also its size; empty if not known.
    """

    values: NDArray[np.float32]
    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]
    variables: tuple[int, ...]
    origin: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns, BIO1 to BIO19."""
        return tuple(f"BIO{number}" for number in self.variables)

    @property
    def area(self) -> NDArray[np.float64]:
        """The area of each cell over the mean area `(cells,)`: proportional to cos(latitude) on a sphere."""
        cosine = np.cos(np.radians(self.latitude))
        return np.asarray(cosine / cosine.mean())

    def save(self, path: Path) -> None:
        """Write the cells to one file, which appears under its name only when it is complete."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with temporary.open("wb") as file:
                np.savez_compressed(
                    file,
                    values=self.values,
                    latitude=self.latitude,
                    longitude=self.longitude,
                    variables=np.array(self.variables),
                    origin=np.array(self.origin),
                )
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path) -> Cells:
        """Return the cells written by `save`."""
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                variables = tuple(int(number) for number in stored["variables"])
                origin = str(stored["origin"]) if "origin" in stored else ""
                return cls(stored["values"], stored["latitude"], stored["longitude"], variables, origin)
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(
                f"{path}: cannot be read ({error}), expected the cells written by prepare. Delete the file "
                f"and prepare again."
            ) from error

    def chosen(self, variables: tuple[int, ...]) -> Cells:
        """Return the cells with some of their variables. Raise DataError if one is not there."""
        if missing := set(variables) - set(self.variables):
            raise DataError(
                f"prepared cells: found BIO {list(self.variables)}, expected also {sorted(missing)}. Prepare them with "
                "these variables, or leave them out."
            )
        columns = [self.variables.index(number) for number in variables]
        return replace(self, values=np.ascontiguousarray(self.values[:, columns]), variables=tuple(variables))

    def sample(self, count: int, seed: int = 0) -> Cells:
        """Return `count` cells, each drawn at most once with equal probability, in their order; or all if fewer."""
        chosen = np.sort(np.random.default_rng(seed).permutation(len(self.values))[:count])
        origin = f"{self.origin}, {len(chosen)} of {len(self.values)} cells"
        return replace(
            self, values=self.values[chosen], latitude=self.latitude[chosen], longitude=self.longitude[chosen],
            origin=origin,
        )  # fmt: skip


def prepared_cells(path: Path, version: Version, resolution: Resolution, variables: tuple[int, ...]) -> Cells:
    """Return cells that were prepared as a file. Raise DataError if they are of another version or resolution."""
    cells = Cells.load(path)
    expected = f"WorldClim {version}, {resolution}"
    if not cells.origin.startswith(expected):
        raise DataError(
            f"{path}: found cells of '{cells.origin or 'unknown origin'}', expected '{expected}'. Set version and "
            "resolution to those of the file, or prepare it anew."
        )
    return cells.chosen(variables)


def content_sha256(source: Path) -> str:
    """Return the SHA-256 of an archive, or of the names and contents of a folder's layers."""
    if not source.is_dir():
        return sha256_of(source)
    digest = hashlib.sha256()
    for file in sorted(source.iterdir()):
        if file.suffix.lower() in {".tif", ".bil", ".hdr"}:
            digest.update(f"{file.name} {sha256_of(file)}\n".encode())
    return digest.hexdigest()


@click.command()
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.argument("target", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--version", default="2.1", show_default=True, type=click.Choice(["1.4", "2.1"]))
@click.option("--resolution", default="10m", show_default=True, type=click.Choice(["10m", "5m", "2.5m"]))
@click.option(
    "--cells", "count", default=50_000, show_default=True, type=click.IntRange(min=2), help="How many to draw."
)
def main(source: Path, target: Path, version: Version, resolution: Resolution, count: int) -> None:
    """Draw cells of SOURCE, an archive or a folder of layers, and write them to TARGET (npz)."""
    from collapsebench_datasets.worldclim_archive import read_cells

    cells = read_cells(source, version, resolution).sample(count)
    cells.save(target)
    click.echo(f"{target}: {cells.origin}, {target.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
