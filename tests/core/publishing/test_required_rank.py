"""The table of required ranks: that of an exact scan is PCA's, and what is not reached says so."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from measured_results import MODES, SHARES, exact_cell, exact_scan, exact_suite

from collapsebench.publishing.required_rank import required_rank_csv, required_rank_page, required_ranks


def test_the_required_rank_of_an_exact_scan_is_that_of_pca_and_what_is_not_reached_says_so():
    coarse = np.append([1.0, 0.04], np.full(MODES - 1, 0.02))
    fine = np.append([1.0, 0.3], np.full(MODES - 1, 0.008))
    made = exact_suite(
        *(exact_cell("linear", seed, exact_scan()) for seed in range(3)),
        *(exact_cell("mlp", seed, exact_scan(curve=curve)) for seed, curve in enumerate((coarse, coarse, fine))),
        *(exact_cell("lost", seed, None, "failed") for seed in range(3)),
    )
    ranks = required_ranks(made)
    found = ranks.set_index(["model", "tolerance_percent"])
    assert found.loc[("PCA", 5.0), "value"] == np.flatnonzero(1 - np.cumsum(SHARES) <= 0.05)[0] + 1
    assert found.loc[("mlp", 5.0), "value"] == pytest.approx(4 / 3)
    assert found.loc[("mlp", 1.0), ["value", "reached", "runs"]].tolist() == [np.inf, 1, 3]
    assert found.loc[("best VAE", 5.0), "architecture"] == "mlp"
    page = required_rank_page(ranks)
    assert "| not reached (2 of 3) |" in page
    assert "| not measured |" in page
    assert "1.3 ± 1.4 (mlp)" in page
    csv = pd.read_csv(io.StringIO(required_rank_csv(ranks)), dtype="str", keep_default_na=False)
    assert csv["tolerance_percent"].tolist() == [*("50.0", "30.0", "10.0", "5.0", "1.0", "0.5", "0.1", "0.01", "0.001")]
    assert csv["mlp"].tolist()[4:] == ["not reached (2 of 3)", *["not reached"] * 4]
    assert csv["lost"].tolist() == ["not measured"] * 9
    assert csv["best VAE architecture"].tolist()[3:] == ["mlp", *[""] * 5]
    assert list(csv)[-2:] == ["best VAE", "best VAE architecture"]
