"""A loss beyond noise is told, noise is not, whatever direction is the better one."""

import numpy as np
import pytest

from models.base import Observations
from models.specs import Bound, Classification
from models.tasks.classification import ClassificationTask
from pipelines.monitor.band import Stray, fallen, strays

TASK = ClassificationTask(Classification(), "event")
BOUNDS = {"average_precision": Bound(minimum=0.2), "calibration_error": Bound(maximum=0.3)}


def part(seed, entities=40, rows=60, sharp=3.0):
    """Entities with a level of their own; a sharper score is a better one."""
    random = np.random.default_rng(seed)
    level = np.repeat(random.normal(0, 0.7, entities), rows)
    signal = random.normal(size=entities * rows)
    event = (signal + level + random.normal(size=len(level)) > 1.5).astype(float)
    score = sharp * (signal - 1.2) + random.normal(size=len(level))
    answers = {"probability": 1 / (1 + np.exp(-score)), "alarm": score > 1}
    names = np.repeat([f"m{number}" for number in range(entities)], rows)
    return Observations({}, {"event": event}, np.ones(len(event)), names), answers


def test_windows_of_the_same_quality_hardly_ever_fall():
    usual = strays(TASK, *part(1000, rows=120), BOUNDS, seed=0)
    fell = [bool(fallen(usual, strays(TASK, *part(seed), BOUNDS, seed=0), BOUNDS)) for seed in range(40)]
    assert sum(fell) <= 1


def test_a_model_that_has_lost_its_sharpness_falls_and_both_figures_are_told():
    usual = strays(TASK, *part(1000, rows=120), BOUNDS, seed=0)
    [told] = fallen(
        usual,
        strays(TASK, *part(5, sharp=0.2), BOUNDS, seed=0),
        {"average_precision": BOUNDS["average_precision"]},
    )
    assert told.startswith("average_precision 0.")
    assert "on its holdout" in told


@pytest.mark.parametrize(("metric", "worse"), [("average_precision", -1), ("calibration_error", 1)])
def test_better_is_never_a_loss(metric, worse):
    usual = {metric: Stray(0.5, 0.01)}
    bounds = {metric: BOUNDS[metric]}
    assert fallen(usual, {metric: Stray(0.5 + 0.2 * worse, 0.01)}, bounds)
    assert fallen(usual, {metric: Stray(0.5 - 0.2 * worse, 0.01)}, bounds) == ()
    assert fallen(usual, {metric: Stray(0.5 + 0.02 * worse, 0.01)}, bounds) == ()


def test_one_entity_says_nothing_of_noise():
    rows, answers = part(1, entities=1, rows=200)
    assert strays(TASK, rows, answers, BOUNDS, seed=0) == {}
