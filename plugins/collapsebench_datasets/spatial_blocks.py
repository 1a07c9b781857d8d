"""Equal-area blocks on the sphere, a split that never shares a block, and sampling in proportion to area.

The paper says only "equal-area, side 500 km"; our blocks are as follows. The sphere is cut into bands of latitude about
one side high, and each band into blocks of equal longitude, as many as fit its area. The edges of the bands are then
moved to
    sin(latitude_b) = -1 + 2 (blocks south of edge b) / (all blocks)
so that every block has exactly the area 4 pi R^2 / (all blocks): by Archimedes, area grows linearly with
sin(latitude).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from collapsebench import DataError, SplitName

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

EARTH_RADIUS_KM = 6371.0072  # the sphere with the surface area of the WGS 84 ellipsoid
MAX_TRAIN_SHARE = 0.9


def blocks_per_band(block_km: float) -> Integers:
    """Return the number of blocks in each band of latitude, from south to north.

    Source: Archimedes' hat-box theorem, band area = 2 pi R^2 (sin upper - sin lower).
    """
    bands = max(1, round(np.pi * EARTH_RADIUS_KM / block_km))
    area = 2.0 * np.pi * EARTH_RADIUS_KM**2 * np.diff(np.sin(np.linspace(-np.pi / 2, np.pi / 2, bands + 1)))
    return np.maximum(1, np.rint(area / block_km**2)).astype(np.int64)


def spatial_blocks(latitude: Floats, longitude: Floats, block_km: float) -> Integers:
    """Return the number of the equal-area block that holds each point `(n,)`; angles in degrees."""
    counts = blocks_per_band(block_km)
    first = np.concatenate([[0], np.cumsum(counts)])
    edges = -1.0 + 2.0 * first / first[-1]
    band = np.searchsorted(edges[1:-1], np.sin(np.radians(latitude)), side="right")
    column = np.floor(np.mod(longitude + 180.0, 360.0) / 360.0 * counts[band]).astype(np.int64)
    return np.asarray(first[band] + np.minimum(column, counts[band] - 1))


def split_by_block(
    blocks: Integers, area: Floats, train_cells: int, generator: np.random.Generator
) -> Mapping[SplitName, Integers]:
    """Return the cells of each split, such that no block has cells in two of them.

    Blocks are shuffled. Train takes them until it holds min(train_cells, 0.9 of all) cells; each other
    block goes to whichever of validation and test has less area so far.
    """
    names, member, cells = np.unique(blocks, return_inverse=True, return_counts=True)
    if len(names) < 3:
        raise DataError(
            f"spatial blocks: the {len(blocks)} valid cells lie in {len(names)} block(s), expected at least "
            "3, one for each split. Lower block_km or cover a larger area."
        )
    order = generator.permutation(len(names))
    target = min(train_cells, MAX_TRAIN_SHARE * len(blocks))
    taken = int(np.searchsorted(np.cumsum(cells[order]), target)) + 1
    taken = min(taken, len(names) - 2)
    block_area = np.bincount(member, weights=area)
    owner = np.zeros(len(names), dtype=np.int64)
    total = np.zeros(3)
    total[0] = np.inf
    for block in order[taken:]:
        owner[block] = total.argmin()
        total[owner[block]] += block_area[block]
    split = owner[member]
    return {
        "train": np.flatnonzero(split == 0),
        "validation": np.flatnonzero(split == 1),
        "test": np.flatnonzero(split == 2),
    }


def systematic_sample(area: Floats, count: int, generator: np.random.Generator) -> Integers:
    """Return `count` indices, index i as often as e_i = count area_i / sum(area), rounded up or down.

    Points one step apart, with one random start, on the line where each index owns a segment as long as its
    area. The expected number of copies is exactly e_i, as in a draw with replacement, with the smallest
    possible variance of each number of copies: no index is repeated by luck alone.
    Source: Madow and Madow 1944, Annals of Mathematical Statistics 15, 1-24.
    """
    ends = np.cumsum(area)
    points = (generator.random() + np.arange(count)) * (ends[-1] / count)
    return np.asarray(np.minimum(np.searchsorted(ends, points, side="right"), len(area) - 1))
