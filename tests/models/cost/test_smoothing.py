"""The recursion is the library's, and what it says of a window hangs on nothing else."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.cost.smoothing import First, Smoothing, ahead, day_kinds, past_errors, smooth, smooth_all


def logs(days: int = 120, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return (
        4.0
        + 0.003 * np.arange(days)
        + 0.2 * np.sin(2 * np.pi * np.arange(days) / 7)
        + 0.1 * random.normal(size=days)
    )


def library(series: np.ndarray, *, damped: bool) -> tuple[dict, Smoothing, First, np.ndarray]:
    """What statsforecast fits to a series, with its parameters, its first states and its forecasts."""
    from statsforecast.models import AutoETS

    model = AutoETS(season_length=7, model="AAA" if damped else "ANA", damped=damped).fit(series)
    alpha, beta, gamma, phi = model.model_["par"][:4]
    states = np.asarray(model.model_["states"])[0]
    trend = 1 if damped else 0
    # The library keeps the newest seasonal state first: the day to come is the last of the seven.
    first = First(states[:1], states[1:2] if damped else np.zeros(1), states[1 + trend :][::-1][None])
    smoothing = Smoothing(
        level=alpha, season=gamma, trend=beta if damped else 0.0, damping=phi if damped else 1.0
    )
    return model.model_, smoothing, first, model.predict(30)["mean"]


@pytest.mark.integration  # compiles at the first call
@pytest.mark.parametrize("damped", [False, True])
def test_one_step_forecasts_equal_those_of_statsforecast(damped: bool) -> None:
    series = logs()
    fitted, smoothing, first, _ = library(series, damped=damped)
    states = smooth(series[None], np.arange(len(series))[None] % 7, smoothing, first)
    np.testing.assert_allclose(states.expected[0], np.ravel(fitted["fitted"]), atol=1e-9)


def test_forecasts_of_a_month_equal_those_of_statsforecast() -> None:
    series = logs()
    _, smoothing, first, expected = library(series, damped=False)
    states = smooth(series[None], np.arange(len(series))[None] % 7, smoothing, first)
    month = ahead(states, (len(series) + np.arange(30))[None] % 7, smoothing)
    np.testing.assert_allclose(month[0], expected, atol=1e-9)


def test_a_damped_trend_adds_up_as_published() -> None:
    states = smooth(logs()[None], np.arange(120)[None] % 7, Smoothing(level=0.3, trend=0.05, damping=0.9))
    month = ahead(states, np.zeros((1, 3), dtype=np.intp), Smoothing(level=0.3, trend=0.05, damping=0.9))
    level, trend, season = states.level[0, -1], states.trend[0, -1], states.season[0, -1, 0]
    np.testing.assert_allclose(month[0] - level - season, trend * np.cumsum([0.9, 0.81, 0.729]))


def test_a_spike_moves_a_limited_level_little() -> None:
    series = np.full(100, 5.0)
    series[80] = 9.0
    kinds = np.arange(100)[None] % 7
    free, limited = (
        smooth(series[None], kinds, Smoothing(level=0.5, limit=limit)).level[0, 80] for limit in (None, 2.0)
    )
    assert free == pytest.approx(7.0)
    assert limited < 5.1


def test_missing_days_move_nothing() -> None:
    series = logs(60)
    gap = series.copy()
    gap[30:40] = np.nan
    states = smooth(gap[None], np.arange(60)[None] % 7, Smoothing(level=0.3, season=0.1))
    assert np.all(states.level[0, 30:40] == states.level[0, 29])


@settings(max_examples=15)
@given(st.integers(1, 5), st.integers(0, 1000))
def test_a_window_is_smoothed_alike_alone_and_among_others(number: int, seed: int) -> None:
    windows = np.stack([logs(50, seed + index) for index in range(number)])
    kinds = np.tile(np.arange(50) % 7, (number, 1))
    smoothing = Smoothing(level=0.2, season=0.1, limit=2.0)
    together = smooth(windows, kinds, smoothing).level
    for index in range(number):
        alone = smooth(windows[index][None], kinds[:1], smoothing).level[0]
        np.testing.assert_array_equal(together[index], alone)


def test_days_are_weekdays_but_for_the_end_of_the_year() -> None:
    at = date(2025, 12, 20)
    offsets = np.arange(-60, 40)
    kinds = day_kinds(np.array([at.weekday() * 1.0]), np.array([12.0]), np.array([20.0]), offsets)[0]
    for offset, kind in zip(offsets, kinds, strict=True):
        day = at + timedelta(days=int(offset))
        holiday = (day.month, day.day) >= (12, 24) or (day.month, day.day) == (1, 1)
        assert kind == (6 if holiday else day.weekday())


def test_without_a_date_days_still_have_seven_kinds() -> None:
    kinds = day_kinds(np.array([np.nan]), np.array([np.nan]), np.array([np.nan]), np.arange(14))
    assert kinds.tolist() == [[*range(7), *range(7)]]


def test_past_errors_are_those_of_the_forecasts_that_were_made() -> None:
    series = logs(80)
    kinds = np.arange(80)[None] % 7
    states = smooth(series[None], kinds, Smoothing(level=0.3, season=0.1))
    origins = np.arange(50, 73)
    made = states.level[0, origins] + states.season[0, origins, (origins + 7) % 7]
    expected = np.mean(np.abs(series[origins + 7] - made))
    assert past_errors(series[None], kinds, states, step=7, span=30)[0] == pytest.approx(expected)


def test_a_season_that_would_not_settle_is_refused() -> None:
    with pytest.raises(ValueError, match="would not settle"):
        Smoothing(level=0.9, season=0.2)


def test_several_smoothings_in_one_pass_are_those_of_one_at_a_time():
    random = np.random.default_rng(3)
    windows = random.normal(3.0, 0.2, (5, 90))
    windows[random.uniform(size=windows.shape) < 0.1] = np.nan
    kinds = (np.arange(90)[None] + random.integers(0, 7, (5, 1))) % 7
    asked = (
        Smoothing(level=0.3, season=0.1, limit=2.0),
        Smoothing(level=0.2, season=0.3, trend=0.05, damping=0.9),
        Smoothing(level=0.5),
    )
    found = smooth_all(windows, kinds, asked, remembered=1)
    for smoothing in asked:
        alone = smooth(windows, kinds, smoothing)
        for name in ("expected", "level", "trend"):
            np.testing.assert_array_equal(getattr(found[smoothing], name), getattr(alone, name))
        np.testing.assert_array_equal(found[smoothing].season[:, -1], alone.season[:, -1])
        ahead_of = kinds[:, :30]
        np.testing.assert_array_equal(
            ahead(found[smoothing], ahead_of, smoothing), ahead(alone, ahead_of, smoothing)
        )
    np.testing.assert_array_equal(found[asked[0]].season, smooth(windows, kinds, asked[0]).season)
    assert found[asked[2]].season.shape == (5, 1, 7)
