"""IDX files: read as they were written, from the original folder or any copy, and refused with a reason."""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from collapsebench.contracts import SPLITS
from collapsebench.data.standardise import standardise
from collapsebench.errors import DataError
from collapsebench_datasets.fashion_mnist import FashionMnist
from collapsebench_datasets.idx_files import IMAGES, LABELS, idx_sha256, read_original
from collapsebench_datasets.image_parameters import OriginalParameters
from collapsebench_datasets.mnist import Mnist
from collapsebench_datasets.original_images import Original, OriginalImages

REAL = Path(os.environ.get("COLLAPSEBENCH_FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))
needs_real = pytest.mark.skipif(
    not (REAL / "train-images-idx3-ubyte.gz").exists(),
    reason="Fashion-MNIST is not here: install Debian's dataset-fashion-mnist or set COLLAPSEBENCH_FASHION_MNIST",
)
COUNTS = {"train": 40, "test": 12}


def idx(array):
    """Return an array of bytes as the content of an IDX file."""
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def pixels(seed=0, side=6):
    """Return small grey images, split by split."""
    draw = np.random.default_rng(seed)
    return {split: draw.integers(0, 256, (count, side, side), dtype=np.uint8) for split, count in COUNTS.items()}


def write(folder, images, packed=True):
    """Write the four files of a dataset."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, values in images.items():
        labels = np.zeros(len(values), dtype=np.uint8)
        for name, array in ((IMAGES[split], values), (LABELS[split], labels)):
            content = idx(array)
            path = folder / (f"{name}.gz" if packed else name)
            path.write_bytes(gzip.compress(content, mtime=0) if packed else content)
    return folder


def original_of(images, id="small-mnist"):
    """Return what would be known in advance of a dataset that consists of `images`."""
    sums = {IMAGES[split]: hashlib.sha256(idx(values)).hexdigest() for split, values in images.items()}
    for split, values in images.items():
        sums[LABELS[split]] = hashlib.sha256(idx(np.zeros(len(values), dtype=np.uint8))).hexdigest()
    return Original(id, "someone/small_mnist", "0" * 40, sums, "CC0-1.0", "Nobody (2026).")


def small(images, **parameters):
    """Return a dataset like the presets, whose original is `images`."""

    class Small(OriginalImages):
        original = original_of(images)

    return Small(OriginalParameters(**parameters))


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "idx", pixels())


@pytest.mark.parametrize("packed", [True, False])
def test_the_images_are_the_bytes_that_were_written(tmp_path, packed):
    images = pixels()
    found = read_original(write(tmp_path, images, packed), "small", {})
    for split, values in images.items():
        assert np.array_equal(found[split], values[:, None])
        assert idx_sha256(found[split]) == hashlib.sha256(idx(values)).hexdigest()


def test_names_with_a_point_in_place_of_the_hyphen_are_the_same_files(folder):
    before = read_original(folder, "small", {})
    for path in list(folder.iterdir()):
        path.rename(path.with_name(path.name.replace("-idx", ".idx")))
    after = read_original(folder, "small", {})
    assert all(np.array_equal(before[split], after[split]) for split in before)


def test_official_test_images_stay_the_test_split_and_the_seed_cuts_validation_from_train(folder, tmp_path):
    images = pixels()
    made = small(images, path=folder, validation_share=0.25)
    made.prepare(tmp_path / "cache")
    one, other = (made.load(seed, tmp_path / "cache") for seed in (0, 1))
    for data in (one, other):
        sizes = [len(getattr(data, name).values) for name in SPLITS]
        assert sizes == [30, 10, 12]
        assert sorted(map(bytes, data.test.values)) == sorted(map(bytes, images["test"].astype(np.float32)))
        together = np.concatenate([data.train.values, data.validation.values])
        assert sorted(map(bytes, together)) == sorted(map(bytes, images["train"].astype(np.float32)))
    assert not np.array_equal(one.validation.values, other.validation.values)
    assert (one.licence, one.citation, one.scaling) == ("CC0-1.0", "Nobody (2026).", "global")
    assert one.train.values.shape[1:] == (1, 6, 6)
    assert one.feature_names[:7] == (*(f"pixel 0,{column}" for column in range(6)), "pixel 1,0")


def test_sizes_are_bounded_as_asked_for_by_taking_fewer_of_the_same_split(folder, tmp_path):
    images = pixels()
    whole, bounded = small(images, path=folder), small(images, path=folder, train_samples=7, evaluation_samples=3)
    whole.prepare(tmp_path)
    assert bounded.is_prepared(tmp_path)
    few, all_of_them = bounded.load(0, tmp_path), whole.load(0, tmp_path)
    assert [len(getattr(few, name).values) for name in SPLITS] == [7, 3, 3]
    for name in SPLITS:
        part = getattr(few, name).values
        assert np.array_equal(part, getattr(all_of_them, name).values[: len(part)])


def test_once_prepared_the_folder_is_not_needed(folder, tmp_path):
    images = pixels()
    made = small(images, path=folder)
    made.prepare(tmp_path / "cache")
    before = made.load(0, tmp_path / "cache")
    for path in folder.iterdir():
        path.unlink()
    made.prepare(tmp_path / "cache")
    after = small(images).load(0, tmp_path / "cache")
    assert np.array_equal(before.train.values, after.train.values)


def test_a_cache_that_was_altered_is_refused(folder, tmp_path):
    made = small(pixels(), path=folder)
    made.prepare(tmp_path / "cache")
    (stored,) = (tmp_path / "cache").rglob("train.npy")
    content = bytearray(stored.read_bytes())
    content[-1] ^= 1
    stored.write_bytes(content)
    with pytest.raises(DataError, match=r"dataset 'small-mnist', split train: the SHA-256 of .*train.npy is .*Delete"):
        made.load(0, tmp_path / "cache")


def altered(folder, name, change):
    path = folder / f"{name}.gz"
    path.write_bytes(change(path.read_bytes()))


def repacked(change):
    return lambda content: gzip.compress(change(gzip.decompress(content)))


BAD = {
    "missing": (lambda folder: (folder / "t10k-labels-idx1-ubyte.gz").unlink(), r"found no t10k-labels-idx1-ubyte, ex"),
    "magic": (
        lambda folder: altered(folder, IMAGES["test"], repacked(lambda c: b"\0\0\x0d\x03" + c[4:])),
        r"split test: .* begins with 0x00000d03, expected 0x00000803",
    ),
    "empty": (lambda folder: altered(folder, IMAGES["test"], repacked(lambda c: b"")), "begins with 0x nothing, exp"),
    "cut off": (
        lambda folder: altered(folder, IMAGES["train"], repacked(lambda c: c[:-7])),
        r"split train: .* declares 40 x 6 x 6 = 1440 bytes and holds 1433",
    ),
    "archive cut off": (lambda folder: altered(folder, IMAGES["train"], lambda c: c[:-20]), "cannot be unpacked"),
    "no archive": (
        lambda folder: altered(folder, IMAGES["train"], lambda c: b"text"),
        r"unpacked \(Not a gz",
    ),
    "other content": (
        lambda folder: altered(folder, IMAGES["train"], repacked(lambda c: c[:-1] + bytes([c[-1] ^ 1]))),
        r"split train: .*: the SHA-256 of its content is [0-9a-f]{64}, expected [0-9a-f]{64}, that of the original",
    ),
    "other label": (
        lambda folder: altered(folder, LABELS["test"], repacked(lambda c: c[:-1] + b"\x05")),
        r"split test: .*t10k-labels-idx1-ubyte.gz: the SHA-256 of its content is [0-9a-f]{64}, expected",
    ),
    "number of labels": (
        lambda folder: altered(folder, LABELS["test"], repacked(lambda c: idx(np.zeros(11, dtype=np.uint8)))),
        r"split test: .*t10k-labels-idx1-ubyte.gz: the SHA-256 of its content",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_with_its_dataset_split_and_place(folder, tmp_path, name):
    spoil, message = BAD[name]
    spoil(folder)
    with pytest.raises(DataError, match=message) as raised:
        small(pixels(), path=folder).prepare(tmp_path / "cache")
    assert "'small-mnist'" in str(raised.value)
    assert str(folder) in str(raised.value)
    assert not small(pixels()).is_prepared(tmp_path / "cache")


def test_a_folder_of_unknown_origin_must_have_one_label_an_image(folder):
    altered(folder, LABELS["test"], repacked(lambda content: idx(np.zeros(11, dtype=np.uint8))))
    with pytest.raises(DataError, match=r"dataset 'mine', split test: .* holds 12 images and 11 labels, expected one"):
        read_original(folder, "mine", {})


@pytest.mark.parametrize("preset", [Mnist, FashionMnist])
def test_the_presets_pin_a_commit_and_four_checksums_and_carry_licence_and_citation(preset):
    own = preset.original
    assert len(own.revision) == 40
    assert set(own.sha256) == {*IMAGES.values(), *LABELS.values()}
    assert all(len(sha256) == 64 for sha256 in own.sha256.values())
    assert own.licence
    assert own.citation


@needs_real
def test_real_fashion_mnist_is_60000_and_10000_images_of_one_scale(tmp_path):
    made = FashionMnist(OriginalParameters(path=REAL, train_samples=2000, evaluation_samples=500))
    made.prepare(tmp_path)
    data = made.load(0, tmp_path)
    assert data.notes["source samples"] == {"train": 60_000, "test": 10_000}
    ready = standardise(data, "fashion-mnist")
    assert ready.shape == (1, 28, 28)
    # One scale for all: the variances keep their proportions, and their mean over the pixels that vary is 1.
    variance = data.train.values.astype(np.float64).var(0).ravel()
    assert np.diag(ready.second_moments["train"]) == pytest.approx(variance / variance[variance > 0].mean(), abs=1e-5)
