"""Parameters of the first-party encoders and decoders; this module imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, FiniteFloat

from collapsebench import Parameters

Activation = Literal["silu", "relu", "tanh", "gelu", "elu", "softplus"]


class LinearEncoderParameters(Parameters):
    """A linear encoder: mean and log-variance are affine in x."""

    log_variance_bias: FiniteFloat = Field(default=0.0, description="initial log-variance of every latent")


class MlpParameters(Parameters):
    """A multilayer perceptron."""

    depth: int = Field(default=2, ge=1, description="number of hidden layers")
    width: int = Field(default=64, ge=1, description="units of each hidden layer")
    activation: Activation = Field(default="silu", description="nonlinearity after each hidden layer")


class MlpEncoderParameters(MlpParameters):
    """A multilayer perceptron with two affine heads, the mean and the log-variance."""

    log_variance_bias: FiniteFloat = Field(default=-4.0, description="initial log-variance of every latent")


class MlpDecoderParameters(MlpParameters):
    """A multilayer perceptron with an affine output."""


class ResidualMlpParameters(Parameters):
    """A multilayer perceptron of residual blocks."""

    depth: int = Field(default=2, ge=1, description="number of residual blocks, of two affine maps each")
    width: int = Field(default=64, ge=1, description="units of each hidden layer")
    activation: Activation = Field(default="silu", description="nonlinearity before each affine map of a block")


class ResidualMlpEncoderParameters(ResidualMlpParameters):
    """Residual blocks with two affine heads, the mean and the log-variance."""

    log_variance_bias: FiniteFloat = Field(default=-4.0, description="initial log-variance of every latent")


class ResidualMlpDecoderParameters(ResidualMlpParameters):
    """Residual blocks with an affine output."""


class ConvParameters(Parameters):
    """A convolutional residual network for square images."""

    depth: int = Field(default=2, ge=1, description="number of stages, each of which halves the side of the image")
    channels: int = Field(
        default=16, ge=1, description="channels of the finest stage; each coarser stage has twice as many"
    )
    activation: Activation = Field(default="silu", description="nonlinearity before the convolution of each branch")


class ConvEncoderParameters(ConvParameters):
    """Strided convolutions with two affine heads, the mean and the log-variance."""

    log_variance_bias: FiniteFloat = Field(default=-4.0, description="initial log-variance of every latent")


class ConvDecoderParameters(ConvParameters):
    """An affine map, then convolutions and affine upsampling by two, with a free offset per pixel."""


class FirstOrderParameters(Parameters):
    """An affine map behind noise gates."""

    level: float = Field(
        default=0.5, gt=0, allow_inf_nan=False,
        description="amplitude, in units of the standardised data, below which a latent is suppressed",
    )  # fmt: skip
    power: float = Field(
        default=2.0,
        ge=1,
        le=6,
        description="steepness of the gate: suppressed contributions fall as amplitude^(1 + power)",
    )


class InjectiveDecoderParameters(Parameters):
    """A map that is one-to-one for all weights."""

    gain: float = Field(
        default=0.5, gt=0, allow_inf_nan=False,
        description="lower bound on the ratio of distances in standardised data and in z",
    )  # fmt: skip
    width: int = Field(
        default=32, ge=1, description="hidden units of the nonlinear part that is added to the fixed gain"
    )
