"""The figures of cost forecasts, worked out by hand, and the sources that the spec runs on."""

from __future__ import annotations

import numpy as np
import pytest

from models.base import Observations
from models.catalogue import find
from models.cost.origins import asked_once, lag_names, origins_of, truth_of
from models.cost.smoothing import WARM_UP
from models.cost.spec import SPEC
from models.cost.task import CostTask, weekly_naive_error
from pipelines.references import Window
from pipelines.sources.profile import load_profile

TASK = CostTask(SPEC.task)


def rows(lags: int = 8) -> Observations:
    """Two entities on one day, asked for two days ahead, in no order."""
    step, entity = np.array([2.0, 1.0, 1.0, 2.0]), np.array(["b", "a", "b", "a"], dtype=object)
    columns = {f"cost_usd__lag_{number}": np.full(4, 10.0 + number) for number in range(lags)}
    return Observations(
        columns | {"steps_ahead": step},
        {"cost_usd": np.array([40.0, 10.0, 20.0, 10.0])},
        np.ones(4),
        entity,
        np.full(4, np.datetime64("2025-03-01", "us")),
    )


def test_rows_of_an_origin_are_put_in_order() -> None:
    part = rows()
    assert origins_of(part).of(part.targets["cost_usd"]).tolist() == [[10.0, 10.0], [20.0, 40.0]]


def test_a_day_that_nobody_asks_for_is_unknown() -> None:
    once = asked_once(rows().rows(np.array([0, 1, 2])), "cost_usd", 2)
    np.testing.assert_array_equal(truth_of(once), [[10.0, np.nan], [20.0, 40.0]])
    assert once.entity.tolist() == ["a", "b"]


def test_totals_are_judged_by_origin() -> None:
    part = rows()
    answers = {
        "forecast": np.array([40.0, 11.0, 26.0, 11.0]),
        "total_lower": np.array([50.0, 0.0, 0.0, 21.0]),
        "total_upper": np.array([70.0, 99.0, 99.0, 30.0]),
    }
    figures = TASK.metrics(part, answers)
    assert figures["total_ape_mean"] == pytest.approx(0.1)
    assert figures["total_below_5_percent"] == 0.0
    # The interval of a total is that of its last day: 60 is within 50 to 70, and 20 is not within 21 to 30.
    assert figures["total_coverage"] == 0.5
    # A week ago costs were 7 more; days are off by 0, 1, 6 and 1.
    assert figures["mase"] == pytest.approx(2.0 / 7.0)


def test_the_last_week_is_repeated_by_weekday() -> None:
    part = rows(14)
    part.columns["steps_ahead"] = np.array([1.0, 7.0, 8.0, 2.0])
    answers = TASK.baselines(part, part, ())
    # Tomorrow was last seen six days before the newest day, and the day in a week is as the newest one.
    assert answers["seasonal naive (last week)"]["forecast"].tolist() == [16.0, 10.0, 16.0, 15.0]
    assert answers["naive (last day)"]["forecast"].tolist() == [10.0] * 4
    assert answers["mean of the last 7 days"]["forecast"].tolist() == [13.0] * 4


def test_a_bill_without_two_weeks_has_no_weekly_error() -> None:
    part = rows(8)
    part.columns["cost_usd__lag_7"] = np.full(4, np.nan)
    assert np.isnan(weekly_naive_error(part)).all()


def test_lags_are_counted_to_the_first_gap() -> None:
    assert lag_names(["a__lag_0", "a__lag_2", "a__lag_1", "a__lag_10", "month"]) == [
        "a__lag_0",
        "a__lag_1",
        "a__lag_2",
    ]


@pytest.mark.parametrize("source", ["mybinder_billing", "mybinder_services", "simulated"])
def test_the_source_has_the_grid_that_the_spec_asks_for(source: str) -> None:
    profile = load_profile(source)
    spec = profile.spec_of(find("cost"))
    assert profile.grid(spec.grid).lags > WARM_UP
    assert profile.dataset(spec.target.dataset).is_summed


@pytest.mark.parametrize("source", ["mybinder_billing", "mybinder_services"])
def test_the_window_is_made_of_whole_slices(source: str) -> None:
    profile = load_profile(source)
    assert profile.window_start is not None
    assert profile.window_end is not None
    window = Window(start=profile.window_start, end=profile.window_end)
    for dataset in profile.datasets:
        assert list(window.slices(dataset.slice))[-1].end == window.end
    assert window.end - window.start == profile.spec_of(find("cost")).training_window
