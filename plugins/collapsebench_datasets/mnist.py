"""MNIST: 70,000 grey images of handwritten digits, 28 x 28 pixels."""

from __future__ import annotations

from typing import ClassVar

from collapsebench_datasets.original_images import Original, OriginalImages


class Mnist(OriginalImages):
    """60,000 training images and 10,000 test images.

    The licence is the one on the dataset's page of the Hub; the files themselves name none.
    """

    original: ClassVar[Original] = Original(
        id="mnist",
        repository="ylecun/mnist",
        revision="77f3279092a1c1579b2250db8eafed0ad422088c",
        sha256={
            "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
        licence="MIT, as its page on the Hub declares",
        citation=(
            "Y. LeCun, L. Bottou, Y. Bengio, P. Haffner (1998), Gradient-based learning applied to document "
            "recognition, Proceedings of the IEEE 86, 2278-2324, doi:10.1109/5.726791."
        ),
    )
