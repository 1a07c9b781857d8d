"""The scan that observables and metrics are examined on."""

from __future__ import annotations

import pytest

from collapsebench.authoring.reference_scan import LATENTS, TEMPERATURES, reference_scan
from collapsebench.contracts import load_registry
from collapsebench.observing.observe import measure
from collapsebench.theory.oracle import oracle


def test_the_reference_scan_is_at_the_exact_solution() -> None:
    scan = reference_scan()
    moments = load_registry().get("observable", "latent-moments").create()
    table = measure("latent-moments", moments, scan.model, [scan.samples("train")])
    found = table["signal_fraction"].to_numpy().reshape(len(TEMPERATURES), LATENTS)
    exact = oracle(scan.data.second_moments["train"], TEMPERATURES, LATENTS)
    assert found == pytest.approx(exact.signal_fraction, abs=1e-5)
