"""Windows of unchanged telemetry are hardly ever called changed, and the p-values are what they say."""

import numpy as np
import pytest
from scipy import stats
from scipy.signal import lfilter

from pipelines.monitor import calibration
from pipelines.monitor.calibration import History, p_values, weighted_discoveries

WEEK, WEEKS = 168, 6


def series(random, columns, memory=0.8, extra=WEEK):
    """Hourly, with a daily rhythm; six weeks and what comes after."""
    steps = random.normal(size=(WEEKS * WEEK + extra, columns)) * np.sqrt(1 - memory**2)
    noise = lfilter([1.0], [1.0, -memory], steps, axis=0)
    hour = np.arange(len(noise))[:, None]
    return noise + np.sin(2 * np.pi * hour / 24) - 0.5 * (hour // 24 % 7 >= 5)


@pytest.mark.parametrize("days", [1, 7])
@pytest.mark.parametrize("memory", [0.0, 0.8])
def test_p_values_of_unchanged_windows_are_even(days, memory):
    random = np.random.default_rng(7)
    every = series(random, 800, memory)
    history, window = History(every[: WEEKS * WEEK], WEEK), every[WEEKS * WEEK :][: days * 24]
    learned = calibration.spread(history, len(window), lend=False)
    now, before = calibration.mean_of(history, window, 0), calibration.earlier(history, len(window), 0)
    p = p_values(now.gap / np.sqrt(learned.variance), learned.freedom, before.gap / np.sqrt(learned.within))
    for level in (0.05, 0.2, 0.5):
        assert np.mean(p <= level) < level + 3 * np.sqrt(level * (1 - level) / len(p))
    assert np.mean(p <= 0.2) > 0.1  # and not by calling everything unchanged


def test_a_shift_is_seen_and_a_slow_wanderer_is_not_called_one():
    random = np.random.default_rng(3)
    every = series(random, 40)
    every[:, 20:] += 3 * np.sin(
        2 * np.pi * np.arange(len(every))[:, None] / (17 * 24) + random.uniform(0, 6, 20)
    )
    history, window = History(every[: WEEKS * WEEK], WEEK), every[WEEKS * WEEK :].copy()
    window[:, :10] += 2
    learned = calibration.spread(history, WEEK)
    gap = calibration.mean_of(history, window, 0).gap
    p = p_values(gap / np.sqrt(learned.variance), learned.freedom, np.empty((0, 40)))
    assert np.all(p[:10] < 0.001)
    assert np.all(p[20:] > 0.001)


def test_where_the_past_strayed_as_far_counting_is_the_least_that_is_said():
    past = np.array([[4.0], [0.1], [-0.2], [0.3]])
    assert p_values(np.array([3.9]), np.array([1000.0]), past)[0] == pytest.approx(2 / 5)
    beyond = p_values(np.array([4.1]), np.array([1000.0]), past)[0]
    assert beyond == pytest.approx(2 * stats.t.sf(4.1, 1000))


def test_what_is_not_known_has_no_p_value_and_is_not_counted():
    found, adjusted = weighted_discoveries(np.array([0.004, np.nan, 0.5]), np.ones(3), 0.01)
    assert found.tolist() == [True, False, False]
    assert adjusted[0] == pytest.approx(0.008)
    assert np.isnan(adjusted[1])


def test_without_weights_it_is_benjamini_and_hochberg():
    p = np.array([0.01, 0.04, 0.03, 0.005, 0.9])
    _, adjusted = weighted_discoveries(p, np.ones(5), 0.05)
    np.testing.assert_allclose(adjusted, stats.false_discovery_control(p))


def test_an_important_column_needs_less():
    p = np.array([0.02, 0.5, 0.5, 0.5])
    assert not weighted_discoveries(p, np.ones(4), 0.05)[0].any()
    assert weighted_discoveries(p, np.array([3.0, 1.0, 1.0, 1.0]), 0.05)[0].tolist() == [
        True,
        False,
        False,
        False,
    ]
