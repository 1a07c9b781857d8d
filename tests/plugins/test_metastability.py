"""Onsets under several protocols: exact scans that agree, and made-up ones that rest in other states."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from collapsebench import Line, Measurement, Pca, envelope, oracle
from collapsebench_metrics.metastability import Metastability
from collapsebench_metrics.parameters import MetastabilityParameters

TEMPERATURES = np.logspace(-0.05, -2, 40)
SPECTRUM = np.array([0.5, 0.3, 0.15, 0.05])
METRIC = Metastability(MetastabilityParameters())


def scan(rates, distortion, protocol="fresh"):
    """Return a scan at V = 1 with given rates `(t, latent)` and distortions in nats `(t,)`."""
    t, latent = np.indices(rates.shape)
    moments = {
        "split": "train",
        "temperature": TEMPERATURES[t.ravel()],
        "latent": latent.ravel(),
        "rate": rates.ravel(),
    }
    lines = [Line(*row) for row in zip(TEMPERATURES, distortion, rates.sum(1), strict=True)]
    replicas = pd.DataFrame(lines).assign(temperature=TEMPERATURES, mark="converged", envelope_gap=envelope(lines).gap)
    losses = pd.DataFrame({"split": "train", "temperature": TEMPERATURES, "distortion": distortion})
    return Measurement(
        temperatures=TEMPERATURES,
        latent_dim=rates.shape[1],
        total_variance=1.0,
        tables={"latent-moments": pd.DataFrame(moments).assign(split="train"), "losses": losses, "replicas": replicas},
        pca=Pca(SPECTRUM, np.eye(4), {}),
        second_moments={"train": np.diag(SPECTRUM)},
        has_oracle=True,
        protocol=protocol,
    )


def exact(protocol="fresh"):
    found = oracle(np.diag(SPECTRUM), TEMPERATURES, 4)
    return scan(found.rate, found.loss - TEMPERATURES * found.rate.sum(1), protocol)


def held_on(protocol="exchange"):
    """Below T = 0.8, the first latent carries 0.3 nats and leaves a quarter of V: a first-order onset."""
    plain = exact(protocol)
    rates = np.zeros((40, 4))
    rates[TEMPERATURES < 0.8, 2] = 0.3
    distortion = np.where(TEMPERATURES < 0.8, 0.125, 0.5)
    return replace(scan(rates, distortion, protocol), counterparts={"fresh": plain})


def test_an_exact_scan_sets_in_at_the_first_eigenvalue_without_a_jump_under_every_protocol():
    measured = replace(exact(), counterparts={name: exact(name) for name in ("up", "down", "exchange")})
    found = METRIC.evaluate(measured)
    assert found.values["onset-ratio"] == pytest.approx(0, abs=0.025)  # at 0.01 nats, T = 0.98 T_1
    assert found.values["onset-shift"] == 0
    assert found.values["jump"] <= 0
    assert found.values["excess-cost"] == pytest.approx(0, abs=1e-12)
    for protocol in ("fresh", "up", "down", "exchange"):
        assert found.modes[protocol][:3].to_numpy() == pytest.approx(SPECTRUM[:3], rel=0.025)


def test_a_scan_that_rests_at_collapse_above_the_true_onset_says_how_far_below_it_sets_in():
    resting = replace(exact(), counterparts={"exchange": held_on()})
    found = METRIC.evaluate(resting)
    assert found.values["onset-shift"] == pytest.approx(np.log(0.8 / 0.5), abs=0.15)
    cost = oracle(np.diag(SPECTRUM), TEMPERATURES, 4).loss
    assert found.values["excess-cost"] == pytest.approx((1 - (0.125 + 0.3 * TEMPERATURES) / cost).max())
    assert found.modes["exchange"][0] == pytest.approx(0.8, rel=0.12)
    assert found.modes["up"].isna().all()


def test_the_size_of_a_jump_is_the_fall_of_the_distortion():
    step = np.diff(TEMPERATURES[::-1]).max()
    found = METRIC.evaluate(held_on()).values
    assert found["jump"] == pytest.approx(0.75, abs=step)
    assert found["onset-ratio"] == pytest.approx(np.log(0.8 / 0.5), abs=0.12)


def test_without_an_exchange_scan_there_is_a_reason_and_no_shift():
    found = METRIC.evaluate(exact())
    assert "sweep" in found.reasons["onset-shift"]
    assert "onset-ratio" in found.values


def test_a_scan_without_an_onset_has_reasons():
    found = METRIC.evaluate(scan(np.zeros((40, 4)), np.full(40, 0.5)))
    assert found.reasons.keys() == {"onset-shift", "onset-ratio", "jump"}
