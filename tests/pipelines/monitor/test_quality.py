"""Estimates without labels lie near what labels say, and floors are broken beyond their error only."""

import numpy as np
import pytest

from models.base import Observations
from models.specs import Bound, Classification
from models.tasks.classification import ClassificationTask
from pipelines.monitor.quality import broken_floors, confidence_based, direct_loss, learn_losses


def test_calibrated_probabilities_tell_the_quality():
    random = np.random.default_rng(3)
    probability = random.beta(0.5, 6, 8000)
    label = (random.uniform(size=8000) < probability).astype(float)
    answers = {"probability": probability, "alarm": probability > 0.3}
    task = ClassificationTask(Classification(), "event")
    part = Observations({}, {}, np.ones(8000), np.array(["m"] * 8000))
    estimate = confidence_based(task, part, answers, "event", seed=1)
    truth = task.metrics(Observations({}, {"event": label}, part.weight, part.entity), answers)
    for name in ("average_precision", "alarm_recall", "alarm_precision"):
        assert estimate.values[name] == pytest.approx(truth[name], abs=4 * estimate.errors[name] + 0.02)


def test_the_loss_of_a_harder_day_is_foreseen_from_the_inputs():
    random = np.random.default_rng(4)

    def day(size, hard):
        load = random.uniform(0, 1, size) * (1 - hard) + hard
        return {"load": load}, 10 * np.ones(size), 10 + random.normal(size=size) * (0.5 + 3 * load)

    columns, forecast, truth = day(6000, 0.0)
    losses = learn_losses(columns, forecast, truth, seed=1)
    for hard in (0.0, 0.6):
        columns, forecast, truth = day(4000, hard)
        estimate = direct_loss(losses, columns, forecast).values
        assert estimate["mae"] == pytest.approx(np.mean(np.abs(truth - forecast)), rel=0.1)
        assert estimate["wape"] == pytest.approx(estimate["mae"] / 10)


def test_a_floor_is_broken_beyond_the_error_only():
    floors = {"recall": Bound(minimum=0.5), "wape": Bound(maximum=0.3)}
    assert broken_floors({"recall": 0.45, "wape": 0.31}, floors) == ("recall 0.45 < 0.5", "wape 0.31 > 0.3")
    assert broken_floors({"recall": 0.45, "wape": 0.31}, floors, {"recall": 0.1, "wape": 0.01}) == ()
    assert broken_floors({"recall": float("nan")}, floors) == ()
