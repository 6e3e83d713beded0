"""`headrace trace` and `headrace ship-predictions`."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from headrace.cli import app
from headrace.errors import Exit, exit_code
from models.manifest import FieldType
from pipelines.adapters.spool.ids import IdSource
from pipelines.adapters.spool.records import Encoder, Entry, Layout
from pipelines.adapters.spool.segments import Stream
from pipelines.errors import PredictionError
from pipelines.predictions import job
from pipelines.settings import Settings

AT = datetime(2026, 11, 21, 6, tzinfo=UTC)
LAYOUT = Layout(
    "tiny",
    "3",
    "production",
    "grpc",
    (("cpu", FieldType.DOUBLE), ("latency", FieldType.DOUBLE), ("zone", FieldType.STRING)),
    (("probability", FieldType.DOUBLE), ("alarm", FieldType.BOOLEAN)),
)


def entry(ids: Any) -> Entry:
    return Entry(
        LAYOUT,
        ids,
        np.array([[1.5, np.nan, np.nan], [2.5, 4.0, np.nan]]),
        {"probability": np.array([0.25, 0.75]), "alarm": np.array([False, True])},
        0.0031,
        ["m[1]", "m2"],
        AT,
        {"zone": [None, "a"]},
        "the caller's",
    )


@pytest.fixture(autouse=True)
def _environment(settings: Settings, free_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_HOME", str(settings.home))
    monkeypatch.setenv("HEADRACE_TRACKING_URL", f"http://127.0.0.1:{free_port}")
    monkeypatch.setenv("COLUMNS", "200")


def headrace(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def traced(prediction_id: str) -> dict[str, Any]:
    done = headrace("trace", prediction_id, "--json")
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_prediction_is_found_while_its_segment_is_open_when_it_is_closed_and_in_the_lake(
    settings: Settings,
) -> None:
    stream = Stream(settings.prediction_spool / "replica")
    segment = stream.open_segment()
    ids = IdSource().take(2)
    segment.write(Encoder().encode(entry(ids)), 2)
    opened = traced(ids[1])
    assert opened.pop("place").endswith("00000001.open")
    segment.close()
    closed = traced(ids[1])
    assert closed.pop("place").endswith("00000001-2.closed")
    job.run(settings)
    shipped = traced(ids[1])
    assert shipped.pop("place") == str(settings.home / "lake/predictions/tiny")
    assert opened == closed == shipped
    answered = datetime.fromisoformat(shipped.pop("answered_at"))
    assert (datetime.now(UTC) - answered).total_seconds() < 600
    assert shipped.pop("day") == answered.date().isoformat()
    assert shipped == {
        "prediction_id": ids[1],
        "model": "tiny",
        "version": "3",
        "alias": "production",
        "transport": "grpc",
        "replica": "replica",
        "entity": "m2",
        "event_time": "2026-11-21T06:00:00+00:00",
        "latency_seconds": 0.0031,
        "batch_rows": 2,
        "request_id": "the caller's",
        "features": {"cpu": 2.5, "latency": 4.0, "zone": "a"},
        "outputs": {"probability": 0.75, "alarm": True},
        "links": {"version": shipped["links"]["version"], "run": None},
        "lineage": None,
    }
    assert shipped["links"]["version"].endswith("/#/models/tiny/versions/3")


def test_people_read_it_as_a_page(settings: Settings, spooled: Callable[..., list[str]]) -> None:
    first, _ = spooled(settings, [entry(IdSource().take(2))])
    done = headrace("trace", first)
    assert done.exit_code == 0
    for text in (
        first,
        "tiny version 3",
        "3.10 ms",
        "m[1]",
        "2026-11-21 06:00:00 UTC",
        "cpu = 1.5",
        "latency = missing",
    ):
        assert text in done.stdout
    assert "probability = 0.25" in done.stdout
    assert "/#/models/tiny/versions/3" in done.stdout


def test_an_unknown_id_fails_and_says_when_it_would_have_been(settings: Settings) -> None:
    unknown = IdSource().take()[0]
    error = headrace("trace", unknown).exception
    assert isinstance(error, PredictionError)
    assert exit_code(error) == Exit.FAILED
    assert f"no prediction {unknown}, which would be of {datetime.now(UTC):%Y-%m-%d}" in str(error)


def test_what_is_no_id_is_wrong_usage() -> None:
    done = headrace("trace", "17")
    assert done.exit_code == Exit.USAGE
    assert "is no prediction id" in done.output


def test_shipping_by_hand_says_what_it_did(settings: Settings, spooled: Callable[..., list[str]]) -> None:
    spooled(settings, [entry(IdSource().take(2))], [entry(IdSource().take(2))])
    assert headrace("ship-predictions").stdout == "4 predictions of 2 segments shipped.\n"
    assert json.loads(headrace("ship-predictions", "--json").stdout)["rows"] == 0
