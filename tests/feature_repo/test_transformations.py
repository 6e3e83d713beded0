"""Transformations against a plain computation of the same figures, row by row in Python."""

from __future__ import annotations

import math
import statistics
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.datasets import Column, ColumnRole, ColumnType, Dataset, DatasetKind, FeatureGrid
from feature_repo.definitions import feature_views
from feature_repo.transformations import (
    UTC_TIME,
    elapsed,
    event_features,
    feature_points,
    inventory_features,
    telemetry_features,
)

Row = dict[str, Any]
START = datetime(2026, 1, 1, tzinfo=UTC)
ENTITY = Column(name="unit", type=ColumnType.STRING, role=ColumnRole.ENTITY)
TIME = Column(name="seen_at", type=ColumnType.TIMESTAMP, role=ColumnRole.EVENT_TIME)
HOUR = timedelta(hours=1)


def _dataset(name: str, kind: DatasetKind, *columns: Column) -> Dataset:
    return Dataset(
        name=name, kind=kind, description="", columns=(ENTITY, TIME, *columns), key=("unit", "seen_at")
    )


TELEMETRY = _dataset(
    "telemetry",
    DatasetKind.TELEMETRY,
    Column(name="heat", type=ColumnType.FLOAT, role=ColumnRole.GAUGE, nullable=True),
    Column(name="resets", type=ColumnType.INTEGER, role=ColumnRole.COUNTER, nullable=True),
)
EVENTS = _dataset(
    "log",
    DatasetKind.EVENTS,
    Column(name="kind", type=ColumnType.STRING, role=ColumnRole.CATEGORY, allowed=("error", "repair")),
)
MACHINES = _dataset(
    "machines",
    DatasetKind.INVENTORY,
    Column(name="model", type=ColumnType.STRING, role=ColumnRole.CATEGORY),
    Column(name="cores", type=ColumnType.INTEGER, role=ColumnRole.ATTRIBUTE),
)
HOURLY = FeatureGrid(every=HOUR, windows=(2 * HOUR, 6 * HOUR))
EACH_ROW = FeatureGrid(every=None, windows=(2 * HOUR, 6 * HOUR))
GRIDS = pytest.mark.parametrize("grid", [HOURLY, EACH_ROW], ids=["hourly", "each row"])

# Minutes in steps of 20: rows fall on borders of buckets and windows as often as between them.
times = st.integers(0, 60).map(lambda number: START + number * timedelta(minutes=20))
units = st.sampled_from(["a", "b"])
telemetry_rows = st.lists(
    st.fixed_dictionaries(
        {
            "unit": units,
            "seen_at": times,
            "heat": st.one_of(st.none(), st.just(math.nan), st.floats(-1e6, 1e6)),
            "resets": st.one_of(st.none(), st.integers(0, 9)),
        }
    ),
    max_size=40,
)
event_rows = st.lists(
    st.fixed_dictionaries(
        {"unit": units, "seen_at": times, "kind": st.sampled_from(["error", "repair", None])}
    ),
    max_size=30,
)


def _frame(rows: list[Row], dataset: Dataset) -> pl.LazyFrame:
    types = {ColumnType.FLOAT: pl.Float64, ColumnType.INTEGER: pl.Int64, ColumnType.STRING: pl.String}
    schema = {column.name: types.get(column.type, UTC_TIME) for column in dataset.columns}
    return (
        pl.DataFrame(rows, schema=schema, strict=False)
        .lazy()
        .with_columns(slice_start=pl.lit(START, UTC_TIME), ordinal=pl.int_range(pl.len(), dtype=pl.Int64))
    )


def _ceiling(moment: datetime, every: timedelta | None) -> datetime:
    return moment if every is None else START - ((START - moment) // every) * every


def _points(rows: list[Row], grid: FeatureGrid) -> list[tuple[str, datetime]]:
    return sorted({(row["unit"], _ceiling(row["seen_at"], grid.every)) for row in rows})


def _within(rows: list[Row], unit: str, until: datetime, window: timedelta, column: str) -> list[Any]:
    """Values of (until - window, until] in order of time, then of arrival."""
    chosen = [row for row in rows if row["unit"] == unit and until - window < row["seen_at"] <= until]
    values = [row[column] for row in sorted(chosen, key=lambda row: row["seen_at"])]
    return [value for value in values if value is not None and not math.isnan(value)]


def _expected_telemetry(rows: list[Row], grid: FeatureGrid) -> list[Row]:
    short, long = grid.windows
    expected = []
    for unit, moment in _points(rows, grid):
        heat = {window: _within(rows, unit, moment, window, "heat") for window in grid.windows}
        resets = {window: _within(rows, unit, moment, window, "resets") for window in grid.windows}
        mean = {window: statistics.fmean(values) if values else None for window, values in heat.items()}
        expected.append(
            {
                "unit": unit,
                "event_time": moment,
                "heat__last": heat[long][-1] if heat[long] else None,
                "heat__mean_2h": mean[short],
                "heat__mean_6h": mean[long],
                "heat__std_6h": statistics.stdev(heat[long]) if len(heat[long]) > 1 else None,
                "heat__change": None if mean[short] is None else mean[short] - mean[long],
                "resets__last": resets[long][-1] if resets[long] else None,
                "resets__increase_2h": _increase(resets[short]),
                "resets__increase_6h": _increase(resets[long]),
            }
        )
    return expected


def _increase(values: list[int]) -> int | None:
    if not values:
        return None
    steps = pairwise(values)
    return sum(after - before if after >= before else after for before, after in steps)


def _assert_same(found: list[Row], expected: list[Row]) -> None:
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        for name, value in theirs.items():
            if isinstance(value, float):
                assert ours[name] == pytest.approx(value, rel=1e-9, abs=1e-6), name
            else:
                assert ours[name] == value, name


@GRIDS
@given(rows=telemetry_rows)
@settings(max_examples=40, deadline=None)
def test_telemetry_features_are_what_a_plain_computation_gives(grid: FeatureGrid, rows: list[Row]) -> None:
    features = telemetry_features(_frame(rows, TELEMETRY), TELEMETRY, grid).collect()
    _assert_same(features.to_dicts(), _expected_telemetry(rows, grid))


@GRIDS
@given(rows=telemetry_rows, events=event_rows)
@settings(max_examples=40, deadline=None)
def test_event_features_are_what_a_plain_computation_gives(
    grid: FeatureGrid, rows: list[Row], events: list[Row]
) -> None:
    points = feature_points(_frame(rows, TELEMETRY), TELEMETRY, grid)
    found = event_features(_frame(events, EVENTS), points, EVENTS, grid).collect().to_dicts()
    expected = []
    for unit, moment in _points(rows, grid):
        row: Row = {"unit": unit, "event_time": moment}
        for kind in ("error", "repair"):
            past = [
                event["seen_at"]
                for event in events
                if event["unit"] == unit and event["kind"] == kind and event["seen_at"] <= moment
            ]
            row[f"{kind}__count_6h"] = sum(time > moment - 6 * HOUR for time in past)
            row[f"{kind}_last_at"] = max(past, default=None)
        expected.append(row)
    _assert_same(found, expected)


def _until(features: pl.DataFrame, moment: datetime) -> pl.DataFrame:
    return features.filter(pl.col("event_time") <= moment)


@GRIDS
@given(rows=telemetry_rows, later=telemetry_rows, events=event_rows, later_events=event_rows, cut=times)
@settings(max_examples=40, deadline=None)
def test_nothing_after_a_time_changes_a_feature_row_at_or_before_it(
    grid: FeatureGrid,
    rows: list[Row],
    later: list[Row],
    events: list[Row],
    later_events: list[Row],
    cut: datetime,
) -> None:
    """Rows after the cut are dropped and others put in their place: not a bit may differ."""
    cut = _ceiling(cut, grid.every)
    changed = _replaced_after(rows, later, cut)
    changed_events = _replaced_after(events, later_events, cut)

    def of_telemetry(rows: list[Row]) -> pl.DataFrame:
        return _until(telemetry_features(_frame(rows, TELEMETRY), TELEMETRY, grid).collect(), cut)

    def of_events(rows: list[Row], events: list[Row]) -> pl.DataFrame:
        points = feature_points(_frame(rows, TELEMETRY), TELEMETRY, grid)
        return _until(event_features(_frame(events, EVENTS), points, EVENTS, grid).collect(), cut)

    assert of_telemetry(rows).equals(of_telemetry(changed))
    assert of_events(rows, events).equals(of_events(changed, changed_events))


def _replaced_after(rows: list[Row], others: list[Row], cut: datetime) -> list[Row]:
    return [row for row in rows if row["seen_at"] <= cut] + [row for row in others if row["seen_at"] > cut]


@GRIDS
@given(rows=telemetry_rows, begin=times)
@settings(max_examples=40, deadline=None)
def test_values_do_not_depend_on_where_the_computation_begins(
    grid: FeatureGrid, rows: list[Row], begin: datetime
) -> None:
    """A day that is computed anew from its look-back alone is bit for bit what it was."""
    begin = _ceiling(begin, grid.every)
    enough = [row for row in rows if row["seen_at"] > begin - grid.windows[-1]]

    def computed(rows: list[Row]) -> pl.DataFrame:
        features = telemetry_features(_frame(rows, TELEMETRY), TELEMETRY, grid).collect()
        return features.filter(pl.col("event_time") >= begin)

    assert computed(rows).equals(computed(enough))


def test_a_small_spread_far_from_zero_is_not_lost() -> None:
    rows = [
        {"unit": "a", "seen_at": START + n * timedelta(minutes=5), "heat": 1e9 + n % 2, "resets": 1}
        for n in range(1, 73)
    ]
    features = telemetry_features(_frame(rows, TELEMETRY), TELEMETRY, HOURLY).collect()
    assert features["heat__std_6h"][-1] == pytest.approx(statistics.stdev(n % 2 for n in range(72)), rel=1e-6)


def test_rows_before_the_epoch_fall_into_the_bucket_that_ends_after_them() -> None:
    moment = datetime(1969, 12, 31, 22, 30, tzinfo=UTC)
    rows = [{"unit": "a", "seen_at": moment, "heat": 1.0, "resets": 1}]
    features = telemetry_features(_frame(rows, TELEMETRY), TELEMETRY, HOURLY).collect()
    assert features["event_time"].to_list() == [datetime(1969, 12, 31, 23, tzinfo=UTC)]


def test_of_inventory_rows_of_equal_time_the_one_that_arrived_last_counts() -> None:
    rows = [
        {"unit": "a", "seen_at": START, "model": "old", "cores": 1},
        {"unit": "a", "seen_at": START + HOUR, "model": "later", "cores": 3},
        {"unit": "a", "seen_at": START, "model": "new", "cores": 2},
    ]
    found = inventory_features(_frame(rows, MACHINES), MACHINES).collect()
    assert found.select("event_time", "model", "cores").rows() == [
        (START, "new", 2),
        (START + HOUR, "later", 3),
    ]


def test_elapsed_hours_grow_with_the_time_of_asking() -> None:
    fields = feature_views((TELEMETRY, EVENTS), {"hourly": HOURLY})[1].fields
    frame = pl.DataFrame(
        {"asked": [START + HOUR, START + 90 * timedelta(minutes=1)], "error_last_at": [START] * 2},
        schema_overrides={"asked": UTC_TIME, "error_last_at": UTC_TIME},
    ).with_columns(repair_last_at=pl.lit(None, UTC_TIME))
    found = elapsed(frame, fields, "asked")
    assert found["hours_since_error"].to_list() == [1.0, 1.5]
    assert found["hours_since_repair"].to_list() == [None, None]
    assert found.schema["hours_since_repair"] == pl.Float64


def test_no_rows_make_no_features() -> None:
    nothing = _frame([], TELEMETRY)
    assert telemetry_features(nothing, TELEMETRY, HOURLY).collect().height == 0
    points = feature_points(nothing, TELEMETRY, HOURLY)
    assert event_features(_frame([], EVENTS), points, EVENTS, HOURLY).collect().height == 0
