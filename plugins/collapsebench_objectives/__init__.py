"""The first-party objectives, one file per objective."""

from __future__ import annotations

from collapsebench import Component, hookimpl

_PARAMETERS = "collapsebench_objectives.parameters:"


@hookimpl
def collapsebench_objectives() -> list[Component]:
    """Return the descriptors of the first-party objectives."""
    return [
        Component(
            "beta-vae",
            "collapsebench_objectives.beta_vae:BetaVae",
            "distortion plus beta times rate",
            parameters=f"{_PARAMETERS}BetaVaeParameters",
            default=True,
        ),
        Component(
            "warm-up",
            "collapsebench_objectives.warm_up:WarmUp",
            "beta-VAE whose beta rises from zero, once or in cycles; no threshold should move",
            parameters=f"{_PARAMETERS}WarmUpParameters",
        ),
        Component(
            "free-bits",
            "collapsebench_objectives.free_bits:FreeBits",
            "beta-VAE with some nats free of charge for each latent; there should be no thresholds",
            parameters=f"{_PARAMETERS}FreeBitsParameters",
        ),
        Component(
            "capacity",
            "collapsebench_objectives.capacity:Capacity",
            "least distortion at a prescribed rate; a multiplier finds the price of a nat",
            parameters=f"{_PARAMETERS}CapacityParameters",
        ),
        Component(
            "learned-variance",
            "collapsebench_objectives.learned_variance:LearnedVariance",
            "beta-VAE whose decoder variance is learned with the weights",
        ),
        Component(
            "weight-decay",
            "collapsebench_objectives.weight_decay:WeightDecay",
            "beta-VAE with weight decay; thresholds should move down",
            parameters=f"{_PARAMETERS}WeightDecayParameters",
        ),
    ]
