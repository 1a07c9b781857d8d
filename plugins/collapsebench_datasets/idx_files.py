"""Read the IDX files in which MNIST and similar datasets were published: a magic number, the sizes, then bytes.

The magic number is two zero bytes, the type (8: unsigned byte) and the number of dimensions; sizes are 32 bits, the
highest byte first. Source: Y. LeCun, C. Cortes, C. J. C. Burges, The MNIST database of handwritten digits.
"""

from __future__ import annotations

import gzip
import hashlib
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from collapsebench import DataError, SplitName

Bytes = NDArray[np.uint8]

IMAGES: dict[SplitName, str] = {"train": "train-images-idx3-ubyte", "test": "t10k-images-idx3-ubyte"}
LABELS: dict[SplitName, str] = {"train": "train-labels-idx1-ubyte", "test": "t10k-labels-idx1-ubyte"}

_UNSIGNED_BYTE = 8


def has_idx_files(folder: Path) -> bool:
    """Return whether a folder holds at least one of the four files."""
    return any(_variants(folder, name) for name in (*IMAGES.values(), *LABELS.values()))


def read_original(folder: Path, dataset: str, sha256: Mapping[str, str]) -> dict[SplitName, Bytes]:
    """Return the images of the train and of the test split `(n, 1, rows, columns)`.

    All four files must be there, plain or gzipped, with as many labels as images. sha256: checksums of the unpacked
    files, by name; a file without one is not compared.
    """
    variants = {name: _variants(folder, name) for name in (*IMAGES.values(), *LABELS.values())}
    missing = [name for name, paths in variants.items() if not paths]
    if missing:
        raise DataError(
            f"{folder}: found no {', '.join(missing)}, expected the four files of dataset '{dataset}', "
            f"{', '.join(variants)}, each as it is or with .gz. Give the folder that holds them as path."
        )
    images: dict[SplitName, Bytes] = {}
    for split in IMAGES:
        where = f"dataset '{dataset}', split {split}"
        pixels = read_idx(variants[IMAGES[split]][0], 3, where, sha256.get(IMAGES[split]))
        labels = read_idx(variants[LABELS[split]][0], 1, where, sha256.get(LABELS[split]))
        if len(pixels) != len(labels):
            raise DataError(
                f"{where}: {folder} holds {len(pixels)} images and {len(labels)} labels, expected one label per image. "
                "Take the four files from one release."
            )
        images[split] = pixels[:, None]
    return images


def read_idx(path: Path, dimensions: int, where: str, sha256: str | None = None) -> Bytes:
    """Return the bytes of one file, in the shape that it declares; every message begins with `where`."""
    content = _unpacked(path, where)
    magic = bytes([0, 0, _UNSIGNED_BYTE, dimensions])
    header = 4 + 4 * dimensions
    if content[:4] != magic or len(content) < header:
        raise DataError(
            f"{where}: {path} begins with 0x{content[:4].hex() or ' nothing'}, expected 0x{magic.hex()}, unsigned "
            f"bytes in {dimensions} dimension{'s' * (dimensions > 1)}, and its sizes. Fetch the file again; it is no "
            "IDX file, or one of another kind."
        )
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    expected = int(np.prod(shape, dtype=object))
    if len(content) - header != expected:
        raise DataError(
            f"{where}: {path} declares {' x '.join(map(str, shape))} = {expected} bytes and holds "
            f"{len(content) - header}, expected as many as it declares. It was cut off or altered: fetch it again."
        )
    check_sha256(hashlib.sha256(content).hexdigest(), sha256, f"{where}: {path}")
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)


def idx_sha256(images: Bytes) -> str:
    """Return the SHA-256 that images `(n, 1, rows, columns)` would have as an unpacked IDX file."""
    n, _, rows, columns = images.shape
    digest = hashlib.sha256(bytes([0, 0, _UNSIGNED_BYTE, 3]) + struct.pack(">3I", n, rows, columns))
    digest.update(np.ascontiguousarray(images).data)
    return digest.hexdigest()


def check_sha256(actual: str, expected: str | None, what: str) -> None:
    """Raise a DataError unless a checksum is the expected one, or none is expected."""
    if expected not in (None, actual):
        raise DataError(
            f"{what}: the SHA-256 of its content is {actual}, expected {expected}, that of the original. The "
            "content differs from the original: fetch it again, or name other data with the dataset 'huggingface'."
        )


def _variants(folder: Path, name: str) -> list[Path]:
    # Some mirrors write a point where the original has a hyphen.
    other = name.replace("-idx", ".idx")
    candidates = [folder / f"{stem}{suffix}" for stem in (name, other) for suffix in ("", ".gz")]
    return [path for path in candidates if path.is_file()]


def _unpacked(path: Path, where: str) -> bytes:
    content = path.read_bytes()
    if path.suffix != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{where}: {path} cannot be unpacked ({error}), expected a complete gzip file. Fetch it again."
        ) from error
