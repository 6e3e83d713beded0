"""The builder on made-up bills, and its head as the server has it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import lightgbm as lgb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.base import Observations
from models.cost.build import BUILDER, CostModel
from models.cost.origins import origins_of
from models.cost.spec import SPEC
from models.encoding import estimator_matrix
from models.heads.cost import CostHead
from tests.models.cost.conftest import INPUTS, LAGS, totals

pytestmark = pytest.mark.integration  # trains: seconds

Parts = tuple[Observations, Observations, Observations]


@pytest.fixture(scope="session")
def fitted(parts: Parts) -> CostModel:
    train, valid, _ = parts
    return BUILDER.fit(train, valid, INPUTS, BUILDER.default_params(), 7, SPEC)


def test_it_beats_each_baseline_on_days_to_come(fitted: CostModel, parts: Parts) -> None:
    train, _, holdout = parts
    task = BUILDER.task(SPEC)
    ours = task.metrics(holdout, fitted.answer(holdout))
    for answers in task.baselines(train, holdout, INPUTS).values():
        theirs = task.metrics(holdout, answers)
        assert ours["wape"] < theirs["wape"]
        assert ours["mase"] < theirs["mase"]
    assert ours["total_ape_mean"] < 0.05


def test_the_same_seed_gives_the_same_model(fitted: CostModel, parts: Parts) -> None:
    train, valid, holdout = parts
    again = BUILDER.fit(train, valid, INPUTS, BUILDER.default_params(), 7, SPEC)
    for name, values in again.answer(holdout).items():
        np.testing.assert_array_equal(values, fitted.answer(holdout)[name])


def test_intervals_hold_forecasts_and_totals_are_sums(fitted: CostModel, parts: Parts) -> None:
    holdout = parts[2]
    answers = fitted.answer(holdout)
    for low, middle, high in (("lower", "forecast", "upper"), ("total_lower", "total", "total_upper")):
        assert np.all(
            (answers[low] >= 0) & (answers[low] <= answers[middle]) & (answers[middle] <= answers[high])
        )
    last = origins_of(holdout).rows[:, -1]
    np.testing.assert_allclose(answers["total"][last], totals(holdout, answers["forecast"]))


def test_intervals_cover_about_what_they_promise(fitted: CostModel, parts: Parts) -> None:
    figures = BUILDER.task(SPEC).metrics(parts[2], fitted.answer(parts[2]))
    assert 0.7 <= figures["coverage"] <= 0.95


def test_a_day_is_forecast_alike_whichever_days_are_asked_for_with_it(
    fitted: CostModel, parts: Parts
) -> None:
    holdout = parts[2]
    alone = fitted.answer(holdout.rows(np.array([17])))
    among = fitted.answer(holdout)
    for name, values in alone.items():
        assert values[0] == pytest.approx(among[name][17], rel=1e-12)


def test_weights_add_up_and_importance_too(fitted: CostModel) -> None:
    assert sum(member.weight for member in fitted.head.members) == pytest.approx(1.0)
    importance = fitted.importance()
    assert sum(importance.values()) == pytest.approx(1.0)
    assert importance["cost_usd__lag_0"] > importance[f"cost_usd__lag_{LAGS - 1}"]


def test_the_export_answers_as_the_model_without_its_libraries(
    fitted: CostModel, parts: Parts, tmp_path: Path
) -> None:
    saved = fitted.save(tmp_path)
    holdout = parts[2]
    raw = {}
    for estimator in saved.estimators:
        booster = lgb.Booster(model_file=str(tmp_path / estimator.file))
        matrix = estimator_matrix(holdout.columns, INPUTS, estimator)
        raw[estimator.name] = np.asarray(booster.predict(matrix, raw_score=True))
    head = CostHead.model_validate_json(saved.head.model_dump_json())
    for name, values in head.answer(holdout.columns, raw).items():
        np.testing.assert_allclose(values, fitted.answer(holdout)[name], atol=saved.tolerance)


def test_the_head_needs_no_forecasting_library() -> None:
    code = "import sys, models.heads; print(sorted({'statsforecast', 'lightgbm', 'pandas', 'polars'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@settings(max_examples=15)
@given(
    st.lists(st.one_of(st.none(), st.floats(0, 1e7)), min_size=LAGS, max_size=LAGS),
    st.integers(1, 30),
    st.booleans(),
)
def test_any_window_is_answered_with_numbers(
    fitted: CostModel, costs: list[float | None], step: int, dated: bool
) -> None:
    columns = {
        f"cost_usd__lag_{number}": np.array([np.nan if cost is None else cost])
        for number, cost in enumerate(costs)
    }
    calendar = {
        "weekday_sin": 0.0,
        "weekday_cos": 1.0,
        "day_of_month": 29.0,
        "days_to_month_end": 2.0,
        "month": 12.0,
    }
    columns |= {name: np.array([value if dated else np.nan]) for name, value in calendar.items()}
    columns["steps_ahead"] = np.array([float(step)])
    one = Observations(columns, {}, np.ones(1), np.array(["any"]))
    answers = fitted.answer(one)
    assert all(np.isfinite(values).all() for values in answers.values())
    assert answers["lower"][0] <= answers["forecast"][0] <= answers["upper"][0]
    assert answers["total"][0] >= answers["forecast"][0] * (1 - 1e-9)


def test_costs_in_another_currency_are_forecast_alike(fitted: CostModel, parts: Parts) -> None:
    """What hangs on the unit are the trees alone; the head's own members are relative."""
    holdout = parts[2].rows(np.arange(60))
    dearer = Observations(
        {name: values * 100 if "lag" in name else values for name, values in holdout.columns.items()},
        holdout.targets,
        holdout.weight,
        holdout.entity,
        holdout.time,
    )
    windows, others = fitted.head.windows(holdout.columns), fitted.head.windows(dearer.columns)
    for member in fitted.head.members:
        if not member.drifts:
            ours, theirs = (fitted.head.member_path(member, each, {}) for each in (windows, others))
            np.testing.assert_allclose(theirs, 100 * ours, rtol=1e-9)


def test_a_flat_cost_is_not_moved_by_what_others_taught(fitted: CostModel, parts: Parts) -> None:
    holdout = parts[2].rows(np.arange(30))
    flat = holdout.columns | {name: np.full(30, 50.0) for name in fitted.head.lags}
    windows = fitted.head.windows(flat)
    trees = next(member for member in fitted.head.members if member.drifts)
    path = fitted.head.member_path(trees, windows, {name: np.full(30, 0.4) for name in trees.drifts})
    np.testing.assert_allclose(path, 50.0, rtol=0.02)


def test_fewer_lags_than_the_warm_up_are_refused() -> None:
    with pytest.raises(ValueError, match="lags"):
        CostHead(lags=("a",), members=(), scale_by=(), daily=(), total=())


def test_the_search_space_holds_what_fit_takes() -> None:
    import optuna

    suggested = BUILDER.suggest(optuna.trial.FixedTrial(BUILDER.default_params()))
    assert suggested == BUILDER.default_params()
