"""Comparisons at equal false alarms: what a baseline's thresholds are multiplied by."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.models.detectors import Scored, factor_of


def servers() -> list[Scored]:
    """Two servers, one of whose scores have drifted to ten times what its threshold was learned of."""
    random = np.random.default_rng(5)
    label = (np.arange(4000) % 50 == 0).astype(np.int8)
    return [
        Scored(label, random.exponential(drift, len(label)), published=3.0, later=4.0)
        for drift in (1.0, 10.0)
    ]


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.2])
def test_one_factor_gives_the_mean_false_positive_rate_that_is_asked_for(rate: float) -> None:
    found = servers()

    factor = factor_of(found, rate)

    rates = [each.judged(each.later * factor, 0.01).false_positive_rate for each in found]
    assert rate - 0.001 < np.mean(rates) <= rate
    assert rates[0] < rates[1], "drift stays where it was: nothing is learned of the test part by server"
