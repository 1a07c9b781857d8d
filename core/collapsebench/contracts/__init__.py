"""What a plugin author implements: one abstract class for each kind of component, and the hooks that offer them.

In: the installed distributions, through the entry-point group `collapsebench`.
Out: the abstract classes, the frozen values that pass between stages (`Data`, `Measurement`, `Score` ...), and a
`Registry` of the components that loaded, with the reason for each plugin that did not.
Add here: a new kind of component; or a class attribute that the core reads from components, such as
`Observable.curves`, which lists the quantities to be drawn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from collapsebench.contracts.autoencoder import WARD_IDENTITIES, Decoder, Encoder, WardIdentity
from collapsebench.contracts.component import KINDS, Component, Configured, Curve, Kind, Parameters
from collapsebench.contracts.dataset import SPLITS, Data, Dataset, Split, SplitName
from collapsebench.contracts.executor import Executor, Progress
from collapsebench.contracts.hooks import HOOKS, hookimpl
from collapsebench.contracts.metric import Evaluation, Measurement, Metric, Pca, Score, table_of
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
    from collapsebench.contracts.component import Floats as Floats
    from collapsebench.contracts.component import Tensors as Tensors

__all__ = [
    "HEAVY",
    "HOOKS",
    "KINDS",
    "SLOW_SECONDS",
    "SPLITS",
    "WARD_IDENTITIES",
    "Component",
    "Configured",
    "Curve",
    "Data",
    "Dataset",
    "Decoder",
    "Encoder",
    "Evaluation",
    "Executor",
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
    "WardIdentity",
    "hookimpl",
    "installed_plugins",
    "load_registry",
    "table_of",
    "weighted_mean",
]
