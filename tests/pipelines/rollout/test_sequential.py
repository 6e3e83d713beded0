"""What may be looked at any time errs no more often than it says, over all looks together."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.rollout.sequential import (
    cautious_share,
    difference,
    evidence_against,
    mean_interval,
    mean_sequence,
    stitched_bound,
)


def test_the_boundary_is_the_published_one():
    """Howard and others (2021), eq. (2): 1.7 sqrt(v (log log 2v + 0.72 log(5.2 / alpha))) for scale 0."""
    v = np.array([1.0, 10.0, 1e3, 1e6])
    published = 1.7 * np.sqrt(v * (np.log(np.log(2 * v)) + 0.72 * math.log(5.2 / 0.025)))
    assert stitched_bound(v, 0.025, c=0.0) == pytest.approx(published, rel=0.01)


def streams(random, count=400, length=1500):
    """Differences of losses: most are small, some large, none has a mean but 0."""
    return random.choice([-1.0, -0.1, 0.0, 0.1, 1.0], size=(count, length), p=[0.05, 0.2, 0.5, 0.2, 0.05])


def test_it_misses_the_mean_at_any_look_no_more_often_than_alpha():
    lower, upper = mean_sequence(streams(np.random.default_rng(1)), alpha=0.1)
    assert np.mean(np.any((lower > 0) | (upper < 0), axis=1)) <= 0.1


def test_a_fixed_interval_that_is_looked_at_each_time_does_miss_it():
    """What the sequence is for: 95 % intervals, looked at after each value, are wrong in many streams."""
    values = streams(np.random.default_rng(1))
    count = np.arange(1, values.shape[1] + 1)
    mean = np.cumsum(values, axis=1) / count
    spread = np.sqrt(np.maximum(np.cumsum(values**2, axis=1) / count - mean**2, 0))
    wrong = np.abs(mean) > 1.96 * spread / np.sqrt(count)
    assert np.mean(np.any(wrong[:, 30:], axis=1)) > 0.25


def test_it_holds_where_values_hang_together_and_their_mean_moves():
    """Each stream's expectation drifts by its own past; what is held is the mean of the expectations."""
    random = np.random.default_rng(2)
    streams_, length = 300, 1000
    values, expected = np.zeros((streams_, length)), np.zeros((streams_, length))
    level = np.zeros(streams_)
    for step in range(length):
        expected[:, step] = np.clip(level, -0.8, 0.8)
        values[:, step] = np.clip(expected[:, step] + random.uniform(-0.2, 0.2, streams_), -1, 1)
        level = 0.95 * level + 0.3 * (values[:, step] - expected[:, step]) + random.normal(0, 0.02, streams_)
    running = np.cumsum(expected, axis=1) / np.arange(1, length + 1)
    lower, upper = mean_sequence(values, alpha=0.1)
    assert np.mean(np.any((lower > running) | (upper < running), axis=1)) <= 0.1


def test_it_finds_a_difference_that_is_there():
    random = np.random.default_rng(3)
    interval = mean_interval(np.clip(random.normal(0.1, 0.2, 3000), -1, 1), alpha=0.05)
    assert interval.lower > 0.05
    assert interval.upper < 0.15


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=50), st.floats(0.001, 0.5))
def test_ends_are_in_order_and_within_the_bounds(values, alpha):
    found = mean_interval(np.array(values), alpha)
    assert -1 <= found.lower <= found.mean + 1e-12
    assert found.mean - 1e-12 <= found.upper <= 1


def test_values_out_of_bounds_are_refused():
    for wrong in (1.1, float("nan")):
        with pytest.raises(ValueError, match="must lie in"):
            mean_interval(np.array([0.0, wrong]), 0.05)


def test_a_difference_holds_both_ends():
    one, other = (mean_interval(np.full(500, mean), 0.05, low=0.0) for mean in (0.7, 0.2))
    apart = difference(one, other)
    assert apart.lower < 0.5 < apart.upper
    assert apart.lower > 0.3


def test_evidence_of_errors_is_false_no_more_often_than_it_says():
    random = np.random.default_rng(4)
    errors = np.cumsum(random.random((200, 1000)) < 0.02, axis=1)
    looks = range(10, 1000, 10)
    alarmed = [any(evidence_against(int(row[n - 1]), n, 0.02) >= 10 for n in looks) for row in errors]
    assert np.mean(alarmed) <= 0.1


@pytest.mark.parametrize(("share", "enough"), [(0.5, 15), (0.2, 60), (0.1, 200)])
def test_evidence_grows_quickly_where_errors_jump(share, enough):
    errors = round(share * enough)
    assert evidence_against(errors, enough, 0.02) > 1000
    assert evidence_against(0, enough, 0.02) < 1


def test_a_tolerated_share_is_a_share():
    for wrong in (0.0, 1.0, -0.1):
        with pytest.raises(ValueError, match="between 0 and 1"):
            evidence_against(1, 2, wrong)


def test_a_share_of_few_is_told_with_caution():
    assert cautious_share(0, 0) > 0.9
    assert cautious_share(0, 1000) < 0.01
    assert cautious_share(1000, 1000) == 1.0
