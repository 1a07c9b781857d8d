"""Three orders of the latents: one at the exact solution, three where a latent codes a rare event."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_metrics import LATENTS, SHARES, TEMPERATURES, evaluate, measurement
from test_metrics_nonlinear import with_tables

TAUS = ("tau-signal-rate", "tau-signal-utility", "tau-rate-utility")


def with_latent(measured, row, *, at_prior=1, **values):
    """Return a measurement in which, at one temperature, one latent that is at the prior gets other values."""
    moments = measured.tables["latent-moments"]
    temperature = TEMPERATURES[row]
    here = moments[(moments["temperature"] == temperature) & (moments["split"] == "train")]
    latent = here.sort_values("signal_fraction")["latent"].iloc[at_prior]

    def change(table):
        chosen = (table["temperature"] == temperature) & (table["latent"] == latent)
        for name, value in values.items():
            if name in table:
                table.loc[chosen, name] = value
        return table

    return with_tables(measured, latent_moments=change, latent_utility=change)


def rare(fraction, rate, utility):
    return {"signal_fraction": fraction, "snr": fraction / (1 - fraction), "rate": rate, "utility": utility}


def objective(measured, row):
    """Return E |x - x_hat|^2 / V + 2 T R at a temperature, which is twice the loss over V."""
    return 2 * measured.tables["losses"]["loss"][row] / measured.total_variance


def test_at_the_exact_solution_the_three_orders_are_one_and_nothing_is_missed():
    found = evaluate("ranking-agreement", measurement())
    assert [found.values[name] for name in TAUS] == [1.0, 1.0, 1.0]
    assert (found.values["missed-latents"], found.values["missed-gain"]) == (0.0, 0.0)
    modes = found.modes
    assert len(modes) == TEMPERATURES.size * LATENTS
    carrying = modes[modes["carries"]]
    assert (carrying["rank"] == carrying["rate_rank"]).all()
    assert (carrying["rank"] == carrying["utility_rank"]).all()
    assert carrying["signal_fraction"].min() > 0.13


def test_at_the_exact_solution_the_gain_is_what_the_loss_rises_by_without_the_mode():
    """T_k - T - T log(T_k / T), the difference of T_k and of T (1 + 2 R), per mode."""
    modes = evaluate("ranking-agreement", measurement()).modes
    for temperature, rows in modes.groupby("temperature"):
        active = SHARES[temperature < SHARES]
        expected = active - temperature - temperature * np.log(active / temperature)
        assert rows["gain"].to_numpy()[: active.size] == pytest.approx(expected, rel=1e-9)
        assert rows["gain"].to_numpy()[active.size :] == pytest.approx(0, abs=1e-12)


def test_a_rare_event_is_missed_by_its_signal_fraction_and_turns_the_orders():
    measured = with_latent(measurement(), 8, **rare(0.03, 0.3, 0.6))
    found = evaluate("ranking-agreement", measured)
    assert found.values["missed-latents"] == 1
    expected = (0.6 - TEMPERATURES[8] * (2 * 0.3 + 0.03)) / (objective(measured, 8) + 2 * TEMPERATURES[8] * 0.3)
    assert found.values["missed-gain"] == pytest.approx(expected)
    assert found.values["tau-signal-utility"] < 1
    assert found.values["tau-rate-utility"] < 1
    (missed,) = found.modes[found.modes["missed"]].itertuples()
    assert missed.temperature == TEMPERATURES[8]
    assert missed.utility_rank == 1
    assert missed.rank == found.modes.query("temperature == @missed.temperature")["carries"].sum()


@pytest.mark.parametrize(
    ("fraction", "rate", "share", "missed"),
    [
        (0.03, 0.11, 0.0, 1),
        (0.03, 0.02, 0.02, 1),
        (0.03, 0.02, 0.005, 0),
        (0.03, 0.09, 0.0, 0),
        (0.11, 0.3, 0.6, 0),
        (0.09, 0.3, 0.6, 1),
    ],
)
def test_a_rate_alone_or_a_gain_alone_is_enough_to_be_missed(fraction, rate, share, missed):
    """share: the gain, as a share of the objective."""
    measured, temperature = measurement(), TEMPERATURES[8]
    total = objective(measured, 8) + 2 * temperature * rate
    utility = share * total + temperature * (2 * rate + fraction)
    found = evaluate("ranking-agreement", with_latent(measured, 8, **rare(fraction, rate, utility))).values
    assert found["missed-latents"] == missed
    assert found["missed-gain"] == pytest.approx(share if missed else 0.0, abs=1e-12)


def test_missed_latents_are_counted_within_one_replica():
    twice = with_latent(measurement(), 8, **rare(0.03, 0.3, 0.1))
    apart = with_latent(twice, 12, **rare(0.03, 0.3, 0.2))
    together = with_latent(twice, 8, at_prior=0, **rare(0.02, 0.4, 0.2))
    assert evaluate("ranking-agreement", apart).values["missed-latents"] == 1
    assert evaluate("ranking-agreement", together).values["missed-latents"] == 2


def test_latents_at_the_prior_never_count_however_their_noise_orders_them():
    rng = np.random.default_rng(1)

    def noisy(table):
        asleep = table["rate"] < 1e-9 if "rate" in table else table["utility"] < 1e-9
        for name, size in {"signal_fraction": 1e-3, "snr": 1e-3, "rate": 1e-4, "utility": 1e-8}.items():
            if name in table:
                table.loc[asleep, name] = size * rng.random(asleep.sum())
        return table

    found = evaluate("ranking-agreement", with_tables(measurement(), latent_moments=noisy, latent_utility=noisy))
    assert found.values == evaluate("ranking-agreement", measurement()).values


def test_opposite_orders_have_tau_minus_one():
    def turned(table):
        # Large utilities become small ones, all of them above T where the latent is active.
        active = table["utility"] > 0
        table.loc[active, "utility"] = 1 / table["utility"][active]
        return table

    found = evaluate("ranking-agreement", with_tables(measurement(), latent_utility=turned)).values
    assert found["tau-signal-rate"] == 1
    assert found["tau-signal-utility"] < -0.8
    assert found["tau-rate-utility"] == found["tau-signal-utility"]


def test_nearly_equal_latents_are_tied_and_do_not_count():
    close = np.repeat(SHARES[::2], 2) * np.tile([1.0, 0.99], 4)
    swapped = with_tables(measurement(thresholds=close), latent_utility=swap_neighbours)
    assert evaluate("ranking-agreement", swapped).values["tau-signal-utility"] == 1
    assert evaluate("ranking-agreement", swapped, tie=0.001).values["tau-signal-utility"] < 1


def swap_neighbours(table):
    """Exchange the utilities of the latents that come first and second, third and fourth, at every temperature."""
    for _, rows in table.groupby(["split", "temperature"]):
        order = rows.sort_values("utility", ascending=False).index
        values = table.loc[order, "utility"].to_numpy()
        table.loc[order, "utility"] = values.reshape(-1, 2)[:, ::-1].ravel()
    return table


def test_numbering_of_latents_and_order_of_rows_do_not_matter():
    measured = with_latent(measurement(), 8, **rare(0.03, 0.3, 0.6))

    def turn(table):
        table["latent"] = LATENTS - 1 - table["latent"]
        return table.sample(frac=1, random_state=0)

    turned = with_tables(measured, latent_moments=turn, latent_utility=turn)
    assert evaluate("ranking-agreement", turned).values == evaluate("ranking-agreement", measured).values


def test_diverged_replicas_are_left_out():
    lost = evaluate("ranking-agreement", measurement(diverged=[3, 8]))
    assert not {TEMPERATURES[3], TEMPERATURES[8]} & set(lost.modes["temperature"])
    assert lost.values["tau-signal-utility"] == 1
    nothing = evaluate("ranking-agreement", measurement(diverged=range(TEMPERATURES.size)))
    assert nothing.modes is None
    assert set(nothing.reasons.values()) == {"every replica diverged; lower the learning rate"}


def test_a_scan_without_two_informative_latents_has_no_order_and_says_why():
    found = evaluate("ranking-agreement", measurement(thresholds=np.full(8, 1e-7)))
    assert found.values == {"missed-latents": 0.0, "missed-gain": 0.0}
    assert "no replica has two latents" in found.reasons["tau-signal-rate"]


def test_the_price_of_the_objective_decides_what_a_latent_gains():
    temperature = TEMPERATURES[8]
    utility = 0.012 * objective(measurement(), 8) + 0.07 * temperature
    measured = with_latent(measurement(), 8, **rare(0.03, 0.02, utility))
    replicas = measured.tables["replicas"].assign(effective_temperature=2 * TEMPERATURES)
    dearer = replace(measured, tables={**measured.tables, "replicas": replicas})
    assert evaluate("ranking-agreement", measured).values["missed-latents"] == 1
    assert evaluate("ranking-agreement", dearer).values["missed-latents"] == 0


def test_the_decoder_variance_changes_nats_and_no_score():
    measured = with_latent(measurement(), 8, **rare(0.03, 0.02, 0.1))

    def halved(table):
        table[["distortion", "loss"]] /= 0.5
        return table

    other = replace(with_tables(measured, losses=halved), decoder_variance=0.5)
    expected = evaluate("ranking-agreement", measured)
    assert evaluate("ranking-agreement", other).values == pytest.approx(expected.values)
    assert expected.values["missed-latents"] == 1


@pytest.mark.parametrize("size", [-0.1, 1e-9, 1e-4])
def test_utilities_below_the_least_gain_are_tied(size):
    def with_two(one, other):
        measured = with_latent(measurement(), 8, at_prior=0, **rare(0.2, 1.0, one))
        return with_latent(measured, 8, at_prior=1, **rare(0.4, 1.5, other))

    found = evaluate("ranking-agreement", with_two(1e-7, size)).values
    assert found == evaluate("ranking-agreement", with_two(0.0, 0.0)).values
