"""The direction of each latent in data space at the prior's mean: the decoder's Jacobian at z = 0."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from numpy.typing import NDArray

from collapsebench import Model, Observable, Parameters, Samples, SplitName
from collapsebench_observables.decoder_directions import by_feature, mean_jacobian

_STEP = 1e-2


class DecoderOriginDirections(Observable[Parameters]):
    """Column k of the decoder's Jacobian at z = 0, by central differences:

        J_k = [ f(h e_k) - f(-h e_k) ] / (2 h),    h = 0.01 prior standard deviations, 1 for a linear decoder

    The difference from `decoder-directions`, averaged over posterior means, shows how directions vary over the data.
    """

    axis: ClassVar[Literal["latent", "rank"] | None] = "latent"
    splits: ClassVar[tuple[SplitName, ...]] = ("train",)

    def measure(self, model: Model, samples: Samples) -> Mapping[str, NDArray[Any]]:
        """Return one quantity per feature, `feature_0`, `feature_1` ..., each `(replica, latent)`."""
        x, _ = next(iter(samples.chunks()))
        origin = model.encode(x[:1])[0] * 0.0
        return by_feature(mean_jacobian(model, origin, 1.0 if model.linear_decoder else _STEP))
