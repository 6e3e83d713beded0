"""Targets: what happened after an observation, and never anything else."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.datasets import Column, ColumnRole, ColumnType, Dataset, DatasetKind
from models.targets import EventWithin, Table, Unlabelled, UntilEvent, ValuesAhead, ValuesNow

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
TIME = pl.Datetime("us", "UTC")


def dataset(kind: DatasetKind) -> Dataset:
    return Dataset(
        name="rows",
        kind=kind,
        description="",
        key=("machine_id", "event_time"),
        columns=(
            Column(name="machine_id", type=ColumnType.STRING, role=ColumnRole.ENTITY),
            Column(name="event_time", type=ColumnType.TIMESTAMP, role=ColumnRole.EVENT_TIME),
            Column(name="kind", type=ColumnType.STRING, role=ColumnRole.CATEGORY),
            Column(name="cpu", type=ColumnType.FLOAT, role=ColumnRole.GAUGE),
            Column(name="net", type=ColumnType.FLOAT, role=ColumnRole.GAUGE),
        ),
    )


def table(rows, kind=DatasetKind.TELEMETRY):
    """Rows ``(machine, hours, kind, cpu, net)``."""
    frame = pl.DataFrame(
        [(machine, START + hours * HOUR, what, cpu, net) for machine, hours, what, cpu, net in rows],
        schema={
            "machine_id": pl.String,
            "event_time": TIME,
            "kind": pl.String,
            "cpu": pl.Float64,
            "net": pl.Float64,
        },
        orient="row",
    )
    return {"rows": Table(dataset(kind), frame.lazy())}


def asked(hours, machine="a"):
    return pl.DataFrame(
        [(machine, START + hour * HOUR) for hour in hours],
        schema={"machine_id": pl.String, "event_time": TIME},
        orient="row",
    )


moments = st.integers(0, 72)


@given(observed=st.sets(moments, min_size=1, max_size=20), failed=st.lists(moments, max_size=5))
@settings(max_examples=40, deadline=None)
def test_an_event_is_one_after_the_observation_within_the_horizon(observed, failed):
    events = table(
        [("a", hour, "failure", 0.0, 0.0) for hour in failed]
        + [("a", 1, "error", 0.0, 0.0), ("b", 0, "failure", 0.0, 0.0)],
        DatasetKind.EVENTS,
    )
    found = EventWithin(dataset="rows", horizon=DAY).attach(
        asked(sorted(observed)), "machine_id", events, START + 60 * HOUR
    )
    expected = [
        ("a", START + hour * HOUR, float(any(hour < failure <= hour + 24 for failure in failed)))
        for hour in sorted(observed)
        if hour + 24 <= 60
    ]
    assert found.rows() == expected


@given(
    observed=st.sets(moments, min_size=1, max_size=10),
    rows=st.dictionaries(moments, st.floats(-100, 100) | st.none(), max_size=30),
    ahead=st.integers(0, 6),
    width=st.integers(1, 12),
    steps=st.integers(1, 3),
)
@settings(max_examples=40, deadline=None)
def test_values_ahead_are_those_of_the_span_and_nothing_else(observed, rows, ahead, width, steps):
    ahead = max(ahead, 1) if steps > 1 else ahead
    target = ValuesAhead(
        dataset="rows",
        columns=("cpu",),
        ahead=ahead * HOUR,
        width=width * HOUR,
        aggregates=("mean", "max"),
        steps=steps,
    )
    tables = table([("a", hour, "", value, 0.0) for hour, value in rows.items()] + [("b", 5, "", 7.0, 0.0)])
    found = target.attach(asked(sorted(observed)), "machine_id", tables, START + 72 * HOUR)
    expected = []
    for hour in sorted(observed):
        for step in range(1, steps + 1):
            until = hour + ahead * step
            span = [
                value
                for at, value in sorted(rows.items())
                if until - width < at <= until and value is not None
            ]
            if span and hour + ahead * steps <= 72:
                expected.append((START + hour * HOUR, step, np.mean(span), max(span)))
    steps_of = found["steps_ahead"] if steps > 1 else [1] * found.height
    got = list(
        zip(found["event_time"], steps_of, found["target__cpu__mean"], found["target__cpu__max"], strict=True)
    )
    assert [row[:2] for row in got] == [row[:2] for row in expected]
    for ours, theirs in zip(got, expected, strict=True):
        assert ours[2:] == pytest.approx(theirs[2:])


def test_columns_are_added_up_and_one_that_is_missing_makes_no_sum():
    tables = table([("a", 1, "", 2.0, 3.0), ("a", 2, "", None, 3.0)])
    target = ValuesAhead(dataset="rows", columns=("cpu", "net"), total="both", ahead=HOUR, width=HOUR)
    found = target.attach(asked([0, 1]), "machine_id", tables, START + DAY)
    assert found.select("event_time", "target__both").rows() == [(START, 5.0)]


def test_bills_of_one_day_are_added_up():
    tables = table([("a", 1, "vm", 2.0, 0.0), ("a", 1, "disk", 3.0, 0.0)], DatasetKind.BILLING)
    target = ValuesAhead(dataset="rows", columns=("cpu",), ahead=HOUR, width=HOUR)
    assert target.attach(asked([0]), "machine_id", tables, START + DAY)["target__cpu"].to_list() == [5.0]


def test_values_now_end_at_the_observation():
    tables = table([("a", 1, "", 2.0, 0.0), ("a", 2, "", 4.0, 0.0)])
    found = ValuesNow(dataset="rows", columns=("cpu",), width=HOUR).attach(
        asked([1, 2, 3]), "machine_id", tables, START + DAY
    )
    assert found["target__cpu"].to_list() == [2.0, 4.0]


def test_a_duration_ends_with_the_event_or_is_censored():
    tables = table([("a", 5, "deleted", 0.0, 0.0)], DatasetKind.EVENTS)
    target = UntilEvent(dataset="rows", value="deleted", cap=timedelta(hours=10))
    found = target.attach(asked([2, 6]), "machine_id", tables, START + 9 * HOUR)
    assert found.select("target__hours", "target__observed").rows() == [(3.0, 1.0), (3.0, 0.0)]
    capped = target.attach(asked([6]), "machine_id", tables, START + 90 * HOUR)
    assert capped.select("target__hours", "target__observed").rows() == [(10.0, 0.0)]


def test_rows_near_an_event_are_abnormal_and_without_events_nobody_says():
    tables = table([("a", 10, "failure", 0.0, 0.0)], DatasetKind.EVENTS)
    target = Unlabelled(dataset="rows", before=2 * HOUR, after=HOUR)
    found = target.attach(asked([7, 8, 10, 11, 12]), "machine_id", tables, START + DAY)
    assert found["target__abnormal"].to_list() == [0.0, 1.0, 1.0, 1.0, 0.0]
    nobody = Unlabelled().attach(asked([7]), "machine_id", tables, START + DAY)
    assert nobody["target__abnormal"].to_list() == [None]
