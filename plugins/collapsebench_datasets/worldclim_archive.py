"""Read the layers of WorldClim, from an archive or a folder, into the cells that are valid in all of them.

Units are those of version 2.1 for both versions: degrees Celsius for BIO1, 2, 5 to 11, a hundred times
degrees Celsius for BIO4, per cent for BIO3 and BIO15, millimetres for BIO12 to 14 and 16 to 19. Version 1.4
stores the temperatures as whole tenths, which are divided by ten here.
"""

from __future__ import annotations

import re
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from collapsebench import DataError
from collapsebench_datasets.worldclim_cells import Cells
from collapsebench_datasets.worldclim_parameters import ALL_VARIABLES, Resolution, Version

STORED_IN_TENTHS = frozenset({1, 2, 4, 5, 6, 7, 8, 9, 10, 11})
_LAYOUT = {
    "2.1": r"wc2\.1_(?P<resolution>[\d.]+[ms])_bio_(?P<variable>\d+)\.tif",
    "1.4": r"bio_?(?P<variable>\d+)\.bil",
}
_DRIVER = {".tif": "GTiff", ".bil": "EHdr"}
_EXAMPLE = {"2.1": "wc2.1_{resolution}_bio_{variable}.tif", "1.4": "bio{variable}.bil"}


def read_cells(
    source: Path, version: Version, resolution: Resolution, variables: Sequence[int] = ALL_VARIABLES
) -> Cells:
    """Return the cells that are valid in all `variables` of an archive (zip) or a folder of layers.

    This is the whole table: nothing is drawn, weighted or standardised. At most two layers are in memory at a time.
    """
    layers = _find_layers(source, version, resolution, variables)
    valid, transform = _valid_cells(source, layers, resolution)
    row, column = np.nonzero(valid)
    values = np.empty((len(row), len(layers)), dtype=np.float32, order="F")
    for place, (number, layer) in enumerate(layers.items()):
        with _opened(source, layer) as raster:
            cells = raster.read(1)[valid].astype(np.float32)
            # Whole tenths are exact in float32, so their quotient is the float32 nearest to the decimal.
            divisor = np.float32(10.0 if version == "1.4" and number in STORED_IN_TENTHS else 1.0)
            values[:, place] = cells / divisor * np.float32(raster.scales[0]) + np.float32(raster.offsets[0])
    return Cells(
        values=np.ascontiguousarray(values),
        latitude=np.round(transform.f + (row + 0.5) * transform.e, 9),
        longitude=np.round(transform.c + (column + 0.5) * transform.a, 9),
        variables=tuple(layers),
        origin=f"WorldClim {version}, {resolution}",
    )


def _find_layers(source: Path, version: Version, resolution: Resolution, variables: Sequence[int]) -> dict[int, str]:
    """Return what rasterio opens for each variable, in ascending order."""
    if not source.exists():
        raise DataError(
            f"{source}: does not exist, expected an archive (zip) or a folder of WorldClim {version} layers. "
            "Correct path, or leave it out to download the archive."
        )
    if source.is_dir():
        names = {file.name: str(file) for file in sorted(source.iterdir())}
    else:
        names = {name: f"/vsizip/{{{source.resolve().as_posix()}}}/{name}" for name in _members(source)}
    layers: dict[int, str] = {}
    for name, address in names.items():
        match = re.fullmatch(_LAYOUT[version], PurePosixPath(name).name, flags=re.IGNORECASE)
        if match and match.groupdict().get("resolution", resolution) == resolution:
            number = int(match["variable"])
            if number in layers:
                raise DataError(
                    f"{source}: holds BIO{number} twice, expected one file for each layer. Remove one: "
                    f"{address} or {layers[number]}."
                )
            layers[number] = address
    missing = [number for number in sorted(variables) if number not in layers]
    if missing:
        raise DataError(_missing_layers(source, version, resolution, missing, names))
    return {number: layers[number] for number in sorted(variables)}


def _missing_layers(
    source: Path, version: Version, resolution: Resolution, missing: Sequence[int], names: Mapping[str, str]
) -> str:
    wanted = ", ".join(_EXAMPLE[version].format(resolution=resolution, variable=number) for number in missing)
    message = f"{source}: {len(missing)} layer(s) missing, expected the files {wanted}."
    for other, layout in _LAYOUT.items():
        for name in names:
            if match := re.fullmatch(layout, PurePosixPath(name).name, flags=re.IGNORECASE):
                other_resolution = match.groupdict().get("resolution", resolution)
                if (other, other_resolution) != (version, resolution):
                    return (
                        f"{message} It holds {name}, of version {other} at {other_resolution}: set version "
                        "and resolution to these, or give another source."
                    )
    return f"{message} Choose other variables, or give a complete source."


def _members(archive: Path) -> list[str]:
    """Return the names of the members of a zip file whose every byte has passed its checksum."""
    try:
        with zipfile.ZipFile(archive) as content:
            for name in content.namelist():
                path = PurePosixPath(name.replace("\\", "/"))
                if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
                    raise DataError(
                        f"{archive}: has a member '{name}' that points outside its folder, expected plain "
                        "relative names. Do not unpack it; fetch the archive from its publisher."
                    )
            damaged = content.testzip()
            if damaged is None:
                return content.namelist()
            reason = f"the member {damaged} does not match its checksum"
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        reason = str(error)
    raise DataError(
        f"{archive}: cannot be read as a zip file ({reason}), expected a complete WorldClim archive of "
        f"{archive.stat().st_size} bytes or more. Fetch it again."
    )


@contextmanager
def _opened(source: Path, layer: str) -> Iterator[Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", NotGeoreferencedWarning)
            with rasterio.open(layer, driver=_DRIVER[PurePosixPath(layer).suffix.lower()]) as raster:
                yield raster
    except (RasterioError, NotGeoreferencedWarning) as error:
        raise DataError(
            f"{source}: the layer {PurePosixPath(layer).name} cannot be read ({error}), expected a "
            "georeferenced GeoTIFF, or a BIL file with its .hdr beside it. Fetch the layers again."
        ) from error


def _valid_cells(source: Path, layers: Mapping[int, str], resolution: Resolution) -> tuple[NDArray[np.bool_], Any]:
    """Return where every layer has data `(rows, columns)`, and the map from cells to degrees."""
    valid: NDArray[np.bool_] | None = None
    counts: dict[str, int] = {}
    grids: dict[str, Any] = {}
    transform: Any = None
    for layer in layers.values():
        name = PurePosixPath(layer).name
        with _opened(source, layer) as raster:
            grids[name] = (raster.shape, tuple(round(value, 9) for value in raster.transform[:6]))
            transform = transform or raster.transform
            if valid is not None and raster.shape != valid.shape:
                continue
            band = raster.read(1, masked=True)
        here = ~np.ma.getmaskarray(band) & np.isfinite(band.data)
        counts[name] = int(here.sum())
        valid = here if valid is None else valid & here
    _check_grids(source, grids, resolution)
    empty = [name for name, count in counts.items() if count == 0]
    if empty:
        raise DataError(
            f"{source}: found no data in {', '.join(empty)}, every cell is nodata; expected valid cells in "
            "each layer. Fetch the layers again or leave these variables out."
        )
    if valid is None or not valid.any():
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise DataError(
            f"{source}: no cell is valid in all {len(layers)} layers (valid cells of each: {listed}), "
            "expected some overlap. Choose layers of one region."
        )
    return valid, transform


def _check_grids(source: Path, grids: Mapping[str, Any], resolution: Resolution) -> None:
    reference, (shape, affine) = next(iter(grids.items()))
    other = [f"{name} {grid[0]} at {grid[1]}" for name, grid in grids.items() if grid != (shape, affine)]
    if other:
        raise DataError(
            f"{source}: found layers of different grids, {'; '.join(other)}; expected the grid of "
            f"{reference}, {shape} at {affine}. Take all layers from one archive."
        )
    degrees = float(resolution.removesuffix("m")) / 60.0
    if not np.allclose(affine[:2] + affine[3:5], (degrees, 0.0, 0.0, -degrees), atol=1e-6):
        raise DataError(
            f"{source}: found cells of {affine[0] * 60:.4g} by {-affine[4] * 60:.4g} arc-minutes in "
            f"{reference}, expected {degrees * 60:g} by {degrees * 60:g}, north up. Correct resolution or "
            f"give another source."
        )
