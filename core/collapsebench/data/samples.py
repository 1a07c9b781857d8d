"""Let observables read a standardised split in chunks of bounded memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from collapsebench.contracts import Samples, SplitName
from collapsebench.data.standardise import Standardised
from collapsebench.seeds import seed_of

VALUES_AT_ONCE = 16_777_216
_SHARE_OF_DEVICE, _USUAL_MEMORY = 512, 80 << 30
"""A device with memory of its own processes a value at once for so many of its bytes, 160 million for 80 GiB."""


def values_for(device: torch.device) -> int:
    """Return the largest number of values that the rows of a chunk may need together on a device."""
    if device.type != "cuda":
        return VALUES_AT_ONCE
    here = torch.cuda.is_available()
    memory = torch.cuda.get_device_properties(device).total_memory if here else _USUAL_MEMORY
    return max(VALUES_AT_ONCE, memory // _SHARE_OF_DEVICE)


class SplitSamples(Samples):
    """A standardised split in chunks whose memory stays bounded for all replicas together.

    max_rows: the largest number of rows, always the same ones; None for all. width: values per row and replica where
    the model is widest. values_at_once: the largest number of values that the rows of a chunk may need
    together; by default, as many as suit the device.
    """

    def __init__(
        self,
        data: Standardised,
        name: SplitName,
        *,
        replicas: int,
        width: int,
        device: torch.device,
        dtype: torch.dtype,
        max_rows: int | None = None,
        values_at_once: int | None = None,
    ) -> None:
        split = data.splits[name]
        values, weights = split.values, split.weights
        if max_rows is not None and len(values) > max_rows:
            rows = np.sort(np.random.default_rng(seed_of(use="rows")).permutation(len(values))[:max_rows])
            values, weights = values[rows], None if weights is None else weights[rows]
        self.name, self.count, self.shape = name, len(values), data.shape
        self._values, self._device, self._dtype = values, device, dtype
        self._weights = np.full(len(values), 1.0) if weights is None else weights.astype(np.float64)
        self._weights /= self._weights.sum()
        self._values_at_once = values_for(device) if values_at_once is None else values_at_once
        self._row_footprint = replicas * max(width, int(np.prod(data.shape)))

    def chunks(self, values_per_sample: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield x `(batch, *shape)` and weights `(batch,)`; a larger `values_per_sample` gives smaller chunks."""
        rows = rows_at_once(self._row_footprint * max(1, values_per_sample), self._values_at_once)
        for start in range(0, self.count, rows):
            x = torch.from_numpy(self._values[start : start + rows]).to(self._device, self._dtype)
            weights = torch.from_numpy(self._weights[start : start + rows])
            yield x, weights.to(self._device, torch.float32 if self._device.type == "mps" else torch.float64)


def rows_at_once(values_per_row: int, values: int = VALUES_AT_ONCE) -> int:
    """Return the number of rows in a chunk, at least 8.

    >>> from collapsebench.data.samples import rows_at_once
    >>> rows_at_once(64 * 128)
    2048
    """
    return max(8, values // values_per_row)
