"""Freshness, drift and requests in `headrace status`, from a small lake."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from headrace.data_status import freshness, watched
from pipelines.adapters.lake import Lake
from pipelines.settings import Settings, load_settings

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
PROFILE = {
    "name": "small",
    "description": "One data set, for tests.",
    "origin": {"kind": "files", "tables": {"telemetry": []}},
    "datasets": [
        {
            "name": "telemetry",
            "kind": "telemetry",
            "description": "What was measured.",
            "slice": "PT1H",
            "key": ["machine_id", "event_time"],
            "columns": [
                {"name": "machine_id", "type": "string", "role": "entity"},
                {"name": "event_time", "type": "timestamp", "role": "event_time"},
                {"name": "cpu_percent", "type": "float", "role": "gauge", "nullable": True},
            ],
        }
    ],
}


@pytest.fixture
def small(tmp_path: Path) -> Settings:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(PROFILE), "utf-8")
    return load_settings({}, home=tmp_path / "home", source=str(path))


def _rows(settings: Settings, newest: datetime) -> None:
    import polars as pl

    frame = pl.DataFrame(
        {
            "machine_id": ["a", "b"],
            "event_time": [newest - timedelta(days=3), newest],
            "cpu_percent": [1.0, 2.0],
        }
    ).with_columns(pl.col("event_time").dt.cast_time_unit("us").dt.convert_time_zone("UTC"))
    Lake.of(settings).append("clean/small/telemetry", frame, work=[newest.isoformat()])


@pytest.mark.parametrize(("age", "late"), [(timedelta(minutes=30), False), (timedelta(hours=4), True)])
def test_rows_are_late_once_they_are_older_than_their_slices_let_them_be(
    small: Settings, age: timedelta, late: bool
) -> None:
    _rows(small, NOW - age)
    found = freshness(small, NOW)["telemetry"]
    assert found.to_json(NOW) == {
        "newest": (NOW - age).isoformat(),
        "age_seconds": age.total_seconds(),
        "late": late,
    }


def test_nothing_is_told_of_a_lake_that_is_empty(small: Settings) -> None:
    assert freshness(small, NOW) == {}
    assert watched(small) == {}


def test_an_open_request_is_told_until_it_is_closed(small: Settings) -> None:
    from pipelines.monitor import requests
    from pipelines.monitor.records import Outcome, Trigger

    lake = Lake.of(small)
    asked = {"work": "by hand", "triggers": (Trigger.BY_HAND,), "reason": "", "evidence": "", "at": NOW}
    requests.ask(lake, "failure", **asked)  # type: ignore[arg-type]
    assert watched(small)["failure"].to_json()["request"] == {"number": 1, "state": "pending"}
    requests.take(lake, "failure", run="r", at=NOW)
    assert watched(small)["failure"].to_json()["request"] == {"number": 1, "state": "in training"}
    requests.close(lake, "failure", run="r", outcome=Outcome.PROMOTED, reason="", at=NOW)
    assert "failure" not in watched(small)
