"""The two aggregates of a week that say how it ran: ``daily`` and ``trend``."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from feature_repo.datasets import Column, ColumnRole, ColumnType, Dataset, DatasetKind
from models.targets import Table, ValuesAhead

WEEK = timedelta(days=7)
START = datetime(2026, 3, 2, tzinfo=UTC)
DATASET = Dataset(
    name="telemetry",
    kind=DatasetKind.TELEMETRY,
    description="A gauge.",
    key=("machine", "event_time"),
    columns=(
        Column(name="machine", type=ColumnType.STRING, role=ColumnRole.ENTITY),
        Column(name="event_time", type=ColumnType.TIMESTAMP, role=ColumnRole.EVENT_TIME),
        Column(name="load", type=ColumnType.FLOAT, role=ColumnRole.GAUGE),
    ),
)
HOURS = np.arange(1, 169)


@pytest.mark.parametrize(
    ("load", "daily", "trend"),
    [
        (10 + np.cos(2 * np.pi * (HOURS - 15) / 24), 1.0, 0.0),
        (np.sin(2 * np.pi * HOURS / 12), 1.0, 0.0),
        (HOURS.astype(float), 0.0, 1.0),
        (-HOURS.astype(float), 0.0, -1.0),
        (np.full(168, 7.0), 0.0, 0.0),
        (np.cos(2 * np.pi * HOURS / 36), 0.0, 0.0),
    ],
)
def test_the_day_and_the_drift_of_a_week_are_told(load, daily, trend):
    rows = pl.DataFrame(
        {
            "machine": ["m"] * 168,
            "event_time": [START + timedelta(hours=int(hour)) for hour in HOURS],
            "load": load,
        }
    ).with_columns(pl.col("event_time").cast(pl.Datetime("us", "UTC")))
    asked = pl.DataFrame({"machine": ["m"], "event_time": [START]}).with_columns(
        pl.col("event_time").cast(pl.Datetime("us", "UTC"))
    )
    target = ValuesAhead(
        dataset="telemetry", columns=("load",), ahead=WEEK, width=WEEK, aggregates=("daily", "trend")
    )
    told = target.attach(asked, "machine", {"telemetry": Table(DATASET, rows.lazy())}, START + WEEK)
    assert told["target__load__daily"][0] == pytest.approx(daily, abs=0.08)
    assert told["target__load__trend"][0] == pytest.approx(trend, abs=0.12)
