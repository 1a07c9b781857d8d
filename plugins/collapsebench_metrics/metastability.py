"""Where latents switch on under each protocol, and what resting in a state that is not the best one costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd

from collapsebench import Evaluation, Line, Measurement, Metric, Score, envelope, grid
from collapsebench_metrics.onsets import last_crossing
from collapsebench_metrics.outcome import Outcome, evaluation, value_or
from collapsebench_metrics.parameters import MetastabilityParameters
from collapsebench_metrics.replicas import by_replica

if TYPE_CHECKING:
    from collapsebench_metrics.comparison import Floats

PROTOCOLS = ("fresh", "up", "down", "exchange")
_NO_EXCHANGE = 'the suite has no scan with the protocol exchange: sweep "scan.protocol" over ["fresh", "exchange"]'


class Metastability(Metric[MetastabilityParameters]):
    """Compare the onsets of a scan with those of the same scan under the other protocols of its suite.

    Latents are ranked by their rate, since a latent that fires on few rows may pay long before its signal fraction
    shows. The onset of rank k is the temperature at which its rate last exceeds `rate`, interpolated in log T, so that
    the place of a jump is known to a step of the grid. With
    nothing active, every architecture loses stability at lambda_1 / V, the limit that a scan down sees; a fresh start
    sees it or more. Exchange finds the onset of the equilibrium. If that is higher, the onset is first order.

    The jump is what the distortion falls by at the first onset, beyond what it may for a continuous one:
    [D(T_off) - D(T_on)] / V - n (T_off - T_on), for n latents that switch on between the two temperatures.
    The excess cost is the largest (L - L_min) / L, L_min the least that the weights of any protocol cost at that price.
    """

    sees_all: ClassVar[bool] = True
    requires: ClassVar[tuple[str, ...]] = ("latent-moments", "losses")
    ranks: ClassVar[bool] = False
    scores: ClassVar[tuple[Score, ...]] = (
        Score("onset-shift", "log T_1 of exchange - log T_1 here.", "none", "e-folds"),
        Score("onset-ratio", "log T_1 - log lambda_1 / V.", "none", "e-folds"),
        Score("jump", "Fall of the distortion at the first onset beyond that of a continuous one.", "none"),
        Score("excess-cost", "Largest share by which weights of any protocol would cost less.", "lower", low=0),
        Score("resolution", "Largest step of the grid in log T.", "none", "e-folds", low=0),
    )

    def evaluate(self, measurement: Measurement) -> Evaluation:
        """Return the scores, and by rank the onset under each protocol."""
        scans = {measurement.protocol: measurement, **measurement.counterparts}
        onsets = {protocol: self._onsets(scan) for protocol, scan in scans.items()}
        here, first = onsets[measurement.protocol], onsets[measurement.protocol][0]
        outside = "no latent switches on between two temperatures of the grid: scan higher or lower"
        shift: Outcome = _NO_EXCHANGE
        if "exchange" in onsets:
            shift = value_or(float(np.log(onsets["exchange"][0] / first)), outside)
        steps = np.abs(np.diff(np.sort(np.log(measurement.temperatures))))
        outcomes: dict[str, Outcome] = {
            "onset-shift": shift,
            "onset-ratio": value_or(float(np.log(first / measurement.pca.eigenvalues[0])), outside),
            "jump": value_or(self._jump(measurement), outside),
            "excess-cost": _excess_cost(measurement),
            "resolution": float(steps.max()) if steps.size else 0.0,
        }
        ranks = pd.DataFrame({"rank": np.arange(1, here.size + 1)})
        unknown = np.full(here.size, np.nan)
        return evaluation(outcomes, ranks.assign(**{name: onsets.get(name, unknown) for name in PROTOCOLS}))

    def _rates(self, scan: Measurement) -> Floats:
        """Return the rates in nats, ranked, temperatures ascending `(t, rank)`."""
        table = scan.tables["latent-moments"]
        rates = grid(table, self.parameters.split, scan.temperatures, "rate")[np.argsort(scan.temperatures)]
        return -np.sort(-rates, axis=1)

    def _onsets(self, scan: Measurement) -> Floats:
        """Return the onset of every rank, NaN where it lies outside the grid `(rank,)`."""
        logarithms = np.log(np.sort(scan.temperatures))
        return np.array([last_crossing(logarithms, column, self.parameters.rate) for column in self._rates(scan).T])

    def _jump(self, scan: Measurement) -> float:
        rates, temperatures = self._rates(scan), np.sort(scan.temperatures)
        distortion = by_replica(scan.tables["losses"], self.parameters.split, scan, "distortion")
        distortion = distortion[np.argsort(scan.temperatures)] * 2 * scan.decoder_variance / scan.total_variance
        active = (rates > self.parameters.rate).sum(axis=1)
        on = np.flatnonzero(active)
        if not np.isfinite(rates).all() or not on.size or on[-1] + 1 == active.size:
            return float("nan")
        last = on[-1]
        allowed = active[last] * (temperatures[last + 1] - temperatures[last])
        return float(distortion[last + 1] - distortion[last] - allowed)


def _excess_cost(measurement: Measurement) -> Outcome:
    """Return by what share the cheapest weights of any protocol undercut a replica of this scan at most."""
    scans = [measurement, *measurement.counterparts.values()]
    lines = [line for scan in scans for line in _lines(scan)]
    gaps = envelope(lines).gap[: len(measurement.temperatures)]
    if not np.isfinite(gaps).any():
        return "what the weights cost at another price is not known for this objective"
    return float(np.nanmax(gaps))


def _lines(scan: Measurement) -> list[Line]:
    rows = scan.tables["replicas"].set_index("temperature").reindex(scan.temperatures)
    return [Line.of({str(name): value for name, value in row.items()}) for row in rows.to_dict("records")]
