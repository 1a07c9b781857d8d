"""Measure a model that is already trained: its latents and its equilibrium, at its own temperature.

>>> import numpy as np, torch, collapsebench
>>> x = np.random.default_rng(0).normal(size=(1000, 4)).astype("float32") * [2, 1, 1, 0.1]
>>> encode = lambda x: (x[:, :2], torch.full_like(x[:, :2], -1.0))
>>> decode = lambda z: torch.nn.functional.pad(z, (0, 2))
>>> measurement = collapsebench.measure((encode, decode), x, beta=0.5, convention="pythae")
>>> len(measurement.latents), measurement.stable
(2, True)
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import pandas as pd
import torch

from collapsebench.contracts import SPLITS, Registry, load_registry, table_of
from collapsebench.data.samples import SplitSamples
from collapsebench.errors import ModelError, UserError, error_text
from collapsebench.observing.foreign_data import data_as_seen
from collapsebench.observing.foreign_model import ExternalModel, evaluation_mode, pair_of
from collapsebench.observing.observe import measure as observe
from collapsebench.store import Store
from collapsebench.suite.schema import Convergence, EvaluationSettings
from collapsebench.theory.conventions import Scaling, temperature_of
from collapsebench.theory.criteria import crosswalk, verdicts
from collapsebench.theory.spectrum import ACTIVE, TOLERANCES, effective_dimension, one_shot_thresholds

if TYPE_CHECKING:
    from collapsebench.contracts import SplitName
    from collapsebench.data.standardise import Standardised

_FIRST_ROWS = 256
_TABLES = ("latents", "distortion", "effective_dimension", "losses", "equilibrium", "crosswalk", "verdicts")


@dataclass(frozen=True, eq=False)
class Spectroscopy:
    """The measurement of one trained model at its own temperature; frames have one row per split and latent or rank.

    temperature: T = beta / V with sigma_dec^2 = 1. beta: T V. total_variance: V of the data as the model sees them.
    linear_decoder: whether decode is affine in z, so that expectations over z are taken in closed form.

    latents: one row per split and rank (from 1, by descending signal fraction on that split), with the observable
    moments, `active`, `one_shot_threshold` T_c = T (1 + snr) if active, and `pca_threshold` lambda_k / V.
    distortion: D_K over V with the first K ranked latents kept (`kept`), for the model and for PCA.
    effective_dimension: min { K : D_K / D_0 <= tolerance }, for the model and for PCA; infinite if not reached.
    losses: distortion, rate and loss in nats, with sampled decoding. equilibrium: one row with the Ward residuals and
    the residual edge, on the train split. crosswalk: how many latents each criterion of the literature calls active;
    verdicts: which latents these are. observed: observable -> what it
    measured, of all that are published; failures: observable -> why it measured nothing.
    """

    dataset: str
    temperature: float
    beta: float
    total_variance: float
    latent_dim: int
    linear_decoder: bool
    latents: pd.DataFrame = field(repr=False)
    distortion: pd.DataFrame = field(repr=False)
    effective_dimension: pd.DataFrame = field(repr=False)
    losses: pd.DataFrame = field(repr=False)
    equilibrium: pd.DataFrame = field(repr=False)
    crosswalk: pd.DataFrame = field(repr=False)
    verdicts: pd.DataFrame = field(repr=False)
    observed: Mapping[str, pd.DataFrame] = field(repr=False)
    failures: Mapping[str, str] = field(repr=False)

    @property
    def ward_residual(self) -> float:
        """The largest residual of the four identities of a stationary state; 0 at equilibrium."""
        return float(self.equilibrium["ward_residual"].iloc[0])

    @property
    def residual_edge(self) -> float:
        """The top eigenvalue of the posterior-mean residual's covariance over V; compare it with the temperature."""
        return float(self.equilibrium["residual_edge"].iloc[0])

    @property
    def stationary(self) -> bool:
        """Whether the Ward identities hold within 1e-2."""
        return self.ward_residual <= Convergence().ward_residual

    @property
    def stable(self) -> bool:
        """Whether no spare latent would become active: there is none, or the residual edge is at most 1.05 T."""
        limit = (1 + Convergence().edge_tolerance) * self.temperature
        return int(self.equilibrium["spare_latents"].iloc[0]) == 0 or self.residual_edge <= limit

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The single numbers of the measurement, by name."""
        train = self.latents[self.latents["split"] == "train"]
        return {
            "dataset": self.dataset,
            "temperature": self.temperature,
            "beta": self.beta,
            "total_variance": self.total_variance,
            "latent_dim": self.latent_dim,
            "active": int(train["active"].sum()),
            "linear_decoder": self.linear_decoder,
            "ward_residual": self.ward_residual,
            "residual_edge": self.residual_edge,
            "stationary": self.stationary,
            "stable": self.stable,
        }

    def text(self) -> str:
        """Return the measurement as plain text."""
        from tabulate import tabulate

        blocks = [self._headline(), *self._verdict()]
        for title, frame in self._shown():
            rows = [[_plain(value) for value in row] for row in frame.itertuples(index=False)]
            blocks.append(f"{title}\n\n{tabulate(rows, [str(name) for name in frame], disable_numparse=True)}")
        return "\n\n".join(blocks) + "\n"

    def json(self) -> str:
        """Return everything as JSON; a number that is not finite (not reached, not active) is null."""
        tables = {
            name: json.loads(getattr(self, name).to_json(orient="records", double_precision=15)) for name in _TABLES
        }
        return json.dumps({**{key: _json_value(value) for key, value in self.summary.items()}, **tables}, indent=1)

    def write(self, folder: str | Path) -> list[Path]:
        """Write report.txt, measurement.json and one CSV per table into a folder; return the paths."""
        target = Path(folder)
        texts = {f"{name.replace('_', '-')}.csv": getattr(self, name).to_csv(index=False) for name in _TABLES}
        texts |= {"report.txt": self.text(), "measurement.json": self.json() + "\n"}
        try:
            target.mkdir(parents=True, exist_ok=True)
            for name, content in texts.items():
                (target / name).write_text(content, encoding="utf-8")
        except OSError as error:
            raise UserError(f"{target}: cannot be written ({error.strerror}). Choose another folder.") from error
        return [target / name for name in texts]

    def _headline(self) -> str:
        decoder = "linear" if self.linear_decoder else "nonlinear"
        return (
            f"{self.dataset}: T = {self.temperature:.4g} (beta = {self.beta:.4g} at V = {self.total_variance:.4g}, "
            f"decoder variance 1), {decoder} decoder, {self.summary['active']} of {self.latent_dim} latents active"
        )

    def _verdict(self) -> list[str]:
        stationary = "holds" if self.stationary else "does not hold: training ended early, or beta is not the model's"
        spare = int(self.equilibrium["spare_latents"].iloc[0])
        sign = f"stable, {spare} spare latents" if self.stable else "unstable: a collapsed latent should be active"
        return [
            f"Ward residual {self.ward_residual:.3g} (stationarity {stationary})\n"
            f"residual edge {self.residual_edge:.3g} against T = {self.temperature:.3g} ({sign})"
        ]

    def _shown(self) -> list[tuple[str, pd.DataFrame]]:
        columns = ["rank", "latent", "signal_fraction", "rate", "variance", "one_shot_threshold", "pca_threshold"]
        train, crossed = (frame[frame["split"] == "train"] for frame in (self.latents, self.crosswalk))
        curve = self.distortion[self.distortion["split"] == "train"]
        dimension = self.effective_dimension
        return [
            ("Latents, train split, by signal fraction", train[columns]),
            ("Distortion with the first K latents kept, over V, train split", curve.drop(columns="split")),
            (f"Effective dimension, {dimension['split'].iloc[-1]} split",
             dimension[dimension["split"] == dimension["split"].iloc[-1]].drop(columns="split")),
            ("Criteria of the literature, train split; flips_at: signal fraction in the linear equilibrium",
             crossed.drop(columns="split")),
        ]  # fmt: skip

    def _repr_html_(self) -> str:
        parts = [f"<p>{line}</p>" for line in [self._headline(), *"\n".join(self._verdict()).splitlines()]]
        parts += [f"<h4>{title}</h4>{frame.to_html(index=False)}" for title, frame in self._shown()]
        return "".join(parts)


def measure(
    model: Any,
    data: Any,
    *,
    temperature: float | None = None,
    beta: float | None = None,
    convention: str | None = None,
    kl_weight: float | None = None,
    eta: float | None = None,
    parameters: Mapping[str, Any] | None = None,
    scaling: Scaling | None = None,
    split_seed: int = 0,
    max_rows: int | None = EvaluationSettings().max_rows,
    store: str | Path | None = None,
) -> Spectroscopy:
    """Measure a trained VAE at its own temperature; nothing is trained.

    model: (encode, decode), or an object with `encode` and `decode`, or with `encoder` and `decoder` (pythae). encode
    maps x `(n, *shape)` to mean and log-variance, each `(n, latent)`; decode maps z to x_hat `(n, *shape)`. Modules
    are evaluated in evaluation mode; afterwards they are in the mode they were in.
    data: an array `(n, *shape)`; a mapping with train and optionally validation and test; or the id of a dataset, with
    its parameters. scaling: how the data were scaled when the model was trained: "raw" (the default for an array),
    "dataset" (the default for an id), "per-feature" or "global".
    temperature: T = beta sigma_dec^2 / V. Instead of it, give beta and the convention of your loss (see
    `CONVENTIONS`), with kl_weight or eta if that loss has one.
    max_rows: the largest number of samples per split; the equilibrium always reads all of them.
    store: the folder in which datasets are prepared.
    """
    pair = pair_of(model)
    home = Store(store)
    registry = load_registry()
    seen = data_as_seen(data, parameters, scaling, split_seed, registry, home.cache)
    model_temperature = _temperature(temperature, beta, convention, kl_weight, eta, seen)
    device, dtype = torch.device("cpu"), torch.float32
    if pair.parameter is not None:
        device, dtype = pair.parameter.device, pair.parameter.dtype
    with evaluation_mode(pair):
        rows = torch.from_numpy(seen.splits["train"].values[:_FIRST_ROWS]).to(device, dtype)
        adapter = ExternalModel(pair, rows, model_temperature, seen.total_variance)
        frames, failures = _observed(registry, adapter, seen, max_rows)

    def frame(*quantities: str, axis: Literal["latent", "rank"] | None = None) -> pd.DataFrame:
        found = table_of(frames, *quantities, axis=axis)
        if found is None:
            reasons = "".join(f" {name}: {reason}" for name, reason in failures.items())
            raise UserError(
                f"measure: no installed observable measured {', '.join(quantities)}, expected one that is published."
                f"{reasons} Install one, or mend it."
            )
        return found

    latents = _latents(frame("signal_fraction", "snr", "mean", "variance", axis="latent"), model_temperature, seen)
    distortion = _distortion(frame("normalised_distortion", axis="rank"), seen)
    return Spectroscopy(
        dataset=seen.dataset,
        temperature=model_temperature,
        beta=model_temperature * seen.total_variance,
        total_variance=seen.total_variance,
        latent_dim=adapter.latent_dim,
        linear_decoder=adapter.linear_decoder,
        latents=latents,
        distortion=distortion,
        effective_dimension=_effective_dimension(distortion, seen),
        losses=frame("distortion", "rate", "loss"),
        equilibrium=frame("ward_residual", "residual_edge", "spare_latents").drop(columns="split"),
        observed=frames,
        failures=failures,
        crosswalk=crosswalk(latents),
        verdicts=verdicts(latents),
    )


def _observed(
    registry: Registry, model: ExternalModel, seen: Standardised, max_rows: int | None
) -> tuple[dict[str, pd.DataFrame], dict[str, str]]:
    """Measure every published observable that needs no parameters; return the frames, and why others failed, by id."""
    frames: dict[str, pd.DataFrame] = {}
    failures: dict[str, str] = {}
    for item in registry.registered("observable"):
        name = (
            item.component.id if item.component.id not in frames else f"{item.owner.distribution}/{item.component.id}"
        )
        try:
            if not item.component.load().published:
                continue
            observable = item.component.create()
            samples = [
                SplitSamples(
                    seen, split, replicas=1, width=4 * model.latent_dim, device=model.device, dtype=model.dtype,
                    max_rows=None if observable.exhaustive else max_rows,
                )
                for split in SPLITS if split in seen.splits
            ]  # fmt: skip
            frames[name] = observe(name, observable, model, samples).drop(columns=["replica", "temperature"])
        except ModelError:
            raise
        except Exception as error:
            failures[name] = error_text(error)
    return frames, failures


def _temperature(
    temperature: float | None,
    beta: float | None,
    convention: str | None,
    kl_weight: float | None,
    eta: float | None,
    seen: Standardised,
) -> float:
    if (temperature is None) == (beta is None) or (beta is None) != (convention is None):
        raise UserError(
            "temperature: expected either a temperature, or beta together with the convention of its loss; found "
            f"temperature = {temperature}, beta = {beta}, convention = {convention}. Give one of the two."
        )
    if beta is not None and convention is not None:
        features = math.prod(seen.shape)
        return temperature_of(beta, convention, seen.total_variance, features, kl_weight=kl_weight, eta=eta)
    assert temperature is not None
    if not (math.isfinite(temperature) and temperature > 0) or kl_weight is not None or eta is not None:
        raise UserError(
            f"temperature: found {temperature}, kl_weight = {kl_weight}, eta = {eta}, expected a finite number above "
            "0, and neither of the others. For a loss with kl_weight or eta, give beta and convention."
        )
    return float(temperature)


def _latents(moments: pd.DataFrame, temperature: float, seen: Standardised) -> pd.DataFrame:
    parts = []
    for _, part in moments.groupby("split", sort=False):
        ranked = part.sort_values("signal_fraction", ascending=False, kind="stable").reset_index(drop=True)
        ranked.insert(1, "rank", np.arange(1, len(ranked) + 1))
        ranked["active"] = ranked["signal_fraction"] > ACTIVE
        thresholds = one_shot_thresholds(ranked["snr"].to_numpy(), temperature)
        ranked["one_shot_threshold"] = np.where(ranked["active"], thresholds, np.nan)
        spectrum = np.zeros(len(ranked))
        count = min(len(ranked), len(seen.pca.eigenvalues))
        spectrum[:count] = seen.pca.eigenvalues[:count]
        parts.append(ranked.assign(pca_threshold=spectrum))
    return pd.concat(parts, ignore_index=True)


def _distortion(table: pd.DataFrame, seen: Standardised) -> pd.DataFrame:
    parts = []
    for split, part in table.groupby("split", sort=False):
        reference = seen.pca.rank_distortion[cast("SplitName", split)]
        pca = [reference[min(kept, len(reference) - 1)] for kept in part["rank"]]
        parts.append(part.assign(pca=pca).rename(columns={"rank": "kept"}))
    return pd.concat(parts, ignore_index=True)


def _effective_dimension(distortion: pd.DataFrame, seen: Standardised) -> pd.DataFrame:
    rows = [
        {
            "split": split,
            "tolerance_percent": tolerance,
            "latents": effective_dimension(part["normalised_distortion"], tolerance / 100),
            "pca": effective_dimension(seen.pca.rank_distortion[cast("SplitName", split)], tolerance / 100),
        }
        for split, part in distortion.groupby("split", sort=False)
        for tolerance in TOLERANCES
    ]
    return pd.DataFrame(rows)


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return "-" if math.isnan(value) else "not reached" if math.isinf(value) else f"{value:.4g}"
    return str(value)


def _json_value(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
