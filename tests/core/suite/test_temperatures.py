"""A grid of temperatures that the spectrum of each dataset decides."""

from __future__ import annotations

import numpy as np
import pytest
from flow import write_suite

from collapsebench.contracts import load_registry
from collapsebench.errors import SuiteError
from collapsebench.planning.cells import make_plan
from collapsebench.store import Store
from collapsebench.suite.resolve import load_suite
from collapsebench.suite.temperatures import AutoGrid
from collapsebench.verbs.run import run

QUICK = ("training.max_updates=16",)
TWO = (
    'datasets=[{id="steep",use="gaussian",spectrum={kind="power-law",exponent=6.0}},'
    '{id="shallow",use="gaussian",spectrum={kind="power-law",exponent=1.0}}]'
)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("latents", [1, 4, 16])
def test_the_range_holds_every_threshold_ten_times_over_and_three_decades(exponent, latents):
    spectrum = np.arange(1.0, 33.0) ** -exponent
    spectrum /= spectrum.sum()
    found = AutoGrid(17).values(spectrum.tolist(), latents)
    assert len(found) == 17
    assert found == sorted(found, reverse=True)
    assert found[0] >= min(1.0, 3.8 * spectrum[0])
    assert found[-1] <= 1.06 * spectrum[latents - 1] / 10
    assert found[0] / found[-1] >= 999
    assert np.allclose(np.diff(np.log(found)), np.diff(np.log(found))[0], rtol=0.02)


def test_rounding_errors_of_a_spectrum_decide_nothing():
    spectrum = np.array([0.5, 0.3, 0.15, 0.05])
    other = spectrum * (1 + 1e-12 * np.array([1, -1, 1, -1]))
    assert AutoGrid().values(spectrum.tolist(), 4) == AutoGrid().values(other.tolist(), 4)


def test_modes_without_variance_decide_nothing():
    assert AutoGrid().values([0.7, 0.3, 1e-17, 0.0], 4) == AutoGrid().values([0.7, 0.3], 2)


def test_every_dataset_of_a_run_has_its_own_range_and_keeps_it(tmp_path):
    """Trained, observed, scored and planned again: two datasets, two grids, of which nothing is lost."""
    write_suite(tmp_path)
    overrides = [*QUICK, 'scan.temperatures="auto-5"', TWO]
    outcome = run(tmp_path / "tiny.toml", overrides=overrides, store=tmp_path / "store")
    assert outcome.ok
    grids = {cell.dataset: tuple(cell.measurement.temperatures) for cell in outcome.results.cells}
    assert {len(grid) for grid in grids.values()} == {5}
    assert grids["steep"][-1] < grids["shallow"][-1]
    for cell in outcome.results.cells:
        tables = cell.measurement.tables.values()
        assert all(set(table["temperature"]) == set(grids[cell.dataset]) for table in tables)
    suite = load_suite(tmp_path / "tiny.toml", overrides=overrides)
    plan = make_plan(suite, Store(tmp_path / "store"), load_registry())
    assert not plan.missing
    assert plan.temperatures(plan.cells[0].scan) == list(grids[plan.cells[0].dataset])
    assert "5 temperatures that each dataset decides" in plan._repr_html_()


@pytest.mark.parametrize("given", ["automatic", "auto-", "auto-0", "auto-x"])
def test_another_word_is_refused(tmp_path, given):
    write_suite(tmp_path)
    with pytest.raises(SuiteError, match=r"scan\.temperatures"):
        load_suite(tmp_path / "tiny.toml", overrides=[f'scan.temperatures="{given}"'])
