"""What a third party's observables and metric declare reaches bundle, board, page, figures and comparisons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from flow import command, digests, write_suite
from PIL import Image
from third_party_distribution import ENTROPY_HEADING, SUITE, installed

FIGURES = ("posterior-entropy-entropy", "posterior-spread-spread", "entropy-drop-drop")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """The suite, what its run left to be published, and the path on which the distribution is found."""
    folder = tmp_path_factory.mktemp("third-party")
    path, suite = installed(folder / "site"), write_suite(folder, SUITE)
    done = command("run", suite, "--store", folder / "store", figures=True, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    return suite, folder / "store" / "suites" / "tiny", path


@pytest.fixture(scope="module")
def published(ran: tuple[Path, Path, str]) -> Path:
    return ran[1]


def content(published: Path) -> list[dict[str, Any]]:
    """Return what the scripts of a page draw."""
    page = (published / "index.html").read_text(encoding="utf-8")
    found = page.split('<script type="application/json" id="content">')[1].split("</script>")[0]
    return list(json.loads(found))


def measured(published: Path, table: str) -> pd.DataFrame:
    """Return a table of a bundle with the names of its cells."""
    cells = pd.read_csv(published / "cells.csv")
    return pd.read_parquet(published / "data" / f"{table}.parquet").merge(
        cells[["architecture", "seed"]], left_on="cell", right_index=True
    )


def of_run(table: pd.DataFrame, architecture: str, seed: int, split: str | None = None) -> pd.DataFrame:
    rows = table[(table["architecture"] == architecture) & (table["seed"] == seed)]
    return rows if split is None else rows[rows["split"] == split]


def test_the_bundle_has_what_the_observables_measured_and_makes_everything_again(
    published: Path, tmp_path: Path
) -> None:
    entropy, spread = measured(published, "posterior-entropy"), measured(published, "posterior-spread")
    assert entropy["entropy"].notna().all()
    assert len(entropy) == 3 * len(spread) == 2 * 2 * 3 * 4 * 3
    # Without the distribution: the bundle alone must say everything.
    done = command("publish", published, tmp_path / "again", figures=True)
    assert done.returncode == 0, done.stderr
    assert digests(tmp_path / "again") == digests(published)


def test_the_score_with_a_direction_is_the_column_of_the_board_and_ranks(published: Path) -> None:
    board = pd.read_csv(published / "board.csv")
    assert set(board.loc[board["metric"] == "entropy-drop", "score"]) == {"widest", "total"}
    text = (published / "board.md").read_text(encoding="utf-8")
    assert "entropy-drop" in text
    assert "widest" not in text.split("Ranked by")[0]
    (question,) = json.loads((published / "data" / "results.json").read_text())["questions"]
    assert question["scores"][0] == "entropy-drop/total"
    values = board[(board["metric"] == "entropy-drop") & (board["score"] == "total")].set_index("architecture")["value"]
    scores = pd.read_csv(published / "tables" / "scores.csv")
    own = scores[(scores["metric"] == "entropy-drop") & (scores["score"] == "total")]
    assert values.to_dict() == pytest.approx(own.groupby("architecture")["value"].mean().to_dict(), rel=1e-6)


@pytest.mark.parametrize("kind", FIGURES)
def test_every_declared_curve_is_a_figure_in_both_formats_with_a_caption(published: Path, kind: str) -> None:
    figures = published / "figures"
    captions = json.loads((figures / "captions.json").read_text(encoding="utf-8"))
    assert (figures / f"{kind}-gaussian.pdf").read_bytes().startswith(b"%PDF")
    with Image.open(figures / f"{kind}-gaussian.png") as picture:
        assert min(picture.size) > 400
        assert len(picture.getcolors() or ()) > 20
    assert "4 temperatures from 1 to 0.01; 4 independent runs" in captions[f"{kind}-gaussian"]


def test_captions_say_what_is_shown_of_what_and_on_which_split(published: Path) -> None:
    captions = json.loads((published / "figures" / "captions.json").read_text(encoding="utf-8"))
    entropy, spread, drop = (captions[f"{kind}-gaussian"] for kind in FIGURES)
    assert entropy.startswith(ENTROPY_HEADING)
    assert "of each latent, ranked by signal fraction at each temperature" in entropy
    assert "by the observable posterior-entropy on the test split" in entropy
    assert spread.startswith("Spread of posterior variances, of each replica")
    assert "on the train split" in spread
    assert drop.startswith("Entropy drop, nats, at each rank, as the metric entropy-drop found it.")


def test_the_page_has_every_score_label_and_number_and_none_of_it_as_markup(published: Path) -> None:
    page = (published / "index.html").read_text(encoding="utf-8")
    assert "<b>per latent</b>" not in page
    assert "Posterior entropy &lt;b&gt;per latent&lt;/b&gt;" in page
    assert page.index('data-kind="utility"') < page.index("data-declared") < page.index('id="equilibrium"')
    for score in ("total", "widest"):
        assert f'<span class="metric">entropy-drop</span>{score}' in page
    entropy, moments = measured(published, "posterior-entropy"), measured(published, "latent-moments")
    spread, drop = measured(published, "posterior-spread"), measured(published, "modes-entropy-drop")
    (scan,) = content(published)
    runs = [(one["name"], run) for one in scan["architectures"] for run in one["runs"]]
    assert len(runs) == 4
    for name, run in runs:
        latents, ranks = of_run(entropy, name, run["seed"], "test"), of_run(moments, name, run["seed"], "test")
        keys = ["split", "temperature", "latent"]
        both = latents[[*keys, "entropy"]].merge(ranks[[*keys, "signal_fraction"]], on=keys)
        by_rank = both.sort_values(["temperature", "signal_fraction"], ascending=[True, False], kind="stable")
        levels = of_run(spread, name, run["seed"], "train").sort_values("temperature")
        expected: tuple[tuple[list[float], Any], ...] = (
            (run["t"], by_rank["entropy"].to_numpy().reshape(4, 3).T),
            (run["t"], levels["spread"]),
            ([1, 2, 3], of_run(drop, name, run["seed"])["drop"]),
        )
        for place, (x, y) in enumerate(expected):
            shown = run["declared"][f"declared-{place}"]
            assert shown["x"] == x
            assert np.allclose(np.array(shown["y"], dtype=float), y, rtol=1e-5)


def test_a_comparison_says_the_claim_of_the_metric(ran: tuple[Path, Path, str]) -> None:
    suite, published, path = ran
    store = published.parents[1]
    done = command("compare", "mlp", "linear", "--suite", suite, "--store", store, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    assert "Takes more entropy from the prior, by entropy-drop/total: " in done.stdout
