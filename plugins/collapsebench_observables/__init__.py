"""The first-party observables, one file per observable."""

from __future__ import annotations

from collapsebench import Component, hookimpl


@hookimpl
def collapsebench_observables() -> list[Component]:
    """Return the descriptors of the first-party observables."""
    return [
        Component(
            "latent-moments",
            "collapsebench_observables.latent_moments:LatentMoments",
            "moments of posterior mean and variance, rate and signal fraction of each latent",
            version=2,
        ),
        Component(
            "truncated-distortion",
            "collapsebench_observables.truncated_distortion:TruncatedDistortion",
            "normalised distortion if only the K strongest latents are kept",
        ),
        Component(
            "latent-utility",
            "collapsebench_observables.latent_utility:LatentUtility",
            "rise of the normalised distortion if one latent alone is set to 0",
        ),
        Component(
            "decoder-directions",
            "collapsebench_observables.decoder_directions:DecoderDirections",
            "direction in data space into which the decoder maps each latent",
        ),
        Component(
            "losses",
            "collapsebench_observables.losses:Losses",
            "distortion, rate and objective of each replica, in nats",
            version=2,
        ),
        Component(
            "equilibrium",
            "collapsebench_observables.equilibrium:Equilibrium",
            "Ward residuals and residual edge: whether a replica is stationary, and stable",
            version=3,
        ),
        Component(
            "decoder-origin-directions",
            "collapsebench_observables.decoder_origin_directions:DecoderOriginDirections",
            "direction in data space into which the decoder maps each latent at the prior's mean",
        ),
        Component(
            "residual-edge",
            "collapsebench_observables.residual_edge:ResidualEdge",
            "largest covariance of the data with any function of them, given the active latents",
        ),
        Component(
            "traversals",
            "collapsebench_observables.traversals:Traversals",
            "reconstructions as each active latent moves from -3 to 3, the others at 0",
        ),
    ]
