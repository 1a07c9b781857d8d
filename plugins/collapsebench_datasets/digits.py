"""The handwritten digits that scikit-learn ships."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from collapsebench import Data, Dataset, Split
from collapsebench_datasets.parameters import DigitsParameters


class Digits(Dataset[DigitsParameters]):
    """1,797 handwritten digits of 8 x 8 pixels, grey levels 0 to 16; three pixels are constant.

    Vectors of 64 are scaled pixel by pixel, images `(1, 8, 8)` by one number. The seed shuffles the samples before they
    are split.
    """

    def load(self, seed: int, cache: Path) -> Data:
        """Return the three splits."""
        from sklearn.datasets import load_digits

        as_images = self.parameters.shape == "image"
        images = load_digits().data.astype(np.float32)
        images = images[np.random.default_rng([seed, 2]).permutation(len(images))]
        if as_images:
            images = images.reshape(-1, 1, 8, 8)
        train = round(self.parameters.train_share * len(images))
        validation = train + (len(images) - train) // 2
        return Data(
            train=Split(images[:train]),
            validation=Split(images[train:validation]),
            test=Split(images[validation:]),
            feature_names=tuple(f"pixel {row},{column}" for row in range(8) for column in range(8)),
            scaling="global" if as_images else "per-feature",
            revision="scikit-learn, load_digits",
            licence="CC-BY-4.0",
            citation=(
                "E. Alpaydin and C. Kaynak (1998), Optical Recognition of Handwritten Digits, "
                "UCI Machine Learning Repository, doi:10.24432/C50P49."
            ),
        )
