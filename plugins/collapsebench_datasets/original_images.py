"""Datasets that were published as four IDX files, read from a folder or from the Hub; both give the same bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from collapsebench import Data, DataError, Dataset, SplitName
from collapsebench_datasets.idx_files import (
    IMAGES,
    LABELS,
    Bytes,
    check_sha256,
    has_idx_files,
    idx_sha256,
    read_original,
)
from collapsebench_datasets.image_parameters import HuggingFaceParameters, OriginalParameters
from collapsebench_datasets.sample_cache import is_complete, keep_about, keep_split, read_split
from collapsebench_datasets.sample_source import open_source, read_samples
from collapsebench_datasets.sample_splits import divide, feature_names


@dataclass(frozen=True)
class Original:
    """The source of a dataset.

    repository, revision: its place on the Hub. sha256: checksums of the unpacked IDX files, by name.
    """

    id: str
    repository: str
    revision: str
    sha256: Mapping[str, str]
    licence: str
    citation: str


class OriginalImages(Dataset[OriginalParameters]):
    """Images `(1, rows, columns)`, grey levels 0 to 255, with one scale for all pixels.

    The test split is the official one; the seed cuts the validation split from the official train split. From either
    source, the images must have the checksum of the original.
    """

    original: ClassVar[Original]

    def prepare(self, cache: Path) -> None:
        """Read the folder, or fetch the images from the Hub, and store them in `cache`."""
        if self.is_prepared(cache):
            return
        original = self.original
        for split, images in self._images().items():
            keep_split(self._folder(cache), split, images, original.revision)
        keep_about(self._folder(cache), {"sha256": dict(original.sha256)})

    def is_prepared(self, cache: Path) -> bool:
        """Return whether the images are in `cache`, from either source."""
        return is_complete(self._folder(cache))

    def load(self, seed: int, cache: Path) -> Data:
        """Return the three splits, to be scaled by one number."""
        original, folder = self.original, self._folder(cache)
        if not self.is_prepared(cache):
            raise DataError(f"dataset '{original.id}': {folder} is not there. Prepare the data of the suite first.")
        loaded = {split: read_split(folder, split, original.id) for split in IMAGES}
        splits = divide(loaded, seed, self.parameters, original.id)
        return Data(
            train=splits["train"],
            validation=splits["validation"],
            test=splits["test"],
            feature_names=feature_names(loaded["train"].shape[1:]),
            scaling="global",
            revision=f"IDX files, SHA-256 {original.sha256.get(IMAGES['train'], '')[:16]}",
            licence=original.licence,
            citation=original.citation,
            notes={"source samples": {split: len(images) for split, images in loaded.items()}},
        )

    def _images(self) -> dict[SplitName, Bytes]:
        """Return the images of the train and of the test split, verified."""
        original, path = self.original, self.parameters.path
        if path is not None and has_idx_files(path):
            return read_original(path, original.id, original.sha256)
        if path is not None and not any(path.rglob("*.parquet")):
            raise DataError(
                f"dataset '{original.id}': found neither IDX nor Parquet files in {path}, expected a folder with "
                f"{', '.join((*IMAGES.values(), *LABELS.values()))} (.gz or not). Correct path."
            )
        place = {"name": original.repository, "revision": original.revision} if path is None else {"path": path}
        wanted = HuggingFaceParameters.model_validate(
            {**place, "column": "image", "colour": "grey", "test_split": "test"}
        )
        source = open_source(wanted, original.id)
        images = {split: read_samples(source, split, wanted) for split in source.splits}
        for split, pixels in images.items():
            what = f"dataset '{original.id}', split {split}: {path or original.repository}"
            check_sha256(idx_sha256(pixels), original.sha256.get(IMAGES[split]), what)
        return images

    def _folder(self, cache: Path) -> Path:
        return cache / f"{self.original.id}-{self.original.revision[:12]}"
