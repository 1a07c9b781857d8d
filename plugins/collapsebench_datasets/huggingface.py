"""Any dataset of the Hub, or of local Parquet, Arrow or image files, read with the package `datasets`."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from collapsebench import SPLITS, Data, DataError, Dataset
from collapsebench_datasets.image_parameters import Division, HuggingFaceParameters
from collapsebench_datasets.sample_cache import (
    has_split,
    is_complete,
    keep_about,
    keep_split,
    read_about,
    read_split,
)
from collapsebench_datasets.sample_source import local_revision, open_source, read_samples
from collapsebench_datasets.sample_splits import divide, feature_names

_ID = "huggingface"
_LAYOUT = 1


class HuggingFace(Dataset[HuggingFaceParameters]):
    """Images `(channels, rows, columns)` with grey levels 0 to 255, or arrays of numbers, from one column.

    `prepare` reads the column once and stores it, decoded, in the cache, split by split, each with its SHA-256; if it
    is interrupted, it continues with the next split. The source's own splits keep their role; a split that it lacks is
    cut from its train split by the seed.
    """

    def prepare(self, cache: Path) -> None:
        """Read the column of every split and keep it in `cache`."""
        settings = self.parameters
        if self.is_prepared(cache):
            return
        source = open_source(settings, _ID)
        folder = self._folder(cache)
        for role in source.splits:
            if not has_split(folder, role, source.revision):
                keep_split(folder, role, read_samples(source, role, settings), source.revision)
        keep_about(
            folder,
            {
                "splits": list(source.splits),
                "is_image": source.is_image,
                "column": source.column,
                "revision": source.revision,
                "licence": source.licence,
                "citation": source.citation,
            },
        )

    def is_prepared(self, cache: Path) -> bool:
        """Return whether the data that these parameters select are in `cache`."""
        path = self.parameters.path
        return (path is None or path.exists()) and is_complete(self._folder(cache))

    def load(self, seed: int, cache: Path) -> Data:
        """Return the three splits."""
        settings, folder = self.parameters, self._folder(cache)
        if not self.is_prepared(cache):
            raise DataError(
                f"dataset '{_ID}' ({settings.name or settings.path}): is not prepared. Prepare the data of the suite "
                "first."
            )
        about = read_about(folder)
        loaded = {role: read_split(folder, role, _ID) for role in SPLITS if role in about["splits"]}
        shapes = {role: values.shape[1:] for role, values in loaded.items()}
        if len(set(shapes.values())) > 1:
            raise DataError(
                f"dataset '{_ID}' ({settings.name or settings.path}): found samples of shape {shapes}, expected one "
                "shape for all splits. Set size and fit, or colour."
            )
        splits = divide(loaded, seed, settings, _ID, settings.test_share)
        return Data(
            train=splits["train"],
            validation=splits["validation"],
            test=splits["test"],
            feature_names=feature_names(shapes["train"]),
            scaling=settings.scaling or ("global" if about["is_image"] else "per-feature"),
            revision=about["revision"],
            licence=about["licence"],
            citation=about["citation"],
            notes={"column": about["column"], "source samples": {role: len(loaded[role]) for role in loaded}},
        )

    def _folder(self, cache: Path) -> Path:
        settings = self.parameters
        # Samples are divided among the splits at every load; all other parameters decide what is stored.
        decides = settings.model_dump(mode="json", exclude={*Division.model_fields, "path", "test_share", "scaling"})
        if settings.path is not None and settings.path.exists():
            decides["content"] = local_revision(settings.path)
        text = json.dumps({"layout": _LAYOUT, **decides}, sort_keys=True)
        name = re.sub(r"[^\w.-]", "-", str(settings.name if settings.path is None else settings.path.name))
        return cache / f"{_ID}-{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
