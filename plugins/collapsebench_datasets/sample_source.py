"""Open a dataset of the Hub or of local files with the package `datasets`, and read one column of it.

Code in a repository is never run: `datasets` reads data files only.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collapsebench import DataError, SplitName
from collapsebench_datasets.image_decoding import decode_image, decode_numbers
from collapsebench_datasets.image_parameters import HuggingFaceParameters
from collapsebench_datasets.resumable_download import sha256_of

MOST_VALUES = 2**28
"""Numbers kept of one split: 256 MiB of pixels, 1 GiB once they are float32."""

_FILE_FORMATS = {".parquet": "parquet", ".pq": "parquet", ".arrow": "arrow", ".feather": "arrow"}
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Source:
    """A dataset that has been opened but not read.

    what: its name in messages. splits: the split of the source for each role. is_image: whether the column holds
    images. revision, licence, citation: as the dataset declares them, empty if it does not.
    """

    what: str
    splits: Mapping[SplitName, Any]
    column: str
    is_image: bool
    revision: str
    licence: str
    citation: str


def open_source(settings: HuggingFaceParameters, dataset: str) -> Source:
    """Open the dataset that the parameters name; only this and `read_samples` use the network.

    dataset: its id in messages.
    """
    what = f"dataset '{dataset}' ({settings.name or settings.path})"
    if settings.path is not None:
        opened, about = _open_local(settings.path, settings.config, what), {"revision": local_revision(settings.path)}
    else:
        about = _about_repository(settings, what)
        opened = _open_repository(settings, about["commit"], what)
    roles: dict[SplitName, str | None] = {
        "train": settings.train_split, "validation": settings.validation_split, "test": settings.test_split,
    }  # fmt: skip
    splits: dict[SplitName, Any] = {}
    for role, split in roles.items():
        if split is not None and split not in opened:
            raise DataError(
                f"{what}, split {role}: found no split '{split}', expected one of {', '.join(map(repr, opened))}. "
                f"Set {role}_split."
            )
        if split is not None:
            splits[role] = opened[split]
    first = splits["train"]
    features = first.features or first._resolve_features().features
    column, is_image = _column(features, settings.column, what)
    return Source(
        what=what,
        splits=splits,
        column=column,
        is_image=is_image,
        revision=about["revision"],
        licence=about.get("licence") or str(first.info.license or ""),
        citation=about.get("citation") or str(first.info.citation or "").strip(),
    )


def read_samples(source: Source, role: SplitName, settings: HuggingFaceParameters) -> NDArray[Any]:
    """Return the samples of a split: bytes `(n, channels, rows, columns)`, or float32 `(n, *shape)`."""
    where = f"{source.what}, split {role}"
    samples: list[NDArray[Any]] = []
    for index, cell in _mixed(enumerate(_cells(source, role, where)), settings.mixing, settings.max_samples):
        place = f"{where}, index {index}"
        sample = decode_image(cell, settings, place) if source.is_image else decode_numbers(cell, place)
        if samples and sample.shape != samples[0].shape:
            raise DataError(
                f"{place}: found shape {_shape(sample)}, expected {_shape(samples[0])} as before. "
                + ("Set size and fit, or colour." if source.is_image else "Choose another column.")
            )
        samples.append(sample)
        if len(samples) * sample.size > MOST_VALUES:
            raise DataError(
                f"{where}: found more than {MOST_VALUES:,} numbers ({len(samples):,} samples of {_shape(sample)}), "
                "expected fewer, so that they fit into memory. Set max_samples, or a smaller size."
            )
    if not samples:
        raise DataError(f"{where}: found no samples, expected at least 2. Choose another split or another source.")
    return np.stack(samples)


def local_revision(path: Path) -> str:
    """Return the name of a file or folder and the SHA-256 of its content, names of files included.

    It is computed anew only if a size or a time of change differs.
    """
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    stats = ((file, file.stat()) for file in files)
    return f"{path.name}, SHA-256 {_sha256(path, tuple((file, s.st_size, s.st_mtime_ns) for file, s in stats))[:16]}"


@lru_cache(maxsize=16)
def _sha256(path: Path, files: tuple[tuple[Path, int, int], ...]) -> str:
    if not path.is_dir():
        return sha256_of(path)
    digest = hashlib.sha256()
    for file, _, _ in files:
        digest.update(f"{file.relative_to(path).as_posix()} {sha256_of(file)}\n".encode())
    return digest.hexdigest()


def _about_repository(settings: HuggingFaceParameters, what: str) -> dict[str, str]:
    """Return the commit of a revision, the licence and the citation that the Hub shows for it."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled, RepositoryNotFoundError, RevisionNotFoundError

    pinned = settings.revision if settings.revision and _COMMIT.fullmatch(settings.revision) else None
    try:
        info = HfApi().dataset_info(str(settings.name), revision=settings.revision)
    except RevisionNotFoundError as error:
        raise DataError(
            f"{what}: found no revision '{settings.revision}', expected a commit, tag or branch of {settings.name} on "
            "the Hub. Correct revision, or leave it out for the main branch."
        ) from error
    except RepositoryNotFoundError as error:
        raise DataError(
            f"{what}: found no such dataset on the Hub, or it needs a login; expected OWNER/NAME of one that is "
            "public or yours. Correct name, or log in with `hf auth login`."
        ) from error
    except OfflineModeIsEnabled as error:
        if pinned is None:
            raise _unreachable(settings, what, error) from error
        return {"commit": pinned, "revision": f"{settings.name} at {pinned}"}
    except Exception as error:  # the exceptions of its transport change with its versions
        raise _unreachable(settings, what, error) from error
    licence = getattr(info.card_data, "license", None) or ""
    return {
        "commit": str(info.sha),
        "revision": f"{settings.name} at {info.sha}",
        "licence": licence if isinstance(licence, str) else ", ".join(licence),
        "citation": (getattr(info, "citation", None) or "").strip(),
    }


def _open_repository(settings: HuggingFaceParameters, commit: str, what: str) -> Mapping[str, Any]:
    datasets = _library()
    try:
        opened: Mapping[str, Any] = datasets.load_dataset(
            settings.name, settings.config, revision=commit, streaming=settings.max_samples is not None
        )
    except (ValueError, FileNotFoundError, datasets.exceptions.DatasetsError) as error:
        raise _unusable(what, error) from error
    except Exception as error:  # the exceptions of its transport change with its versions
        raise _unreachable(settings, what, error) from error
    return opened


def _open_local(path: Path, config: str | None, what: str) -> Mapping[str, Any]:
    datasets = _library()
    if not path.exists():
        raise DataError(
            f"{what}: {path} does not exist, expected a Parquet or Arrow file, or a folder of these or of images. "
            "Correct path."
        )
    try:
        if (path / "dataset_dict.json").is_file():
            return dict(datasets.load_from_disk(str(path)))
        if (path / "state.json").is_file():
            return {"train": datasets.load_from_disk(str(path))}
        if path.is_dir():
            return dict(datasets.load_dataset(str(path), config, streaming=True))
        if path.suffix.lower() not in _FILE_FORMATS:
            raise DataError(
                f"{what}: found a file of type '{path.suffix}', expected one of {', '.join(_FILE_FORMATS)}, or a "
                "folder. For CSV, NPY and NPZ use the dataset 'table'."
            )
        format = _FILE_FORMATS[path.suffix.lower()]
        return dict(datasets.load_dataset(format, data_files={"train": str(path)}, streaming=True))
    except (ValueError, OSError) as error:
        raise _unusable(what, error) from error


def _library() -> Any:
    import datasets

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    return datasets


def _column(features: Mapping[str, Any], wanted: str | None, what: str) -> tuple[str, bool]:
    images = [name for name, feature in features.items() if _holds_images(feature)]
    listed = ", ".join(map(repr, features))
    if wanted is None:
        if len(images) != 1:
            raise DataError(f"{what}: found {len(images)} columns of images among {listed}, expected one. Set column.")
        return images[0], True
    if wanted not in features:
        raise DataError(f"{what}: found no column '{wanted}', expected one of {listed}. Set column to one of them.")
    return wanted, wanted in images


def _holds_images(feature: Any) -> bool:
    """Return whether a column holds images: declared as such, or as encoded bytes."""
    import datasets

    encoded = isinstance(feature, dict) and feature.keys() == {"bytes", "path"}
    return encoded or isinstance(feature, datasets.Image) or getattr(feature, "dtype", None) == "binary"


def _cells(source: Source, role: SplitName, where: str) -> Iterator[Any]:
    import datasets

    rows = source.splits[role]
    features = rows.features or rows._resolve_features().features
    if source.column not in features:
        raise DataError(f"{where}: found no column '{source.column}', expected it in every split. Set column.")
    rows = rows.select_columns([source.column])
    if isinstance(features[source.column], datasets.Image):
        rows = rows.cast_column(source.column, datasets.Image(decode=False))
    read = 0
    try:
        for row in rows:
            yield row[source.column]
            read += 1
    except (OSError, ValueError) as error:
        raise DataError(
            f"{where}, index {read}: cannot be read ({_first_line(error)}), expected a complete source. Fetch it again."
        ) from error


def _mixed(cells: Iterable[tuple[int, Any]], buffer_size: int, limit: int | None) -> Iterator[tuple[int, Any]]:
    """Yield all cells in order or, given a limit, at most `limit` of them, drawn from a buffer of the next cells.

    Many sources are sorted by class, so that their first samples alone would be a single class.
    """
    if limit is None:
        yield from cells
        return
    draw = np.random.default_rng([0, 8])
    buffer: list[tuple[int, Any]] = []
    yielded = 0
    for cell in cells:
        if len(buffer) < max(buffer_size, 1):
            buffer.append(cell)
            continue
        place = int(draw.integers(len(buffer)))
        yield buffer[place]
        yielded += 1
        if yielded == limit:
            return
        buffer[place] = cell
    yield from (buffer[int(place)] for place in draw.permutation(len(buffer))[: limit - yielded])


def _unreachable(settings: HuggingFaceParameters, what: str, error: Exception) -> DataError:
    # Boards show the first 300 characters of a reason.
    return DataError(
        f"{what}: not in the cache, and the Hub cannot be reached. Set path to local files (the original IDX "
        "files, Parquet, Arrow, images); or prepare elsewhere and copy the cache (COLLAPSEBENCH_CACHE, or "
        ".collapsebench/cache); or set HF_HUB_OFFLINE=1, if the Hub's own cache holds this revision. "
        f"Found: {_first_line(error)}; revision {settings.revision or 'not pinned, but offline it must be a commit'}."
    )


def _unusable(what: str, error: Exception) -> DataError:
    return DataError(
        f"{what}: cannot be opened ({_first_line(error)}), expected data files that the package `datasets` reads "
        "without running code, such as Parquet, Arrow or images. Correct config or the source."
    )


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__


def _shape(sample: NDArray[Any]) -> str:
    return " x ".join(map(str, sample.shape))
