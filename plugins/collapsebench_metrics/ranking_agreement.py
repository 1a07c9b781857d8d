"""Whether signal fraction, rate and utility put the latents in one order, and which latents M^2 misses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd

from collapsebench import Evaluation, Measurement, Metric, Score, grid
from collapsebench_metrics.outcome import Outcome, evaluation
from collapsebench_metrics.parameters import RankingAgreementParameters
from collapsebench_metrics.replicas import by_replica

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from collapsebench_metrics.comparison import Flags, Floats

_PAIRS = ("signal-rate", "signal-utility", "rate-utility")


class RankingAgreement(Metric[RankingAgreementParameters]):
    """Compare three orders of the latents of each replica: by signal fraction, by rate and by utility.

        gain_k = utility_k - T (2 rate_k + M^2_k),    objective = E |x - x_hat|^2 / V + 2 T sum_k rate_k

    The gain is what a latent saves of the objective (over V / 2): exactly at the equilibrium of a linear decoder, where
    T M^2 is what its noise costs, and approximately elsewhere. A latent *carries information* if its rate exceeds
    `least_rate` or its gain exceeds the share `least_gain` of the objective; the others are not compared. It is
    *missed* if it carries information although its signal fraction is at most `active`. At the equilibrium of a linear
    decoder none is: M^2 > 0.18 follows from a rate above 0.1 nats, and M^2 > 0.13 from a gain above 1 %. A latent that
    codes a rare event can be missed, since signal fraction and rate weigh an event by how often it happens, and utility
    by its square as well.

    tau = (pairs in the same order - pairs in opposite orders) / (both), over all pairs of latents of the same replica,
    all replicas together. Pairs that are tied in either order do not count: log snr, twice the rate, or log utility
    differ by at most `tie`, where utilities below the share `least_gain` of the objective count as that share. At the
    equilibrium of a linear decoder, well below their thresholds, all three differ as the latents' log T_k do.

    The table has one row per temperature and rank by signal fraction, with the ranks by rate and by utility. Replicas
    that diverged are left out.
    """

    requires: ClassVar[tuple[str, ...]] = ("latent-moments", "latent-utility", "losses")
    ranks: ClassVar[bool] = False
    scores: ClassVar[tuple[Score, ...]] = (
        Score("missed-latents", "Most latents that one replica misses by M^2.", "lower", "latents", low=0),
        Score("missed-gain", "Largest share of the objective that a missed latent saves.", "lower", low=0),
        Score("tau-signal-rate", "Agreement of the orders by M^2 and by rate.", "higher", low=-1, high=1),
        Score("tau-signal-utility", "Agreement of the orders by M^2 and by utility.", "higher", low=-1, high=1),
        Score("tau-rate-utility", "Agreement of the orders by rate and by utility.", "higher", low=-1, high=1),
    )

    def evaluate(self, measurement: Measurement) -> Evaluation:
        """Return the scores, and by temperature and rank the three orders."""
        replicas = self._replicas(measurement)
        if not replicas:
            reason = "every replica diverged; lower the learning rate"
            return evaluation({score.name: reason for score in self.scores})
        gains = [(replica.gain / replica.objective)[replica.missed] for replica in replicas]
        outcomes: dict[str, Outcome] = {
            "missed-latents": float(max(gain.size for gain in gains)),
            "missed-gain": float(max(gain.max(initial=0.0) for gain in gains)),
        }
        orders = [self._orders(replica) for replica in replicas]
        for name in _PAIRS:
            one, other = name.split("-")
            outcomes[f"tau-{name}"] = self._tau([signs[one] * signs[other] for signs in orders])
        return evaluation(outcomes, pd.concat([replica.rows() for replica in replicas], ignore_index=True))

    def _replicas(self, measurement: Measurement) -> list[_Latents]:
        """Return the replicas that ended finite, in the order of the temperatures."""
        settings, temperatures = self.parameters, measurement.temperatures
        moments, losses = measurement.tables["latent-moments"], measurement.tables["losses"]
        fractions, snr, rates = (
            grid(moments, settings.split, temperatures, name) for name in ("signal_fraction", "snr", "rate")
        )
        utilities = grid(measurement.tables["latent-utility"], settings.split, temperatures, "utility")
        nats = by_replica(losses, settings.split, measurement, "distortion")
        prices = measurement.effective_temperatures
        distortions = 2 * measurement.decoder_variance * nats / measurement.total_variance
        objectives = distortions + 2 * prices * rates.sum(axis=1)
        known = np.isfinite(fractions + snr + rates + utilities).all(axis=1) & np.isfinite(objectives)
        found = []
        for row in np.flatnonzero(known):
            gain = utilities[row] - prices[row] * (2 * rates[row] + fractions[row])
            least = settings.least_gain * objectives[row]
            carries = (rates[row] > settings.least_rate) | (gain > least)
            found.append(
                _Latents(
                    temperature=float(temperatures[row]),
                    objective=float(objectives[row]),
                    signal_fraction=fractions[row],
                    snr=snr[row],
                    rate=rates[row],
                    utility=utilities[row],
                    gain=gain,
                    carries=carries,
                    missed=carries & (fractions[row] <= settings.active),
                )
            )
        return found

    def _orders(self, replica: _Latents) -> dict[str, Floats]:
        """Return, for each order, which latent of each pair comes first: 1, -1, or 0 if they are tied."""
        kept = replica.carries
        least = self.parameters.least_gain * replica.objective
        heights = {
            "signal": np.log(np.maximum(replica.snr[kept], 1e-300)),
            "rate": 2 * replica.rate[kept],
            "utility": np.log(np.maximum(replica.utility[kept], max(least, 1e-300))),
        }
        apart = {name: height[:, None] - height for name, height in heights.items()}
        return {name: np.sign(gap) * (np.abs(gap) > self.parameters.tie) for name, gap in apart.items()}

    def _tau(self, agreements: list[Floats]) -> Outcome:
        decided = sum(int(np.count_nonzero(pairs)) for pairs in agreements)
        if not decided:
            return (
                f"no replica has two latents that carry a rate above {self.parameters.least_rate:g} nats, or gain more "
                f"than a share {self.parameters.least_gain:g} of the objective, and differ in both orders; take lower "
                "temperatures, or more latents"
            )
        return float(sum(pairs.sum() for pairs in agreements) / decided)


@dataclass(frozen=True, eq=False)
class _Latents:
    """The latents of one replica, each array `(latent,)`; objective, utility and gain as shares of V."""

    temperature: float
    objective: float
    signal_fraction: Floats
    snr: Floats
    rate: Floats
    utility: Floats
    gain: Floats
    carries: Flags
    missed: Flags

    def rows(self) -> pd.DataFrame:
        """Return one row per latent, by descending signal fraction."""
        frame = pd.DataFrame(
            {
                "temperature": self.temperature, "rank": _places(self.signal_fraction),
                "rate_rank": _places(self.rate), "utility_rank": _places(self.utility),
                "latent": np.arange(self.rate.size), "signal_fraction": self.signal_fraction, "rate": self.rate,
                "utility": self.utility, "gain": self.gain, "carries": self.carries, "missed": self.missed,
            }
        )  # fmt: skip
        return frame.sort_values("rank", ignore_index=True)


def _places(values: Floats) -> NDArray[np.intp]:
    """Return each latent's place in the descending order of some values, from 1; ties by index."""
    return np.argsort(np.argsort(-values, kind="stable"), kind="stable") + 1
