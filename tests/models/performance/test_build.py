"""The builder of ``performance`` on a small made-up fleet whose latency follows load per core."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.base import Observations
from models.encoding import estimator_matrix
from models.heads.slo import CORES, LIMIT
from models.manifest import FieldType, InputField
from models.performance.build import BUILDER, PerformanceModel, machine_of
from models.performance.spec import SPEC
from pipelines.adapters.runtimes.onnx import OnnxRuntime

pytestmark = pytest.mark.integration  # trains: seconds

NAMES = (
    "cpu_percent__mean_3h",
    "cpu_percent__mean_24h",
    "memory_percent__last",
    "requests_per_second__last",
    "requests_per_second__mean_3h",
    "requests_per_second__mean_24h",
    "latency_p95_ms__last",
    "latency_p95_ms__mean_24h",
    "latency_p50_ms__last",
    "latency_p50_ms__mean_24h",
    "error_percent__last",
    "error_percent__mean_24h",
    "cpu_cores",
    "memory_gib",
    "load_rps",
)
INPUTS = tuple(InputField(name=name, type=FieldType.DOUBLE, required=name == "load_rps") for name in NAMES)


def fleet(rows: int, seed: int) -> Observations:
    random = np.random.default_rng(seed)
    cores = random.choice([8.0, 16.0, 32.0], rows)
    base = random.choice([10.0, 40.0, 200.0], rows)
    usual = cores * random.uniform(5.0, 10.0, rows)
    load = usual * random.uniform(0.4, 1.6, rows)
    busy = np.clip(0.04 * load / cores, 0.0, 0.95)

    def noisy(values: np.ndarray, spread: float) -> np.ndarray:
        return values * np.exp(spread * random.normal(size=rows))

    median = noisy(base * (1.0 + busy**2), 0.05)
    usual_median = base * (1.0 + (0.04 * usual / cores) ** 2)
    columns = {
        "cpu_percent__mean_3h": 4.0 * usual / cores,
        "cpu_percent__mean_24h": 4.0 * usual / cores,
        "memory_percent__last": random.uniform(20.0, 80.0, rows),
        "requests_per_second__last": noisy(usual, 0.1),
        "requests_per_second__mean_3h": usual,
        "requests_per_second__mean_24h": usual,
        "latency_p95_ms__last": noisy(2.0 * usual_median, 0.15),
        "latency_p95_ms__mean_24h": 2.0 * usual_median,
        "latency_p50_ms__last": noisy(usual_median, 0.05),
        "latency_p50_ms__mean_24h": usual_median,
        "error_percent__last": random.uniform(0.0, 0.5, rows),
        "error_percent__mean_24h": random.uniform(0.0, 0.5, rows),
        "cpu_cores": cores,
        "memory_gib": 4.0 * cores,
        "load_rps": load,
    }
    return Observations(
        columns=columns,
        targets={
            "latency_p95_ms": noisy(2.0 * median, 0.1),
            "latency_p50_ms": median,
            "error_percent": 0.2 + busy,
        },
        weight=np.ones(rows),
        entity=np.arange(rows).astype(str),
    )


ASKED = fleet(200, 4)


@lru_cache
def trained() -> PerformanceModel:
    params = {"learning_rate": 0.2, "num_leaves": 8, "min_child_samples": 30, "rounds": 40}
    return BUILDER.fit(fleet(3000, 1), fleet(1500, 2), INPUTS, params, 5, SPEC)


def test_it_beats_the_last_value_and_covers_what_it_promises():
    fresh = fleet(2000, 3)
    task = BUILDER.task(SPEC)
    figures = task.metrics(fresh, trained().answer(fresh))
    naive = task.metrics(fresh, {"latency_p95_ms": fresh.columns["latency_p95_ms__last"]})
    assert figures["wape"] < 0.8 * naive["wape"]
    assert figures["coverage"] == pytest.approx(0.8, abs=0.05)
    assert figures["slo_calibration_error"] < 0.03


@given(
    row=st.integers(0, 199),
    loads=st.tuples(st.floats(0.1, 5.0), st.floats(0.1, 5.0)),
    cores=st.tuples(st.floats(1.0, 128.0), st.floats(1.0, 128.0)),
    limit=st.floats(1.0, 2000.0),
)
@settings(max_examples=60)
def test_answers_never_fall_with_load_nor_rise_with_cores(row, loads, cores, limit):
    asked = ASKED.rows(np.array([row] * 3))
    little, much = sorted(loads)
    few, many = sorted(cores)
    columns = asked.columns | {
        "load_rps": asked.columns["load_rps"] * np.array([little, much, much]),
        CORES: np.array([many, many, few]),
        LIMIT: np.full(3, limit),
    }
    answers = trained().answer(Observations(columns, {}, asked.weight, asked.entity))
    for name in ("latency_p95_ms", "latency_p50_ms", "lower", "upper", "slo_probability"):
        assert np.all(np.diff(answers[name]) >= -1e-9), name
    # More cores never answer fewer requests.
    assert answers["throughput_rps"][1] >= answers["throughput_rps"][2] - 1e-9


def test_the_export_answers_as_the_model_does(tmp_path: Path):
    model, fresh = trained(), fleet(1000, 6)
    parts = model.save(tmp_path)
    (estimator,) = parts.estimators
    nothing = np.full(len(fresh), np.nan)
    columns = {field.name: fresh.columns.get(field.name, nothing) for field in model.inputs}
    raw = OnnxRuntime(estimator, tmp_path).raw(estimator_matrix(columns, model.inputs, estimator))
    native, exported = model.answer(fresh), parts.head.answer(columns, {estimator.name: raw})
    for name, values in native.items():
        np.testing.assert_allclose(exported[name].astype(float), values.astype(float), atol=parts.tolerance)


def test_importance_is_shared_among_the_inputs():
    shares = trained().importance()
    assert set(shares) <= {field.name for field in trained().inputs}
    assert sum(shares.values()) == pytest.approx(1.0)
    assert max(shares, key=lambda name: shares[name]) == "load_rps"


def test_a_source_without_latencies_is_refused_by_name():
    with pytest.raises(ValueError, match="latency_p95_ms"):
        machine_of(tuple(field for field in INPUTS if not field.name.startswith("latency_p95")))
