"""Turn the cell of a column, an encoded image or a list of numbers, into an array."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collapsebench import DataError
from collapsebench_datasets.image_parameters import HuggingFaceParameters

_CHANNELS = {"1": 1, "L": 1, "RGB": 3, "CMYK": 3, "YCbCr": 3, "P": 3}
_SCALED_TO = {"grey": "L", "rgb": "RGB"}


def decode_image(cell: Any, settings: HuggingFaceParameters, where: str) -> NDArray[np.uint8]:
    """Return an image `(channels, rows, columns)` of bytes, with the colour and size that the parameters ask for.

    cell: an image as the package `datasets` gives it undecoded, its bytes or its path.
    """
    from PIL import Image, UnidentifiedImageError

    content = _content(cell, where)
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "of no known format" if isinstance(error, UnidentifiedImageError) else error
        raise DataError(
            f"{where}: {_named(cell)}{len(content)} bytes that are no readable image ({reason}), expected a complete "
            "PNG, JPEG or the like. Repair or remove it."
        ) from error
    return _array(_sized(_coloured(image, settings, where), settings, where))


def decode_numbers(cell: Any, where: str) -> NDArray[np.float32]:
    """Return a number or a nested list of numbers as an array of one axis or more."""
    try:
        values = np.array(cell, dtype=np.float32, ndmin=1)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{where}: found {_short(cell)}, expected numbers in lists of equal length. Choose another column."
        ) from error
    if not np.isfinite(values).all():
        raise DataError(f"{where}: found missing or infinite numbers, expected finite ones. Remove this sample.")
    return values


def _content(cell: Any, where: str) -> bytes:
    encoded = {"bytes": cell} if isinstance(cell, bytes) else cell or {}
    if isinstance(encoded, dict) and encoded.get("bytes") is not None:
        return bytes(encoded["bytes"])
    path = encoded.get("path") if isinstance(encoded, dict) else None
    if path is None:
        raise DataError(f"{where}: found {_short(cell)}, expected an image. Remove this sample or choose its column.")
    import fsspec

    try:
        with fsspec.open(path, "rb") as file:
            content: bytes = file.read()
    except OSError as error:
        raise DataError(f"{where}: {path} cannot be read ({error}), expected an image there.") from error
    return content


def _named(cell: Any) -> str:
    path = cell.get("path") if isinstance(cell, dict) else None
    return f"{path} holds " if path else "found "


def _coloured(image: Any, settings: HuggingFaceParameters, where: str) -> Any:
    channels = _CHANNELS.get(image.mode)
    if channels is None or (image.mode == "P" and "transparency" in image.info):
        raise DataError(
            f"{where}: found an image of mode {image.mode}{' with transparency' * (image.mode == 'P')}, expected grey "
            "or coloured pixels of 8 bits each, without transparency. Convert the images first."
        )
    if settings.colour == "rgb" and channels == 1:
        raise DataError(
            f"{where}: found 1 channel (mode {image.mode}), expected 3, for colour = 'rgb'. Set colour = 'grey', which "
            "turns every image into one channel, or leave this image out."
        )
    mode = _SCALED_TO[settings.colour or ("grey" if channels == 1 else "rgb")]
    return image if image.mode == mode else image.convert(mode)


def _sized(image: Any, settings: HuggingFaceParameters, where: str) -> Any:
    from PIL import Image

    if settings.size is None or image.size == (settings.size, settings.size):
        return image
    width, height = image.size
    if settings.fit == "exact":
        shape = f"{height} x {width} pixels{', which is not square' * (width != height)}"
        raise DataError(
            f"{where}: found {shape}, expected {settings.size} x {settings.size}. Set fit = 'crop' or 'resize', or "
            "another size."
        )
    box = None
    if settings.fit == "crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        box = (left, top, left + side, top + side)
    return image.resize((settings.size, settings.size), Image.Resampling.BILINEAR, box)


def _array(image: Any) -> NDArray[np.uint8]:
    values = np.asarray(image, dtype=np.uint8)
    return values[None] if values.ndim == 2 else np.ascontiguousarray(values.transpose(2, 0, 1))


def _short(cell: Any) -> str:
    text = repr(cell)
    return text if len(text) <= 60 else f"{text[:57]}..."
