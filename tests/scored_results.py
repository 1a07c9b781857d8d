"""Made-up results that have scores and nothing measured: architectures by seeds, with what a test needs missing."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd

from collapsebench import Evaluation, Measurement, Pca, Score
from collapsebench.ranking.standings import comparisons, standings
from collapsebench.scoring.results import RANK, CellResult, Question, SuiteResults

DECLARED = {
    "agreement": [Score("r2", "Agreement.", "higher", high=1), Score("gap", "Gap.", "lower", "nats")],
    "dimension": [Score("at-1%", "Latents.", "lower", "latents"), Score("curvature", "Neither.")],
    "equilibrium": [Score("converged-share", "Share.", "higher"), Score("residual", "Residual.", "lower")],
}
RANK_BY = (Question(RANK, "", ("agreement/r2", "dimension/at-1%")),)
NAMES = [f"{metric}/{score.name}" for metric, scores in DECLARED.items() for score in scores]


def ranked_by(*scores):
    """Return the only question of a suite that ranks by these scores."""
    return (Question(RANK, "", scores),)


def cell(architecture, seed, status="ok", reason="", dataset="digits", objective="beta-vae", failures=(), **values):
    """Return a cell with these scores, by `metric__score` without the signs that Python forbids."""
    given = {name: values.get(name.replace("/", "__").replace("-", "_").replace("%", "")) for name in NAMES}
    evaluations = {}
    for metric, declared in DECLARED.items():
        found = {score.name: given[f"{metric}/{score.name}"] for score in declared}
        known = {name: value for name, value in found.items() if value is not None}
        why = {name: f"no {name} here" for name in found if name not in known}
        if metric not in failures:
            evaluations[metric] = Evaluation(known, reasons=why)
    return CellResult(
        key=f"{dataset}-{architecture}-{seed}", dataset=dataset, architecture=architecture, objective=objective,
        seed=seed, status=status, reason=reason, evaluations=evaluations if status in ("ok", "diverged") else {},
        metric_failures=dict.fromkeys(failures, "ValueError: broken"),
    )  # fmt: skip


def full(architecture, seed, r2, size=4.0, **changes):
    """Return a cell with every score."""
    scores = {
        "agreement__r2": r2, "agreement__gap": 0.01 * (seed + 1), "dimension__at_1": size,
        "dimension__curvature": 1e-7, "equilibrium__converged_share": 0.9, "equilibrium__residual": 1e-3,
    }  # fmt: skip
    return cell(architecture, seed, **(scores | changes))


def marked(cell, converged, replicas):
    """Return a cell of which so many replicas converged, the others having spent their budget."""
    marks = ["converged"] * converged + ["budget"] * (replicas - converged)
    table = pd.DataFrame({"temperature": np.linspace(1.0, 0.1, replicas), "mark": marks})
    scan = Measurement(
        temperatures=table["temperature"].to_numpy(),
        latent_dim=16,
        total_variance=1.0,
        tables={"replicas": table},
        pca=Pca(np.ones(1), np.eye(1), {}),
        second_moments={},
        has_oracle=False,
    )
    return replace(cell, measurement=scan)


def suite(cells, **changes):
    """Return the results of a suite with these cells."""
    made = SuiteResults(suite="small", title="A small suite", cells=cells, declared=DECLARED, questions=RANK_BY)
    return replace(made, **changes)


def mixed_suite():
    """Return what a board must cope with: complete, not reached, diverged, failed, without a score, two datasets."""
    return suite(
        [
            *(full("linear", seed, 0.99 + 0.001 * seed) for seed in range(3)),
            *(full("mlp", seed, 0.80 + 0.002 * seed, size=math.inf if seed == 2 else 7.0) for seed in range(3)),
            full("conv", 0, 0.9),
            full("conv", 1, 0.9, status="diverged", reason="2 of 9 replicas are not finite."),
            cell("conv", 2, status="failed", reason="RuntimeError: out of memory"),
            *(full("short", seed, 0.7, dimension__at_1=None, failures=("equilibrium",)) for seed in range(3)),
            *(full("linear", seed, 1.0, dataset="null") for seed in range(3)),
        ],
        provenance={
            "suite_hash": "0123456789abcdef",
            "collapsebench": "0.1.0",
            "cpu": "EPYC",
            "date": "2026-01-02",
            "git": None,
        },
    )


def standing(results, dataset="digits"):
    """Return architecture -> standing on one dataset."""
    return standings(results, comparisons(results)[dataset, "beta-vae"], results.questions[0])


def across(*datasets):
    """Return results with the same architectures on several datasets; each dataset gives name -> r2 of each seed."""
    cells = [
        full(name, seed, value, dataset=f"data-{place}")
        for place, values in enumerate(datasets)
        for name, row in values.items()
        for seed, value in enumerate(row)
    ]
    return suite(cells, questions=ranked_by("agreement/r2"))


COMPARED = {
    "pca-agreement": [Score("r2", "Agreement.", "higher", high=1)],
    "effective-dimension": [Score("at-1%", "Latents.", "lower", "latents"), Score("pca-at-1%", "Components.")],
}


def compared_suite(changes=(), datasets=("gaussian", "digits"), seeds=3):
    """Return results where conv agrees less with PCA on digits alone and needs three latents less everywhere."""
    rng, cells = np.random.default_rng(0), []
    for dataset in datasets:
        for architecture in ("linear", "conv"):
            for seed in range(seeds):
                worse = 0.3 if (architecture, dataset) == ("conv", "digits") else 0.0
                values = {
                    "pca-agreement": {"r2": 0.95 - worse + 0.01 * rng.normal()},
                    "effective-dimension": {"at-1%": 9.0 - 3 * (architecture == "conv"), "pca-at-1%": 12.0},
                }
                for (name, metric, score), value in dict(changes).items():
                    if name == architecture:
                        values[metric][score] = value
                found = {metric: Evaluation(scores) for metric, scores in values.items()}
                key = f"{dataset}-{architecture}-{seed}"
                cells.append(CellResult(key, dataset, architecture, "beta-vae", seed, "ok", evaluations=found))
    provenance = {"suite_hash": "0123456789abcdef", "collapsebench": "0.1.0", "date": "2026-01-02"}
    return SuiteResults("images", "Images", cells, COMPARED, ranked_by("pca-agreement/r2"), provenance)
