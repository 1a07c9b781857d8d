"""Data for a model that was trained elsewhere: an array or a dataset, in the scaling that the model was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from collapsebench.contracts import SPLITS, Data, Registry, Split, SplitName
from collapsebench.data.standardise import Standardised, principal_components, standardise
from collapsebench.errors import DataError
from collapsebench.suite.problems import place, validated
from collapsebench.theory.conventions import SCALINGS, Scaling


def data_as_seen(
    data: Any,
    parameters: Mapping[str, Any] | None,
    scaling: Scaling | None,
    split_seed: int,
    registry: Registry,
    cache: Path,
) -> Standardised:
    """Return data in the scaling that a model was trained on.

    data: the id of a dataset, with its parameters; an array `(n, *shape)`, taken as the train split; or a mapping of
    split names to arrays. scaling: "dataset" scales as the dataset asks for (the default for a dataset); "per-feature"
    and "global" subtract the train split's mean and divide by its standard deviation; "raw" changes nothing (the
    default for an array).
    """
    if scaling is not None and scaling not in SCALINGS:
        raise DataError(
            f"scaling: found '{scaling}', expected one of {', '.join(SCALINGS)}. Choose the one of its training."
        )
    if isinstance(data, str):
        return _scaled(_dataset(data, parameters, split_seed, registry, cache), data, scaling or "dataset", SPLITS)
    if parameters:
        raise DataError(
            "parameters: found some with an array, expected none: they belong to a dataset. Give its id as data."
        )
    if scaling == "dataset":
        raise DataError("scaling: found 'dataset' with an array, expected raw, per-feature or global. Choose one.")
    return _arrays(data if isinstance(data, Mapping) else {"train": data}, scaling or "raw")


def _dataset(id: str, parameters: Mapping[str, Any] | None, split_seed: int, registry: Registry, cache: Path) -> Data:
    component = registry.get("dataset", id)
    settings, problems = validated(component.parameters_model(), dict(parameters or {}))
    if settings is None:
        raise DataError("\n".join(f"dataset '{id}': {place(path)}: {message}" for path, message in problems))
    dataset = component.load()(settings)
    if not dataset.is_prepared(cache):
        cache.mkdir(parents=True, exist_ok=True)
        dataset.prepare(cache)
    return cast("Data", dataset.load(split_seed, cache))


def _arrays(arrays: Mapping[Any, Any], scaling: Scaling) -> Standardised:
    unknown = sorted(str(name) for name in arrays if name not in SPLITS)
    if unknown or "train" not in arrays:
        names = ", ".join(map(str, arrays)) or "none"
        raise DataError(
            f"data: found arrays called {names}, expected train, and optionally validation and test. Rename them."
        )
    splits = {name: _split(name, arrays[name]) for name in SPLITS if name in arrays}
    stand_in = Split(splits["train"].values[:2])
    train, validation, test = (splits.get(name, stand_in) for name in SPLITS)
    features = int(np.prod(splits["train"].values.shape[1:]))
    data = Data(train, validation, test, feature_names=tuple(f"x{index}" for index in range(features)))
    return _scaled(data, "array", scaling, tuple(splits))


def _split(name: SplitName, array: Any) -> Split:
    values = np.asarray(array)
    if values.dtype.kind not in "fiub" or values.ndim < 2 or len(values) < 2:
        raise DataError(
            f"data, split {name}: found {values.dtype} {values.shape}, expected numbers (n, *shape), n at least 2. "
            "Give one row per sample, in the shape that the model takes."
        )
    return Split(np.ascontiguousarray(values, dtype=np.float32))


def _scaled(data: Data, name: str, scaling: Scaling, splits: tuple[SplitName, ...]) -> Standardised:
    if scaling == "raw":
        seen = standardise(replace(data, scaling="none"), name)
        values = {split: Split(getattr(data, split).values, seen.splits[split].weights) for split in splits}
        shape = data.train.values.shape[1:]
        seen = replace(seen, shape=shape, splits=values, feature_names=data.feature_names, left_out=())
    else:
        seen = standardise(data if scaling == "dataset" else replace(data, scaling=scaling), name)
    moments = {split: seen.second_moments[split] for split in splits}
    return replace(
        seen,
        splits={split: seen.splits[split] for split in splits},
        second_moments=moments,
        pca=principal_components(moments),
    )
