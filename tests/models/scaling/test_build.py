"""The builder: it learns, keeps proportions, covers, and its export answers as it does."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from models.base import Observations
from models.encoding import estimator_matrix
from models.manifest import FieldType, InputField
from models.scaling.build import BUILDER, ScalingModel, tree_inputs
from models.scaling.spec import SPEC
from models.targets import STEPS_AHEAD
from pipelines.adapters.runtimes.onnx import OnnxRuntime

pytestmark = pytest.mark.integration  # trains: seconds

LOAD = "requests_per_second"
STEPS = 3
LAGS = 13
MINUTES_AHEAD = np.array([10, 20, 30])
INPUTS = tuple(
    InputField(name=name, type=FieldType.DOUBLE, required=name == STEPS_AHEAD)
    for name in (
        f"{LOAD}__mean_1h",
        f"{LOAD}__std_1h",
        *(f"{LOAD}__lag_{lag}" for lag in range(LAGS)),
        "hour_sin",
        "hour_cos",
        STEPS_AHEAD,
    )
)


def observed(days: int, seed: int, level: float = 100.0) -> Observations:
    """A daily wave with noise, each 5 minutes, as rows with features and targets of three steps."""
    rng = np.random.default_rng(seed)
    count = days * 288
    time = np.datetime64("2026-01-01", "us") + np.arange(count + 7) * np.timedelta64(5, "m")
    angle = 2 * np.pi * np.arange(count + 7) / 288
    load = level * (1 + 0.6 * np.sin(angle)) * rng.normal(1, 0.05, count + 7)
    rows = np.arange(LAGS, count)
    lags = {f"{LOAD}__lag_{lag}": load[rows - lag] for lag in range(LAGS)}
    hour = np.stack([lags[f"{LOAD}__lag_{lag}"] for lag in range(12)])
    columns = {
        f"{LOAD}__mean_1h": hour.mean(axis=0),
        f"{LOAD}__std_1h": hour.std(axis=0),
        **lags,
        "hour_sin": np.sin(angle[rows]),
        "hour_cos": np.cos(angle[rows]),
    }
    target = np.stack([load[rows + minutes // 5] for minutes in MINUTES_AHEAD], axis=1).ravel()
    repeated = {name: np.repeat(values, STEPS) for name, values in columns.items()}
    return Observations(
        columns={**repeated, STEPS_AHEAD: np.tile(np.arange(1.0, STEPS + 1), len(rows))},
        targets={LOAD: target},
        weight=np.ones(len(target)),
        entity=np.full(len(target), "web", dtype=object),
        time=np.repeat(time[rows], STEPS),
    )


@cache
def fitted() -> ScalingModel:
    params = {**BUILDER.default_params(), "rounds": 60, "learning_rate": 0.1}
    return BUILDER.fit(observed(6, seed=1), observed(3, seed=2), INPUTS, params, seed=3, spec=SPEC)


def test_forecasts_beat_the_naive_one_and_intervals_cover() -> None:
    part = observed(3, seed=4)
    answers = fitted().answer(part)
    metrics = BUILDER.task(SPEC).metrics(part, answers)
    naive = BUILDER.task(SPEC).metrics(part, {"forecast": part.columns[f"{LOAD}__lag_0"]})
    assert metrics["wape"] < 0.8 * naive["wape"]
    assert metrics["coverage"] == pytest.approx(0.8, abs=0.06)


def test_a_tenfold_load_is_answered_in_proportion() -> None:
    small, large = observed(1, seed=5), observed(1, seed=5, level=1000.0)
    answers, tenfold = fitted().answer(small), fitted().answer(large)
    # Rounding of float32 may take a row over a threshold; hardly ever.
    assert np.mean(np.isclose(tenfold["forecast"], 10 * answers["forecast"], rtol=1e-5)) > 0.99


def test_optional_inputs_decide_the_action() -> None:
    part = observed(1, seed=6).rows(np.arange(30))
    scarce = Observations(
        {**part.columns, "current_replicas": np.full(30, 1.0), "capacity_per_replica": np.full(30, 10.0)},
        part.targets,
        part.weight,
        part.entity,
        part.time,
    )
    answers = fitted().answer(scarce)
    assert set(answers["action"]) == {"scale_out_fast"}
    assert np.all(answers["desired_replicas"] * 10 >= answers["forecast"])
    names = {field.name for field in fitted().inputs if not field.required}
    assert {"current_replicas", "minutes_since_action", "current_load", STEPS_AHEAD} <= names


def test_the_export_answers_as_the_model_does(tmp_path: Path) -> None:
    part = observed(2, seed=7)
    holes = np.random.default_rng(8).random(len(part)) < 0.05
    part.columns[f"{LOAD}__lag_4"][holes] = np.nan
    parts = fitted().save(tmp_path)
    (estimator,) = parts.estimators
    matrix = estimator_matrix(part.columns, fitted().inputs, estimator)
    raw = OnnxRuntime(estimator, tmp_path).raw(matrix)
    native, served = fitted().answer(part), parts.head.answer(part.columns, {estimator.name: raw})
    for name in ("forecast", "lower", "upper", "confidence"):
        assert np.max(np.abs(native[name] - served[name])) <= parts.tolerance
    assert np.mean(native["desired_replicas"] == served["desired_replicas"]) > 0.999


def test_importance_is_a_share_and_finds_the_time_of_day() -> None:
    shares = fitted().importance()
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["hour_cos"] == max(shares.values())


def test_yesterday_s_growth_is_seen_where_the_grid_has_it() -> None:
    fields = tuple(
        InputField(name=f"load__{name}", type=FieldType.DOUBLE, required=False)
        for name in ("mean_24h", "mean_15min", "lag_0", "lag_282", "lag_288")
    )
    ratios = {ratio.name: (ratio.over, ratio.under) for ratio in tree_inputs("load", fields, 0.1).ratios}
    assert ratios["load__lag_282 over load__lag_288"] == (("load__lag_282",), ("load__lag_288",))
    # The shortest window is the unit, whatever the order of the features.
    assert ratios["load__mean_24h over load__mean_15min"] == (("load__mean_24h",), ("load__mean_15min",))


def test_a_grid_without_means_is_refused() -> None:
    with pytest.raises(ValueError, match="no mean of load"):
        tree_inputs("load", (InputField(name="load__lag_0", type=FieldType.DOUBLE),), 0.1)
