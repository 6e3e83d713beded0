"""Folds part what is learned of from what is judged."""

from itertools import pairwise

import numpy as np
import pytest

from models.base import Observations
from models.folds import folds, together


def part(first: int, last: int) -> Observations:
    """One row an hour of each of twelve machines, from the first day to the last."""
    hours = np.arange(first * 24, last * 24)
    entity = np.repeat([f"m{number}" for number in range(12)], len(hours))
    time = np.tile(np.datetime64("2026-01-01", "us") + hours * np.timedelta64(1, "h"), 12)
    value = np.arange(len(time), dtype=np.float64)
    return Observations({"x": value}, {"y": value}, np.ones(len(time)), entity.astype(object), time)


def test_together_keeps_every_row():
    both = together(part(0, 5), part(5, 8))
    assert len(both) == 12 * 24 * 8
    assert both.time.max() == np.datetime64("2026-01-08T23", "us")


@pytest.mark.parametrize("count", [2, 4])
def test_by_entity_each_machine_is_judged_once_by_what_was_learned_of_others(count):
    judged = []
    for learn, judge in folds(part(0, 4), count, "entity", np.timedelta64(0, "h"), seed=3):
        assert not set(learn.entity) & set(judge.entity)
        judged += sorted(set(judge.entity))
    assert sorted(judged) == sorted(f"m{number}" for number in range(12))


def test_by_time_no_label_reaches_into_what_is_judged():
    horizon = np.timedelta64(24, "h")
    ends = []
    for learn, judge in folds(part(0, 20), 4, "time", horizon, seed=3):
        assert learn.time.max() + horizon <= judge.time.min()
        ends.append((judge.time.min(), judge.time.max()))
    assert len(ends) == 4
    assert all(before[1] < after[0] for before, after in pairwise(ends))
