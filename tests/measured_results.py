"""Made-up results of scans that were measured: linear ones whose laws are known, bent ones, noisy and diverged ones."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd

from collapsebench import SPLITS, Evaluation, Measurement, Pca, Score, oracle
from collapsebench.ranking.standings import comparisons
from collapsebench.scoring.results import CellResult, SuiteResults

TEMPERATURES = np.logspace(0, -4, 17)
LATENTS = 8
SPECTRA = {"power-law": np.arange(1, 11) ** -1.5, "gap": np.array([4, 3, 2.5, 2, 0.02, 0.015, 0.01, 0.008])}
SHAPE = {"linear": 1.0, "mlp": 0.7, "mlp-linear": 1.0}
POWER_LAW = np.arange(1, 25) ** -1.5
SHARES = POWER_LAW / POWER_LAW.sum()
MODES = 20
SCORED = {"shape": (Score("slope", "how steep", "higher"), Score("rank", "how many", "lower", "latents"))}
PUBLISHED = ("replicas", "latent-moments", "truncated-distortion", "losses", "equilibrium")
"""The tables that a bundle of these results keeps."""


def table(axis, arrays, temperatures):
    """Return a table of {column: `(t, axis)`}, the same on every split."""
    t, index = np.indices(next(iter(arrays.values())).shape)
    columns = {"temperature": temperatures[t.ravel()], axis: index.ravel()}
    columns |= {name: values.ravel() for name, values in arrays.items()}
    return pd.concat([pd.DataFrame({"split": split, **columns}) for split in SPLITS], ignore_index=True)


def measurement(spectrum, seed=0, shape=1.0, noise=0.0, diverged=()):
    """Return an exact linear scan with noise; shape < 1 stands for a decoder that needs fewer latents than PCA."""
    rng = np.random.default_rng(seed)
    exact = oracle(np.diag(spectrum), TEMPERATURES, LATENTS)
    bent = oracle(np.diag(spectrum ** (1 / shape)), TEMPERATURES, LATENTS)
    fraction = np.clip(bent.signal_fraction + noise * rng.normal(size=bent.signal_fraction.shape), 0, 1)
    distortion = bent.normalised_distortion * np.exp(noise * rng.normal(size=bent.normalised_distortion.shape))
    marks = np.where(np.arange(TEMPERATURES.size) % 8 == 7, "budget", "converged").astype(object)
    for index in diverged:
        fraction[index], distortion[index], marks[index] = np.nan, np.nan, "diverged"
    tail = np.concatenate([[1.0], 1 - np.cumsum(exact.eigenvalues) / exact.total_variance])
    return Measurement(
        temperatures=TEMPERATURES,
        latent_dim=LATENTS,
        total_variance=exact.total_variance,
        tables={
            "latent-moments": table("latent", {"signal_fraction": fraction}, TEMPERATURES),
            "truncated-distortion": table("rank", {"normalised_distortion": distortion}, TEMPERATURES),
            "replicas": pd.DataFrame({"temperature": TEMPERATURES, "mark": marks}),
        },
        pca=Pca(exact.eigenvalues / exact.total_variance, exact.components, dict.fromkeys(SPLITS, tail)),
        second_moments=dict.fromkeys(SPLITS, np.diag(spectrum)),
        has_oracle=shape == 1.0,
    )


def cell(dataset, architecture, seed, status="ok", **changes):
    """Return a cell with a noisy scan; nothing is measured where it failed."""
    names = {"dataset": dataset, "architecture": architecture, "objective": "beta-vae", "seed": seed}
    made = CellResult(key=f"{dataset}-{architecture}-{seed}", status=status, **names)
    if status != "failed":
        scan = measurement(
            SPECTRA[dataset], seed, SHAPE[architecture], 0.02, diverged=(5, 6) if status == "diverged" else ()
        )
        made = replace(made, measurement=scan)
    return replace(made, **changes)


def suite(cells, **changes):
    """Return the results of a suite with these cells."""
    made = SuiteResults(
        suite="synthetic", title="Synthetic", cells=cells, declared={}, questions=(), published=PUBLISHED
    )
    return replace(made, **changes)


def scored(dataset, architecture, seed, slope=0.5, rank=np.inf, **changes):
    """Return a cell with the scores of `SCORED` as well."""
    evaluation = Evaluation({"slope": slope, "rank": rank})
    return cell(dataset, architecture, seed, evaluations={"shape": evaluation}, **changes)


def exact_scan(*, curve=None, gap=0.0, diverged=(), temperatures=TEMPERATURES, has_oracle=True):
    """Return an exact linear scan; curve: D(K) in place of its own; gap: J of active latents."""
    exact = oracle(np.diag(POWER_LAW), temperatures, MODES)
    moments = {
        "signal_fraction": exact.signal_fraction,
        "mean_square": exact.mean_square,
        "log_variance": np.log(exact.posterior_variance),
        "rate": exact.rate,
        "posterior_scale": np.ones_like(exact.rate),
        "jensen_gap": gap * exact.gain,
    }
    distortion = exact.normalised_distortion if curve is None else np.tile(curve, (temperatures.size, 1))
    moments = {name: values.copy() for name, values in moments.items()}
    for values in (*moments.values(), distortion):
        values[list(diverged)] = np.nan
    marks = np.full(temperatures.size, "converged", dtype=object)
    marks[list(diverged)] = "diverged"
    return Measurement(
        temperatures=temperatures,
        latent_dim=MODES,
        total_variance=exact.total_variance,
        tables={
            "latent-moments": table("latent", moments, temperatures),
            "truncated-distortion": table("rank", {"normalised_distortion": distortion}, temperatures),
            "replicas": pd.DataFrame({"temperature": temperatures, "mark": marks}),
        },
        pca=Pca(SHARES, np.eye(SHARES.size), dict.fromkeys(SPLITS, np.append(1 - np.cumsum(SHARES) + SHARES, 0.0))),
        second_moments=dict.fromkeys(SPLITS, np.diag(POWER_LAW)),
        has_oracle=has_oracle,
    )


def exact_cell(architecture="linear", seed=0, scan=None, status="ok", reason=""):
    """Return a cell of the dataset "data" with this scan."""
    return CellResult(f"{architecture}-{seed}", "data", architecture, "beta-vae", seed, status, reason, scan)


def exact_suite(*cells):
    """Return the results of a suite of exact cells."""
    return SuiteResults(
        suite="synthetic", title="Synthetic", cells=cells, declared={}, questions=(), published=PUBLISHED
    )


def contenders_of(*cells):
    """Return the contenders of a suite of exact cells."""
    return comparisons(exact_suite(*cells))["data", "beta-vae"]


def captions(folder):
    """Return the captions of the figures in a folder."""
    return json.loads((folder / "captions.json").read_text(encoding="utf-8"))
