"""How feature values come about: clean rows in, feature rows out. Polars, lazy.

A feature row at time T uses only rows with event_time in (T - window, T], and for events also the
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

UTC_TIME = pl.Datetime("us", "UTC")
TYPES: dict[ColumnType, pl.DataType] = {
    ColumnType.FLOAT: pl.Float64(),
    ColumnType.INTEGER: pl.Int64(),
    ColumnType.STRING: pl.String(),
    ColumnType.TIMESTAMP: UTC_TIME,
}
# Order of arrival, which decides between rows of equal entity and time: the later one counts.
ARRIVAL = ("slice_start", "ordinal")


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
    """Features of gauges and counters over the grid's windows.

    Two steps: figures per bucket, then figures of the buckets within each window. Variances are
    combined as in Chan, Golub and LeVeque (1983), which loses no digits on values far from zero.

    Args:
        rows: Clean rows of the data set, in any order.

    Returns:
        Columns entity, ``event_time`` and the view's features; sorted by entity and time.
    """
    entity = dataset.entity
    gauges, counters = dataset.named(ColumnRole.GAUGE), dataset.named(ColumnRole.COUNTER)
    ordered = rows.sort(entity, dataset.event_time, *ARRIVAL).with_columns(
        *(pl.col(gauge).cast(pl.Float64).fill_nan(None) for gauge in gauges),
        *(_steps(counter, entity) for counter in counters),
    )
    buckets = (
        ordered.with_columns(feature_time(pl.col(dataset.event_time), grid.every).alias(EVENT_TIME))
        .group_by(entity, EVENT_TIME, maintain_order=True)
        .agg(
            *(figure for gauge in gauges for figure in _gauge_bucket(gauge)),
            *(figure for counter in counters for figure in _counter_bucket(counter)),
        )
    )
    longest = grid.windows[-1]
    features = buckets.select(entity, EVENT_TIME)
    for window in grid.windows:
        figures = [
            *(figure for gauge in gauges for figure in _gauge_window(gauge, window, window == longest)),
            *(
                figure
                for counter in counters
                for figure in _counter_window(counter, window, window == longest)
            ),
        ]
        part = buckets.rolling(EVENT_TIME, period=window, closed="right", group_by=entity).agg(figures)
        features = features.join(part, on=[entity, EVENT_TIME], how="left", maintain_order="left")
    short, long = window_name(grid.windows[0]), window_name(longest)
    if len(grid.windows) > 1:
        features = features.with_columns(
            (pl.col(f"{gauge}__mean_{short}") - pl.col(f"{gauge}__mean_{long}")).alias(f"{gauge}__change")
            for gauge in gauges
        )
    return features


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


def _gauge_bucket(gauge: str) -> list[pl.Expr]:
    value = pl.col(gauge)
    return [
        value.count().cast(pl.Int64).alias(f"{gauge} n"),
        value.mean().alias(f"{gauge} mean"),
        (value.var(ddof=0) * value.count()).alias(f"{gauge} m2"),
        value.drop_nulls().last().alias(f"{gauge} last"),
    ]


def _gauge_window(gauge: str, window: timedelta, is_longest: bool) -> list[pl.Expr]:
    weight, mean = pl.col(f"{gauge} n"), pl.col(f"{gauge} mean")
    rows = _total(weight)
    centre = _total(weight * mean) / rows
    name = window_name(window)
    figures = [pl.when(rows > 0).then(centre).alias(f"{gauge}__mean_{name}")]
    if is_longest:
        squares = _total(pl.col(f"{gauge} m2")) + _total(weight * (mean - centre) ** 2)
        deviation = (squares / (rows - 1)).sqrt()
        figures += [
            pl.col(f"{gauge} last").drop_nulls().last().alias(f"{gauge}__last"),
            pl.when(rows > 1).then(deviation).alias(f"{gauge}__std_{name}"),
        ]
    return figures


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


def _counter_bucket(counter: str) -> list[pl.Expr]:
    # The step into the bucket is kept apart: at the start of a window it leads in from outside.
    steps = pl.col(f"{counter} step").filter(pl.col(counter).is_not_null())
    return [
        pl.col(counter).count().cast(pl.Int64).alias(f"{counter} n"),
        steps.first().alias(f"{counter} entry"),
        steps.slice(1).sum().alias(f"{counter} inner"),
        pl.col(counter).drop_nulls().last().alias(f"{counter} last"),
    ]


def _counter_window(counter: str, window: timedelta, is_longest: bool) -> list[pl.Expr]:
    weight = pl.col(f"{counter} n")
    entries = pl.col(f"{counter} entry").filter(weight > 0).slice(1)
    growth = _total(pl.col(f"{counter} inner")) + _total(entries)
    figures = [pl.when(_total(weight) > 0).then(growth).alias(f"{counter}__increase_{window_name(window)}")]
    if is_longest:
        figures.append(pl.col(f"{counter} last").drop_nulls().last().alias(f"{counter}__last"))
    return figures


def _total(values: pl.Expr) -> pl.Expr:
    """Sum over the window's rows, added up anew; Polars carries a plain ``sum`` from row to row."""
    return values.implode().list.sum()


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
