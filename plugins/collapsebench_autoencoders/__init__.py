"""The first-party encoders and decoders, one file per family."""

from __future__ import annotations

from collapsebench import Component, hookimpl


@hookimpl
def collapsebench_encoders() -> list[Component]:
    """Return the descriptors of the first-party encoders."""
    return [
        Component(
            "conv",
            "collapsebench_autoencoders.conv:ConvEncoder",
            "strided convolutions with residual branches and two affine heads, on square images",
            parameters="collapsebench_autoencoders.parameters:ConvEncoderParameters",
        ),
        Component(
            "linear",
            "collapsebench_autoencoders.linear:LinearEncoder",
            "mean and log-variance affine in x",
            parameters="collapsebench_autoencoders.parameters:LinearEncoderParameters",
        ),
        Component(
            "mlp",
            "collapsebench_autoencoders.mlp:MlpEncoder",
            "multilayer perceptron with two affine heads, on flattened samples",
            parameters="collapsebench_autoencoders.parameters:MlpEncoderParameters",
        ),
        Component(
            "residual-mlp",
            "collapsebench_autoencoders.residual_mlp:ResidualMlpEncoder",
            "perceptron of residual blocks with two affine heads, on flattened samples",
            parameters="collapsebench_autoencoders.parameters:ResidualMlpEncoderParameters",
        ),
    ]


@hookimpl
def collapsebench_decoders() -> list[Component]:
    """Return the descriptors of the first-party decoders."""
    return [
        Component(
            "conv",
            "collapsebench_autoencoders.conv:ConvDecoder",
            "affine upsampling by two with residual branches and a free offset per pixel, to square images",
            parameters="collapsebench_autoencoders.parameters:ConvDecoderParameters",
        ),
        Component(
            "linear",
            "collapsebench_autoencoders.linear:LinearDecoder",
            "reconstruction affine in z, for which the exact theory holds",
        ),
        Component(
            "mlp",
            "collapsebench_autoencoders.mlp:MlpDecoder",
            "multilayer perceptron with an affine output, reshaped to the samples",
            parameters="collapsebench_autoencoders.parameters:MlpDecoderParameters",
        ),
        Component(
            "residual-mlp",
            "collapsebench_autoencoders.residual_mlp:ResidualMlpDecoder",
            "perceptron of residual blocks with an affine output, reshaped to the samples",
            parameters="collapsebench_autoencoders.parameters:ResidualMlpDecoderParameters",
        ),
        Component(
            "first-order",
            "collapsebench_autoencoders.first_order:FirstOrderDecoder",
            "affine map behind noise gates; latents collapse by a jump, with hysteresis",
            parameters="collapsebench_autoencoders.parameters:FirstOrderParameters",
            version=2,
        ),
        Component(
            "injective",
            "collapsebench_autoencoders.injective:InjectiveDecoder",
            "one-to-one map whose gain cannot vanish; latents fade without a threshold",
            parameters="collapsebench_autoencoders.parameters:InjectiveDecoderParameters",
            version=2,
        ),
    ]
