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
_HANDFUL = 5
_NAMED = 3


@dataclass(frozen=True)
class Standardised:
    """A dataset that is ready for training.

    splits: values `(n, *shape)` float32, centred by the train mean and scaled; weights `(n,)` with mean one, or None.
    second_moments: per split, E x x^T about the train mean `(d, d)`; "train" is the covariance.
    total_variance: V, the trace of the covariance. left_out: names of the features that are constant in train.
    fingerprint: SHA-256 of the arrays as loaded. about: revision, licence, citation, notes; among them `notices`, what
    a reader of the results must know.
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
    notices = [*data.notes.get("notices", ()), *_concentration(splits["train"], moments["train"], names[keep], data)]
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
            **({"notices": notices} if notices else {}),
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


@dataclass(frozen=True)
class Concentration:
    """The features whose variance a few rows carry, the most concentrated first.

    features: their indices. share: the share of each one's sum of squares that `rows` of its rows carry at most, above
    1/2. largest: its largest absolute value, in its standard deviations. excess_kurtosis: E x^4 / (E x^2)^2 - 3.
    """

    rows: int
    features: NDArray[np.intp]
    share: Floats
    largest: Floats
    excess_kurtosis: Floats


def concentration(split: Split, variance: Floats) -> Concentration:
    """Find the features of a standardised split that owe more than half of their sum of squares to a handful of rows.

    A handful is five rows, at most 0.5 % of all; or 0.1 % of all, where that is more. Below 200 rows nothing is found.
    Features whose variance is less than half of the mean are passed over: they weigh little whatever their rows are.
    variance: E x^2 of each feature `(d,)`. One pass over the data, since m rows can carry the share s only if
    E x^4 / (E x^2)^2 >= s^2 n / m (Cauchy-Schwarz), which few features fulfil.
    """
    flat = split.values.reshape(len(split.values), -1)
    count = len(flat)
    weights = np.ones(count) if split.weights is None else split.weights.astype(np.float64)
    rows = max(min(_HANDFUL, count // 200), count // 1000)
    fourth = np.zeros(flat.shape[1])
    for start in range(0, count if rows else 0, _ROWS):
        square = np.square(flat[start : start + _ROWS], dtype=np.float64)
        fourth += np.einsum("n,nd,nd->d", weights[start : start + _ROWS], square, square)
    weighty = variance >= 0.5 * variance.mean()
    kurtosis = np.divide(fourth / weights.sum(), variance**2, out=np.zeros_like(fourth), where=weighty)
    heaviest = np.sort(weights)[count - rows :].sum()
    suspects = np.flatnonzero(4 * kurtosis * heaviest >= weights.sum()) if rows else np.zeros(0, dtype=np.intp)
    squares = weights[:, None] * np.square(flat[:, suspects], dtype=np.float64)
    share = np.sort(squares, axis=0)[count - rows :].sum(axis=0) / squares.sum(axis=0)
    order = np.argsort(-share, kind="stable")[: int((share > 0.5).sum())]
    features = suspects[order]
    largest = np.abs(flat[:, features]).max(axis=0, initial=0.0) / np.sqrt(variance[features])
    return Concentration(rows, features, share[order], largest, kurtosis[features] - 3.0)


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


def _concentration(train: Split, covariance: Floats, names: NDArray[np.object_], data: Data) -> list[str]:
    """Return a notice if a few rows carry most of the variance of some features."""
    found = concentration(train, np.diag(covariance))
    count = len(found.features)
    if not count:
        return []
    named = ", ".join(map(str, names[found.features[:_NAMED]]))
    more = f" and {count - _NAMED} more" if count > _NAMED else ""
    low, high = 100 * found.share.min(), 100 * found.share.max()
    shares = f"owes {high:.0f} % of its" if count == 1 else f"owe {low:.0f} to {high:.0f} % of their"
    advice = "use one scale for all features" if data.scaling == "per-feature" else "check these rows"
    return [
        f"{count} of {len(names)} features ({named}{more}) {shares} variance to at most {found.rows} of the "
        f"{len(train.values)} train rows, whose values reach {found.largest.max():.3g} standard deviations (excess "
        f"kurtosis {found.excess_kurtosis.max():.0f}); a nonlinear decoder may spend latents on these rows alone: "
        f"{advice}, or leave the features out"
    ]


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
