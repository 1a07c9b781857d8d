"""Fashion-MNIST: 70,000 grey images of clothes, 28 x 28 pixels."""

from __future__ import annotations

from typing import ClassVar

from collapsebench_datasets.original_images import Original, OriginalImages


class FashionMnist(OriginalImages):
    """60,000 training images and 10,000 test images.

    Source: github.com/zalandoresearch/fashion-mnist; Debian's package dataset-fashion-mnist holds the same files.
    """

    original: ClassVar[Original] = Original(
        id="fashion-mnist",
        repository="zalando-datasets/fashion_mnist",
        revision="531be5e2ccc9dba0c201ad3ae567a4f3d16ecdd2",
        sha256={
            "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        },
        licence="MIT",
        citation=(
            "H. Xiao, K. Rasul, R. Vollgraf (2017), Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine "
            "Learning Algorithms, arXiv:1708.07747."
        ),
    )
