"""How feature values come about: clean rows in, feature rows out. Polars, lazy.

A feature row at time T uses only rows with event_time in (T - look-back, T], and for events also the
time of the newest one at or before T. Nothing later can change it.

Sums run over each window anew instead of being carried along: a carried sum keeps the rounding of
values that have left the window, so that a value would depend on where the computation began, and
a recomputed day would differ from the first computation.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

import polars as pl

from feature_repo.datasets import ColumnRole, ColumnType, Dataset, FeatureGrid
from feature_repo.definitions import DAY, EVENT_TIME, FeatureField, ViewDefinition, event_codes, window_name
from feature_repo.fields import measured_fields
from feature_repo.windows import counter_figures, gauge_figures, window_features

UTC_TIME = pl.Datetime("us", "UTC")
TYPES: dict[ColumnType, pl.DataType] = {
    ColumnType.FLOAT: pl.Float64(),
    ColumnType.INTEGER: pl.Int64(),
    ColumnType.STRING: pl.String(),
    ColumnType.TIMESTAMP: UTC_TIME,
}
# Order of arrival, which decides between rows of equal entity and time: the later one counts.
ARRIVAL = ("slice_start", "ordinal")
_ROW_TIME = "time of the row"  # no data set can have a column of this name


def table_schema(view: ViewDefinition) -> pl.Schema:
    """Columns of a view's table: entity, event_time, the stored columns, day."""
    columns = {column.name: TYPES[column.type] for column in view.stored}
    return pl.Schema({view.entity: pl.String(), EVENT_TIME: UTC_TIME, **columns, DAY: pl.Date()})


def feature_time(time: pl.Expr, every: timedelta | None) -> pl.Expr:
    """Time of the first feature row that may use a row: the next whole multiple of ``every``.

    Buckets are closed on the right and named by their end, so a row at exactly T belongs to T.
    """
    if every is None:
        return time
    step = every // timedelta(microseconds=1)
    return (-((-time.to_physical()) // step) * step).cast(UTC_TIME)


def feature_points(telemetry: pl.LazyFrame, dataset: Dataset, grid: FeatureGrid) -> pl.LazyFrame:
    """Entities and times at which feature rows stand: where there is telemetry in the bucket.

    Returns:
        Columns entity and ``event_time``, without repeats, in no order.
    """
    time = feature_time(pl.col(dataset.event_time), grid.every)
    return telemetry.select(pl.col(dataset.entity), time.alias(EVENT_TIME)).unique()


def telemetry_features(rows: pl.LazyFrame, dataset: Dataset, grid: FeatureGrid) -> pl.LazyFrame:
    """Features of gauges and counters on the grid, and of the calendar; bills are telemetry here.

    Two steps: figures per bucket, then figures of the buckets within each window. Variances are
    combined as in Chan, Golub and LeVeque (1983), which loses no digits on values far from zero.

    Args:
        rows: Clean rows of the data set, in any order.

    Returns:
        Columns entity, ``event_time`` and the stored columns of the features, of the calendar too
        where the grid has it; sorted by entity and time.
    """
    entity, time = dataset.entity, pl.col(dataset.event_time)
    gauges = tuple(column.name for column in grid.gauges(dataset))
    counters = tuple(column.name for column in grid.counters(dataset))
    known = _summed(rows, dataset, gauges) if dataset.is_summed else rows
    buckets = (
        known.sort(entity, dataset.event_time, *([] if dataset.is_summed else ARRIVAL))
        .select(
            entity,
            time.alias(_ROW_TIME),
            feature_time(time, grid.every).alias(EVENT_TIME),
            *(pl.col(gauge).cast(pl.Float64).fill_nan(None) for gauge in gauges),
            *counters,
            *(_steps(counter, entity) for counter in counters),
        )
        .group_by(entity, EVENT_TIME, maintain_order=True)
        .agg(
            *(figure for gauge in gauges for figure in gauge_figures(gauge, _ROW_TIME, grid)),
            *(figure for counter in counters for figure in counter_figures(counter)),
        )
    )
    fields = measured_fields("", dataset, grid, with_calendar=True)
    schema = pl.Schema({entity: pl.String(), EVENT_TIME: UTC_TIME, **_stored_types(fields)})
    return buckets.map_batches(
        lambda frame: window_features(frame, dataset, grid, schema),
        # A row stands for its windows: no filter or choice of rows may come before.
        predicate_pushdown=False,
        projection_pushdown=False,
        slice_pushdown=False,
        schema=schema,
    )


def event_features(
    events: pl.LazyFrame, points: pl.LazyFrame, dataset: Dataset, grid: FeatureGrid
) -> pl.LazyFrame:
    """Counts of events over the longest window, and the time of the last one, per event code.

    Args:
        events: Clean rows of the events data set, from the first event on.
        points: Columns entity and ``event_time``, without repeats.

    Returns:
        Columns entity, ``event_time``, ``<code>__count_<window>`` and ``<code>_last_at`` per code;
        sorted by entity and time.
    """
    entity, longest = dataset.entity, grid.windows[-1]
    codes = [code.name for code in event_codes(dataset)]
    history = _cumulated(events, dataset)
    until_begin = history.select(entity, "at", pl.col(f"#{code}" for code in codes).name.suffix(" before"))
    return (
        points.sort(entity, EVENT_TIME)
        .with_columns(begin=pl.col(EVENT_TIME) - longest)
        .join_asof(history, left_on=EVENT_TIME, right_on="at", by=entity, check_sortedness=False)
        .join_asof(until_begin, left_on="begin", right_on="at", by=entity, check_sortedness=False)
        .select(entity, EVENT_TIME, *(column for code in codes for column in _event_columns(code, longest)))
    )


def inventory_features(rows: pl.LazyFrame, dataset: Dataset) -> pl.LazyFrame:
    """What is known of each entity from each time on; of equal times the row that arrived last.

    Returns:
        Columns entity, ``event_time``, categories and attributes; sorted by entity and time.
    """
    known = dataset.named(ColumnRole.CATEGORY, ColumnRole.ATTRIBUTE)
    return (
        rows.sort(dataset.entity, dataset.event_time, *ARRIVAL)
        .unique([dataset.entity, dataset.event_time], keep="last", maintain_order=True)
        .select(dataset.entity, pl.col(dataset.event_time).alias(EVENT_TIME), *known)
    )


def to_table(features: pl.LazyFrame, view: ViewDefinition) -> pl.LazyFrame:
    """The features in the columns, types and order of the view's table."""
    return features.with_columns(pl.col(EVENT_TIME).dt.date().alias(DAY)).select(
        pl.col(name).cast(dtype) for name, dtype in table_schema(view).items()
    )


def elapsed(frame: pl.DataFrame, fields: Iterable[FeatureField], time: str) -> pl.DataFrame:
    """Add the elapsed features: hours from their stored time to the row's own time.

    The same function serves training (time of the observation) and requests (time of the
    request), so that the hours go on growing between two feature rows in the same way.

    Args:
        frame: Has the ``at_column`` of each elapsed field (UTC, null: never) and ``time``.
        fields: The fields wanted; stored ones are passed over.
        time: Column with the time at which the value is asked for.
    """
    return frame.with_columns(
        ((pl.col(time) - pl.col(field.at_column)).dt.total_microseconds() / 3.6e9).alias(field.name)
        for field in fields
        if field.at_column is not None
    )


def _stored_types(fields: Iterable[FeatureField]) -> dict[str, pl.DataType]:
    return {
        field.at_column or field.name: UTC_TIME if field.at_column else TYPES[field.type] for field in fields
    }


def _summed(rows: pl.LazyFrame, dataset: Dataset, gauges: tuple[str, ...]) -> pl.LazyFrame:
    """One row per entity and time, with the sums of the gauges over the rows that differ in other key columns."""
    entity, time = dataset.entity, dataset.event_time
    # By the key, not by arrival: the bits of a sum hang on its order.
    return (
        rows.sort(*dict.fromkeys((entity, time, *dataset.key)))
        .with_columns(pl.col(gauge).cast(pl.Float64).fill_nan(None) for gauge in gauges)
        .group_by(entity, time, maintain_order=True)
        .agg(pl.when(pl.col(gauge).count() > 0).then(pl.col(gauge).sum()).alias(gauge) for gauge in gauges)
    )


def _steps(counter: str, entity: str) -> pl.Expr:
    """Growth since the value before; null at the first value and where the value is missing."""
    value = pl.col(counter)
    before = value.forward_fill().shift(1).over(entity)
    return (
        pl.when(value >= before)
        .then(value - before)
        .when(value < before)
        .then(value)
        .alias(f"{counter} step")
    )


def _cumulated(events: pl.LazyFrame, dataset: Dataset) -> pl.LazyFrame:
    """Per entity and time ``at``: events so far (``#code``) and the time of the newest (``@code``)."""
    entity, codes = dataset.entity, event_codes(dataset)
    matches = {
        code.name: pl.all_horizontal(pl.col(column) == value for column, value in code.values).fill_null(
            False
        )
        if code.values
        else pl.lit(True)
        for code in codes
    }
    return (
        events.select(
            entity, pl.col(dataset.event_time).alias("at"), *(m.alias(name) for name, m in matches.items())
        )
        .sort(entity, "at")
        .select(
            entity,
            "at",
            *(pl.col(name).cast(pl.Int64).cum_sum().over(entity).alias(f"#{name}") for name in matches),
            *(pl.when(name).then("at").forward_fill().over(entity).alias(f"@{name}") for name in matches),
        )
        .unique([entity, "at"], keep="last", maintain_order=True)
    )


def _event_columns(code: str, window: timedelta) -> list[pl.Expr]:
    count = pl.col(f"#{code}").fill_null(0) - pl.col(f"#{code} before").fill_null(0)
    return [count.alias(f"{code}__count_{window_name(window)}"), pl.col(f"@{code}").alias(f"{code}_last_at")]
