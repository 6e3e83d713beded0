"""What is called the truth of a world is what its rows tell when there are many."""

import numpy as np
import pytest

from benchmarks.gates import worlds


def test_a_signal_s_gain_in_average_precision_is_that_of_many_rows():
    part, ours, theirs = worlds.detections(np.random.default_rng(1), 200_000, 0.0, 0.5)
    task = next(world for world in worlds.WORLDS if world.name == "detectors").task
    ones = np.ones(len(part))
    gain = task.statistic(part, ours)(ones) - task.statistic(part, theirs)(ones)
    assert gain == pytest.approx(worlds.true_gain(0.5), abs=0.01)


def test_eager_alarms_are_right_less_often_by_the_margin():
    part, ours, theirs = worlds.too_many_alarms(np.random.default_rng(2), 200_000, 0.0, 1.0)
    lost = -np.mean(worlds.right_gain(worlds.WORLDS[1].task, part, ours, theirs))
    assert lost == pytest.approx(worlds.DECISION_MARGIN, abs=0.005)
