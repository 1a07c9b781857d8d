"""A scan of a table: the spectrum that is in the data, through the ordinary flow, store and outputs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from flow import command, invoke, stamps

import collapsebench
from collapsebench.contracts import Pca
from collapsebench.errors import DataError, UserError
from collapsebench.verbs.scan import TableScan, _chosen, _suite

QUICK: dict[str, Any] = {"seeds": 2, "temperatures": 7, "max_updates": 250}
OPTIONS = ("--seeds", "1", "--temperatures", "3", "--max-updates", "2", "--latent-dim", "3")
STRONG = 3


def table(rows: int = 400, columns: int = 6, strong: int = STRONG, noise: float = 0.03) -> pd.DataFrame:
    """Return `strong` independent directions of equal weight in `columns` columns, and a little noise."""
    generator = np.random.default_rng(3)
    directions = np.linalg.qr(generator.normal(size=(columns, columns)))[0][:strong]
    values = generator.normal(size=(rows, strong)) @ directions + noise * generator.normal(size=(rows, columns))
    return pd.DataFrame(values, columns=[f"c{place}" for place in range(columns)])


@pytest.fixture(scope="module", autouse=True)
def few_draws() -> Iterator[None]:
    """Scan with few draws of z behind every expectation: where tables are short, drawing is what takes long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "collapsebench.verbs.scan._suite", lambda *about: {**_suite(*about), "evaluation": {"samples": 1024}}
        )
        yield


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scan") / "store"


@pytest.fixture(scope="module")
def found(store: Path) -> TableScan:
    return collapsebench.scan(table(), store=store, **QUICK)


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    path = tmp_path / "my table.csv"
    table(100).assign(kind="a", again=lambda frame: frame["c0"], one=1.0).to_csv(path, index=False)
    return path


def test_the_spectrum_has_a_row_for_each_architecture_and_rank_beside_pca(found: TableScan) -> None:
    spectrum = found.spectrum
    assert set(spectrum["architecture"]) == {"linear", "mlp"}
    ranks = spectrum.groupby("architecture")["rank"].apply(list)
    assert ranks["linear"] == ranks["mlp"] == list(range(1, len(ranks["linear"]) + 1))
    linear = spectrum[spectrum["architecture"] == "linear"].set_index("rank")
    assert linear["pca"][STRONG] > 50 * linear["pca"][STRONG + 1]
    assert linear["pca"].is_monotonic_decreasing


def test_a_linear_pair_finds_the_dimension_that_is_in_the_table(found: TableScan) -> None:
    ranks = found.required_ranks
    five = ranks[ranks["tolerance_percent"] == 5.0].set_index("model")["value"]
    assert five["PCA"] == STRONG
    assert five["linear"] == STRONG
    linear = found.spectrum[found.spectrum["architecture"] == "linear"]
    strong = linear[linear["rank"] <= STRONG]
    assert strong["threshold"].to_numpy() == pytest.approx(strong["pca"].to_numpy(), rel=0.25)


def test_k_latents_are_kept_between_the_thresholds_of_k_and_of_the_next(found: TableScan) -> None:
    kept = found.kept_latents.set_index(["architecture", "latents"])
    spectrum = found.spectrum.set_index(["architecture", "rank"])["threshold"]
    at: Any = kept.loc["linear", STRONG]
    assert at["below"] == pytest.approx(spectrum["linear", STRONG])
    assert at["above"] <= at["temperature"] <= at["below"]
    assert at["beta"] == pytest.approx(at["temperature"] * 6, rel=1e-3)  # V: six standardised columns
    before: Any = kept.loc["linear", STRONG - 1]
    assert at["pca_distortion"] < 0.05 < before["pca_distortion"]
    told = kept.dropna(subset="temperature")
    assert (told["above"] < told["below"]).all()


def test_the_flow_s_outputs_and_the_scan_s_own_tables_lie_in_the_store(found: TableScan, store: Path) -> None:
    assert found.folder == store / "suites" / "scan-frame"
    for name in (
        "board.csv", "scan.txt", "tables/latent-spectrum.csv", "tables/kept-latents.csv", "tables/required-rank.csv",
        "figures/signal-fraction-frame.pdf", "figures/rank-distortion-frame.png",
    ):  # fmt: skip
        assert (found.folder / name).is_file(), name
    read = pd.read_csv(found.folder / "tables" / "latent-spectrum.csv")
    assert read["pca"].to_numpy() == pytest.approx(found.spectrum["pca"].to_numpy())
    assert (found.folder / "scan.txt").read_text() == found.text()


def test_text_html_and_json_say_the_same(found: TableScan) -> None:
    text, content = found.text(), json.loads(found.json())
    for part in ("lambda_k/V", "tolerance", "Temperatures that keep K latents", "replicas converged"):
        assert part in text
    assert content["spectrum"][0]["pca"] == pytest.approx(found.spectrum["pca"][0])
    assert {row["model"] for row in content["required_ranks"]} >= {"PCA", "linear", "mlp"}
    assert content["kept_latents"][0]["latents"] == 1
    assert content["table"]["rows"] == {"train": 280, "validation": 60, "test": 60}
    assert "<table" in found._repr_html_()


@pytest.mark.usefixtures("no_figures")
def test_the_same_scan_again_trains_nothing(found: TableScan, store: Path) -> None:
    before = stamps(store)
    again = collapsebench.scan(table(), store=store, **QUICK)
    assert stamps(store) == before
    pd.testing.assert_frame_equal(again.spectrum, found.spectrum)


@pytest.mark.usefixtures("no_figures")
def test_a_frame_its_file_and_its_array_are_the_same_cells(found: TableScan, store: Path, tmp_path: Path) -> None:
    before = stamps(store)
    table().to_csv(tmp_path / "other name.csv", index=False, float_format="%.17g")
    collapsebench.scan(tmp_path / "other name.csv", store=store, **QUICK)
    assert set(stamps(store)) == set(before)
    collapsebench.scan(table().to_numpy(), store=store, **QUICK)
    assert set(stamps(store)) == set(before)


def test_no_cell_says_where_the_table_lay(found: TableScan, store: Path) -> None:
    texts = [path.read_text() for path in store.glob("cells/*/*/cell.json")]
    assert len(texts) == 4
    assert not [text for text in texts if str(store.parent) in text or '"path": "/' in text]


@pytest.mark.usefixtures("no_figures")
def test_the_command_line_names_text_columns_and_the_option_that_leaves_them_out(csv: Path, tmp_path: Path) -> None:
    refused = invoke("scan", csv, "--store", tmp_path / "store", *OPTIONS)
    assert refused.exit_code == 2
    assert "'kind' (row 1: 'a', row 2: 'a', row 3: 'a')" in refused.stderr
    assert "--leave-out kind" in refused.stderr
    done = invoke(
        "scan", csv, "--store", tmp_path / "store", "--leave-out", "kind", *OPTIONS, "--out", tmp_path / "out"
    )
    assert done.exit_code == 0, done.output
    assert "notice: left out, because constant on the train split: one" in done.stdout
    assert "notice: columns 'again' repeat 'c0'" in done.stdout
    assert (tmp_path / "out" / "scan.txt").is_file()
    assert (tmp_path / "out" / "manifest.json").is_file()


def test_json_on_the_command_line_is_json_and_nothing_else(csv: Path, tmp_path: Path) -> None:
    arguments = ("--columns", "c0", "--columns", "c1", "--columns", "c2", "--json", "--store", tmp_path / "store")
    done = command("scan", csv, *arguments, *OPTIONS)
    assert done.returncode == 0, done.stderr
    assert {row["architecture"] for row in json.loads(done.stdout)["spectrum"]} == {"linear", "mlp"}


@pytest.mark.usefixtures("no_figures")
def test_more_columns_than_rows_run_with_a_warning(tmp_path: Path) -> None:
    wide = pd.DataFrame(np.random.default_rng(0).normal(size=(20, 24)))
    seen = collapsebench.scan(wide, store=tmp_path, seeds=1, temperatures=3, max_updates=2, latent_dim=2)
    assert "describes these rows" in seen.text()
    assert seen.notices


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (pd.DataFrame({"a": [1.0, 2.0] * 9, "b": ["x", 1] * 9}), "'b' .row 1: 'x'"),
        (pd.DataFrame([[1.0, 2.0]] * 9, columns=["a", "a"]), "several columns named 'a'"),
        (pd.DataFrame([[1.0, 2.0]] * 9, columns=["a", "b"]), "all 2 features are constant"),
        (pd.DataFrame([[1.0, np.nan]] * 9, columns=["a", "b"]), "'b' in all of 9 rows"),
        (np.ones(5), "an array of shape"),
        ([[1, 2]], "a list"),
    ],
    ids=["text", "names", "constant", "missing", "one axis", "list"],
)
def test_what_is_no_table_of_numbers_is_refused(given: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises((DataError, UserError), match=message):
        collapsebench.scan(given, store=tmp_path, **QUICK)


def spectra() -> Iterator[tuple[str, np.ndarray]]:
    yield "two columns", np.array([1.5, 0.5])
    yield "one column", np.array([1.0])
    yield "flat", np.ones(50)
    yield "steep", 10.0 ** -np.arange(20.0)
    yield "singular", np.array([3.0, 1.0, 0.0, 0.0])
    yield "wide", np.arange(1, 2001.0) ** -1.5


@pytest.mark.parametrize(("name", "eigenvalues"), list(spectra()))
def test_what_is_chosen_fits_every_spectrum(name: str, eigenvalues: np.ndarray) -> None:
    shares = eigenvalues / eigenvalues.sum()
    curve = np.clip(1 - np.concatenate([[0.0], np.cumsum(shares)]), 0, None)
    pca = Pca(shares, np.eye(1), {"train": curve})
    chosen = _chosen(pca, None, None, None, None)
    grid, latents = chosen["scan"]["temperatures"], chosen["scan"]["latent_dim"]
    assert 1 <= latents <= min(24, len(shares))
    assert shares[0] <= grid["from"] <= 1
    assert grid["from"] / 2e4 <= grid["to"] <= grid["from"] / 50
    assert 9 <= grid["count"] <= 21
    assert chosen["seeds"] in (1, 2, 3)
