"""Measure which latents a beta-VAE keeps, in which order, at what price, and how that compares with PCA.

Everything that users and plugins need is exported here, and loaded on first use: importing collapsebench imports
neither torch nor pandas.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collapsebench.bundle import read_bundle as read_bundle
    from collapsebench.compare_two import compare as compare
    from collapsebench.comparison import Comparison as Comparison
    from collapsebench.components import (
        SPLITS as SPLITS,
    )
    from collapsebench.components import (
        WARD_IDENTITIES as WARD_IDENTITIES,
    )
    from collapsebench.components import (
        Component as Component,
    )
    from collapsebench.components import (
        Data as Data,
    )
    from collapsebench.components import (
        Dataset as Dataset,
    )
    from collapsebench.components import (
        Decoder as Decoder,
    )
    from collapsebench.components import (
        Encoder as Encoder,
    )
    from collapsebench.components import (
        Evaluation as Evaluation,
    )
    from collapsebench.components import (
        Executor as Executor,
    )
    from collapsebench.components import (
        Measurement as Measurement,
    )
    from collapsebench.components import (
        Metric as Metric,
    )
    from collapsebench.components import (
        Model as Model,
    )
    from collapsebench.components import (
        Observable as Observable,
    )
    from collapsebench.components import (
        Parameters as Parameters,
    )
    from collapsebench.components import (
        Pca as Pca,
    )
    from collapsebench.components import (
        Progress as Progress,
    )
    from collapsebench.components import (
        Samples as Samples,
    )
    from collapsebench.components import (
        Score as Score,
    )
    from collapsebench.components import (
        Split as Split,
    )
    from collapsebench.components import (
        SplitName as SplitName,
    )
    from collapsebench.components import (
        WardIdentity as WardIdentity,
    )
    from collapsebench.conventions import CONVENTIONS as CONVENTIONS
    from collapsebench.conventions import Convention as Convention
    from collapsebench.conventions import beta_of as beta_of
    from collapsebench.conventions import temperature_of as temperature_of
    from collapsebench.crosswalk import CRITERIA as CRITERIA
    from collapsebench.crosswalk import Criterion as Criterion
    from collapsebench.equilibrium import measure_equilibrium as measure_equilibrium
    from collapsebench.errors import CollapsebenchError as CollapsebenchError
    from collapsebench.errors import DataError as DataError
    from collapsebench.errors import ModelError as ModelError
    from collapsebench.errors import PluginError as PluginError
    from collapsebench.errors import UnsuitableError as UnsuitableError
    from collapsebench.errors import UserError as UserError
    from collapsebench.execute import execute_job as execute_job
    from collapsebench.heads import GaussianHead as GaussianHead
    from collapsebench.hooks import hookimpl as hookimpl
    from collapsebench.linear_oracle import Oracle as Oracle
    from collapsebench.linear_oracle import landau_cost as landau_cost
    from collapsebench.linear_oracle import oracle as oracle
    from collapsebench.linear_oracle import reverse_water_filling as reverse_water_filling
    from collapsebench.model_file import load_model as load_model
    from collapsebench.objective import Objective as Objective
    from collapsebench.objective import Prediction as Prediction
    from collapsebench.objective import weighted_mean as weighted_mean
    from collapsebench.plots import plot_rank_distortion as plot_rank_distortion
    from collapsebench.plots import plot_rate_overlay as plot_rate_overlay
    from collapsebench.plots import plot_signal_fraction as plot_signal_fraction
    from collapsebench.plots import plot_truncated_distortion as plot_truncated_distortion
    from collapsebench.plots import plot_utility_threshold as plot_utility_threshold
    from collapsebench.scaling_laws import (
        TailLaw as TailLaw,
    )
    from collapsebench.scaling_laws import (
        crossover_rank as crossover_rank,
    )
    from collapsebench.scaling_laws import (
        rate_law as rate_law,
    )
    from collapsebench.scaling_laws import (
        tail_law as tail_law,
    )
    from collapsebench.spectroscopy import (
        Spectroscopy as Spectroscopy,
    )
    from collapsebench.spectroscopy import (
        measure as measure,
    )
    from collapsebench.spectrum import (
        ExponentFit as ExponentFit,
    )
    from collapsebench.spectrum import (
        RankDistortion as RankDistortion,
    )
    from collapsebench.spectrum import (
        effective_dimension as effective_dimension,
    )
    from collapsebench.spectrum import (
        first_swapped_rank as first_swapped_rank,
    )
    from collapsebench.spectrum import (
        fixed_exponent_threshold as fixed_exponent_threshold,
    )
    from collapsebench.spectrum import (
        fixed_slope_rate_threshold as fixed_slope_rate_threshold,
    )
    from collapsebench.spectrum import (
        free_exponent_fit as free_exponent_fit,
    )
    from collapsebench.spectrum import (
        grid as grid,
    )
    from collapsebench.spectrum import (
        identity_r2 as identity_r2,
    )
    from collapsebench.spectrum import (
        max_log_error as max_log_error,
    )
    from collapsebench.spectrum import (
        one_shot_thresholds as one_shot_thresholds,
    )
    from collapsebench.spectrum import (
        rank_distortion as rank_distortion,
    )
    from collapsebench.spectrum import (
        ranked as ranked,
    )
    from collapsebench.spectrum import (
        ranked_signal_fraction as ranked_signal_fraction,
    )
    from collapsebench.spectrum import (
        resolved_ranks as resolved_ranks,
    )
    from collapsebench.spectrum import (
        tail_exponent as tail_exponent,
    )
    from collapsebench.spectrum import (
        utilities as utilities,
    )
    from collapsebench.table_scan import (
        TableScan as TableScan,
    )
    from collapsebench.table_scan import (
        scan as scan,
    )
    from collapsebench.verbs import (
        Outcome as Outcome,
    )
    from collapsebench.verbs import (
        board as board,
    )
    from collapsebench.verbs import (
        plan as plan,
    )
    from collapsebench.verbs import (
        publish as publish,
    )
    from collapsebench.verbs import (
        run as run,
    )
    from collapsebench.verbs import (
        score as score,
    )

__version__ = "0.1.0"

_HOME = {
    "compare_two": ("compare",),
    "comparison": ("Comparison",),
    "bundle": ("read_bundle",),
    "components": (
        "SPLITS", "WARD_IDENTITIES", "Component", "Data", "Dataset", "Decoder", "Encoder", "Evaluation", "Executor",
        "Measurement", "Metric", "Model", "Observable", "Parameters", "Pca", "Progress", "Samples", "Score", "Split",
        "SplitName", "WardIdentity",
    ),
    "conventions": ("CONVENTIONS", "Convention", "beta_of", "temperature_of"),
    "crosswalk": ("CRITERIA", "Criterion"),
    "equilibrium": ("measure_equilibrium",),
    "errors": ("CollapsebenchError", "DataError", "ModelError", "PluginError", "UnsuitableError", "UserError"),
    "execute": ("execute_job",),
    "heads": ("GaussianHead",),
    "hooks": ("hookimpl",),
    "linear_oracle": ("Oracle", "landau_cost", "oracle", "reverse_water_filling"),
    "model_file": ("load_model",),
    "objective": ("Objective", "Prediction", "weighted_mean"),
    "plots": (
        "plot_rank_distortion", "plot_rate_overlay", "plot_signal_fraction", "plot_truncated_distortion",
        "plot_utility_threshold",
    ),
    "scaling_laws": ("TailLaw", "crossover_rank", "rate_law", "tail_law"),
    "spectroscopy": ("Spectroscopy", "measure"),
    "spectrum": (
        "ExponentFit", "RankDistortion", "effective_dimension", "first_swapped_rank", "fixed_exponent_threshold",
        "fixed_slope_rate_threshold", "free_exponent_fit", "grid", "identity_r2", "max_log_error",
        "one_shot_thresholds", "rank_distortion", "ranked", "ranked_signal_fraction", "resolved_ranks",
        "tail_exponent", "utilities",
    ),
    "table_scan": ("TableScan", "scan"),
    "verbs": ("Outcome", "board", "plan", "publish", "run", "score"),
}  # fmt: skip
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = ["__version__", *sorted(_MODULE_OF)]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'collapsebench' has no attribute '{name}'")
    return getattr(importlib.import_module(f"collapsebench.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
