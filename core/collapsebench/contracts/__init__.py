"""What a plugin author implements: one abstract class per kind of component, and the hooks that offer them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from collapsebench.contracts.autoencoder import WARD_IDENTITIES, Decoder, Encoder, WardIdentity
from collapsebench.contracts.component import KINDS, Component, Configured, Kind, Parameters
from collapsebench.contracts.dataset import SPLITS, Data, Dataset, Split, SplitName
from collapsebench.contracts.executor import Executor, Progress
from collapsebench.contracts.hooks import HOOKS, hookimpl
from collapsebench.contracts.metric import Evaluation, Measurement, Metric, Pca, Score
from collapsebench.contracts.objective import Objective, Prediction, weighted_mean
from collapsebench.contracts.observable import Model, Observable, Samples
from collapsebench.contracts.registry import (
    HEAVY,
    SLOW_SECONDS,
    Owner,
    Registered,
    Registry,
    Source,
    installed_plugins,
    load_registry,
)

if TYPE_CHECKING:
    from collapsebench.contracts.component import Floats, Tensors

__all__ = [
    "HEAVY",
    "HOOKS",
    "KINDS",
    "SLOW_SECONDS",
    "SPLITS",
    "WARD_IDENTITIES",
    "Component",
    "Configured",
    "Data",
    "Dataset",
    "Decoder",
    "Encoder",
    "Evaluation",
    "Executor",
    "Floats",
    "Kind",
    "Measurement",
    "Metric",
    "Model",
    "Objective",
    "Observable",
    "Owner",
    "Parameters",
    "Pca",
    "Prediction",
    "Progress",
    "Registered",
    "Registry",
    "Samples",
    "Score",
    "Source",
    "Split",
    "SplitName",
    "Tensors",
    "WardIdentity",
    "hookimpl",
    "installed_plugins",
    "load_registry",
    "weighted_mean",
]
