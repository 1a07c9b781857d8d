"""Fixtures that several test files share: small data, stacks, trainers and the exact solution's weights."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from warmed import without_figures

# Stacks in tests are so small that threads waiting for each other on a busy machine cost far more than they compute.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def create(kind, use, **parameters):
    """Create a first-party component by id."""
    import collapsebench_autoencoders as autoencoders
    import collapsebench_datasets as datasets
    import collapsebench_objectives as objectives
    import collapsebench_observables as observables

    offered = {
        "dataset": datasets.collapsebench_datasets,
        "encoder": autoencoders.collapsebench_encoders,
        "decoder": autoencoders.collapsebench_decoders,
        "objective": objectives.collapsebench_objectives,
        "observable": observables.collapsebench_observables,
    }
    return next(component for component in offered[kind]() if component.id == use).create(parameters)


def gaussian_data(**parameters):
    """Return standardised Gaussian data; 8 features, 512 training samples and a power law unless told otherwise."""
    from collapsebench.data.standardise import standardise

    settings = {"dimension": 8, "samples": 512, "evaluation_samples": 256, **parameters}
    return standardise(create("dataset", "gaussian", **settings).load(0, Path()), "gaussian")


def stack_of(  # noqa: PLR0913 - what tests vary
    data,
    temperatures,
    *,
    seeds=(0,),
    latent_dim=8,
    encoder=("linear", {}),
    decoder=("linear", {}),
    decoder_variance=1.0,
    objective=None,
    computation="batched",
    dtype=None,
    device="cpu",
):
    """Build a stack, seed by seed, the temperatures in their order within each.

    encoder and decoder: (id, parameters), or a component. objective: likewise; beta-vae with the decoder variance if
    not given.
    """
    import torch

    from collapsebench.stack.computation import COMPUTATIONS
    from collapsebench.stack.stack import Stack
    from collapsebench.training.build import build_pair

    encoder, decoder, objective = (
        create(kind, part[0], **part[1]) if isinstance(part, tuple) else part
        for kind, part in (
            ("encoder", encoder),
            ("decoder", decoder),
            ("objective", objective or ("beta-vae", {"decoder_variance": decoder_variance})),
        )
    )
    dials = torch.from_numpy(objective.dials(np.array(temperatures), data.eigenvalues, latent_dim))
    return Stack(
        [build_pair(encoder, decoder, data.shape, latent_dim, seed) for seed in seeds],
        objective,
        dials.repeat(len(seeds)),
        torch.arange(len(seeds)).repeat_interleave(len(temperatures)),
        data.total_variance,
        data.shape,
        decoder=decoder,
        computation=COMPUTATIONS[computation],
        device=torch.device(device),
        dtype=dtype or torch.float32,
    )


def trainer_of(
    data,
    temperatures,
    *,
    stack=None,
    training=None,
    evaluation=None,
    seeds=(0,),
    latent_dim=8,
    exchange=None,
    **stacking,
):
    """Return a trainer of a stack; training: what differs from a few preconditioned full-batch updates."""
    from collapsebench.suite.schema import EvaluationSettings, Exchange, Training
    from collapsebench.training.trainer import Trainer

    stack = stack or stack_of(data, temperatures, seeds=seeds, latent_dim=latent_dim, **stacking)
    settings = {
        "optimiser": {"use": "preconditioned", "learning_rate": 0.05},
        "batch_size": "full",
        "max_updates": 40,
        "warm_up": 5,
        "convergence": {"checks": 4},
        **(training or {}),
    }
    return Trainer(
        stack,
        data,
        list(temperatures) * len(seeds),
        list(seeds),
        latent_dim,
        Training.model_validate(settings),
        EvaluationSettings.model_validate({"cost_samples": 4096, **(evaluation or {})}),
        [cell for cell in range(len(seeds)) for _ in temperatures],
        None if exchange is None else Exchange.model_validate(exchange),
    )


def exact_weights(data, temperatures, latent_dim, collapsed=None):
    """Return the weights of linear pairs at the exact solution, one replica a temperature.

    mean_k = sqrt(m_k / lambda_k) u_k . x, variance_k = 1 - m_k, decoder column sqrt(lambda_k - T V) u_k, with
    m_k = [1 - T / T_k]_+. collapsed: per replica, the mode that is held at the prior instead, or None.
    """
    import torch

    from collapsebench.theory.oracle import oracle

    exact = oracle(data.second_moments["train"], temperatures, latent_dim)
    modes = min(latent_dim, len(exact.eigenvalues))
    eigenvalues = exact.eigenvalues[:modes]
    gain = np.zeros((len(temperatures), latent_dim))
    gain[:, :modes] = exact.gain[:, :modes]
    for replica, mode in enumerate(collapsed or []):
        if mode is not None:
            gain[replica, mode] = 0.0
    axes = np.zeros((latent_dim, len(exact.eigenvalues)))
    axes[:modes] = exact.components[:modes]
    scale = np.ones(latent_dim)
    scale[:modes] = np.sqrt(np.where(eigenvalues > 0, eigenvalues, 1.0))
    encoder = (np.sqrt(gain) / scale)[:, :, None] * axes
    decoder = ((np.sqrt(gain) * scale)[:, :, None] * axes).transpose(0, 2, 1)
    replicas, features = len(temperatures), axes.shape[1]
    arrays = {
        "encoder.body.mean.weight": encoder,
        "encoder.body.mean.bias": np.zeros((replicas, latent_dim)),
        "encoder.body.log_variance.weight": np.zeros_like(encoder),
        "encoder.body.log_variance.bias": np.log1p(-gain),
        "decoder.0.weight": decoder,
        "decoder.0.bias": np.zeros((replicas, features)),
    }
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in arrays.items()}


def samples_of(data, split="train", *, replicas=1, dtype=None, **limits):
    """Return a split as observables read it; limits: max_rows, values_at_once."""
    import torch

    from collapsebench.data.samples import SplitSamples

    return SplitSamples(
        data, split, replicas=replicas, width=32, device=torch.device("cpu"), dtype=dtype or torch.float32,
        **limits,
    )  # fmt: skip


@pytest.fixture(scope="session", autouse=True)
def _own_cache_of_the_hub(tmp_path_factory):
    """Keep what `datasets` writes out of the user's folders; it reads this when it is first imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("huggingface")))
        yield


@pytest.fixture
def no_figures():
    """For tests that look at everything a run writes but its figures."""
    with without_figures():
        yield


@pytest.fixture(scope="session")
def component():
    return create


@pytest.fixture(scope="session")
def make_gaussian():
    return gaussian_data


@pytest.fixture(scope="session")
def gaussian():
    return gaussian_data()


@pytest.fixture(scope="session")
def make_stack():
    return stack_of


@pytest.fixture(scope="session")
def make_trainer():
    return trainer_of


@pytest.fixture(scope="session")
def exact():
    return exact_weights


@pytest.fixture(scope="session")
def make_samples():
    return samples_of
