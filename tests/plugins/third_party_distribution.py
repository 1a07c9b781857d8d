"""A distribution of a third party, as it would be installed: two observables and a metric that reads both."""

from __future__ import annotations

import os
from pathlib import Path

from flow import TINY

PLUGIN = """
from collapsebench import Component, hookimpl

@hookimpl
def collapsebench_observables():
    return [
        Component("posterior-entropy", "third_party_components:PosteriorEntropy", "entropy of the posterior"),
        Component("posterior-spread", "third_party_components:PosteriorSpread", "how much posterior variances vary"),
    ]

@hookimpl
def collapsebench_metrics():
    return [Component("entropy-drop", "third_party_components:EntropyDrop", "entropy that latents take from the prior")]
"""
ENTROPY_LABEL = "posterior entropy <b>per latent</b>, nats, at $T"
ENTROPY_HEADING = "P" + ENTROPY_LABEL[1:]
COMPONENTS = f'''
import math

import numpy as np
import pandas as pd
from collapsebench import Curve, Evaluation, Metric, Observable, Score

PRIOR = 0.5 * math.log(2 * math.pi * math.e)

class PosteriorEntropy(Observable):
    axis = "latent"
    published = True
    curves = (Curve("entropy", "{ENTROPY_LABEL}", split="test"),)

    def measure(self, model, samples):
        total = 0.0
        for x, weights in samples.chunks():
            total = total + 0.5 * (weights.to(x.dtype)[:, None] * model.encode(x)[1]).sum(dim=1)
        return {{"entropy": (PRIOR + total).cpu().numpy()}}

class PosteriorSpread(Observable):
    published = True
    curves = (Curve("spread", "spread of posterior variances", logarithmic=True),)

    def measure(self, model, samples):
        total = 0.0
        for x, weights in samples.chunks():
            total = total + (weights.to(x.dtype)[:, None] * model.encode(x)[1].exp()).sum(dim=1)
        return {{"spread": total.std(dim=1).cpu().numpy()}}

class EntropyDrop(Metric):
    requires = ("posterior-entropy", "posterior-spread")
    scores = (
        Score("widest", "Largest spread of a replica.", low=0, column=False),
        Score("total", "Entropy that all latents take together.", "higher", "nats"),
    )
    claim = "Takes more entropy from the prior"
    curves = (Curve("drop", "entropy drop, nats"),)

    def evaluate(self, measurement):
        table = measurement.tables["posterior-entropy"]
        rows = table[(table["split"] == "test") & (table["temperature"] == measurement.temperatures.min())]
        drop = np.sort(PRIOR - rows["entropy"].to_numpy())[::-1]
        return Evaluation(
            {{"total": float(drop.sum()), "widest": float(measurement.tables["posterior-spread"]["spread"].max())}},
            pd.DataFrame({{"rank": np.arange(1, drop.size + 1), "drop": drop}}),
        )
'''
SUITE = TINY.replace('["effective-dimension"]', '["entropy-drop", "threshold-ranking"]')
"""The tiny suite with the metric of the third party, and one that asks for signal fractions."""


def installed(site: Path) -> str:
    """Leave in a folder what installing the distribution would; return the path on which it is found."""
    site.mkdir()
    (site / "third_party.py").write_text(PLUGIN)
    (site / "third_party_components.py").write_text(COMPONENTS)
    about = site / "third_party-0.1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 0.1\n")
    (about / "entry_points.txt").write_text("[collapsebench]\nthird_party = third_party\n")
    return os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
