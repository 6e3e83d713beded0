"""The builder of ``rightsizing`` on a small made-up fleet, and what judges it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from models.base import Observations
from models.encoding import estimator_matrix
from models.manifest import FieldType, InputField
from models.rightsizing.build import BUILDER, SizingModel
from models.rightsizing.classes import CLASSES, workload_class
from models.rightsizing.measures import resources
from models.rightsizing.spec import AGGREGATES, SPEC
from pipelines.adapters.runtimes.onnx import OnnxRuntime

pytestmark = pytest.mark.integration  # trains: seconds

FIGURES = ("mean_7d", "std_7d", "min_7d", "max_7d", "p50_7d", "p95_7d", "skew_7d", "acf_24", "lag_0")
GAUGES = ("cpu_percent", "memory_percent")
NAMES = (*(f"{gauge}__{figure}" for gauge in GAUGES for figure in FIGURES), "cpu_cores", "memory_gib")
INPUTS = tuple(InputField(name=name, type=FieldType.DOUBLE, required=False) for name in NAMES)


def fleet(rows: int, seed: int) -> Observations:
    """Machines that are idle, steady or bursty, and stay so; bursts are higher in some weeks."""
    random = np.random.default_rng(seed)
    kind = random.integers(0, 3, rows)
    columns, targets = {}, {}
    for gauge in GAUGES:
        level = np.choose(
            kind, [random.uniform(0.2, 2, rows), random.uniform(20, 40, rows), random.uniform(3, 9, rows)]
        )
        factor = np.choose(kind, [1.3, 1.1, random.choice([4.0, 8.0], rows)])
        for week, into in ((0, columns), (1, targets)):
            peak = np.minimum(level * factor * np.exp(0.1 * random.normal(size=rows)), 100.0)
            spread = np.where(kind == 2, 1.2, 0.1) * level
            if week == 0:
                values = {
                    "mean_7d": level, "std_7d": spread, "min_7d": 0.8 * level, "max_7d": peak, "p50_7d": level,
                    "p95_7d": np.minimum(1.1 * level, peak), "skew_7d": np.where(kind == 2, 3.0, 0.0),
                    "acf_24": np.where(kind == 2, 0.0, np.nan), "lag_0": level,
                }  # fmt: skip
            else:
                values = {
                    "mean": level, "std": spread, "p50": level, "p95": np.minimum(1.1 * level, peak), "p99": peak,
                    "daily": np.zeros(rows), "trend": np.zeros(rows),
                }  # fmt: skip
            into.update({f"{gauge}__{name}": figure for name, figure in values.items()})
    columns["cpu_cores"] = random.choice([8.0, 32.0], rows)
    columns["memory_gib"] = columns["cpu_cores"] * 4.0
    return Observations(columns, targets, np.ones(rows), np.arange(rows).astype(str))


@lru_cache
def trained() -> SizingModel:
    return BUILDER.fit(fleet(900, 1), fleet(500, 2), INPUTS, BUILDER.default_params(), 5, SPEC)


def test_it_has_less_regret_than_the_rule_and_tells_its_risk():
    fresh = fleet(800, 3)
    task = BUILDER.task(SPEC)
    figures = task.metrics(fresh, trained().answer(fresh))
    for name, answers in task.baselines(fresh, fresh, INPUTS).items():
        assert figures["regret_usd_week"] < task.metrics(fresh, answers)["regret_usd_week"], name
    assert figures["risk_error"] < 0.05
    assert figures["short_share"] < task.prices.max_risk
    assert figures["class_accuracy"] > 0.9
    assert figures["cpu_coverage"] == pytest.approx(0.8, abs=0.08)


def test_the_export_answers_as_the_model_does(tmp_path: Path):
    model, fresh = trained(), fleet(600, 4)
    parts = model.save(tmp_path)
    (estimator,) = parts.estimators
    raw = OnnxRuntime(estimator, tmp_path).raw(estimator_matrix(fresh.columns, INPUTS, estimator))
    np.testing.assert_array_equal(raw, model.votes(fresh), err_msg="a demand hangs on the last bits of votes")
    native, exported = model.answer(fresh), parts.head.answer(fresh.columns, {estimator.name: raw})
    for name, values in native.items():
        if values.dtype.kind == "f":
            np.testing.assert_allclose(exported[name], values, atol=parts.tolerance, err_msg=name)
        else:
            np.testing.assert_array_equal(exported[name], values, err_msg=name)


def test_a_machine_of_which_nothing_is_known_keeps_its_size():
    fresh = fleet(5, 5)
    unknown = {name: np.full(5, np.nan) if "__" in name else values for name, values in fresh.columns.items()}
    answers = trained().answer(Observations(unknown, {}, fresh.weight, fresh.entity))
    np.testing.assert_array_equal(answers["vcpu"], fresh.columns["cpu_cores"])
    for values in answers.values():
        assert values.dtype.kind != "f" or np.isfinite(values).all()


def test_importance_is_shared_among_the_inputs():
    shares = trained().importance()
    assert set(shares) == set(NAMES)
    assert sum(shares.values()) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ({"p95": 3.0}, "idle"),
        ({"trend": -0.8}, "trending"),
        ({"daily": 0.3}, "periodic"),
        ({"std": 40.0}, "bursty"),
        ({"p99": 90.0}, "bursty"),
        ({}, "steady"),
    ],
)
def test_the_rule_of_the_classes(figures, expected):
    calm = {"mean": 30.0, "std": 5.0, "p50": 28.0, "p95": 40.0, "p99": 45.0, "daily": 0.1, "trend": 0.2}
    week = {f"cpu_percent__{name}": np.array([value]) for name, value in (calm | figures).items()}
    assert set(calm) == set(AGGREGATES)
    columns = {"cpu_cores": np.array([4.0]), "memory_gib": np.array([16.0])}
    cpu, _ = resources(GAUGES, columns)
    assert CLASSES[workload_class(week, cpu, columns)[0]] == expected


def test_what_is_measured_is_told_by_its_name():
    cpu, memory = resources(("cpu_usage_pct", "memory_used_kb"), ("cpu_cores", "memory_capacity_kb__p95_7d"))
    columns = {"cpu_cores": np.array([4.0]), "memory_capacity_kb__p95_7d": np.array([8.0 * 2**20])}
    targets = {"cpu_usage_pct__p99": np.array([103.0]), "memory_used_kb__p99": np.array([2.0 * 2**20])}
    assert cpu.demand(targets, columns)[0] == pytest.approx(4.0)  # no more than there is
    assert memory.demand(targets, columns)[0] == pytest.approx(2.0)
    assert memory.capacity.of_rows(columns)[0] == pytest.approx(8.0)
    with pytest.raises(ValueError, match="'furlongs' is no unit"):
        resources(("cpu_furlongs", "memory_used_kb"), ("cpu_cores", "memory_gib"))
    with pytest.raises(ValueError, match="how much memory"):
        resources(("cpu_percent", "memory_percent"), ("cpu_cores",))
