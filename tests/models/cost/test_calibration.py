"""Intervals hold what they promise on calm series, and widen when the series gets rough."""

from __future__ import annotations

import numpy as np
import pytest

from models.cost.calibration import adaptive_spreads, final_share

GROUPS = np.repeat([0, 1], 15)


def scores(days: int, scale: np.ndarray | float = 1.0, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.broadcast_to(scale, days)[:, None] * random.normal(size=(days, 30))


def test_errors_like_those_known_are_covered() -> None:
    first, second = adaptive_spreads(scores(300), np.arange(300), GROUPS, coverage=0.8)
    new = scores(300, seed=1)
    for group, spread in enumerate((first, second)):
        held = (new[:, group == GROUPS] >= spread.lower) & (new[:, group == GROUPS] <= spread.upper)
        assert np.mean(held) == pytest.approx(0.8, abs=0.03)


def test_rougher_times_widen_and_calmer_ones_do_not_narrow() -> None:
    days = np.arange(400)
    calm = final_share(scores(400), days, GROUPS, 0.8)
    rough = final_share(scores(400, np.where(days < 250, 1.0, 3.0)), days, GROUPS, 0.8)
    calmer = final_share(scores(400, np.where(days < 250, 3.0, 1.0)), days, GROUPS, 0.8)
    assert rough < calm <= 0.2 + 1e-12
    assert calmer == pytest.approx(0.2)


def test_what_is_not_known_by_then_decides_nothing() -> None:
    known = scores(200)
    later = known.copy()
    later[100:] *= 50
    # The intervals of day 100 come from what was known on it: the same, whatever came after.
    assert final_share(known[:60], np.arange(60), GROUPS, 0.8) == final_share(
        later[:60], np.arange(60), GROUPS, 0.8
    )


def test_too_few_outcomes_are_refused() -> None:
    with pytest.raises(ValueError, match="known outcomes"):
        adaptive_spreads(scores(3), np.arange(3), GROUPS, 0.8)
