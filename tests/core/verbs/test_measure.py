"""A trained model is measured like one of our own: the exact solution, the stored observables, and refusals."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
import torch
from flow import write_suite
from torch import nn

import collapsebench
from collapsebench.data.standardise import standardise
from collapsebench.errors import DataError, ModelError, UserError
from collapsebench.store import Store
from collapsebench.theory.criteria import CRITERIA, crosswalk
from collapsebench.theory.oracle import oracle
from collapsebench.training.build import build_pair

PARAMETERS = {"dimension": 8, "samples": 512, "evaluation_samples": 256}
TEMPERATURE = 0.05
LATENTS = 6


class Affine(nn.Module):
    """A linear pair, written by hand: mean and log-variance affine in x, x_hat affine in z."""

    def __init__(self, weights, replica=0):
        super().__init__()
        part = {name: value[replica] for name, value in weights.items()}
        for name in ("encoder.body.mean", "encoder.body.log_variance", "decoder.0"):
            setattr(self, name.rpartition(".")[2] if "body" in name else "out", affine(part, name))

    def encode(self, x):
        return self.mean(x), self.log_variance(x)

    def decode(self, z):
        return self.out(z)


def affine(weights, name):
    weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer


@pytest.fixture
def solution(gaussian, exact):
    """The exact linear pair at a temperature, with its latents in another order."""

    def make(temperature=TEMPERATURE, latents=LATENTS, collapsed=None):
        weights = exact(gaussian, [temperature], latents, collapsed=collapsed)
        order = torch.randperm(latents, generator=torch.Generator().manual_seed(1))
        for name, value in weights.items():
            weights[name] = value[:, order] if name.startswith("encoder") else value
        weights["decoder.0.weight"] = weights["decoder.0.weight"][:, :, order]
        return Affine(weights)

    return make


def measured(model, data="gaussian", **options):
    own = {"parameters": PARAMETERS} if isinstance(data, str) else {}
    return collapsebench.measure(model, data, **{"temperature": TEMPERATURE} | own | options)


def of(frame, split):
    return frame[frame["split"] == split]


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("temperature", [0.2, 0.03, 0.002])
def test_the_exact_linear_pair_has_the_oracles_observables_on_every_split(gaussian, solution, temperature, split):
    found = measured(solution(temperature), temperature=temperature)
    moment = gaussian.second_moments[split]
    exact = oracle(gaussian.second_moments["train"], [temperature], LATENTS, evaluation=moment)
    order = np.argsort(-exact.signal_fraction[0], kind="stable")
    latents = of(found.latents, split)
    for name in ("signal_fraction", "rate", "snr", "mean_square"):
        assert latents[name].to_numpy() == pytest.approx(getattr(exact, name)[0, order], rel=1e-5, abs=1e-6)
    assert list(latents["rank"]) == [1, 2, 3, 4, 5, 6]
    curve = of(found.distortion, split)["normalised_distortion"].to_numpy()
    assert curve == pytest.approx(exact.normalised_distortion[0], rel=1e-5)
    losses = of(found.losses, split).iloc[0]
    assert losses["distortion"] == pytest.approx(exact.distortion[0], rel=1e-5)
    assert losses["loss"] == pytest.approx(exact.loss[0], rel=1e-5)


def test_the_exact_linear_pair_is_stationary_stable_and_shows_the_pca_spectrum_in_one_shot(gaussian, solution):
    found = measured(solution())
    exact = oracle(gaussian.second_moments["train"], [TEMPERATURE], LATENTS)
    train = of(found.latents, "train")
    active = train["active"].to_numpy()
    assert active.sum() == (exact.signal_fraction[0] > 0.1).sum() > 2
    assert train["one_shot_threshold"].to_numpy()[active] == pytest.approx(exact.thresholds[active], rel=1e-5)
    assert train["pca_threshold"].to_numpy() == pytest.approx(exact.thresholds, rel=1e-6)
    assert train["one_shot_threshold"][~active].isna().all()
    assert found.linear_decoder
    assert found.ward_residual < 1e-6
    every_mode = oracle(gaussian.second_moments["train"], [TEMPERATURE]).mean_distortion
    assert found.residual_edge == pytest.approx(every_mode.max(), rel=1e-5)
    assert found.stationary
    assert found.stable


def test_a_mode_held_at_the_prior_is_unstable_though_stationary(solution):
    found = measured(solution(collapsed=[1]))
    assert found.stationary
    assert not found.stable
    assert "unstable" in found.text()


@pytest.mark.parametrize("change", [2.0, 0.5])
def test_another_temperature_than_the_models_own_shows_in_the_edge_or_the_spectrum(solution, change):
    found = measured(solution(), temperature=TEMPERATURE * change)
    train = of(found.latents, "train")
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
        found = collapsebench.measure(pair_as_tuple(pair), "gaussian", parameters=dataset, temperature=temperature)
        assert found.linear_decoder == (architecture == "linear")
        latents = found.latents.sort_values(["split", "latent"])
        frames = {
            "latent-moments": latents,
            "truncated-distortion": found.distortion,
            "losses": found.losses,
            "equilibrium": found.equilibrium.assign(split="train"),
        }
        for name, frame in frames.items():
            own = tables[name][tables[name]["temperature"] == temperature]
            if name == "latent-moments":
                own = own.sort_values(["split", "latent"])
            for quantity in set(own) - {"split", "temperature", "latent", "rank"}:
                left, right = frame[quantity].to_numpy(), own[quantity].to_numpy()
                assert left == pytest.approx(right, rel=2e-4, abs=2e-5), (name, quantity)


def pair_as_tuple(pair):
    return pair["encoder"], pair["decoder"]


def stored(store, key):
    import pandas as pd

    files = (store.cell_folder(key) / "observables").glob("*.parquet")
    return {path.name.partition(".")[0]: pd.read_parquet(path) for path in files}


class Output(OrderedDict):
    """What pythae's networks return: an ordered dictionary whose items are attributes, too."""

    def __init__(self, **items):
        super().__init__(**items)
        self.__dict__.update(items)


class PythaeLike(nn.Module):
    """The parts of pythae's BetaVAE that matter here: an encoder and a decoder with its outputs' names."""

    class Encoder(nn.Module):
        def __init__(self, pair):
            super().__init__()
            self.pair = pair

        def forward(self, x):
            mean, log_variance = self.pair.encode(x)
            return Output(embedding=mean, log_covariance=log_variance)

    class Decoder(nn.Module):
        def __init__(self, pair):
            super().__init__()
            self.pair = pair

        def forward(self, z):
            return Output(reconstruction=self.pair.decode(z))

    def __init__(self, pair):
        super().__init__()
        self.encoder, self.decoder = self.Encoder(pair), self.Decoder(pair)


def numpy_pair(pair):
    def encode(x):
        return tuple(part.numpy() for part in pair.encode(x))

    return encode, lambda z: pair.decode(z).numpy()


@pytest.mark.parametrize(
    "form", [PythaeLike, lambda p: (p.encode, p.decode), lambda p: [p.encode, p.decode], numpy_pair],
    ids=["pythae", "callables", "list", "numpy"],
)  # fmt: skip
def test_every_form_of_a_model_gives_the_same_measurement(solution, form):
    pair = solution().float()
    one, other = measured(pair), measured(form(pair))
    for name in ("latents", "distortion", "losses", "equilibrium"):
        ours, theirs = (getattr(found, name).drop(columns="split", errors="ignore") for found in (one, other))
        assert theirs.to_numpy(float) == pytest.approx(ours.to_numpy(float), rel=1e-5, abs=1e-6, nan_ok=True)


def test_a_beta_vae_of_pythae_is_measured_as_it_is(gaussian):
    pytest.importorskip("pythae")
    from pythae.models import BetaVAE, BetaVAEConfig

    model = BetaVAE(BetaVAEConfig(input_dim=(8,), latent_dim=3, beta=0.5))
    found = collapsebench.measure(model, gaussian.splits["train"].values, beta=0.5, convention="pythae")
    assert found.latent_dim == 3
    assert found.beta == pytest.approx(0.5)


def test_modules_are_measured_in_evaluation_mode_and_left_as_they_were(solution):
    pair = solution().float()
    noisy = nn.Sequential(nn.Dropout(0.5), pair.out)
    noisy[1].eval()
    found = measured((pair.encode, noisy))
    assert found.losses["loss"].to_numpy() == pytest.approx(measured(pair).losses["loss"].to_numpy(), rel=1e-6)
    assert [module.training for module in (noisy, noisy[0], noisy[1], pair)] == [True, True, False, True]
    assert all(parameter.grad is None for parameter in pair.parameters())


def test_a_nonlinear_decoder_is_not_taken_for_a_linear_one(solution):
    pair = solution().float()
    assert not measured((pair.encode, lambda z: torch.tanh(pair.decode(z)))).linear_decoder
    assert not measured((pair.encode, lambda z: pair.decode(z) + 1e-3 * z[:, :1] ** 2)).linear_decoder


def test_the_array_that_the_model_sees_gives_the_same_as_the_dataset(gaussian, solution):
    splits = {name: split.values for name, split in gaussian.splits.items()}
    one, other = measured(solution()), measured(solution(), splits)
    assert other.dataset == "array"
    assert other.latents.drop(columns="split").to_numpy(float) == pytest.approx(
        one.latents.drop(columns="split").to_numpy(float), nan_ok=True, rel=1e-6
    )
    alone = measured(solution(), torch.from_numpy(splits["train"]))
    assert set(alone.latents["split"]) == {"train"}
    assert alone.ward_residual == pytest.approx(one.ward_residual, abs=1e-9)


def test_scaling_decides_what_the_model_sees_and_with_it_v(gaussian, solution):
    raw = gaussian.splits["train"].values * np.float32(3.0) + np.float32(5.0)
    identity = (lambda x: (x, torch.zeros_like(x)), lambda z: z)
    options = {"beta": 1.0, "convention": "pythae"}
    assert measured(identity, raw, temperature=None, **options).total_variance == pytest.approx(
        9 * gaussian.total_variance, rel=1e-5
    )
    assert measured(identity, raw, temperature=None, scaling="per-feature", **options).total_variance == pytest.approx(
        8
    )
    centre = of(measured(identity, raw, scaling="global").latents, "train")["mean"]
    assert centre.to_numpy() == pytest.approx(0, abs=1e-5)
    assert of(measured(identity, raw).latents, "train")["mean"].to_numpy() == pytest.approx(5, abs=1e-4)


def test_raw_keeps_the_constant_features_that_a_dataset_leaves_out():
    identity = (lambda x: (x, torch.zeros_like(x)), lambda z: z)
    assert collapsebench.measure(identity, "digits", temperature=0.1).latent_dim < 64
    found = collapsebench.measure(identity, "digits", temperature=0.1, scaling="raw")
    assert found.latent_dim == 64
    assert found.total_variance > 64


def losses_of(convention, d, w, eta):
    """The loss of each convention, from the squared error of a sample and its KL."""
    return {
        "pythae": lambda error, kl, beta: 0.5 * error + beta * kl,
        "disentanglement_lib": lambda error, kl, beta: error + beta * kl,
        "pytorch-vae-h": lambda error, kl, beta: error / d + beta * w * kl,
        "linear-vae": lambda error, kl, beta: error / (2 * eta**2) + beta * kl,
    }[convention]


@pytest.mark.parametrize("convention", list(collapsebench.CONVENTIONS))
def test_a_beta_is_converted_to_the_temperature_of_the_same_objective(convention):
    """Up to one factor, each loss is error / 2 + T V KL."""
    d, w, eta, beta, total_variance = 12, 0.00025, 0.7, 3.0, 5.0
    needs = collapsebench.CONVENTIONS[convention].needs
    weights = {name: value for name, value in (("kl_weight", w), ("eta", eta)) if name in needs}
    temperature = collapsebench.temperature_of(beta, convention, total_variance, d, **weights)
    loss = losses_of(convention, d, w, eta)
    price = loss(0.0, 1.0, beta) / loss(2.0, 0.0, beta)
    assert temperature * total_variance == pytest.approx(price)
    assert collapsebench.beta_of(temperature, convention, total_variance, d, **weights) == pytest.approx(beta)


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
        ({"temperature": 0.1, "scaling": "log"}, "scaling: found 'log'"),
        ({"temperature": 0.1, "scaling": "dataset"}, "found 'dataset' with an array"),
        ({"temperature": 0.1, "parameters": {"dimension": 3}}, "belong to a dataset"),
    ],
)
def test_what_cannot_be_a_temperature_or_scaling_is_one_clear_error(gaussian, options, message):
    identity = (lambda x: (x, torch.zeros_like(x)), lambda z: z)
    with pytest.raises(UserError, match=message):
        collapsebench.measure(identity, gaussian.splits["train"].values, **options)


def test_a_wrong_parameter_of_a_dataset_names_it(solution):
    with pytest.raises(DataError, match=r"dataset 'gaussian': dimension: "):
        collapsebench.measure(solution(), "gaussian", parameters={"dimension": 0}, temperature=0.1)


def encoding(change):
    return lambda x: change(x[:, :3], torch.zeros_like(x[:, :3]))


def to_nan(tensor):
    return torch.where(tensor > 0, tensor, torch.nan)


@pytest.mark.parametrize(
    ("encode", "decode", "message"),
    [
        (encoding(lambda m, v: m), None, r"encode returned torch.Tensor, expected \(mean, log_variance\)"),
        (encoding(lambda m, v: (m, v[:, :2])), None, r"shapes \(256, 3\) and \(256, 2\), expected .* \(256, 3\) each"),
        (encoding(lambda m, v: (m[:2], v[:2])), None, r"shapes \(2, 3\) and \(2, 3\), expected .*\(256, latent\)"),
        (encoding(lambda m, v: (m[:, :, None], v)), None, "Flatten latents of several axes"),
        (encoding(lambda m, v: (to_nan(m), v)), None, "encode returned NaN or infinity in mean for"),
        (encoding(lambda m, v: (m, v + torch.inf)), None, "infinity in log_variance for 256 of 256 rows"),
        (encoding(lambda m, v: (torch.randn_like(m), v)), None, "two means for the same x"),
        (encoding(lambda m, v: m @ v), None, r"encode raised RuntimeError for x of shape \(256, 8\), torch.float32"),
        (None, lambda z: z.repeat(1, 3), r"decode returned shape \(64, 9\) for z \(64, 3\), expected x_hat \(64, 8\)"),
        (None, lambda z: None, "decode returned NoneType"),
        (None, lambda z: to_nan(z.repeat(1, 3)[:, :8]), "decode returned NaN or infinity in x_hat"),
        (None, nn.Linear(4, 8), "decode raised RuntimeError for z of shape"),
    ],
)
def test_a_model_that_breaks_its_contract_is_one_clear_error(gaussian, encode, decode, message):
    pair = (encode or encoding(lambda m, v: (m, v)), decode or (lambda z: z.repeat(1, 3)[:, :8]))
    with pytest.raises(ModelError, match=message):
        collapsebench.measure(pair, gaussian.splits["train"].values, temperature=0.1)


@pytest.mark.parametrize("model", [nn.Linear(3, 3), (len,), (1, 2), None], ids=["module", "one", "numbers", "none"])
def test_what_has_no_encode_and_decode_is_refused_with_the_legal_forms(gaussian, model):
    with pytest.raises(ModelError, match=r"without a pair of callables\. Expected \(encode, decode\)"):
        collapsebench.measure(model, gaussian.splits["train"].values, temperature=0.1)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros(5), r"found float64 \(5,\)"),
        (np.array([["a"], ["b"]]), "expected numbers"),
        (np.array([[1.0], [np.nan]]), "row 1 and 0 more hold NaN"),
        (np.ones((4, 2)), "all 2 features are constant"),
        ({"valid": np.ones((4, 2))}, "found arrays called valid, expected train"),
        ({"train": np.eye(3), "test": np.eye(4)}, r"split test: found shape \(4,\)"),
    ],
)
def test_data_that_cannot_be_measured_on_are_one_clear_error(data, message):
    with pytest.raises(DataError, match=message):
        collapsebench.measure((encoding(lambda m, v: (m, v)), lambda z: z), data, temperature=0.1)


def test_each_criterion_flips_at_the_signal_fraction_that_the_crosswalk_states():
    """Latents of the linear equilibrium just below and just above each threshold."""
    import pandas as pd

    for criterion in CRITERIA:
        if np.isnan(criterion.flips_at):
            continue
        m = criterion.flips_at * np.array([0.999, 1.001])
        frame = pd.DataFrame({
            "split": "train", "rank": [1, 2], "latent": [0, 1], "signal_fraction": m, "mean": 0.0, "mean_square": m,
            "variance": 1 - m, "rate": -0.5 * np.log1p(-m), "largest_mean": 1.0,
        })  # fmt: skip
        assert list(criterion.holds(frame)) == [False, True], criterion.name
        row = crosswalk(frame).set_index("criterion").loc[criterion.name]
        assert row["active"] == 1


def test_the_crosswalk_counts_what_the_verdicts_say(solution):
    found = measured(solution())
    for split, part in found.crosswalk.groupby("split"):
        judged = of(found.verdicts, split)
        assert (
            dict(zip(part["criterion"], part["active"], strict=True))
            == judged.drop(columns=["split", "rank", "latent"]).sum().to_dict()
        )


def test_text_html_json_and_files_hold_what_was_measured(solution, tmp_path):
    import json

    found = measured(solution())
    told = json.loads(found.json())
    assert told["temperature"] == TEMPERATURE
    assert told["latents"][0]["signal_fraction"] == pytest.approx(found.latents["signal_fraction"][0], rel=1e-12)
    assert told["latents"][5]["one_shot_threshold"] is None
    assert "NaN" not in found.json()
    assert "<table" in found._repr_html_()
    paths = found.write(tmp_path / "new" / "out")
    assert {path.name for path in paths} == {
        "latents.csv", "distortion.csv", "effective-dimension.csv", "losses.csv", "equilibrium.csv", "crosswalk.csv",
        "verdicts.csv", "report.txt", "measurement.json",
    }  # fmt: skip
    assert all(path.stat().st_size for path in paths)


def test_the_docstring_s_example_runs():
    import doctest

    from collapsebench.theory import conventions
    from collapsebench.verbs import measure as spectroscopy

    for module in (conventions, spectroscopy):
        failed, tried = doctest.testmod(module)
        assert (failed, tried > 0) == (0, True)
