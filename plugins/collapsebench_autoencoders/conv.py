"""Convolutional residual networks as encoder and decoder, for square images.

Each stage is an affine map with a residual branch beside it, so that every network includes the purely affine maps:
with enough features it can represent PCA.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from collapsebench import Decoder, Encoder, GaussianHead, UnsuitableError, UserError
from collapsebench_autoencoders.mlp import ACTIVATIONS
from collapsebench_autoencoders.parameters import ConvDecoderParameters, ConvEncoderParameters, ConvParameters
from collapsebench_autoencoders.residual_mlp import Residual


def image_of(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return channels and side of a square image `(side, side)` or `(channels, side, side)`; raises UnsuitableError."""
    if len(shape) not in (2, 3):
        raise UnsuitableError(
            f"samples have shape {shape}, expected images (side, side) or (channels, side, side). "
            "Use a dataset of images, or use an encoder and decoder for vectors: mlp, residual-mlp, linear."
        )
    channels, height, width = (1, *shape) if len(shape) == 2 else shape
    if height != width:
        raise UnsuitableError(
            f"samples have shape {shape}, an image of {height} x {width}, expected a square one, channels first. "
            "Crop, pad or transpose the images, or use mlp or residual-mlp, which take any shape."
        )
    return channels, height


def sides_of(side: int, depth: int) -> list[int]:
    """Return the side of the image before the first stage and after each, halved and rounded up; raises UserError."""
    sides = [side]
    for _ in range(depth):
        if sides[-1] < 2:
            raise UserError(
                f"depth is {depth}, but {len(sides) - 1} halvings bring an image of side {side} down to one "
                f"pixel; expected a depth of at most {len(sides) - 1}."
                + (" Lower it." if len(sides) > 1 else " Use mlp for single pixels.")
            )
        sides.append(-(-sides[-1] // 2))
    return sides


class Reshape(nn.Module):
    """Reshape each sample."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        """Map `(batch, ...)` to `(batch, *shape)`."""
        return x.reshape(len(x), *self.shape)


class Offset(nn.Module):
    """A free constant for each feature, so that the mean reconstruction error can vanish in every one."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor) -> Tensor:
        """Map x `(batch, features)` to the same shape."""
        return x + self.offset


def convolution(channels: int, wider: int, nonlinearity: str, size: int = 3, stride: int = 1) -> nn.Conv2d:
    """Return a convolution, Kaiming-initialised (He et al. 2015) for the preceding nonlinearity; its bias is zero."""
    layer = nn.Conv2d(channels, wider, size, stride, padding=size // 2)
    nn.init.kaiming_uniform_(layer.weight, nonlinearity=nonlinearity)  # type: ignore[arg-type]
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def residual_stage(channels: int, settings: ConvParameters) -> Residual:
    """Return y + convolution(activation(y)), the weights of the convolution divided by sqrt(depth)."""
    layer = convolution(channels, channels, "relu")
    with torch.no_grad():
        layer.weight /= math.sqrt(settings.depth)
    return Residual(nn.Sequential(ACTIVATIONS[settings.activation](), layer))


class ConvEncoder(Encoder[ConvEncoderParameters]):
    """Stages of a strided convolution and a residual branch, then affine heads for mean and log-variance."""

    example_shape: ClassVar[tuple[int, ...]] = (1, 8, 8)

    def build(self, shape: tuple[int, ...], latent_dim: int) -> nn.Module:
        """Return a module that maps x `(batch, *shape)` to (mean, log_variance), each `(batch, latent_dim)`."""
        settings = self.parameters
        channels, side = image_of(shape)
        layers: list[nn.Module] = [Reshape(channels, side, side)]
        sides = sides_of(side, settings.depth)
        for stage in range(settings.depth):
            wider = settings.channels * 2**stage
            layers += [convolution(channels, wider, "linear", stride=2), residual_stage(wider, settings)]
            channels = wider
        features = channels * sides[-1] ** 2
        return nn.Sequential(*layers, nn.Flatten(), GaussianHead(features, latent_dim, settings.log_variance_bias))


class Doubled(nn.Module):
    """An affine map from every pixel to four pixels; if the side is odd, the last row and column are cropped."""

    def __init__(self, channels: int, narrower: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.four = convolution(channels, 4 * narrower, "linear", size=1)

    def forward(self, y: Tensor) -> Tensor:
        """Map `(batch, channels, small, small)` to `(batch, narrower, side, side)`."""
        large = nn.functional.pixel_shuffle(self.four(y), 2)
        return large[..., : self.side, : self.side]


class ConvDecoder(Decoder[ConvDecoderParameters]):
    """An affine map, stages of a residual branch and affine upsampling by two, then a free offset."""

    example_shape: ClassVar[tuple[int, ...]] = (1, 8, 8)

    def build(self, latent_dim: int, shape: tuple[int, ...]) -> nn.Module:
        """Return a module that maps z `(batch, latent_dim)` to x_hat `(batch, *shape)`."""
        settings = self.parameters
        channels, side = image_of(shape)
        sides = sides_of(side, settings.depth)
        widths = [channels, *(settings.channels * 2**stage for stage in range(settings.depth))]
        features = widths[-1] * sides[-1] ** 2
        layers: list[nn.Module] = [nn.Linear(latent_dim, features), Reshape(widths[-1], sides[-1], sides[-1])]
        for stage in reversed(range(settings.depth)):
            wide = widths[stage + 1]
            layers += [residual_stage(wide, settings), Doubled(wide, widths[stage], sides[stage])]
        return nn.Sequential(*layers, nn.Flatten(), Offset(math.prod(shape)), Reshape(*shape))
