"""Intervals that hold what they promise where rows hang together."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import lfilter
from scipy.stats import t

from pipelines.evaluate import paired
from pipelines.evaluate.comparison import LEAST_MEMORY
from pipelines.evaluate.paired import OverClusters, OverTime


def autoregression(series, length, phi, seed=1):
    noise = np.random.default_rng(seed).normal(size=(series, length + 200))
    return lfilter([1.0], [1.0, -phi], noise, axis=1)[:, 200:]


@pytest.mark.parametrize("phi", [0.0, 0.9])
@pytest.mark.parametrize("moments", [200, 500])
def test_few_cosines_keep_the_size_where_a_t_test_does_not(phi, moments):
    series = autoregression(3000, moments, phi)
    terms = OverTime(series[0], memory=LEAST_MEMORY["time"]).terms
    ratio = series.mean(axis=1) / paired.cosine_errors(series, terms)
    assert np.mean(ratio > t.ppf(0.975, terms)) < 0.05
    naive = series.mean(axis=1) / (series.std(axis=1, ddof=1) / np.sqrt(moments))
    assert (np.mean(naive > 1.96) > 0.25) == (phi > 0)


def test_overlapping_horizons_leave_fewer_cosines():
    gains = np.random.default_rng(0).normal(size=200)
    assert [OverTime(gains, memory=memory).terms for memory in (18.75, 30, 60, 400)] == [8, 5, 2, 2]


def test_a_cosine_error_of_noise_is_that_of_a_mean():
    series = np.random.default_rng(0).normal(size=(2000, 400))
    errors = paired.cosine_errors(series, 8)
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(1 / 20, rel=0.05)


def test_interval_and_p_value_agree():
    gains = 0.3 + autoregression(1, 300, 0.5)[0]
    gain = OverTime(gains, memory=LEAST_MEMORY["time"])
    low, high = gain.interval()
    assert low < gain.figure < high
    assert gain.p_value(low) == pytest.approx(0.025)
    assert gain.bootstrap_interval()[0] < gain.figure < gain.bootstrap_interval()[1]


def test_a_gain_that_never_varies_is_sure_and_no_gain_is_none():
    assert OverTime(np.full(100, 0.2), 1.0).p_value(0.0) < 1e-6
    assert OverTime(np.zeros(100), 1.0).p_value(0.0) == 1.0
    assert OverTime(np.zeros(100), 1.0).interval() == (0.0, 0.0)


def test_rows_of_one_moment_are_averaged_by_weight():
    moment = np.array([0, 0, 1, 1])
    series = paired.per_moment(np.array([1.0, 3.0, 5.0, 5.0]), np.array([1.0, 1.0, 2.0, 2.0]), moment)
    assert series.mean() == pytest.approx((1 + 3 + 10 + 10) / 6)


def test_blocks_are_drawn_whole():
    weights = paired.block_weights(count=20, block=5, resamples=40, seed=1)
    assert weights.shape == (20, 40)
    np.testing.assert_allclose(weights.sum(axis=0), 20)
    one = paired.block_weights(count=20, block=20, resamples=3, seed=1)
    np.testing.assert_allclose(one, 1.0)


def test_expanded_percentiles_are_wider_than_plain_ones_and_more_so_with_few_clusters():
    gains = np.random.default_rng(2).normal(size=4000)
    plain = np.quantile(gains, 0.025)
    few, many = (OverClusters(0.0, gains, units).interval()[0] for units in (8, 400))
    assert few < many < plain + 0.01
    assert many == pytest.approx(plain, abs=0.05)


def test_a_statistic_that_most_resamples_cannot_give_has_no_interval():
    gains = np.where(np.arange(1000) < 300, np.nan, 0.5)
    undefined = OverClusters(0.5, gains, 20)
    assert np.isnan(undefined.interval()).all()
    assert undefined.p_value(0.0) == 1.0


def test_holm_steps_down():
    adjusted = paired.holm(np.array([0.01, 0.04, 0.03, 0.005]))
    np.testing.assert_allclose(adjusted, [0.03, 0.06, 0.06, 0.02])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_never_makes_a_p_value_smaller_nor_changes_their_order(p_values):
    given_, adjusted = np.array(p_values), paired.holm(np.array(p_values))
    assert (adjusted >= given_).all()
    assert (adjusted <= 1).all()
    assert (np.diff(adjusted[np.argsort(given_, kind="stable")]) >= 0).all()


def test_a_clustered_mean_of_single_rows_is_an_ordinary_one():
    values = np.array([1.0, 0.0, -1.0, 1.0, 1.0])
    mean, error, count = paired.clustered_mean(values, np.ones(5), np.arange(5))
    assert (mean, count) == (pytest.approx(0.4), 5)
    assert error == pytest.approx(values.std(ddof=1) / np.sqrt(5))


@settings(max_examples=50)
@given(st.integers(0, 10_000), st.integers(60, 300), st.floats(-3, 3))
def test_whoever_gains_the_other_loses(seed, moments, shift):
    gains = np.random.default_rng(seed).normal(size=moments) + shift
    ours, theirs = OverTime(gains, 25.0), OverTime(-gains, 25.0)
    assert not (ours.interval()[0] > 0 and theirs.interval()[0] > 0)
    assert ours.interval()[0] == pytest.approx(-theirs.interval()[1])
