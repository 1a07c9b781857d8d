"""A published folder stands for the results it was made of: nothing that is drawn or printed needs the store."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from flow import digests, invoke
from measured_results import measurement

from collapsebench import UserError, oracle, publish
from collapsebench.errors import StoreError
from collapsebench.publishing.bundle import _spectrum, _spectrum_entry, read_bundle
from collapsebench.ranking.board import board, reasons


def test_a_bundle_makes_itself_again_byte_for_byte(published, tmp_path):
    outcome = publish(published, tmp_path / "again")
    assert digests(tmp_path / "again") == digests(published)
    assert not outcome.ok
    assert outcome.folder == tmp_path / "again"
    publish(published, published)
    assert digests(tmp_path / "again") == digests(published)


def test_the_values_of_a_bundle_are_those_it_was_made_of(results, published):
    found = read_bundle(published)
    pd.testing.assert_frame_equal(board(found), board(results))
    pd.testing.assert_frame_equal(reasons(found), reasons(results))
    assert (found.provenance, found.datasets, found.declared) == (
        results.provenance,
        results.datasets,
        results.declared,
    )
    assert [c.reason for c in found.cells] == [c.reason for c in results.cells]
    pd.testing.assert_frame_equal(
        found.cells[0].evaluations["shape"].modes, results.cells[0].evaluations["shape"].modes
    )


def test_the_measurements_of_a_bundle_are_those_it_was_made_of_to_float32(results, published):
    for ours, theirs in zip(read_bundle(published).cells, results.cells, strict=True):
        if theirs.measurement is None:
            assert ours.measurement is None
            continue
        for name, table in theirs.measurement.tables.items():
            pd.testing.assert_frame_equal(ours.measurement.tables[name], table, rtol=1e-7, check_dtype=False)
            assert ours.measurement.tables[name]["temperature"].equals(table["temperature"])


def test_the_exact_solution_of_a_bundle_is_that_of_its_covariances():
    rng = np.random.default_rng(0)
    train, other = (np.cov(rng.normal(size=(5, 40)) * rng.uniform(0.2, 2, 5)[:, None]) for _ in range(2))
    eigenvalues, vectors = np.linalg.eigh(train)
    scan = measurement(np.arange(5, 0, -1.0))
    pca = replace(scan.pca, eigenvalues=eigenvalues[::-1] / np.trace(train), components=vectors.T[::-1])
    scan = replace(scan, pca=pca, second_moments={"train": train, "test": other}, total_variance=np.trace(train))
    total, kept, moments = _spectrum(_spectrum_entry(scan))
    assert total == pytest.approx(np.trace(train))
    np.testing.assert_allclose(kept.eigenvalues, pca.eigenvalues)
    temperatures = np.geomspace(1, 1e-3, 7)
    ours = oracle(moments["train"], temperatures, 4, evaluation=moments["test"])
    theirs = oracle(train, temperatures, 4, evaluation=other)
    for quantity in ("signal_fraction", "normalised_distortion", "loss"):
        np.testing.assert_allclose(getattr(ours, quantity), getattr(theirs, quantity), rtol=1e-9, atol=1e-12)


def test_changed_data_are_refused_with_the_file_and_what_to_do(published, tmp_path):
    folder = tmp_path / "bundle"
    shutil.copytree(published, folder)
    path = folder / "data" / "results.json"
    path.write_text(path.read_text().replace("2026-01-02", "2026-01-03"))
    with pytest.raises(StoreError, match=r"results\.json: missing or changed since it was published"):
        read_bundle(folder)
    with pytest.raises(StoreError, match="holds no published results"):
        read_bundle(tmp_path)


def test_options_make_no_sense_for_a_published_folder(published, tmp_path):
    with pytest.raises(UserError, match="found the option preset"):
        publish(published, tmp_path / "again", preset="smoke")
    done = invoke("publish", published, tmp_path / "again", "--set", "seeds=2")
    assert done.exit_code == 2
    assert "is a published folder, whose results are settled; found the option overrides" in done.output
