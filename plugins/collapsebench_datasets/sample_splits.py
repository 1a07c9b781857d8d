"""Turn the splits that a source has into the three of a benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collapsebench import SPLITS, DataError, Split, SplitName
from collapsebench_datasets.image_parameters import Division

Samples = NDArray[Any]


def divide(
    found: Mapping[SplitName, Samples], seed: int, own: Division, dataset: str, test_share: float = 0.0
) -> dict[SplitName, Split]:
    """Return train, validation and test, at most as many samples of each as `own` allows.

    found: the source's own splits, "train" and where it has them "validation" and "test", `(n, *shape)`. What it has
    not is cut from its train split. The seed shuffles each; which samples are official test samples it leaves alone.
    """
    streams: dict[str, np.random.Generator] = dict(zip(SPLITS, np.random.default_rng([seed, 5]).spawn(3), strict=True))
    orders: dict[SplitName, NDArray[np.int64]] = {
        name: streams[name].permutation(len(values)) for name, values in found.items()
    }
    rest = orders["train"]
    shares: dict[SplitName, float] = {"validation": own.validation_share, "test": test_share}
    for name, share in shares.items():
        if name not in found:
            count = max(2, round(share * len(found["train"])))
            orders[name], rest = rest[:count], rest[count:]
    orders["train"] = rest
    limits: dict[SplitName, int | None] = {
        "train": own.train_samples,
        "validation": own.evaluation_samples,
        "test": own.evaluation_samples,
    }
    splits: dict[SplitName, Split] = {}
    for name in SPLITS:
        chosen = orders[name][: limits[name]]
        if len(chosen) < 2:
            raise DataError(
                f"dataset '{dataset}', split {name}: {len(chosen)} of the {len(found['train'])} training samples are "
                "left for it, expected at least 2. Give a larger source, or lower the shares."
            )
        splits[name] = Split(found[name if name in found else "train"][chosen].astype(np.float32))
    return splits


def feature_names(shape: tuple[int, ...]) -> tuple[str, ...]:
    """Return a name for every number of a sample: pixels of an image `(channels, rows, columns)`, else x0, x1, ..."""
    if len(shape) != 3:
        return tuple(f"x{place}" for place in range(int(np.prod(shape))))
    channels = [""] if shape[0] == 1 else [f"{colour} " for colour in ("red", "green", "blue")]
    return tuple(
        f"{channel}pixel {row},{column}"
        for channel in channels
        for row in range(shape[1])
        for column in range(shape[2])
    )
