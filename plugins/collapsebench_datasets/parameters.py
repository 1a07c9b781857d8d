"""Parameters of the first-party datasets; this module imports no torch."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat, SerializerFunctionWrapHandler, model_serializer, model_validator

from collapsebench import Parameters

PositiveFloat = Annotated[FiniteFloat, Field(gt=0)]
Boundary = Literal["periodic", "reflecting"]
NonNegativeFloat = Annotated[FiniteFloat, Field(ge=0)]


class PowerLaw(Parameters):
    """Eigenvalues k^-exponent, k = 1, 2, ..."""

    kind: Literal["power-law"] = "power-law"
    exponent: PositiveFloat = Field(default=1.5, description="decay of the eigenvalues with their rank")


class Gap(Parameters):
    """A few strong modes, then a gap, then weak ones."""

    kind: Literal["gap"] = "gap"
    strong: int = Field(default=6, ge=1, description="number of strong modes")
    ratio: FiniteFloat = Field(default=100.0, gt=1, description="ratio of the eigenvalues on the two sides of the gap")


class NearDegenerate(Parameters):
    """Groups of nearly equal eigenvalues."""

    kind: Literal["near-degenerate"] = "near-degenerate"
    groups: int = Field(default=4, ge=1, description="number of groups")
    spread: NonNegativeFloat = Field(
        default=0.02, lt=1, description="relative spread of the eigenvalues within a group"
    )


class Explicit(Parameters):
    """Eigenvalues as given."""

    kind: Literal["explicit"] = "explicit"
    values: tuple[NonNegativeFloat, ...] = Field(min_length=1, description="one eigenvalue per dimension")


Spectrum = Annotated[PowerLaw | Gap | NearDegenerate | Explicit, Field(discriminator="kind")]


class GaussianParameters(Parameters):
    """Gaussian data, given by a spectrum or by a covariance.

    If `dimension` is left out, it is the length of `covariance` or of an explicit spectrum.
    """

    dimension: int = Field(default=16, ge=1, description="number of features")
    spectrum: Spectrum = Field(default=PowerLaw(), description="eigenvalues of the covariance, in descending order")
    covariance: tuple[tuple[FiniteFloat, ...], ...] | None = Field(
        default=None,
        description="the covariance itself, symmetric and positive semi-definite, instead of a spectrum",
    )
    samples: int = Field(default=1024, ge=2, description="training samples")
    evaluation_samples: int = Field(default=1024, ge=2, description="samples in each of the validation and test splits")
    exact: bool = Field(default=True, description="make the training samples' covariance equal the target exactly")

    @model_validator(mode="before")
    @classmethod
    def _take_dimension_from_what_is_given(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "dimension" in data:
            return data
        spectrum = data.get("spectrum")
        values = spectrum.get("values") if isinstance(spectrum, dict) else getattr(spectrum, "values", None)
        for given in (data.get("covariance"), values):
            if isinstance(given, list | tuple) and given:
                return {**data, "dimension": len(given)}
        return data

    @model_validator(mode="after")
    def _check(self) -> GaussianParameters:
        _check_spectrum(self.spectrum, self.dimension)
        if self.covariance is not None:
            if self.spectrum != PowerLaw():
                raise ValueError("found both 'spectrum' and 'covariance', expected one; remove the other.")
            _check_covariance(self.covariance, self.dimension)
        if self.exact and self.samples <= self.dimension:
            raise ValueError(
                f"found samples = {self.samples} for dimension = {self.dimension}, expected more samples "
                "than dimensions for an exact covariance; raise 'samples' or set exact = false."
            )
        return self


def _check_spectrum(spectrum: Spectrum, dimension: int) -> None:
    if isinstance(spectrum, Gap) and spectrum.strong >= dimension:
        given, expected = f"strong = {spectrum.strong}", f"fewer than dimension = {dimension}"
    elif isinstance(spectrum, NearDegenerate) and spectrum.groups > dimension:
        given, expected = f"groups = {spectrum.groups}", f"at most dimension = {dimension}"
    elif isinstance(spectrum, Explicit) and len(spectrum.values) != dimension:
        given, expected = f"{len(spectrum.values)} eigenvalues", f"dimension = {dimension} of them"
    elif isinstance(spectrum, Explicit) and max(spectrum.values) == 0:
        given, expected = "eigenvalues that are all zero", "at least one positive eigenvalue"
    else:
        return
    raise ValueError(f"spectrum '{spectrum.kind}': found {given}, expected {expected}; correct either of the two.")


def _check_covariance(rows: tuple[tuple[float, ...], ...], dimension: int) -> None:
    import numpy as np

    if len(rows) != dimension or any(len(row) != dimension for row in rows):
        lengths = sorted({len(row) for row in rows})
        raise ValueError(
            f"found a covariance with {len(rows)} rows of length {lengths}, expected {dimension} rows "
            f"of length {dimension}; correct the covariance or the dimension."
        )
    matrix = np.array(rows, dtype=np.float64)
    scale = float(np.abs(matrix).max())
    asymmetry = float(np.abs(matrix - matrix.T).max())
    if asymmetry > 1e-9 * scale:
        raise ValueError(
            f"found a covariance that differs from its transpose by up to {asymmetry:.3g}, expected a "
            "symmetric one; replace it by (C + C^T)/2."
        )
    lowest = float(np.linalg.eigvalsh(matrix)[0])
    if scale == 0 or lowest < -1e-9 * scale:
        raise ValueError(
            f"found a covariance whose lowest eigenvalue is {lowest:.3g} and largest entry {scale:.3g}, "
            "expected a positive semi-definite one that is not zero; correct its entries."
        )


class RandomFieldParameters(Parameters):
    """Images of a Gaussian random field."""

    size: int = Field(default=16, ge=2, le=64, description="side of the square image, pixels")
    boundary: Boundary = Field(
        default="periodic",
        description="periodic: opposite borders meet, the components are Fourier waves; reflecting: no slope across a "
        "border, and the components are cosines",
    )
    exponent: NonNegativeFloat = Field(default=3.0, le=16, description="decay of the power with the wave number")
    correlation_length: PositiveFloat | None = Field(
        default=None,
        description="pixels; longer waves have nearly the same power; without it the power law holds for all waves, "
        "and the constant image has no power",
    )
    anisotropy: PositiveFloat = Field(
        default=1.0,
        description="correlation length along a row over that along a column; unless it is 1, waves along the two have "
        "different power, and with reflecting borders all eigenvalues differ",
    )
    samples: int = Field(default=2048, ge=2, description="training samples")
    evaluation_samples: int = Field(default=1024, ge=2, description="samples in each of the validation and test splits")
    exact: bool = Field(default=True, description="make the training samples' covariance equal the target exactly")

    @model_validator(mode="after")
    def _check(self) -> RandomFieldParameters:
        if self.exact and self.samples <= self.size**2:
            raise ValueError(
                f"found samples = {self.samples} for {self.size} x {self.size} = {self.size**2} pixels, expected more "
                "samples than pixels for an exact covariance; raise 'samples' or set exact = false."
            )
        return self


class ArcsParameters(Parameters):
    """A product of circular arcs."""

    arcs: int = Field(default=3, ge=1, description="number of arcs, the dimension of the manifold")
    half_angle: PositiveFloat = Field(
        default=2.2, le=math.pi, description="half of the angle that an arc covers, radians; pi closes it to a circle"
    )
    shrinkage: PositiveFloat = Field(default=0.7, le=1, description="radius of an arc over that of the one before it")
    dimension: int = Field(default=12, ge=2, description="number of features, at least two for each arc")
    noise: NonNegativeFloat = Field(
        default=0.02, description="standard deviation of the Gaussian noise of a feature, in radii of the first arc"
    )
    samples: int = Field(default=8192, ge=2, description="training samples")
    evaluation_samples: int = Field(default=4096, ge=2, description="samples in each of the validation and test splits")

    @model_validator(mode="after")
    def _check(self) -> ArcsParameters:
        if self.dimension < 2 * self.arcs:
            raise ValueError(
                f"found dimension = {self.dimension} for {self.arcs} arcs, expected at least {2 * self.arcs}: an arc "
                "takes two dimensions. Raise 'dimension' or lower 'arcs'."
            )
        return self


class Event(Parameters):
    """A feature that is either off, 0, or on."""

    probability: FiniteFloat = Field(gt=0, le=0.5, description="how often the event happens")
    amplitude: PositiveFloat = Field(description="value of the feature if it happens; 0 otherwise")


class RareEventsParameters(Parameters):
    """Independent features: events that are on or off, and Gaussian ones."""

    events: tuple[Event, ...] = Field(
        default=(
            Event(probability=0.005, amplitude=8.0),
            Event(probability=0.02, amplitude=4.0),
            Event(probability=0.1, amplitude=2.0),
        ),
        min_length=1,
        description="features that are on with a probability, with their amplitudes",
    )
    dimension: int = Field(default=5, ge=0, description="number of Gaussian features")
    spectrum: Spectrum = Field(
        default=PowerLaw(exponent=1.0), description="variances of the Gaussian features, in descending order"
    )
    samples: int = Field(default=10_000, ge=2, description="training samples")
    evaluation_samples: int = Field(
        default=5_000, ge=2, description="samples in each of the validation and test splits"
    )
    exact: bool = Field(
        default=True,
        description="give the training samples the exact number of every combination of events, up to rounding, and "
        "make the covariance of the Gaussian features exact",
    )

    @model_validator(mode="after")
    def _check(self) -> RareEventsParameters:
        if self.dimension:
            _check_spectrum(self.spectrum, self.dimension)
        rarest = min(event.probability for event in self.events)
        if self.exact and rarest * self.samples < 1:
            raise ValueError(
                f"found samples = {self.samples} for an event of probability {rarest:g}, expected at least one sample "
                "in which it happens; raise 'samples' or set exact = false."
            )
        features = len(self.events) + self.dimension
        if self.exact and self.samples <= features:
            raise ValueError(
                f"found samples = {self.samples} for {features} features, expected more samples than features for an "
                "exact covariance; raise 'samples' or set exact = false."
            )
        return self


class DigitsParameters(Parameters):
    """Handwritten digits of 8 x 8 pixels."""

    shape: Literal["vector", "image"] = Field(
        default="vector",
        description="vector: 64 features, each scaled by its standard deviation; image: 1 x 8 x 8, one common scale",
    )

    train_share: FiniteFloat = Field(
        default=0.6,
        gt=0,
        lt=1,
        description="share of the images in the train split; the other two share the rest equally",
    )

    @model_serializer(mode="wrap")
    def _as_before_there_were_images(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # What is in this dictionary decides a cell's key: vectors keep the one that they had without `shape`.
        described: dict[str, Any] = dump(self)
        return {key: value for key, value in described.items() if (key, value) != ("shape", "vector")}
