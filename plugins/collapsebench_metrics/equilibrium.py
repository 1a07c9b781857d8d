"""How far the replicas of a scan are from equilibrium, measured by identities that hold exactly there."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd

from collapsebench import Evaluation, Measurement, Metric, Score, oracle
from collapsebench_metrics.outcome import Outcome, evaluation
from collapsebench_metrics.parameters import EquilibriumParameters
from collapsebench_metrics.replicas import by_replica

if TYPE_CHECKING:
    from collapsebench_metrics.comparison import Flags, Floats


class Equilibrium(Metric[EquilibriumParameters]):
    """Summarise the replicas' equilibrium: convergence, Ward identities, stability, loss gap, dD/dR = -beta.

    Between neighbours beta_1 < beta_2 at their global minima, convexity puts the slope s = -(D_2 - D_1) /
    (R_2 - R_1) inside [beta_1, beta_2]. Reported is its distance from that band, relative to the nearer edge.
    T and beta are the price of a nat at the end of training, also if the objective sets that price itself.
    Diverged replicas count against `converged-share` and are left out of the other scores. Envelope gap: the cost of a
    replica's weights is a straight line in the price, D + beta R, so that the cost of every replica's weights at the
    price of every other one of the scan, over all seeds, is known; the gap is (L_i - min_j (D_j + beta_i R_j)) / L_i.
    """

    sees_all: ClassVar[bool] = True
    requires: ClassVar[tuple[str, ...]] = ("equilibrium", "losses")
    ranks: ClassVar[bool] = False
    scores: ClassVar[tuple[Score, ...]] = (
        Score("converged-share", "Share of replicas marked converged.", "higher", low=0, high=1, column=False),
        Score("ward-residual", "Largest residual of the identities of a stationary state.", "lower", low=0),
        Score(
            "residual-edge",
            "Largest residual eigenvalue / (T V) of replicas with a spare latent; stable up to 1.",
            "lower",
            low=0,
        ),
        Score(
            "envelope-gap",
            "Largest share by which the weights of another replica of the scan would cost less.",
            "lower",
            low=0,
        ),
        Score(
            "metastable-share",
            "Share of replicas that rest although other weights would cost less.",
            "lower",
            low=0,
            high=1,
        ),
        Score("loss-gap", "Largest (L - L*) / L* on the train split.", "lower"),
        Score("derivative-identity", "Median relative distance of -dD/dR from [beta_1, beta_2].", "lower", low=0),
        Score("derivative-violations", "Share of neighbours outside that band.", "lower", low=0, high=1),
    )

    def evaluate(self, measurement: Measurement) -> Evaluation:
        """Return the scores."""
        split = self.parameters.split
        marks = measurement.tables["replicas"].set_index("temperature")["mark"].reindex(measurement.temperatures)
        ended = (marks.notna() & (marks != "diverged")).to_numpy(dtype=np.bool_)
        table = measurement.tables["equilibrium"]
        ward = by_replica(table, split, measurement, "ward_residual")
        edge = by_replica(table, split, measurement, "residual_edge")
        edge = edge / measurement.effective_temperatures
        spare = by_replica(table, split, measurement, "spare_latents") > 0
        outcomes: dict[str, Outcome] = {
            "converged-share": float((marks == "converged").mean()),
            "ward-residual": _largest(ward[ended], f"no replica that ended finite was observed on split '{split}'"),
            "residual-edge": _largest(
                edge[ended & spare], f"no replica that ended finite has a spare latent on split '{split}'"
            ),
            **_metastability(measurement, ended),
            "loss-gap": self._loss_gap(measurement, ended),
            **self._derivative(measurement, ended),
        }
        return evaluation(outcomes)

    def _loss_gap(self, measurement: Measurement, ended: Flags) -> Outcome:
        if not measurement.has_oracle:
            return "needs the exact solution: a linear decoder with the plain objective"
        exact = oracle(
            measurement.covariance,
            measurement.temperatures,
            measurement.latent_dim,
            decoder_variance=measurement.decoder_variance,
        ).loss
        loss = by_replica(measurement.tables["losses"], "train", measurement, "loss")
        return _largest(((loss - exact) / exact)[ended], "no replica that ended finite has a loss on the train split")

    def _derivative(self, measurement: Measurement, ended: Flags) -> dict[str, Outcome]:
        losses = measurement.tables["losses"]
        distortion = by_replica(losses, self.parameters.split, measurement, "distortion")
        rate = by_replica(losses, self.parameters.split, measurement, "rate")
        usable = np.flatnonzero(ended & np.isfinite(distortion) & np.isfinite(rate))
        effective = measurement.effective_temperatures
        order = usable[np.argsort(effective[usable], kind="stable")]
        beta = effective[order] * measurement.total_variance / measurement.decoder_variance
        excess = _band_excess(beta, distortion[order], rate[order], self.parameters.least_rate)
        if not excess.size:
            reason = "needs two neighbouring temperatures that ended finite with a latent active: scan lower"
            return {"derivative-identity": reason, "derivative-violations": reason}
        return {
            "derivative-identity": float(np.median(excess)),
            "derivative-violations": float((excess > self.parameters.tolerance).mean()),
        }


def _metastability(measurement: Measurement, ended: Flags) -> dict[str, Outcome]:
    replicas = measurement.tables["replicas"].set_index("temperature").reindex(measurement.temperatures)
    gaps = replicas.get("envelope_gap", pd.Series(np.nan, replicas.index)).to_numpy(dtype=np.float64)
    if not np.isfinite(gaps[ended]).any():
        reason = (
            "the cost of a replica's weights at another price is not known: the loss is not affine in distortion and "
            "rates, or the replicas were trained by an earlier release"
        )
        return {"envelope-gap": reason, "metastable-share": reason}
    share = float((replicas["mark"] == "metastable").mean())
    return {"envelope-gap": float(np.nanmax(gaps[ended])), "metastable-share": share}


def _band_excess(beta: Floats, distortion: Floats, rate: Floats, least_rate: float) -> Floats:
    """Return by how much -dD/dR between neighbours leaves [beta_1, beta_2], relative to the nearer edge."""
    active = (np.maximum(rate[:-1], rate[1:]) > least_rate) & (np.diff(rate) != 0)
    slope = -np.diff(distortion)[active] / np.diff(rate)[active]
    low, high = beta[:-1][active], beta[1:][active]
    excess: Floats = np.maximum(np.maximum(1.0 - slope / low, slope / high - 1.0), 0.0)
    return excess


def _largest(values: Floats, reason: str) -> Outcome:
    known = values[~np.isnan(values)]
    return float(known.max()) if known.size else reason
