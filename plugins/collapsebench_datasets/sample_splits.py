"""Divide the splits of a source into train, validation and test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collapsebench import SPLITS, DataError, Split, SplitName
from collapsebench_datasets.image_parameters import Division

Samples = NDArray[Any]


def divide(
    source: Mapping[SplitName, Samples], seed: int, settings: Division, dataset: str, test_share: float = 0.0
) -> dict[SplitName, Split]:
    """Return train, validation and test, with at most as many samples of each as `settings` allow.

    source: the source's splits, "train" and if it has them "validation" and "test", `(n, *shape)`. A split that it
    lacks is cut from its train split. The seed shuffles each split; it does not decide which samples are official test
    samples.
    """
    streams: dict[str, np.random.Generator] = dict(zip(SPLITS, np.random.default_rng([seed, 5]).spawn(3), strict=True))
    orders: dict[SplitName, NDArray[np.int64]] = {
        name: streams[name].permutation(len(values)) for name, values in source.items()
    }
    rest = orders["train"]
    shares: dict[SplitName, float] = {"validation": settings.validation_share, "test": test_share}
    for name, share in shares.items():
        if name not in source:
            count = max(2, round(share * len(source["train"])))
            orders[name], rest = rest[:count], rest[count:]
    orders["train"] = rest
    limits: dict[SplitName, int | None] = {
        "train": settings.train_samples,
        "validation": settings.evaluation_samples,
        "test": settings.evaluation_samples,
    }
    splits: dict[SplitName, Split] = {}
    for name in SPLITS:
        chosen = orders[name][: limits[name]]
        if len(chosen) < 2:
            raise DataError(
                f"dataset '{dataset}', split {name}: {len(chosen)} of the {len(source['train'])} training samples are "
                "left for it, expected at least 2. Give a larger source, or lower the shares."
            )
        splits[name] = Split(source[name if name in source else "train"][chosen].astype(np.float32))
    return splits


def feature_names(shape: tuple[int, ...]) -> tuple[str, ...]:
    """Return a name for every feature: pixels of an image `(channels, rows, columns)`, otherwise x0, x1, ..."""
    if len(shape) != 3:
        return tuple(f"x{place}" for place in range(int(np.prod(shape))))
    channels = [""] if shape[0] == 1 else [f"{colour} " for colour in ("red", "green", "blue")]
    return tuple(
        f"{channel}pixel {row},{column}"
        for channel in channels
        for row in range(shape[1])
        for column in range(shape[2])
    )
