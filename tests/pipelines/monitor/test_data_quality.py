"""Poisoned batches are stopped and named: stuck, unit changed, swapped, out of range, missing, stale, thin."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from models.specs import DataTest
from pipelines.monitor.data_quality import Limits, broken, facts, stale, thin

TEST = DataTest()
NOW = datetime(2026, 3, 1, tzinfo=UTC)


def telemetry(seed):
    random = np.random.default_rng(seed)
    entity = np.repeat([f"m{number}" for number in range(10)], 288)
    time = np.tile(np.datetime64("2026-03-01") + np.arange(288) * np.timedelta64(300, "s"), 10)
    wave = np.sin(2 * np.pi * np.tile(np.arange(288), 10) / 288)
    columns = {
        "cpu_percent": 40 + 15 * wave + random.normal(0, 5, 2880),
        "memory_bytes": np.exp(random.normal(20, 0.5, 2880)),
        "latency_ms": np.exp(random.normal(2, 0.4, 2880) + 0.3 * wave),
        "errors": random.poisson(0.05, 2880).astype(float),
    }
    return columns, entity, time


LIMITS = {"cpu_percent": Limits(0, 100), "memory_bytes": Limits(0, None)}


def found(change):
    before, entity, time = telemetry(1)
    reference = {name: facts(values, entity, time) for name, values in before.items()}
    now, _, _ = telemetry(2)
    return broken(change(now), entity, time, reference, LIMITS, TEST)


def test_another_day_of_the_same_is_not_broken():
    assert found(lambda now: now) == []


def test_a_busier_day_is_drift_and_not_broken():
    assert (
        found(lambda now: now | {"latency_ms": now["latency_ms"] * 3, "cpu_percent": now["cpu_percent"] + 15})
        == []
    )


@pytest.mark.parametrize("factor", [1024, 1000, 1 / 1024, 8])
def test_a_changed_unit_is_named_with_its_factor(factor):
    [finding] = found(lambda now: now | {"memory_bytes": now["memory_bytes"] * factor})
    assert finding.startswith("memory_bytes: ")
    assert "was the unit changed?" in finding


def test_swapped_columns_are_named_both():
    [finding] = found(lambda now: now | {"cpu_percent": now["latency_ms"], "latency_ms": now["cpu_percent"]})
    assert finding.startswith("cpu_percent, latency_ms: the two columns are swapped")


def test_a_stuck_sensor_is_named():
    def change(now):
        values = now["cpu_percent"].copy()
        values[:1440] = np.repeat(values[:1440:288], 288)  # half of the machines
        return now | {"cpu_percent": values}

    [finding] = found(change)
    assert finding.startswith("cpu_percent: a sensor is stuck")


def test_missing_gone_and_impossible_values_are_named():
    half = np.arange(2880) % 2 == 0
    assert (
        "are missing" in found(lambda now: now | {"latency_ms": np.where(half, np.nan, now["latency_ms"])})[0]
    )
    assert found(lambda now: {name: values for name, values in now.items() if name != "errors"}) == [
        "errors: the column is gone"
    ]
    outside = found(
        lambda now: now | {"cpu_percent": np.where(np.arange(2880) % 10 == 0, -5, now["cpu_percent"])}
    )
    assert "lie outside of 0 to 100" in outside[0]


def test_old_and_few_rows_are_named():
    assert stale(NOW - timedelta(hours=1), NOW, TEST) == []
    assert "7.0 h old" in stale(NOW - timedelta(hours=7), NOW, TEST)[0]
    assert stale(None, NOW, TEST) == ["freshness: there are no rows at all"]
    assert thin(600, 1000, TEST) == []
    assert "400 rows, 1000 are usual" in thin(400, 1000, TEST)[0]
