"""A published folder that several test files read: one run that worked, one that diverged, one that failed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from measured_results import cell, suite
from scored_results import ranked_by

from collapsebench.contracts import Evaluation, Score
from collapsebench.publishing.folder import write_everything

DECLARED = {
    "shape": (Score("slope", "how steep", "higher", low=0), Score("reached", "how far", "lower", "latents")),
    "lost": (Score("nothing", "never there"),),
}


@pytest.fixture(scope="session")
def results():
    """One run that worked, one that diverged, one that failed; values that are infinite, missing, and not there."""
    modes = pd.DataFrame({"rank": [1, 2], "utility": [0.1, np.nan], "resolved": [True, False]})
    scores = {
        "evaluations": {"shape": Evaluation({"slope": 1 / 3, "reached": np.inf}, modes)},
        "metric_failures": {"lost": "ZeroDivisionError: <b>0</b>"},
    }
    cells = [
        cell("gap", "linear", 0, **scores),
        cell("gap", "linear", 1, "diverged", **scores),
        cell("gap", "mlp", 0, "failed", reason="OSError: 'a \"quoted\" path'"),
    ]
    made = suite(
        cells, declared=DECLARED, questions=ranked_by("shape/slope"), provenance={"date": "2026-01-02", "git": None}
    )
    return replace(made, datasets={"gap": {"licence": "CC0-1.0", "rows": {"train": 5}, "left_out": ["one"]}})


@pytest.fixture(scope="session")
def published(results, tmp_path_factory):
    folder = tmp_path_factory.mktemp("published") / "bundle"
    write_everything(results, folder)
    return folder
