from __future__ import annotations

import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from pydantic import ValidationError
from rasterio import Affine

from collapsebench import DataError
from collapsebench.contracts import SplitName
from collapsebench_datasets.resumable_download import sha256_of
from collapsebench_datasets.spatial_blocks import (
    EARTH_RADIUS_KM,
    blocks_per_band,
    spatial_blocks,
    split_by_block,
    systematic_sample,
)
from collapsebench_datasets.worldclim import WorldClim
from collapsebench_datasets.worldclim_archive import STORED_IN_TENTHS, read_cells
from collapsebench_datasets.worldclim_cells import Cells
from collapsebench_datasets.worldclim_parameters import WorldClimParameters

ROWS, COLUMNS, WEST, NORTH = 60, 150, 5.0, 62.0
STEP = 1.0 / 6.0
NODATA_FLOAT = -3.4e38
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")


def layers(seed: int = 0) -> np.ndarray[Any, Any]:
    """Whole numbers as version 1.4 stores them `(19, rows, columns)`; -9999 where there is sea."""
    values = np.random.default_rng(seed).integers(-300, 3000, size=(19, ROWS, COLUMNS)).astype(np.int16)
    values[:, :, :10] = -9999
    values[4, 7, 50] = -9999
    return values


def write_bil(folder: Path, values: np.ndarray[Any, Any], step: float = STEP, west: float = WEST) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, layer in enumerate(values, start=1):
        (folder / f"bio{number}.bil").write_bytes(layer.astype("<i2").tobytes())
        (folder / f"bio{number}.hdr").write_text(
            f"BYTEORDER I\nLAYOUT BIL\nNROWS {layer.shape[0]}\nNCOLS {layer.shape[1]}\nNBANDS 1\nNBITS 16\n"
            f"BANDROWBYTES {2 * layer.shape[1]}\nTOTALROWBYTES {2 * layer.shape[1]}\nPIXELTYPE SIGNEDINT\n"
            f"NODATA -9999\nULXMAP {west + step / 2:.12f}\nULYMAP {NORTH - step / 2:.12f}\n"
            f"XDIM {step:.15f}\nYDIM {step:.15f}\n"
        )
    return folder


def in_units(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    divisor = np.array([10.0 if number in STORED_IN_TENTHS else 1.0 for number in range(1, 20)], np.float32)
    return (values / divisor[:, None, None]).astype(np.float32)


def write_geotiff(folder: Path, values: np.ndarray[Any, Any], resolution: str = "10m") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    stored = np.where(values == -9999, np.float32(NODATA_FLOAT), in_units(values))
    for number, layer in enumerate(stored, start=1):
        with rasterio.open(
            folder / f"wc2.1_{resolution}_bio_{number}.tif", "w", driver="GTiff", dtype="float32", count=1,
            height=layer.shape[0], width=layer.shape[1], nodata=NODATA_FLOAT, crs="EPSG:4326",
            compress="deflate", transform=Affine(STEP, 0.0, WEST, 0.0, -STEP, NORTH),
        ) as raster:  # fmt: skip
            raster.write(layer, 1)
    return folder


def zipped(folder: Path, archive: Path) -> Path:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as content:
        for file in sorted(folder.iterdir()):
            content.write(file, file.name)
    return archive


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()} if folder.exists() else {}


@pytest.fixture(scope="module")
def bil_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bil(tmp_path_factory.mktemp("bil"), layers())


@pytest.fixture(scope="module")
def bil_archive(bil_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return zipped(bil_folder, tmp_path_factory.mktemp("archives") / "bio_10m_bil.zip")


@pytest.fixture(scope="module")
def tif_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tif")
    return zipped(write_geotiff(folder / "layers", layers()), folder / "wc2.1_10m_bio.zip")


@dataclass
class Server:
    """A local server that serves one body, and remembers what it was asked for and what it sent."""

    body: bytes
    url: str = ""
    ranges: bool = True
    etag: str | None = '"one"'
    with_length: bool = True
    cut_at: list[int] = field(default_factory=list)
    asked: list[str | None] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)


@pytest.fixture
def server(bil_archive: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "*")
    state = Server(bil_archive.read_bytes())

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            state.asked.append(asked)
            condition = self.headers.get("If-Range")
            start = 0
            if self.path != "/bio.zip":
                self.send_error(404)
                return
            if asked and state.ranges and condition in (None, state.etag):
                start = int(asked.removeprefix("bytes=").removesuffix("-"))
                if start >= len(state.body):
                    self.send_response(416)
                    self.end_headers()
                    return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(state.body) - 1}/{len(state.body)}")
            if state.with_length:
                self.send_header("Content-Length", str(len(state.body) - start))
            if state.etag:
                self.send_header("ETag", state.etag)
            self.end_headers()
            end = state.cut_at.pop(0) if state.cut_at else len(state.body)
            self.wfile.write(state.body[start:end])
            state.sent.append(max(0, end - start))

        def log_message(self, *_: Any) -> None:
            pass

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{listener.server_port}/bio.zip"
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state
    listener.shutdown()
    thread.join()
    listener.server_close()


def worldclim(**parameters: Any) -> WorldClim:
    parameters = {"version": "1.4", "block_km": 200.0, **parameters}
    return WorldClim(WorldClimParameters(**parameters))


# Layers and units


def test_geotiff_and_bil_archives_of_the_same_values_give_the_same_cells(bil_archive: Path, tif_archive: Path) -> None:
    old, new = read_cells(bil_archive, "1.4", "10m"), read_cells(tif_archive, "2.1", "10m")
    np.testing.assert_array_equal(old.values, new.values)
    np.testing.assert_array_equal(old.latitude, new.latitude)
    np.testing.assert_array_equal(old.longitude, new.longitude)


def test_an_archive_and_the_folder_it_was_made_of_give_the_same_cells(bil_archive: Path, bil_folder: Path) -> None:
    np.testing.assert_array_equal(
        read_cells(bil_archive, "1.4", "10m").values, read_cells(bil_folder, "1.4", "10m").values
    )


def test_each_cell_has_the_values_and_the_centre_of_its_place_in_the_rasters(bil_archive: Path) -> None:
    cells, values = read_cells(bil_archive, "1.4", "10m"), layers()
    row, column = np.nonzero((values != -9999).all(axis=0))
    np.testing.assert_array_equal(cells.values, in_units(values)[:, row, column].T)
    np.testing.assert_allclose(cells.latitude, NORTH - (row + 0.5) * STEP, atol=1e-8)
    np.testing.assert_allclose(cells.longitude, WEST + (column + 0.5) * STEP, atol=1e-8)


def test_only_the_chosen_layers_decide_which_cells_are_valid(bil_archive: Path) -> None:
    every, some = read_cells(bil_archive, "1.4", "10m"), read_cells(bil_archive, "1.4", "10m", (12, 1))
    assert len(some.values) == len(every.values) + 1
    assert some.names == ("BIO1", "BIO12")
    assert some.values.flags.c_contiguous


def test_a_cell_that_is_nan_in_one_layer_is_left_out(tmp_path: Path) -> None:
    folder = write_geotiff(tmp_path / "tif", layers())
    before = len(read_cells(folder, "2.1", "10m").values)
    with rasterio.open(folder / "wc2.1_10m_bio_3.tif", "r+") as raster:
        band = raster.read(1)
        band[30, 70] = np.nan
        raster.write(band, 1)
    assert len(read_cells(folder, "2.1", "10m").values) == before - 1


def test_the_scale_and_offset_that_a_raster_declares_are_applied(tmp_path: Path) -> None:
    folder = write_geotiff(tmp_path / "tif", layers())
    plain = read_cells(folder, "2.1", "10m", (2,)).values
    with rasterio.open(folder / "wc2.1_10m_bio_2.tif", "r+") as raster:
        raster.scales, raster.offsets = (0.5,), (3.0,)
    np.testing.assert_allclose(read_cells(folder, "2.1", "10m", (2,)).values, 0.5 * plain + 3.0, rtol=1e-6)


# Downloads


def test_an_interrupted_download_asks_only_for_the_bytes_that_are_missing(server: Server, tmp_path: Path) -> None:
    half = len(server.body) // 2
    server.cut_at = [half]
    worldclim(url=server.url).prepare(tmp_path)
    assert server.asked == [None, f"bytes={half}-"]
    assert server.sent == [half, len(server.body) - half]
    assert worldclim(url=server.url).is_prepared(tmp_path)
    assert not [name for name in contents(tmp_path) if ".part" in name]


def test_a_download_that_stopped_goes_on_in_the_next_run(server: Server, tmp_path: Path) -> None:
    third = len(server.body) // 3
    server.cut_at = [third, 0]
    with pytest.raises(DataError, match=f"ended after {third} bytes, expected {len(server.body)}. Run again"):
        worldclim(url=server.url).prepare(tmp_path)
    assert not worldclim(url=server.url).is_prepared(tmp_path)
    server.asked.clear()
    worldclim(url=server.url).prepare(tmp_path)
    assert server.asked == [f"bytes={third}-"]


def test_a_server_that_ignores_ranges_is_asked_for_everything_again(server: Server, tmp_path: Path) -> None:
    server.ranges, server.cut_at = False, [len(server.body) // 2]
    worldclim(url=server.url).prepare(tmp_path)
    assert server.sent[-1] == len(server.body)


def test_a_server_that_always_cuts_and_ignores_ranges_is_given_up(server: Server, tmp_path: Path) -> None:
    server.ranges, server.cut_at = False, [1000] * 10
    with pytest.raises(DataError, match="ended after 1000 bytes"):
        worldclim(url=server.url).prepare(tmp_path)
    assert len(server.asked) == 2


def test_two_versions_of_a_file_are_never_joined(server: Server, tmp_path: Path) -> None:
    server.cut_at = [5000, 0]
    dataset = worldclim(url=server.url)
    with pytest.raises(DataError):
        dataset.prepare(tmp_path)
    other = zipped(write_bil(tmp_path / "other", layers(seed=1)), tmp_path / "other.zip")
    server.body, server.etag = other.read_bytes(), '"two"'
    dataset.prepare(tmp_path)
    assert server.asked[-1] == "bytes=5000-"
    assert server.sent[-1] == len(server.body)
    assert dataset.load(0, tmp_path).revision.endswith(sha256_of(other))


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_a_download_resumes_without_a_strong_validator_too(etag: str | None, server: Server, tmp_path: Path) -> None:
    server.etag, server.cut_at = etag, [4000]
    worldclim(url=server.url).prepare(tmp_path)
    assert server.asked == [None, "bytes=4000-"]


def test_a_download_of_unknown_length_is_complete_when_it_ends(server: Server, tmp_path: Path) -> None:
    server.with_length = False
    worldclim(url=server.url).prepare(tmp_path)
    assert worldclim(url=server.url).is_prepared(tmp_path)


def test_a_download_that_was_complete_when_the_run_was_interrupted_is_not_sent_again(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("collapsebench_datasets.worldclim_archive.read_cells", interrupt)
        with pytest.raises(KeyboardInterrupt):
            worldclim(url=server.url).prepare(tmp_path)
    worldclim(url=server.url).prepare(tmp_path)
    assert server.sent == [len(server.body)]
    assert server.asked[-1] == f"bytes={len(server.body)}-"


def test_what_is_prepared_needs_no_network(server: Server, tmp_path: Path) -> None:
    dataset = worldclim(url=server.url)
    dataset.prepare(tmp_path)
    server.asked.clear()
    dataset.prepare(tmp_path)
    dataset.load(0, tmp_path)
    assert server.asked == []


def test_other_variables_of_a_downloaded_archive_need_no_network(server: Server, tmp_path: Path) -> None:
    worldclim(url=server.url).prepare(tmp_path)
    server.asked.clear()
    worldclim(url=server.url, variables=(1, 12)).prepare(tmp_path)
    assert server.asked == []


def test_other_bytes_at_the_second_download_are_refused_and_not_kept(server: Server, tmp_path: Path) -> None:
    dataset = worldclim(url=server.url)
    dataset.prepare(tmp_path)
    for file in [*tmp_path.glob("*.zip"), *tmp_path.glob("*.npz")]:
        file.unlink()
    before = contents(tmp_path)
    server.body, server.etag = server.body + b"!", '"two"'
    with pytest.raises(DataError, match=r"(?s)SHA-256 of the download is .*, expected .*recorded in .*delete"):
        dataset.prepare(tmp_path)
    assert contents(tmp_path) == before


def test_an_archive_that_changed_on_disk_is_refused(server: Server, tmp_path: Path) -> None:
    worldclim(url=server.url).prepare(tmp_path)
    (archive,) = tmp_path.glob("*.zip")
    archive.write_bytes(archive.read_bytes() + b"!")
    before = contents(tmp_path)
    with pytest.raises(DataError, match=r"its SHA-256 is .* expected .* delete it to download it again"):
        worldclim(url=server.url, variables=(1, 2)).prepare(tmp_path)
    assert contents(tmp_path) == before


def test_a_checksum_given_as_a_parameter_is_demanded(server: Server, bil_archive: Path, tmp_path: Path) -> None:
    for source in ({"url": server.url}, {"path": bil_archive}):
        with pytest.raises(DataError, match=f"expected {'0' * 64}"):
            worldclim(sha256="0" * 64, **source).prepare(tmp_path)
        assert contents(tmp_path) == {}
    for place, source in (("a", {"url": server.url}), ("b", {"path": bil_archive})):
        worldclim(sha256=sha256_of(bil_archive), **source).prepare(tmp_path / place)


@pytest.mark.parametrize("body", [b"<html>Down for maintenance</html>", b""])
def test_a_download_that_is_no_archive_leaves_the_cache_as_it_was(body: bytes, server: Server, tmp_path: Path) -> None:
    server.body = body
    with pytest.raises(DataError, match="cannot be read as a zip file"):
        worldclim(url=server.url).prepare(tmp_path)
    assert contents(tmp_path) == {}


def test_a_server_that_has_no_such_file_is_named(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the server answered 404 .*Check the address"):
        worldclim(url=server.url + "x").prepare(tmp_path)
    assert contents(tmp_path) == {}


def test_a_server_that_cannot_be_reached_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    with pytest.raises(DataError, match="cannot be reached"):
        worldclim(url="http://127.0.0.1:9/bio.zip").prepare(tmp_path)


# Sources that cannot be used


def sea(values: np.ndarray[Any, Any]) -> None:
    values[6] = -9999


def apart(values: np.ndarray[Any, Any]) -> None:
    values[1, :30] = -9999
    values[2, 30:] = -9999


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (sea, r"no data in bio7\.bil"),
        (apart, r"no cell is valid in all 19 layers .*bio2\.bil \d+, bio3\.bil \d+"),
    ],
)
def test_layers_without_common_data_are_refused(change: Any, message: str, tmp_path: Path) -> None:
    values = layers()
    change(values)
    with pytest.raises(DataError, match=message):
        worldclim(path=write_bil(tmp_path / "bil", values)).prepare(tmp_path / "cache")
    assert contents(tmp_path / "cache") == {}


def test_every_missing_layer_is_listed(tmp_path: Path) -> None:
    folder = write_bil(tmp_path / "bil", layers())
    for number in (3, 11):
        (folder / f"bio{number}.bil").unlink()
    with pytest.raises(DataError, match=r"2 layer\(s\) missing, expected the files bio3\.bil, bio11\.bil"):
        worldclim(path=folder).prepare(tmp_path / "cache")
    worldclim(path=folder, variables=(1, 2)).prepare(tmp_path / "cache")


def test_an_archive_of_the_other_version_says_which_it_is(bil_archive: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"It holds bio1\.bil, of version 1\.4 at 10m: set version"):
        worldclim(path=bil_archive, version="2.1").prepare(tmp_path / "cache")
    folder = write_geotiff(tmp_path / "tif", layers(), resolution="5m")
    with pytest.raises(DataError, match=r"of version 2\.1 at 5m"):
        worldclim(path=folder, version="2.1").prepare(tmp_path / "cache")


def test_layers_of_another_grid_are_named(tmp_path: Path) -> None:
    folder = write_bil(tmp_path / "bil", layers())
    write_bil(tmp_path / "shifted", layers(), west=WEST + 1)
    write_bil(tmp_path / "smaller", layers()[:, :-1])
    for source, number in (("shifted", 4), ("smaller", 9)):
        for suffix in ("bil", "hdr"):
            (tmp_path / source / f"bio{number}.{suffix}").replace(folder / f"bio{number}.{suffix}")
    with pytest.raises(DataError, match=r"different grids, bio4\.bil .*; bio9\.bil .*expected the grid of bio1"):
        worldclim(path=folder).prepare(tmp_path / "cache")


def test_cells_of_another_size_than_the_resolution_are_refused(tmp_path: Path) -> None:
    folder = write_bil(tmp_path / "bil", layers(), step=1.0 / 12.0)
    with pytest.raises(DataError, match=r"found cells of 5 by 5 arc-minutes .*expected 10 by 10"):
        worldclim(path=folder).prepare(tmp_path / "cache")
    assert len(read_cells(folder, "1.4", "5m").values) == len(read_cells(folder, "1.4", "5m").latitude)


@pytest.mark.parametrize("name", ["../bio1.bil", "/etc/bio1.bil", "..\\bio1.bil", "a/../../bio1.bil", "C:/bio1.bil"])
def test_an_archive_with_a_member_outside_its_folder_is_refused(name: str, bil_folder: Path, tmp_path: Path) -> None:
    archive = zipped(bil_folder, tmp_path / "bio.zip")
    with zipfile.ZipFile(archive, "a") as content:
        content.writestr(zipfile.ZipInfo(name), b"")
    with pytest.raises(DataError, match="points outside its folder"):
        worldclim(path=archive).prepare(tmp_path / "cache")
    assert contents(tmp_path / "cache") == {}


@pytest.mark.parametrize("damage", ["cut", "flipped", "not a zip"])
def test_a_damaged_archive_is_refused(damage: str, bil_archive: Path, tmp_path: Path) -> None:
    body = bytearray(bil_archive.read_bytes())
    if damage == "cut":
        body = body[: len(body) // 2]
    elif damage == "flipped":
        body[3000] ^= 0xFF
    else:
        body = bytearray(b"bio1")
    archive = tmp_path / "bio.zip"
    archive.write_bytes(body)
    with pytest.raises(DataError, match=r"bio\.zip: cannot be read as a zip file .*Fetch it again"):
        worldclim(path=archive).prepare(tmp_path / "cache")
    assert contents(tmp_path / "cache") == {}


def test_a_checksum_is_demanded_of_a_path_that_was_prepared_without_one(bil_archive: Path, tmp_path: Path) -> None:
    worldclim(path=bil_archive).prepare(tmp_path)
    with pytest.raises(DataError, match=f"expected {'0' * 64}"):
        worldclim(path=bil_archive, sha256="0" * 64).load(0, tmp_path)


def test_the_same_layer_twice_is_refused(bil_folder: Path, tmp_path: Path) -> None:
    archive = zipped(bil_folder, tmp_path / "bio.zip")
    with zipfile.ZipFile(archive, "a") as content:
        content.write(bil_folder / "bio5.bil", "other/bio5.bil")
    with pytest.raises(DataError, match="holds BIO5 twice"):
        read_cells(archive, "1.4", "10m")


def test_a_layer_without_its_header_or_with_missing_bytes_is_named(tmp_path: Path) -> None:
    folder = write_bil(tmp_path / "bil", layers())
    (folder / "bio8.hdr").unlink()
    with pytest.raises(DataError, match=r"the layer bio8\.bil cannot be read"):
        worldclim(path=folder).prepare(tmp_path / "cache")
    folder = write_geotiff(tmp_path / "tif", layers())
    layer = folder / "wc2.1_10m_bio_2.tif"
    layer.write_bytes(layer.read_bytes()[:-5000])
    with pytest.raises(DataError, match=r"the layer wc2\.1_10m_bio_2\.tif cannot be read"):
        worldclim(path=folder, version="2.1").prepare(tmp_path / "cache")


def test_a_layer_that_is_not_georeferenced_is_refused(tmp_path: Path) -> None:
    folder = write_bil(tmp_path / "bil", layers())
    header = folder / "bio1.hdr"
    lines = header.read_text().splitlines()
    header.write_text("\n".join(line for line in lines if line[:2] not in ("UL", "XD", "YD")))
    with pytest.raises(DataError, match=r"bio1\.bil cannot be read .*georeferenced"):
        worldclim(path=folder).prepare(tmp_path / "cache")


def test_a_path_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    dataset = worldclim(path=tmp_path / "nowhere.zip")
    assert not dataset.is_prepared(tmp_path)
    with pytest.raises(DataError, match=r"nowhere\.zip: does not exist, expected an archive"):
        dataset.prepare(tmp_path)
    with pytest.raises(DataError, match="Call prepare first"):
        dataset.load(0, tmp_path)


def test_damaged_cells_say_that_they_must_be_prepared_again(bil_archive: Path, tmp_path: Path) -> None:
    dataset = worldclim(path=bil_archive)
    dataset.prepare(tmp_path)
    (cells,) = tmp_path.glob("*.npz")
    cells.write_bytes(cells.read_bytes()[:2000])
    with pytest.raises(DataError, match="Delete the file and prepare again"):
        dataset.load(0, tmp_path)


def test_cells_appear_in_the_cache_only_when_they_are_complete(
    bil_archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(file: Any, **_: Any) -> None:
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(OSError, match="disk full"):
        worldclim(path=bil_archive).prepare(tmp_path)
    assert contents(tmp_path) == {}


# Blocks, splits, sampling


@pytest.mark.parametrize("block_km", [500.0, 300.0, 2000.0])
def test_blocks_have_equal_areas_of_the_stated_side(block_km: float) -> None:
    count = 200_000
    index = np.arange(count) + 0.5
    latitude = np.degrees(np.arcsin(1.0 - 2.0 * index / count))
    longitude = np.mod(360.0 * index * (np.sqrt(5.0) - 1.0) / 2.0, 360.0) - 180.0
    points = np.bincount(spatial_blocks(latitude, longitude, block_km))
    blocks = int(blocks_per_band(block_km).sum())
    assert len(points) == blocks
    assert np.abs(points / points.mean() - 1.0).max() < 6.0 / np.sqrt(points.mean())
    assert 4.0 * np.pi * EARTH_RADIUS_KM**2 / blocks == pytest.approx(block_km**2, rel=0.02)


def test_a_block_is_about_as_high_as_it_is_wide() -> None:
    counts = blocks_per_band(500.0)
    edges = np.arcsin(np.clip(-1.0 + 2.0 * np.concatenate([[0], np.cumsum(counts)]) / counts.sum(), -1.0, 1.0))
    height = EARTH_RADIUS_KM * np.diff(edges)[3:-3]
    width = 2.0 * np.pi * EARTH_RADIUS_KM * np.cos((edges[1:] + edges[:-1]) / 2)[3:-3] / counts[3:-3]
    np.testing.assert_allclose(height, 500.0, rtol=0.1)
    np.testing.assert_allclose(width, 500.0, rtol=0.1)
    np.testing.assert_array_equal(counts, counts[::-1])


def test_the_two_sides_of_the_date_line_and_the_poles_are_in_blocks() -> None:
    latitude = np.array([-90.0, 90.0, 0.0, 0.0, 0.0])
    longitude = np.array([0.0, 0.0, -180.0, 180.0, 179.999])
    blocks = spatial_blocks(latitude, longitude, 500.0)
    assert blocks[0] >= 0
    assert blocks[1] == blocks_per_band(500.0).sum() - 2
    assert blocks[2] == blocks[3] != blocks[4]


def test_a_split_never_shares_a_block_and_no_cell_is_lost(bil_archive: Path) -> None:
    cells = read_cells(bil_archive, "1.4", "10m")
    blocks = spatial_blocks(cells.latitude, cells.longitude, 100.0)
    parts = split_by_block(blocks, cells.area, 5000, np.random.default_rng(1))
    owned = [set(blocks[parts[name]]) for name in SPLITS]
    assert len(set.union(*owned)) == sum(len(names) for names in owned)
    np.testing.assert_array_equal(np.sort(np.concatenate([parts[name] for name in SPLITS])), np.arange(len(blocks)))
    largest = np.bincount(blocks).max()
    assert 5000 <= len(parts["train"]) < 5000 + largest
    validation, test = (cells.area[parts[name]].sum() for name in SPLITS[1:])
    assert abs(validation - test) <= largest * cells.area.max()


def test_train_leaves_a_tenth_of_the_cells_when_its_target_is_larger_than_the_data() -> None:
    blocks = np.repeat(np.arange(100), 7)
    parts = split_by_block(blocks, np.ones(700), 10**6, np.random.default_rng(0))
    assert [len(parts[name]) for name in SPLITS] == [630, 35, 35]


@pytest.mark.parametrize(("blocks", "possible"), [(2, False), (3, True)])
def test_three_blocks_are_the_fewest_that_can_be_split(blocks: int, possible: bool) -> None:
    member = np.repeat(np.arange(blocks), 5)
    if possible:
        parts = split_by_block(member, np.ones(len(member)), 1000, np.random.default_rng(0))
        assert [len(parts[name]) for name in SPLITS] == [5, 5, 5]
    else:
        with pytest.raises(DataError, match=r"lie in 2 block\(s\), expected at least 3.* Lower block_km"):
            split_by_block(member, np.ones(len(member)), 1000, np.random.default_rng(0))


def test_the_number_of_copies_is_the_expected_one_rounded_up_or_down() -> None:
    area = np.random.default_rng(3).uniform(0.05, 1.0, size=400)
    expected = 500 * area / area.sum()
    copies = np.array(
        [np.bincount(systematic_sample(area, 500, np.random.default_rng(seed)), minlength=400) for seed in range(2000)]
    )
    assert (copies.sum(axis=1) == 500).all()
    assert (np.abs(copies - expected) < 1.0).all()
    np.testing.assert_allclose(copies.mean(axis=0), expected, atol=0.06)


def test_drawing_by_area_and_weighting_by_area_have_the_same_moments(
    tmp_path: Path,
) -> None:
    values = np.tile(layers(), (1, 5, 1))
    values[0] = np.where(values[0] == -9999, -9999, (np.arange(5 * ROWS) * 10)[:, None])
    folder = write_bil(tmp_path / "bil", values)
    drawn, weighted, plain = (worldclim(path=folder, sampling=sampling) for sampling in ("area", "weights", "all"))
    drawn.prepare(tmp_path)
    for name in SPLITS:
        area, weights, every = (getattr(d.load(0, tmp_path), name) for d in (drawn, weighted, plain))
        mean = np.average(weights.values[:, 0], weights=weights.weights)
        assert area.weights is None
        assert every.weights is None
        assert weights.weights.mean() == pytest.approx(1.0, abs=1e-6)
        assert area.values[:, 0].mean() == pytest.approx(mean, abs=0.2)
        assert abs(every.values[:, 0].mean() - mean) > 2.0
        assert len(area.values) == len(weights.values) == len(every.values)


def test_the_seed_alone_decides_the_split(bil_archive: Path, tmp_path: Path) -> None:
    dataset = worldclim(path=bil_archive)
    dataset.prepare(tmp_path / "one")
    dataset.prepare(tmp_path / "two")
    first, again, other = (
        dataset.load(5, tmp_path / "one"),
        dataset.load(5, tmp_path / "two"),
        dataset.load(6, tmp_path / "one"),
    )
    for name in SPLITS:
        np.testing.assert_array_equal(getattr(first, name).values, getattr(again, name).values)
    assert first.train.values.shape != other.train.values.shape or (first.train.values != other.train.values).any()


def test_sample_limits_are_kept(bil_archive: Path, tmp_path: Path) -> None:
    for sampling in ("area", "weights", "all"):
        dataset = worldclim(
            path=bil_archive, sampling=sampling, train_cells=3000, train_samples=3000, evaluation_samples=500
        )
        dataset.prepare(tmp_path)
        data = dataset.load(0, tmp_path)
        assert [len(getattr(data, name).values) for name in SPLITS] == [3000, 500, 500]


def test_a_small_sample_of_train_comes_from_as_many_blocks_as_a_large_one(bil_archive: Path, tmp_path: Path) -> None:
    for samples in (500, 3000):
        dataset = worldclim(path=bil_archive, train_samples=samples)
        dataset.prepare(tmp_path)
        blocks = dataset.load(0, tmp_path).notes["blocks"]
        assert blocks == worldclim(path=bil_archive).load(0, tmp_path).notes["blocks"]


def test_no_split_holds_a_cell_of_another(bil_archive: Path, tmp_path: Path) -> None:
    dataset = worldclim(path=bil_archive, sampling="all")
    dataset.prepare(tmp_path)
    data = dataset.load(0, tmp_path)
    rows = np.concatenate([data.train.values, data.validation.values, data.test.values])
    assert len(np.unique(rows, axis=0)) == len(rows) == len(dataset.cells(tmp_path).values)


# What travels with the data


def test_the_data_say_where_they_come_from(bil_archive: Path, tif_archive: Path, tmp_path: Path) -> None:
    for version, archive, author in (("1.4", bil_archive, "Hijmans"), ("2.1", tif_archive, "Fick")):
        dataset = worldclim(path=archive, version=version)
        dataset.prepare(tmp_path)
        data = dataset.load(0, tmp_path)
        assert author in data.citation
        assert "non-commercial" in data.licence
        assert data.revision == f"WorldClim {version}, 10m, archive sha256:{sha256_of(archive)}"
        assert data.feature_names == tuple(f"BIO{number}" for number in range(1, 20))
        assert data.scaling == "per-feature"
        assert data.notes["valid cells"] == sum(data.notes["cells"].values())
        assert data.train.values.dtype == np.float32


def test_cells_survive_being_saved(tmp_path: Path) -> None:
    cells = Cells(np.ones((3, 2), np.float32), np.arange(3.0), np.arange(3.0) - 1, (4, 19))
    cells.save(tmp_path / "cells.npz")
    loaded = Cells.load(tmp_path / "cells.npz")
    np.testing.assert_array_equal(loaded.longitude, cells.longitude)
    np.testing.assert_array_equal(loaded.values, cells.values)
    assert loaded.variables == (4, 19)


@pytest.mark.parametrize(
    ("version", "resolution", "ending"),
    [
        ("2.1", "10m", "2_1/base/wc2.1_10m_bio.zip"),
        ("2.1", "2.5m", "2_1/base/wc2.1_2.5m_bio.zip"),
        ("1.4", "10m", "1_4/grid/cur/bio_10m_bil.zip"),
        ("1.4", "2.5m", "1_4/grid/cur/bio_2-5m_bil.zip"),
    ],
)
def test_every_version_and_resolution_has_its_address(version: str, resolution: str, ending: str) -> None:
    assert worldclim(version=version, resolution=resolution).parameters.source_url.endswith(ending)


@pytest.mark.parametrize(
    "wrong",
    [
        {"variables": (0, 1)},
        {"variables": ()},
        {"variables": (3, 3)},
        {"path": "a.zip", "url": "https://example.org/a.zip"},
        {"url": "file:///etc/passwd"},
        {"block_km": 0.0},
    ],
)
def test_parameters_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        worldclim(**wrong)


# The real archive


def real_archive() -> Path:
    default = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "bio_10m_bil.zip"
    archive = Path(os.environ.get("COLLAPSEBENCH_WORLDCLIM", default))
    if not archive.exists():
        pytest.skip("needs WorldClim 1.4 at 10 arc-minutes: set COLLAPSEBENCH_WORLDCLIM to bio_10m_bil.zip")
    return archive


def test_pca_of_worldclim_1_4_is_the_published_one() -> None:
    cells = read_cells(real_archive(), "1.4", "10m")
    values = cells.values.astype(np.float64)
    standard = (values - values.mean(axis=0)) / values.std(axis=0)
    eigenvalues = np.linalg.eigvalsh(standard.T @ standard / len(standard))[::-1] / 19
    residual = 1.0 - np.cumsum(eigenvalues)
    ranks = [1 + int(np.argmax(residual <= tolerance)) for tolerance in (5e-2, 1e-2, 5e-3, 1e-3, 1e-4, 1e-5)]
    assert len(values) == 584_521
    np.testing.assert_allclose(eigenvalues[:4], [0.521846, 0.255571, 0.072220, 0.055175], atol=1e-6)
    assert ranks == [6, 9, 10, 12, 16, 17]
    assert (eigenvalues > 1e-10).sum() == 18


def test_worldclim_1_4_meets_the_target_of_the_depth_protocol(tmp_path: Path) -> None:
    dataset = WorldClim(WorldClimParameters(version="1.4", path=real_archive()))
    dataset.prepare(tmp_path)
    data = dataset.load(0, tmp_path)
    assert data.train.values.shape == (500_000, 19)
    assert min(data.notes["blocks"].values()) > 50
    assert len(data.validation.values) == pytest.approx(len(data.test.values), rel=0.1)
    assert -30 < data.train.values[:, 0].min() < data.train.values[:, 0].max() < 35


def test_prepared_cells_are_read_without_the_layers_and_without_a_raster_library(
    bil_archive: Path, tmp_path: Path
) -> None:
    """A sample of an archive's cells by the documented command, loaded by a process that cannot import rasterio."""
    target, cache = tmp_path / "cells.npz", tmp_path / "cache"
    command = [sys.executable, "-m", "collapsebench_datasets.worldclim_cells", str(bil_archive), str(target)]
    subprocess.run([*command, "--version", "1.4", "--cells", "400"], check=True, capture_output=True)
    program = (
        "import sys; sys.modules['rasterio'] = None\n"
        "from pathlib import Path\n"
        "from collapsebench_datasets.worldclim import WorldClim\n"
        "from collapsebench_datasets.worldclim_parameters import WorldClimParameters\n"
        f"data = WorldClim(WorldClimParameters(version='1.4', path={str(target)!r}))\n"
        f"data.prepare(Path({str(cache)!r}))\n"
        f"print(data.load(0, Path({str(cache)!r})).revision)\n"
    )
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert "WorldClim 1.4, 10m, 400 of" in said
    whole, cells = read_cells(bil_archive, "1.4", "10m"), Cells.load(target)
    where = zip(whole.latitude, whole.longitude, strict=True)
    places = dict(zip(where, whole.values.tolist(), strict=True))
    found = zip(cells.latitude, cells.longitude, cells.values.tolist(), strict=True)
    assert len(cells.values) == 400
    assert all(places[latitude, longitude] == values for latitude, longitude, values in found)


@pytest.mark.parametrize(
    ("changes", "message"), [({"version": "2.1"}, "WorldClim 1.4"), ({"variables": (1, 7)}, "BIO")]
)
def test_prepared_cells_of_something_else_are_refused(
    changes: dict[str, Any], message: str, bil_archive: Path, tmp_path: Path
) -> None:
    target = tmp_path / "cells.npz"
    read_cells(bil_archive, "1.4", "10m", (1, 2)).save(target)
    with pytest.raises(DataError, match=message):
        worldclim(**{"version": "1.4", "path": target, **changes}).prepare(tmp_path / "cache")
