"""Models of every form are measured alike, and one that breaks its contract is refused."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from exact_pair import measured
from torch import nn

import collapsebench
from collapsebench.errors import ModelError


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
        ours, theirs = (
            getattr(measurement, name).drop(columns="split", errors="ignore") for measurement in (one, other)
        )
        assert theirs.to_numpy(float) == pytest.approx(ours.to_numpy(float), rel=1e-5, abs=1e-6, nan_ok=True)


def test_a_beta_vae_of_pythae_is_measured_as_it_is(gaussian):
    pytest.importorskip("pythae")
    from pythae.models import BetaVAE, BetaVAEConfig

    model = BetaVAE(BetaVAEConfig(input_dim=(8,), latent_dim=3, beta=0.5))
    measurement = collapsebench.measure(model, gaussian.splits["train"].values, beta=0.5, convention="pythae")
    assert measurement.latent_dim == 3
    assert measurement.beta == pytest.approx(0.5)


def test_modules_are_measured_in_evaluation_mode_and_left_as_they_were(solution):
    pair = solution().float()
    noisy = nn.Sequential(nn.Dropout(0.5), pair.out)
    noisy[1].eval()
    measurement = measured((pair.encode, noisy))
    assert measurement.losses["loss"].to_numpy() == pytest.approx(measured(pair).losses["loss"].to_numpy(), rel=1e-6)
    assert [module.training for module in (noisy, noisy[0], noisy[1], pair)] == [True, True, False, True]
    assert all(parameter.grad is None for parameter in pair.parameters())


def test_a_nonlinear_decoder_is_not_taken_for_a_linear_one(solution):
    pair = solution().float()
    assert not measured((pair.encode, lambda z: torch.tanh(pair.decode(z)))).linear_decoder
    assert not measured((pair.encode, lambda z: pair.decode(z) + 1e-3 * z[:, :1] ** 2)).linear_decoder


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
