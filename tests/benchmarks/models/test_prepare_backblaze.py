"""Life histories become telemetry and events that no observation can read the drive's end from."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.models.prepare_backblaze import COUNTERS, Tables, prepare
from models.targets import EventWithin, Table
from pipelines.snapshot import steps
from pipelines.sources.profile import load_profile

FIRST = datetime(2014, 5, 6)  # noqa: DTZ001 - the public files have dates without a zone
DAY, HOUR = timedelta(days=1), timedelta(hours=1)


def prepared(stretches: list[tuple[int, int, int]], failed: bool, first_hours: int = 100) -> Tables:
    """One drive: stretches of (hours, SMART 5, SMART 197), one after the other."""
    rows: list[dict[str, Any]] = []
    at = first_hours
    for hours, reallocated, pending in stretches:
        counters = dict.fromkeys(COUNTERS) | {"smart_5": float(reallocated), "smart_197": float(pending)}
        rows.append({"drive_id": 7, "start_hours": at, "stop_hours": at + hours, "failed": 0, **counters})
        at += hours
    rows[-1]["failed"] = int(failed)
    drives = pl.DataFrame(
        {
            "drive_id": [7],
            "first_date": [FIRST],
            "first_hours": [first_hours],
            "last_hours": [at],
            "manufacturer": ["ST"],
            "model": ["ST1"],
            "capacity_tb": [4.0],
        }
    )
    whole = pl.DataFrame(rows, schema_overrides=dict.fromkeys(COUNTERS, pl.Float64))
    return prepare(whole, drives)


def test_a_stretch_is_known_from_its_start_and_the_drive_until_its_end():
    tables = prepared([(30, 0, 0), (10, 8, 2), (5, 8, 0)], failed=True)
    start = FIRST.replace(tzinfo=UTC)
    end = start + 45 * HOUR
    assert tables.telemetry.select(
        "drive_id", "event_time", "power_on_hours", "smart_5", "smart_197"
    ).rows() == [
        ("7", start, 100, 0, 0),
        ("7", start + 30 * HOUR, 130, 8, 2),
        ("7", start + 40 * HOUR, 140, 8, 0),
        ("7", end - timedelta(microseconds=1), 145, 8, 0),
    ]
    powered_on = start - 100 * HOUR
    assert tables.events.rows() == [
        ("7", powered_on, "start", "powered_on", start),
        ("7", start, "start", "first_seen", start),
        ("7", start + 30 * HOUR, "change", "any_counter", start + 30 * HOUR),
        ("7", start + 30 * HOUR, "rise", "smart_197", start + 30 * HOUR),
        ("7", start + 30 * HOUR, "rise", "smart_5", start + 30 * HOUR),
        ("7", start + 40 * HOUR, "change", "any_counter", start + 40 * HOUR),
        ("7", end, "failure", None, end),
    ]
    assert tables.machines.rows() == [("7", start, "ST", "ST1", 4.0, 100)]


STRETCHES = st.lists(
    st.tuples(st.integers(1, 90), st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=6
)


@given(STRETCHES, st.booleans())
@settings(max_examples=25, deadline=None)
def test_observations_see_the_stretch_that_they_are_in_and_never_the_end(stretches, failed):
    tables = prepared(stretches, failed)
    start = FIRST.replace(tzinfo=UTC)
    end = start + sum(hours for hours, _, _ in stretches) * HOUR
    times = tables.telemetry["event_time"]
    lives = pl.DataFrame({"drive_id": ["7"], "first": [times.min()], "last": [times.max()]})
    observed = steps.observation_times(lives, "drive_id", DAY)["event_time"].to_list()

    assert observed == [at for number in range(30) if (at := start + number * DAY) < end]
    for at in observed:
        begin, seen = start, None
        for hours, reallocated, pending in stretches:
            if begin <= at:
                seen = (begin, reallocated, pending)
            begin += hours * HOUR
        newest = tables.telemetry.filter(pl.col("event_time") <= at).row(-1, named=True)
        assert (newest["event_time"], newest["smart_5"], newest["smart_197"]) == seen

    target = EventWithin(dataset="events", horizon=DAY)
    events = Table(load_profile("backblaze_drives").dataset("events"), tables.events.lazy())
    observations = pl.DataFrame({"drive_id": ["7"] * len(observed), "event_time": observed})
    labelled = target.attach(observations, "drive_id", {"events": events}, known_until=end + 10 * DAY)
    # The last midnight of a failed drive is the one within 24 hours of its failure.
    assert labelled["target__event"].to_list() == [0] * (len(observed) - 1) + [int(failed)]
    # No event but the failure tells of anything that the drive's first snapshot and counters did not.
    known = tables.events.filter(pl.col("kind") != "failure")
    assert known.filter(pl.col("arrived") >= end).is_empty()
    assert known.filter((pl.col("arrived") != pl.col("event_time")) & (pl.col("arrived") != start)).is_empty()
