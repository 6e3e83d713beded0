"""Figures of the tasks, against what they are by hand."""

import numpy as np
import pytest

from models.base import Observations
from models.failure.spec import SPEC as FAILURE
from models.specs import Decision, Detection, Forecast
from models.tasks import task_of
from models.tasks.detection import DetectionTask, event_numbers, event_recall
from models.tasks.forecast import ForecastTask, pinball


def hours(count):
    return np.datetime64("2026-01-01", "us") + np.arange(count) * np.timedelta64(1, "h")


def forecast_part(truth, **columns):
    truth = np.array(truth, dtype=np.float64)
    given = {name: np.array(values, dtype=np.float64) for name, values in columns.items()}
    entity = np.full(len(truth), "a", dtype=object)
    return Observations(given, {"load": truth}, np.ones(len(truth)), entity, hours(len(truth)))


def test_forecast_figures_are_those_by_hand():
    part = forecast_part([10.0, 0.0, 30.0])
    answers = {
        "forecast": np.array([12.0, 1.0, 27.0]),
        "lower": np.array([11.0, -1.0, 20.0]),
        "upper": np.array([13.0, 2.0, 31.0]),
    }
    task = ForecastTask(Forecast(target="load", coverage=0.8))
    found = task.metrics(part, answers)
    assert found["wape"] == pytest.approx(6 / 40)
    assert found["bias"] == pytest.approx(0.0)
    assert found["mape"] == pytest.approx((0.2 + 0.1) / 2), "a truth of zero has no percentage"
    assert found["zero_share"] == pytest.approx(1 / 3)
    assert found["coverage"] == pytest.approx(2 / 3)
    assert found["coverage_error"] == pytest.approx(0.8 - 2 / 3)
    assert found["interval_width"] == pytest.approx((2 + 3 + 11) / 40)
    assert task.statistic(part, answers)(np.array([1.0, 0.0, 0.0])) == pytest.approx(-0.2)


def test_pinball_punishes_by_the_level():
    loss = pinball(np.array([10.0, 10.0]), np.array([8.0, 13.0]), 0.9)
    np.testing.assert_allclose(loss, [1.8, 0.3])


def test_naive_forecasts_are_the_inputs_that_the_spec_names():
    part = forecast_part([1.0, 2.0], last=[5.0, np.nan], week=[3.0, 4.0])
    task = ForecastTask(Forecast(target="load", naive="last", seasonal_naive="week"))
    found = task.baselines(part, part, ())
    assert found["naive (last)"]["forecast"].tolist() == [5.0, 1.5], "where it is missing: the median"
    assert found["seasonal naive (week)"]["forecast"].tolist() == [3.0, 4.0]
    assert set(ForecastTask(Forecast(target="load")).baselines(part, part, ())) == {
        "median of the training part"
    }


def detection_part(label, entity=None):
    label = np.array(label, dtype=np.float64)
    entity = np.array(entity or ["a"] * len(label), dtype=object)
    return Observations({}, {"abnormal": label}, np.ones(len(label)), entity, hours(len(label)))


def test_events_are_runs_of_one_machine():
    label = np.array([0, 1, 1, 0, 1, 1, 1], dtype=np.float64)
    entity = np.array(["a", "a", "a", "a", "a", "b", "b"], dtype=object)
    numbers = event_numbers(entity, hours(7), label)
    assert numbers.tolist() == [-1, 0, 0, -1, 1, 2, 2]
    alarm = np.array([1, 0, 1, 0, 0, 1, 0], dtype=bool)
    assert event_recall(numbers, alarm) == pytest.approx(2 / 3)
    shuffled = np.array([4, 0, 6, 2, 1, 5, 3])
    again = event_numbers(entity[shuffled], hours(7)[shuffled], label[shuffled])
    assert event_recall(again, alarm[shuffled]) == pytest.approx(2 / 3)


def test_detection_counts_no_row_whose_label_nobody_knows():
    part = detection_part([0, 1, np.nan, 0])
    answers = {"score": np.array([0.1, 0.9, 0.95, 0.2]), "abnormal": np.array([False, True, True, False])}
    found = DetectionTask(Detection(), "abnormal").metrics(part, answers)
    assert found["average_precision"] == 1.0
    assert found["alarm_precision"] == 1.0
    assert found["alarm_share"] == 0.5
    assert found["event_recall"] == 1.0


def test_without_any_label_a_detector_is_held_to_its_budget():
    part = detection_part([np.nan] * 4)
    task = DetectionTask(Detection(max_false_positive_rate=0.25), "abnormal")
    quiet = {"score": np.zeros(4), "abnormal": np.array([True, False, False, False])}
    loud = {"score": np.zeros(4), "abnormal": np.array([True, True, True, False])}
    assert task.positives(part) is None
    assert task.statistic(part, quiet)(np.ones(4)) == 0.0
    assert task.statistic(part, loud)(np.ones(4)) == pytest.approx(-0.5)
    assert task.metrics(part, quiet) == {"alarm_share": 0.25}


def test_a_decision_has_no_task_but_its_builders():
    with pytest.raises(ValueError, match="override task"):
        task_of(FAILURE.model_copy(update={"task": Decision()}))
