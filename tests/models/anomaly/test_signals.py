"""What a row's recent values say, and how it is held against what is usual."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.anomaly.learning import alarm_level, blended, learn, resolution_of, severity_levels, units_of
from models.anomaly.signals import Measured, combined, compressed, measure, signals, strongest

RANDOM = np.random.default_rng(3)


def usual_rows(rows: int = 4000) -> Measured:
    """Two metrics that move together and one by itself, sampled around 100."""
    together = RANDOM.normal(size=(rows, 1))
    lags = np.concatenate([together, together, RANDOM.normal(size=(rows, 1))], axis=1)[:, :, None]
    lags = 100 + lags + 0.2 * RANDOM.normal(size=(rows, 3, 8))
    return measure(lags, np.full((rows, 3), 100.0), 4, np.full(3, 0.01))


def row(*level: float) -> Measured:
    lags = np.repeat(np.array(level)[None, :, None], 8, axis=2) + 0.2 * RANDOM.normal(size=(1, 3, 8))
    return measure(lags, np.full((1, 3), 100.0), 4, np.full(3, 0.01))


def test_level_and_activity_are_read_off_the_lags() -> None:
    lags = np.array([[[2.0, 4.0, 6.0, 8.0]]])

    told = measure(lags, np.array([[1.0]]), 2, np.array([0.5]))

    assert told.level[0, 0] == 3.0
    assert told.departure[0, 0] == 2.0
    assert told.spread[0, 0] == pytest.approx(np.log(np.std([2, 4, 6, 8]) + 0.5))
    assert told.movement[0, 0] == pytest.approx(np.log(2.5))


def test_a_row_against_the_rest_of_its_metrics_shows_in_structure_before_distance() -> None:
    measured = usual_rows()
    usual = learn(measured, np.full(3, 0.01), 0.05)
    units = units_of(signals(measured, usual))
    # Neither value is far out; that the two part is.
    told = {name: values / units[name] for name, values in signals(row(101.3, 98.7, 100), usual).items()}

    assert told["static_structure"][0, 0] > 2 * told["static_distance"][0, 0]
    assert told["static_structure"][0, 2] < 1


def test_a_few_abnormal_rows_hardly_change_what_is_usual() -> None:
    clean = usual_rows()
    dirty = Measured(
        *(values.copy() for values in (clean.level, clean.departure, clean.spread, clean.movement))
    )
    dirty.level[:20] += 50
    dirty.departure[:20] += 50
    small = np.full(3, 0.01)

    def strength(of: Measured) -> float:
        usual = learn(of, small, 0.1)
        units = units_of(signals(of, usual))
        weights = {"distance": 1.0, "structure": 0.0, "spread": 0.0, "movement": 0.0}
        return float(combined(signals(row(120, 100, 100), usual), units, weights)[0, 0])

    assert strength(dirty) > 0.5 * strength(clean)


def test_a_metric_that_never_moved_has_a_resolution() -> None:
    assert np.all(resolution_of(np.array([[5.0, 0.0, np.nan]] * 10)) > 0)


@given(st.lists(st.floats(0, 1e9), min_size=2, max_size=20))
def test_compression_keeps_the_order(values: list[float]) -> None:
    ordered = np.sort(np.array(values))

    assert np.all(np.diff(compressed(ordered)) >= 0)
    assert np.array_equal(compressed(ordered[ordered <= 10]), ordered[ordered <= 10])


def test_strongest_takes_what_there_is() -> None:
    assert strongest(np.array([[1.0, 5.0, 3.0]]), 2)[0] == 4.0
    assert strongest(np.array([[1.0, 5.0, 3.0]]), 99)[0] == 3.0


def test_alarm_levels_leave_room_for_drift() -> None:
    steady = RANDOM.exponential(size=4000)
    drifting = steady * np.linspace(1, 3, 4000)

    assert np.mean(steady > alarm_level(steady, 0.01)) <= 0.01
    assert np.mean(drifting[3000:] > alarm_level(drifting, 0.01)) <= 0.0101


def test_few_rows_lean_on_the_fleet() -> None:
    assert blended(9.0, 0, 1.0, 0.01) == pytest.approx(1.0)
    assert 1.0 < blended(9.0, 100, 1.0, 0.01) < blended(9.0, 10_000, 1.0, 0.01) < 9.0


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.floats(0.0001, 0.5))
def test_severities_always_rise_around_the_alarm(levels: list[float], budget: float) -> None:
    low, medium, high, critical = severity_levels(np.array(levels), budget)

    assert 0 < low < medium == 1.0 < high < critical
