"""A trained model is measured like one of our own: the exact solution, the stored observables, and refusals."""

from __future__ import annotations

import doctest
import json

import numpy as np
import pandas as pd
import pytest
import torch
from exact_pair import LATENTS, TEMPERATURE, measured, of
from flow import write_suite

import collapsebench
from collapsebench.data.standardise import standardise
from collapsebench.errors import UserError
from collapsebench.store import Store
from collapsebench.theory.oracle import oracle
from collapsebench.training.build import build_pair
from collapsebench.verbs import measure as spectroscopy


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("temperature", [0.2, 0.03, 0.002])
def test_the_exact_linear_pair_has_the_oracles_observables_on_every_split(gaussian, solution, temperature, split):
    measurement = measured(solution(temperature), temperature=temperature)
    moment = gaussian.second_moments[split]
    exact = oracle(gaussian.second_moments["train"], [temperature], LATENTS, evaluation=moment)
    order = np.argsort(-exact.signal_fraction[0], kind="stable")
    latents = of(measurement.latents, split)
    for name in ("signal_fraction", "rate", "snr", "mean_square"):
        assert latents[name].to_numpy() == pytest.approx(getattr(exact, name)[0, order], rel=1e-5, abs=1e-6)
    assert list(latents["rank"]) == [1, 2, 3, 4, 5, 6]
    curve = of(measurement.distortion, split)["normalised_distortion"].to_numpy()
    assert curve == pytest.approx(exact.normalised_distortion[0], rel=1e-5)
    losses = of(measurement.losses, split).iloc[0]
    assert losses["distortion"] == pytest.approx(exact.distortion[0], rel=1e-5)
    assert losses["loss"] == pytest.approx(exact.loss[0], rel=1e-5)


def test_the_exact_linear_pair_is_stationary_stable_and_shows_the_pca_spectrum_in_one_shot(gaussian, solution):
    measurement = measured(solution())
    exact = oracle(gaussian.second_moments["train"], [TEMPERATURE], LATENTS)
    train = of(measurement.latents, "train")
    active = train["active"].to_numpy()
    assert active.sum() == (exact.signal_fraction[0] > 0.1).sum() > 2
    assert train["one_shot_threshold"].to_numpy()[active] == pytest.approx(exact.thresholds[active], rel=1e-5)
    assert train["pca_threshold"].to_numpy() == pytest.approx(exact.thresholds, rel=1e-6)
    assert train["one_shot_threshold"][~active].isna().all()
    assert measurement.linear_decoder
    assert measurement.ward_residual < 1e-6
    every_mode = oracle(gaussian.second_moments["train"], [TEMPERATURE]).mean_distortion
    assert measurement.residual_edge == pytest.approx(every_mode.max(), rel=1e-5)
    assert measurement.stationary
    assert measurement.stable


def test_a_mode_held_at_the_prior_is_unstable_though_stationary(solution):
    measurement = measured(solution(collapsed=[1]))
    assert measurement.stationary
    assert not measurement.stable
    assert "unstable" in measurement.text()


@pytest.mark.parametrize("change", [2.0, 0.5])
def test_another_temperature_than_the_models_own_shows_in_the_edge_or_the_spectrum(solution, change):
    measurement = measured(solution(), temperature=TEMPERATURE * change)
    train = of(measurement.latents, "train")
    ratio = train["one_shot_threshold"] / train["pca_threshold"]
    assert ratio[train["active"]].to_numpy() == pytest.approx(change, rel=1e-5)


@pytest.mark.parametrize("architecture", ["linear", "mlp"])
def test_a_replica_trained_here_has_its_stored_observables(tmp_path, component, architecture):
    metrics = 'metrics=["effective-dimension", "equilibrium", "jensen-gap"]'
    outcome = collapsebench.run(
        write_suite(tmp_path), store=tmp_path / "store", seeds=1, overrides=["scan.temperatures.count=3", metrics]
    )
    (cell,) = [cell for cell in outcome.results.cells if cell.architecture == architecture]
    store, data = Store(tmp_path / "store"), cell.measurement
    weights = store.read_weights(store.read_cell(cell.key))
    suite = {"depth": 1, "width": 8} if architecture == "mlp" else {}
    parts = [component(kind, architecture, **suite) for kind in ("encoder", "decoder")]
    dataset = {"dimension": 4, "samples": 64, "evaluation_samples": 64}
    loaded = standardise(component("dataset", "gaussian", **dataset).load(0, tmp_path), "gaussian")
    tables = stored(store, cell.key)
    for replica, temperature in enumerate(data.temperatures):
        pair = build_pair(*parts, loaded.shape, 3, seed=7)
        pair.load_state_dict({name: value[replica] for name, value in weights.items()})
        measurement = collapsebench.measure(
            pair_as_tuple(pair), "gaussian", parameters=dataset, temperature=temperature
        )
        assert measurement.linear_decoder == (architecture == "linear")
        latents = measurement.latents.sort_values(["split", "latent"])
        frames = {
            "latent-moments": latents,
            "truncated-distortion": measurement.distortion,
            "losses": measurement.losses,
            "equilibrium": measurement.equilibrium.assign(split="train"),
        }
        for name, frame in frames.items():
            observed = tables[name][tables[name]["temperature"] == temperature]
            if name == "latent-moments":
                observed = observed.sort_values(["split", "latent"])
            for quantity in set(observed) - {"split", "temperature", "latent", "rank"}:
                left, right = frame[quantity].to_numpy(), observed[quantity].to_numpy()
                assert left == pytest.approx(right, rel=2e-4, abs=2e-5), (name, quantity)


def pair_as_tuple(pair):
    return pair["encoder"], pair["decoder"]


def stored(store, key):
    files = (store.cell_folder(key) / "observables").glob("*.parquet")
    return {path.name.partition(".")[0]: pd.read_parquet(path) for path in files}


def test_measure_converts_the_authors_beta_with_the_data_s_own_v_and_width(gaussian, solution):
    v = gaussian.total_variance
    given = {
        "temperature": None,
        "convention": "pytorch-vae-h",
        "kl_weight": 0.01,
        "beta": TEMPERATURE * v / (0.01 * 4),
    }
    assert measured(solution(), **given).temperature == pytest.approx(TEMPERATURE)
    given = {"temperature": None, "convention": "disentanglement_lib", "beta": 2 * TEMPERATURE * v}
    assert measured(solution(), **given).beta == pytest.approx(TEMPERATURE * v)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either a temperature, or beta together with the convention"),
        ({"temperature": 0.1, "beta": 1.0, "convention": "pythae"}, "either a temperature, or beta"),
        ({"beta": 1.0}, "beta = 1.0, convention = None"),
        ({"beta": 1.0, "convention": "keras"}, "found 'keras', expected one of pythae, disentanglement_lib"),
        ({"beta": 1.0, "convention": "linear-vae"}, "'linear-vae': found no eta"),
        ({"beta": 1.0, "convention": "pythae", "eta": 2.0}, "found eta, but its loss is 0.5 sum"),
        ({"beta": 0.0, "convention": "pythae"}, "beta: found 0.0, expected a finite number above 0"),
        ({"temperature": -1.0}, "found -1.0"),
    ],
)
def test_what_cannot_be_a_temperature_is_one_clear_error(gaussian, options, message):
    identity = (lambda x: (x, torch.zeros_like(x)), lambda z: z)
    with pytest.raises(UserError, match=message):
        collapsebench.measure(identity, gaussian.splits["train"].values, **options)


def test_the_crosswalk_counts_what_the_verdicts_say(solution):
    measurement = measured(solution())
    for split, part in measurement.crosswalk.groupby("split"):
        verdicts = of(measurement.verdicts, split)
        assert (
            dict(zip(part["criterion"], part["active"], strict=True))
            == verdicts.drop(columns=["split", "rank", "latent"]).sum().to_dict()
        )


def test_text_html_json_and_files_hold_what_was_measured(solution, tmp_path):
    measurement = measured(solution())
    content = json.loads(measurement.json())
    assert content["temperature"] == TEMPERATURE
    assert content["latents"][0]["signal_fraction"] == pytest.approx(
        measurement.latents["signal_fraction"][0], rel=1e-12
    )
    assert content["latents"][5]["one_shot_threshold"] is None
    assert "NaN" not in measurement.json()
    assert "<table" in measurement._repr_html_()
    paths = measurement.write(tmp_path / "new" / "out")
    assert {path.name for path in paths} == {
        "latents.csv", "distortion.csv", "effective-dimension.csv", "losses.csv", "equilibrium.csv", "crosswalk.csv",
        "verdicts.csv", "report.txt", "measurement.json",
    }  # fmt: skip
    assert all(path.stat().st_size for path in paths)


def test_the_examples_in_the_docstrings_run():
    failed, tried = doctest.testmod(spectroscopy)
    assert (failed, tried > 0) == (0, True)
