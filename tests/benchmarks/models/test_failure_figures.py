"""Figures beside published ones: what counts as falling short, and as calibrated where labels are rare."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.models.failure_figures import alarms, backblaze_figures, expected_over_seen
from models.base import Observations


def test_weights_stand_for_the_rows_that_were_not_kept():
    label = np.array([1.0, 1.0, 0.0, 0.0])
    probability = np.array([0.9, 0.2, 0.6, 0.1])
    assert alarms(label, probability, np.array([1.0, 1.0, 9.0, 9.0]), 0.5) == (0.5, 0.1)


def test_probabilities_of_the_highest_rows_are_compared_with_what_happened():
    probability = np.array([0.5, 0.5, 0.01, 0.01])
    label = np.array([1.0, 0.0, 0.0, 0.0])
    weight = np.array([1.0, 1.0, 49.0, 49.0])
    assert expected_over_seen(label, probability, weight, 0.02) == pytest.approx(1.0)
    assert expected_over_seen(label, probability * 2, weight, 0.02) == pytest.approx(2.0)


def test_a_perfect_ranking_recalls_all_at_every_rate():
    random = np.random.default_rng(3)
    label = (np.arange(4000) < 40).astype(float)
    part = Observations({}, {"event": label}, np.ones(4000), random.integers(0, 300, 4000).astype(str))
    figures = {figure.metric: figure for figure in backblaze_figures(part, label * 0.9 + 0.05, seed=1)}
    assert figures["recall at 1.00% false positives per drive-day"].ours == 1.0
    assert figures["area under ROC"].ours == 1.0
