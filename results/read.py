"""Print what the tables of results/README.md hold, from the store that the runs have left.

python results/read.py exact linear-gaussian
python results/read.py exact worldclim-linear --set 'datasets.worldclim.version="1.4"' ...
python results/read.py ranks worldclim-depth --preset cpu --set ...
python results/read.py paths worldclim-paths --set ...
"""

from __future__ import annotations

import argparse
import itertools
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

import collapsebench
from collapsebench import Measurement, Oracle

LOWEST_MODE, LOWEST_TEMPERATURE = 1e-4, 1e-4


def main() -> None:
    """Score a suite again and print one of the three tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=["exact", "ranks", "paths"])
    parser.add_argument("suite")
    parser.add_argument("--preset")
    parser.add_argument("--set", action="append", default=[])
    given = parser.parse_args()
    outcome = collapsebench.score(given.suite, preset=given.preset, overrides=tuple(given.set))
    if given.table == "exact":
        print(exact(outcome).T.to_string(float_format="{:.7g}".format))
    elif given.table == "ranks":
        print(ranks(outcome).to_string(index=False))
        print(orders(outcome).to_string(index=False))
    else:
        presets = {"preconditioned": outcome}
        presets["adam"] = collapsebench.score(given.suite, preset="adam", overrides=tuple(given.set))
        print(paths(presets).to_string(index=False))


def exact(outcome: collapsebench.Outcome) -> pd.DataFrame:
    """The distance of every linear scan to the exact solution: the worst of its seeds."""
    rows = []
    for cell in outcome.results.cells:
        if cell.measurement is None or not cell.measurement.has_oracle:
            continue
        found = cell.measurement
        theory = collapsebench.oracle(found.covariance, found.temperatures, found.latent_dim)
        rows.append({"dataset": cell.dataset, "seed": cell.seed, **_distances(found, theory), **_scores(cell)})
    frame = pd.DataFrame(rows).drop(columns="seed").groupby("dataset", sort=False)
    worst = frame.max()
    for least in (name for name in worst if name.startswith("least ")):
        worst[least] = frame[least].min()
    return worst


def _scores(cell: Any) -> dict[str, float]:
    agreement, exponent, ranking, equilibrium = (
        cell.evaluations[name] for name in ("pca-agreement", "exponent-fit", "threshold-ranking", "equilibrium")
    )
    modes = agreement.modes
    assert modes is not None
    strong = modes[modes["eigenvalue"] > LOWEST_MODE]
    order = stats.kendalltau(strong["threshold"], strong["eigenvalue"]).statistic
    return {
        "max |M^2 - exact|, T_k > 1e-3": agreement.values["signal-fraction-max-error"],
        "max |log T_c - log T_k|": agreement.values["threshold-max-log-error"],
        "max |exponent - 1/2|": exponent.values["exponent-max-deviation"],
        f"least identity R2 of thresholds, T_k > {LOWEST_MODE:g}": collapsebench.identity_r2(
            strong["threshold"], strong["eigenvalue"]
        ),
        f"least identity R2 of utilities, T_k > {LOWEST_MODE:g}": collapsebench.identity_r2(
            strong["utility"], strong["eigenvalue"]
        ),
        f"least Kendall tau of thresholds, T_k > {LOWEST_MODE:g}": float(order),
        "least Kendall tau, latents followed": ranking.values["kendall-tau"],
        "least converged share": equilibrium.values["converged-share"],
        "largest Ward residual": equilibrium.values["ward-residual"],
        "least converged share of the strong temperatures": _share(cell.measurement),
    }


def _share(found: Measurement | None) -> float:
    assert found is not None
    replicas = found.tables["replicas"]
    strong = replicas[replicas["temperature"] >= LOWEST_TEMPERATURE * (1 - 1e-9)]
    return float((strong["mark"] == "converged").mean())


def _distances(found: Measurement, theory: Oracle) -> dict[str, float]:
    temperatures = found.temperatures
    strong = temperatures >= LOWEST_TEMPERATURE * (1 - 1e-9)
    losses = found.tables["losses"].query("split == 'train'").set_index("temperature")["loss"]
    gap = losses.reindex(temperatures).to_numpy() / theory.loss - 1
    moments = found.tables["latent-moments"].query("split == 'train'")
    high = moments[moments["temperature"] >= LOWEST_TEMPERATURE * (1 - 1e-9)]
    active = high[high["signal_fraction"] > 0.1]
    abroad = collapsebench.oracle(
        found.covariance, temperatures, found.latent_dim, evaluation=found.second_moments["test"]
    ).signal_fraction
    ours = collapsebench.ranked_signal_fraction(found.tables["latent-moments"], "test", temperatures)
    count = min(ours.shape[1], abroad.shape[1])
    clear = theory.thresholds[:count] > 10 * LOWEST_MODE
    far = np.abs(temperatures[:, None] - theory.thresholds[:count]) > 0.05 * theory.thresholds[:count]
    error = np.abs(np.sort(ours, axis=1) - np.sort(abroad, axis=1))[:, ::-1][:, :count]
    return {
        "max distance to the exact loss, T >= 1e-4": float(np.abs(gap[strong]).max()),
        "max distance to the exact loss, all T": float(np.abs(gap).max()),
        "max |A^2 - 1| of active latents, T >= 1e-4": float((active["posterior_scale"] - 1).abs().max()),
        "max Jensen gap, T >= 1e-4": float(high["jensen_gap"].max()),
        "test split: max |M^2 - exact there|, T_k > 1e-3": float(np.where(clear & far, error, 0.0).max()),
    }


def ranks(outcome: collapsebench.Outcome) -> pd.DataFrame:
    """Every architecture's latents per tolerance, thresholds and tail, with 95 % t-intervals over seeds."""
    board = outcome.board
    wanted = ("effective-dimension/", "utility-threshold-duality/", "threshold-ranking/", "tail-exponent/", "equilib")
    names = board["metric"] + "/" + board["score"]
    chosen = board[names.str.startswith(wanted)].assign(score=names)
    return chosen[["architecture", "score", "value", "low", "high", "n_ok", "n_planned"]]


def orders(outcome: collapsebench.Outcome) -> pd.DataFrame:
    """The first rank whose threshold breaks the order of utilities: in each seed, and in their geometric mean."""
    spectra: dict[str, list[pd.DataFrame]] = {}
    for cell in outcome.results.cells:
        modes = cell.evaluations["rate-thresholds"].modes
        assert modes is not None
        spectra.setdefault(cell.architecture, []).append(modes[modes["resolved"]].set_index("rank"))
    rows = []
    for architecture, seeds in spectra.items():
        together = np.log(pd.concat(seeds)).groupby(level=0).mean() if len(seeds) > 1 else np.log(seeds[0])
        rows.append(
            {
                "architecture": architecture,
                "first swapped rank, seed by seed": " ".join(str(_swapped(modes)) for modes in seeds),
                "of the geometric mean": _swapped(together[together.notna().all(axis=1)]),
            }
        )
    return pd.DataFrame(rows)


def _swapped(modes: pd.DataFrame) -> int:
    by_utility = modes.sort_values("utility", ascending=False, kind="stable")
    return collapsebench.first_swapped_rank(by_utility["rate_threshold"])


def paths(outcomes: dict[str, collapsebench.Outcome]) -> pd.DataFrame:
    """Log ratios of thresholds between optimisers and initialisations: mean and 95 % t-interval over seeds, by rank."""
    found: dict[tuple[str, str], dict[int, np.ndarray]] = {}
    for optimiser, outcome in outcomes.items():
        for cell in outcome.results.cells:
            modes = cell.evaluations["utility-threshold-duality"].modes
            assert modes is not None
            logs = np.log(modes["threshold"].to_numpy())[: int(modes["resolved"].sum())]
            family, _, start = cell.architecture.partition("-")
            found.setdefault((family, f"{optimiser}, {start}"), {})[cell.seed] = logs
    rows = []
    for (one, a), (two, b) in itertools.combinations(found.items(), 2):
        if one[0] != two[0]:
            continue
        count = min(len(values) for values in (*a.values(), *b.values()))
        gaps = np.array([a[seed][:count] - b[seed][:count] for seed in a])
        half = stats.t.ppf(0.975, len(gaps) - 1) * gaps.std(0, ddof=1) / np.sqrt(len(gaps))
        decided = np.abs(gaps.mean(0)) > half
        rows.append(
            {
                "network": one[0],
                "paths": f"{one[1]} / {two[1]}",
                "ranks": count,
                "largest |mean log ratio|": round(float(np.abs(gaps.mean(0)).max()), 4),
                "ranks whose interval excludes 0": " ".join(str(k + 1) for k in np.flatnonzero(decided)) or "none",
                "largest |log ratio| there": round(float(np.abs(gaps.mean(0)[decided]).max(initial=0)), 4),
            }
        )
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()
