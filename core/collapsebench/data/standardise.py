"""Standardise a dataset by its train split, and compute PCA, the reference for every result."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from collapsebench.contracts import SPLITS, Data, Pca, Split, SplitName
from collapsebench.errors import DataError

if TYPE_CHECKING:
    from collapsebench.contracts import Floats

_ROWS = 65_536


@dataclass(frozen=True)
class Standardised:
    """A dataset that is ready for training.

    splits: values `(n, *shape)` float32, centred by the train mean and scaled; weights `(n,)` with mean one, or None.
    second_moments: per split, E x x^T about the train mean `(d, d)`; "train" is the covariance.
    total_variance: V, the trace of the covariance. left_out: names of the features that are constant in train.
    fingerprint: SHA-256 of the arrays as loaded. about: revision, licence, citation, notes.
    """

    dataset: str
    shape: tuple[int, ...]
    splits: Mapping[SplitName, Split]
    feature_names: tuple[str, ...]
    left_out: tuple[str, ...]
    second_moments: Mapping[SplitName, Floats]
    total_variance: float
    pca: Pca
    fingerprint: str
    about: Mapping[str, Any]

    @property
    def eigenvalues(self) -> Floats:
        """lambda_k of the train covariance `(d,)`, descending; their sum is V."""
        return self.pca.eigenvalues * self.total_variance


def standardise(data: Data, dataset: str) -> Standardised:
    """Return `data` centred and scaled by its train split.

    Features that are constant in the train split are left out of tables; in images they become zeros, so that the
    shape stays the same.
    """
    for name in SPLITS:
        _check(getattr(data, name), name, data, dataset)
    shape = data.train.values.shape[1:]
    mean, variance = _moments(data.train)
    varies = variance > 1e-12 * np.maximum(mean**2, 1e-30)
    if not varies.any():
        raise DataError(
            f"dataset '{dataset}', split train: all {varies.size} features are constant, expected at least one that "
            "varies. Choose other columns or more rows."
        )
    names = np.array(data.feature_names, dtype=object)
    scale = _scale(variance, varies, data.scaling)
    keep = varies if len(shape) == 1 else np.ones_like(varies)
    gain = np.where(varies, 1.0 / scale, 0.0)[keep]
    centre = mean[keep]
    splits = {name: _apply(getattr(data, name), keep, centre, gain, shape) for name in SPLITS}
    moments = {name: second_moment(split) for name, split in splits.items()}
    return Standardised(
        dataset=dataset,
        shape=splits["train"].values.shape[1:],
        splits=splits,
        feature_names=tuple(names[keep]),
        left_out=tuple(names[~varies]),
        second_moments=moments,
        total_variance=float(np.trace(moments["train"])),
        pca=principal_components(moments),
        fingerprint=fingerprint(data),
        about={
            "revision": data.revision,
            "licence": data.licence,
            "citation": data.citation,
            "rows": {name: len(split.values) for name, split in splits.items()},
            **data.notes,
        },
    )


def second_moment(split: Split) -> Floats:
    """Return the weighted mean of x x^T over a split, accumulated in float64 `(d, d)`."""
    flat = split.values.reshape(len(split.values), -1)
    total = np.zeros((flat.shape[1], flat.shape[1]))
    for start in range(0, len(flat), _ROWS):
        x = flat[start : start + _ROWS].astype(np.float64)
        w = x if split.weights is None else x * split.weights[start : start + _ROWS, None]
        total += w.T @ x
    return np.asarray(total / len(flat))


def principal_components(second_moments: Mapping[SplitName, Floats]) -> Pca:
    """Return PCA of the train covariance, with its rank-distortion curve on every split.

    D_K = (tr S - sum_{k <= K} u_k^T S u_k) / V,    S the split's second moment about the train mean
    """
    values, vectors = np.linalg.eigh(second_moments["train"])
    values, components = np.clip(values[::-1], 0.0, None), vectors.T[::-1]
    total = float(np.trace(second_moments["train"]))
    curves = {}
    for name, moment in second_moments.items():
        captured = ((components @ moment) * components).sum(axis=1)
        curve = (np.trace(moment) - np.concatenate([[0.0], np.cumsum(captured)])) / total
        curves[name] = np.clip(curve, 0.0, None)
    return Pca(eigenvalues=values / total, components=components.copy(), rank_distortion=curves)


def fingerprint(data: Data) -> str:
    """Return the SHA-256 of every array of a dataset, with its shape and type."""
    digest = hashlib.sha256()
    for name in SPLITS:
        split: Split = getattr(data, name)
        for array in (split.values, split.weights):
            if array is not None:
                digest.update(f"{name} {array.shape} {array.dtype}".encode())
                digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _check(split: Split, name: str, data: Data, dataset: str) -> None:
    where = f"dataset '{dataset}', split {name}"
    values = split.values
    if values.dtype != np.float32 or values.ndim < 2:
        raise DataError(
            f"{where}: found {values.dtype} {values.shape}, expected float32 (n, *shape). Convert the values in `load`."
        )
    if len(values) < 2:
        raise DataError(f"{where}: found {len(values)} rows, expected at least 2. Give it a larger share of the data.")
    if values.shape[1:] != data.train.values.shape[1:]:
        raise DataError(
            f"{where}: found shape {values.shape[1:]}, expected that of train {data.train.values.shape[1:]}. Give all "
            "splits the same features."
        )
    features = int(np.prod(values.shape[1:]))
    if len(data.feature_names) != features:
        raise DataError(
            f"{where}: found {len(data.feature_names)} feature names for values of shape {values.shape[1:]}, expected "
            f"{features}. Name every feature once."
        )
    bad = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    if bad.any():
        raise DataError(
            f"{where}: row {int(bad.argmax())} and {int(bad.sum()) - 1} more hold NaN or infinity, expected finite "
            "values. Leave those rows out or fill them in."
        )
    weights = split.weights
    if weights is None:
        return
    if weights.shape != values.shape[:1] or weights.min() < 0 or not 0 < weights.sum() < np.inf:
        raise DataError(
            f"{where}: found weights of shape {weights.shape} with minimum {weights.min(initial=np.inf):g} and sum "
            f"{weights.sum():g}, expected one non-negative number per row and a positive finite sum. Correct the "
            "weights in `load`."
        )


def _moments(split: Split) -> tuple[Floats, Floats]:
    flat = split.values.reshape(len(split.values), -1)
    weights = np.ones(len(flat)) if split.weights is None else split.weights.astype(np.float64)
    weights = weights / weights.sum()
    first = np.zeros(flat.shape[1])
    spread = np.zeros(flat.shape[1])
    for start in range(0, len(flat), _ROWS):
        first += weights[start : start + _ROWS] @ flat[start : start + _ROWS].astype(np.float64)
    for start in range(0, len(flat), _ROWS):
        spread += weights[start : start + _ROWS] @ (flat[start : start + _ROWS].astype(np.float64) - first) ** 2
    return first, spread


def _scale(variance: Floats, varies: NDArray[np.bool_], scaling: str) -> Floats:
    if scaling == "per-feature":
        return np.where(varies, np.sqrt(variance), 1.0)
    if scaling == "global":
        return np.full_like(variance, np.sqrt(variance[varies].mean()))
    return np.ones_like(variance)


def _apply(split: Split, keep: NDArray[np.bool_], centre: Floats, gain: Floats, shape: tuple[int, ...]) -> Split:
    flat = split.values.reshape(len(split.values), -1)
    out = np.empty((len(flat), int(keep.sum())), dtype=np.float32)
    for start in range(0, len(flat), _ROWS):
        out[start : start + _ROWS] = (flat[start : start + _ROWS][:, keep].astype(np.float64) - centre) * gain
    weights = None if split.weights is None else (split.weights / split.weights.mean()).astype(np.float32)
    return Split(values=out.reshape(-1, *shape) if len(shape) > 1 else out, weights=weights)
