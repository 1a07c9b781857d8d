"""Datasets published as four IDX files: from a folder of these, or from the Hub, always the same bytes."""

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
    """What is known of a dataset in advance.

    repository, revision: where the Hub has it. sha256: of the unpacked IDX files, by name.
    """

    id: str
    repository: str
    revision: str
    sha256: Mapping[str, str]
    licence: str
    citation: str


class OriginalImages(Dataset[OriginalParameters]):
    """Images `(1, rows, columns)`, grey levels 0 to 255, with one scale for all pixels.

    The official test split is the test split; the seed cuts validation from the official train split. Wherever the
    images come from, their checksum must be that of the original.
    """

    original: ClassVar[Original]

    def prepare(self, cache: Path) -> None:
        """Read the folder, or fetch the images from the Hub, and keep them in `cache`."""
        if self.is_prepared(cache):
            return
        own = self.original
        for split, images in self._images().items():
            keep_split(self._folder(cache), split, images, own.revision)
        keep_about(self._folder(cache), {"sha256": dict(own.sha256)})

    def is_prepared(self, cache: Path) -> bool:
        """Return whether the images are in `cache`, wherever they came from."""
        return is_complete(self._folder(cache))

    def load(self, seed: int, cache: Path) -> Data:
        """Return the three splits, to be scaled by one number."""
        own, folder = self.original, self._folder(cache)
        if not self.is_prepared(cache):
            raise DataError(f"dataset '{own.id}': {folder} is not there. Prepare the data of the suite first.")
        found = {split: read_split(folder, split, own.id) for split in IMAGES}
        splits = divide(found, seed, self.parameters, own.id)
        return Data(
            train=splits["train"],
            validation=splits["validation"],
            test=splits["test"],
            feature_names=feature_names(found["train"].shape[1:]),
            scaling="global",
            revision=f"IDX files, SHA-256 {own.sha256.get(IMAGES['train'], '')[:16]}",
            licence=own.licence,
            citation=own.citation,
            notes={"source samples": {split: len(images) for split, images in found.items()}},
        )

    def _images(self) -> dict[SplitName, Bytes]:
        """Return the images of the train and of the test split, verified."""
        own, path = self.original, self.parameters.path
        if path is not None and has_idx_files(path):
            return read_original(path, own.id, own.sha256)
        if path is not None and not any(path.rglob("*.parquet")):
            raise DataError(
                f"dataset '{own.id}': found neither IDX nor Parquet files in {path}, expected a folder with "
                f"{', '.join((*IMAGES.values(), *LABELS.values()))} (.gz or not). Correct path."
            )
        place = {"name": own.repository, "revision": own.revision} if path is None else {"path": path}
        wanted = HuggingFaceParameters.model_validate(
            {**place, "column": "image", "colour": "grey", "test_split": "test"}
        )
        source = open_source(wanted, own.id)
        images = {split: read_samples(source, split, wanted) for split in source.splits}
        for split, found in images.items():
            what = f"dataset '{own.id}', split {split}: {path or own.repository}"
            check_sha256(idx_sha256(found), own.sha256.get(IMAGES[split]), what)
        return images

    def _folder(self, cache: Path) -> Path:
        return cache / f"{self.original.id}-{self.original.revision[:12]}"
