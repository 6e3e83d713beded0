"""The promise of at most 5 % false promotions, by the exact size of the test over time."""

import numpy as np
import pytest
from scipy import stats

from benchmarks.gates import exact
from pipelines.evaluate.comparison import LEAST_MEMORY, LEAST_TIMES

LEAST = LEAST_MEMORY["time"]


def test_the_integral_is_that_of_a_ratio_of_chi_squares():
    ratio = exact.positive(np.array([1.0, -0.5, -0.5, -0.5]))
    assert ratio == pytest.approx(stats.f.sf(1.5, 1, 3), abs=1e-6)


@pytest.mark.parametrize("moments", [60, 300])
def test_of_independent_gains_the_size_is_the_level(moments):
    assert exact.size(exact.autoregression(moments, 0.0), LEAST) == pytest.approx(0.025, abs=1e-4)


@pytest.mark.parametrize("moments", [LEAST_TIMES["time"], 100, 134, 167, 200, 234, 267, 500])
def test_gains_that_follow_each_other_closely_stay_clear_of_five_in_a_hundred(moments):
    """With room below the promise, and above the level: at each length where a cosine is added."""
    assert 0.025 < exact.size(exact.autoregression(moments, 0.9), LEAST) < 0.044


@pytest.mark.parametrize("moments", [LEAST_TIMES["time"], 100, 500])
@pytest.mark.parametrize("share", [8, 4, 3])
def test_horizons_that_overlap_for_up_to_a_third_of_the_holdout_stay_clear_too(moments, share):
    horizon = moments // share
    assert exact.size(exact.overlap(moments, horizon), max(LEAST, horizon)) < 0.044
