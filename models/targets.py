"""What a model learns to say of an observation, as data, with the one function that works it out.

An observation is an entity at a time. A target is a figure of what happened then or afterwards; it
is known once ``horizon`` has passed. Polars is imported where it is used: specs hold targets, and
DAG files read specs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from feature_repo.datasets import Dataset, DatasetKind, Frozen

if TYPE_CHECKING:
    import polars as pl

PREFIX = "target__"
#: Input that a target with several steps adds: how many steps ahead the row asks for.
STEPS_AHEAD = "steps_ahead"

#: ``daily``: share of the variance that the time of day explains (two harmonics); ``trend``: correlation
#: with time. Both are 0 where nothing varies, and meant for spans of whole days.
Aggregate = Literal[
    "mean", "sum", "min", "max", "std", "p50", "p95", "p99", "last", "count", "daily", "trend"
]


@dataclass(frozen=True)
class Table:
    """Clean rows of one data set, with the contract that names their columns."""

    dataset: Dataset
    rows: pl.LazyFrame


Tables = Mapping[str, Table]


class EventWithin(Frozen):
    """``event``: 1 where an event happens within ``(time, time + horizon]``, else 0."""

    kind: Literal["event_within"] = "event_within"
    dataset: str = Field(description="Events data set that holds the outcome.")
    column: str = "kind"
    value: str = "failure"
    horizon: timedelta = timedelta(hours=24)

    @property
    def names(self) -> tuple[str, ...]:
        return ("event",)

    @property
    def datasets(self) -> tuple[str, ...]:
        return (self.dataset,)

    def attach(
        self, observations: pl.DataFrame, entity: str, tables: Tables, known_until: datetime
    ) -> pl.DataFrame:
        """Observations whose horizon has ended, with ``target__event`` (Float64)."""
        import polars as pl

        upcoming = _events(tables[self.dataset], entity, self.column, self.value)
        within = (pl.col("at") - pl.col("event_time")) <= self.horizon
        return (
            _known(observations, self.horizon, known_until)
            .sort("event_time")
            .join_asof(
                upcoming,
                left_on="event_time",
                right_on="at",
                by=entity,
                strategy="forward",
                allow_exact_matches=False,
                check_sortedness=False,
            )
            .with_columns(within.fill_null(value=False).cast(pl.Float64).alias(f"{PREFIX}event"))
            .drop("at")
            .sort(entity, "event_time")
        )


class UntilEvent(Frozen):
    """``hours`` from the observation to the first event after it, and whether it was ``observed``.

    Where none came by the cap or by the end of the data, ``hours`` is the time watched and
    ``observed`` is 0: a right-censored duration.
    """

    kind: Literal["until_event"] = "until_event"
    dataset: str
    column: str = "kind"
    value: str
    cap: timedelta = Field(timedelta(days=30), description="Longer durations count as censored here.")

    @property
    def horizon(self) -> timedelta:
        # What is not known yet is censored, so no observation must wait for its label.
        return timedelta(0)

    @property
    def names(self) -> tuple[str, ...]:
        return ("hours", "observed")

    @property
    def datasets(self) -> tuple[str, ...]:
        return (self.dataset,)

    def attach(
        self, observations: pl.DataFrame, entity: str, tables: Tables, known_until: datetime
    ) -> pl.DataFrame:
        """Observations before ``known_until``, with ``target__hours`` and ``target__observed``."""
        import polars as pl

        events = _events(tables[self.dataset], entity, self.column, self.value)
        watched = pl.min_horizontal(
            pl.lit(known_until).cast(pl.Datetime("us", "UTC")) - pl.col("event_time"), pl.lit(self.cap)
        )
        until = pl.col("at") - pl.col("event_time")
        observed = (until <= watched).fill_null(value=False)
        hours = pl.when(observed).then(until).otherwise(watched).dt.total_microseconds() / 3.6e9
        return (
            observations.filter(pl.col("event_time") < known_until)
            .sort("event_time")
            .join_asof(
                events,
                left_on="event_time",
                right_on="at",
                by=entity,
                strategy="forward",
                check_sortedness=False,
            )
            .with_columns(hours.alias(f"{PREFIX}hours"), observed.cast(pl.Float64).alias(f"{PREFIX}observed"))
            .drop("at")
            .sort(entity, "event_time")
        )


class ValuesAhead(Frozen):
    """Values of columns over ``(time + ahead - width, time + ahead]``.

    With ``steps`` above 1 each observation becomes one row per step, with the input
    ``steps_ahead`` from 1 to ``steps``; step k looks ``k * ahead`` ahead.
    """

    kind: Literal["values_ahead"] = "values_ahead"
    dataset: str
    columns: tuple[str, ...] = Field(min_length=1)
    ahead: timedelta = Field(description="How far ahead; with several steps, the length of one.")
    width: timedelta = Field(description="Span that the value is an aggregate of; it ends at `ahead`.")
    aggregates: tuple[Aggregate, ...] = ("mean",)
    total: str | None = Field(None, description="Name for the sum of the columns, instead of each by itself.")
    steps: int = Field(1, ge=1)

    @property
    def horizon(self) -> timedelta:
        return max(self.ahead * self.steps, timedelta(0))

    @property
    def names(self) -> tuple[str, ...]:
        values = (self.total,) if self.total else self.columns
        if len(self.aggregates) == 1:
            return values
        return tuple(f"{value}__{aggregate}" for value in values for aggregate in self.aggregates)

    @property
    def datasets(self) -> tuple[str, ...]:
        return (self.dataset,)

    def attach(
        self, observations: pl.DataFrame, entity: str, tables: Tables, known_until: datetime
    ) -> pl.DataFrame:
        """Observations whose horizon has ended and whose span has values, with one column per name."""
        import polars as pl

        known = _known(observations, self.horizon, known_until)
        if self.steps > 1:
            known = known.with_columns(pl.lit(list(range(1, self.steps + 1))).alias(STEPS_AHEAD)).explode(
                STEPS_AHEAD
            )
        step = pl.col(STEPS_AHEAD) if self.steps > 1 else pl.lit(1)
        asked = known.with_columns(_until=pl.col("event_time") + self.ahead * step)
        valued = _aggregated(asked, entity, tables[self.dataset], self)
        present = pl.all_horizontal(pl.col(f"{PREFIX}{name}").is_not_null() for name in self.names)
        order = (entity, "event_time", *((STEPS_AHEAD,) if self.steps > 1 else ()))
        return valued.filter(present).sort(order)


class ValuesNow(Frozen):
    """Values of columns over ``(time - width, time]``: what a model of the present learns."""

    kind: Literal["values_now"] = "values_now"
    dataset: str
    columns: tuple[str, ...] = Field(min_length=1)
    width: timedelta = timedelta(minutes=5)

    @property
    def horizon(self) -> timedelta:
        return timedelta(0)

    @property
    def names(self) -> tuple[str, ...]:
        return self.columns

    @property
    def datasets(self) -> tuple[str, ...]:
        return (self.dataset,)

    def attach(
        self, observations: pl.DataFrame, entity: str, tables: Tables, known_until: datetime
    ) -> pl.DataFrame:
        """Observations that have values, with one column per name."""
        ahead = ValuesAhead(dataset=self.dataset, columns=self.columns, ahead=timedelta(0), width=self.width)
        return ahead.attach(observations, entity, tables, known_until)


class Unlabelled(Frozen):
    """Nothing to learn from; ``abnormal`` is for judging alone, and null where nobody says.

    A row is abnormal where an event of the kind lies within ``[time - after, time + before]``.
    """

    kind: Literal["unlabelled"] = "unlabelled"
    dataset: str | None = Field(None, description="Events data set that marks what was abnormal.")
    column: str = "kind"
    value: str = "failure"
    before: timedelta = Field(timedelta(0), description="How long before the event a row is abnormal.")
    after: timedelta = Field(timedelta(0), description="How long after it.")

    @property
    def horizon(self) -> timedelta:
        return self.before

    @property
    def names(self) -> tuple[str, ...]:
        return ("abnormal",)

    @property
    def datasets(self) -> tuple[str, ...]:
        return (self.dataset,) if self.dataset else ()

    def attach(
        self, observations: pl.DataFrame, entity: str, tables: Tables, known_until: datetime
    ) -> pl.DataFrame:
        """Observations with ``target__abnormal`` (Float64)."""
        import polars as pl

        known = _known(observations, self.horizon, known_until)
        if self.dataset is None:
            return known.with_columns(pl.lit(None, pl.Float64).alias(f"{PREFIX}abnormal"))
        events = _events(tables[self.dataset], entity, self.column, self.value)
        return (
            known.with_columns(_from=pl.col("event_time") - self.after)
            .sort("_from")
            .join_asof(
                events, left_on="_from", right_on="at", by=entity, strategy="forward", check_sortedness=False
            )
            .with_columns(
                (pl.col("at") <= pl.col("event_time") + self.before)
                .fill_null(value=False)
                .cast(pl.Float64)
                .alias(f"{PREFIX}abnormal")
            )
            .drop("at", "_from")
            .sort(entity, "event_time")
        )


Target = Annotated[
    EventWithin | UntilEvent | ValuesAhead | ValuesNow | Unlabelled, Field(discriminator="kind")
]


def _known(observations: pl.DataFrame, horizon: timedelta, known_until: datetime) -> pl.DataFrame:
    import polars as pl

    return observations.filter(pl.col("event_time") + horizon <= known_until)


def _events(table: Table, entity: str, column: str, value: str) -> pl.DataFrame:
    """Columns entity and ``at``, sorted by time."""
    import polars as pl

    return (
        table.rows.filter(pl.col(column) == value)
        .select(pl.col(table.dataset.entity).alias(entity), pl.col(table.dataset.event_time).alias("at"))
        .unique()
        .sort("at")
        .collect()
    )


def _aggregated(asked: pl.DataFrame, entity: str, table: Table, target: ValuesAhead) -> pl.DataFrame:
    """Aggregates of the rows within ``(_until - width, _until]`` of each asked row.

    Rows of the table are laid out by entity and time; each asked row owns a run of them, so that a
    span costs what it holds however long the table is.
    """
    import polars as pl

    values = _values(table, entity, target)
    places = values.select(entity, "at", place=pl.int_range(pl.len()))
    numbered = asked.with_columns(_row=pl.int_range(pl.len()), _since=pl.col("_until") - target.width)
    bounds = numbered.select(entity, "_row", "_until", "_since")
    for edge, position in (("_until", "last"), ("_since", "before")):
        bounds = bounds.sort(edge).join_asof(
            places.sort("at").rename({"place": position}),
            left_on=edge,
            right_on="at",
            by=entity,
            check_sortedness=False,
        )
        bounds = bounds.drop("at")
    first = places.group_by(entity).agg(first=pl.col("place").min())
    runs = (
        bounds.join(first, on=entity)
        .filter(pl.col("last").is_not_null())
        .select(
            "_row",
            place=pl.int_ranges(pl.col("before").fill_null(pl.col("first") - 1) + 1, pl.col("last") + 1),
        )
        .explode("place")
        .drop_nulls("place")
        .sort("_row", "place")
    )
    names = [target.total] if target.total else list(target.columns)
    held = runs.select("_row").hstack([values[name].gather(runs["place"]) for name in ("at", *names)])
    single = len(target.aggregates) == 1
    figures = held.group_by("_row").agg(
        _figure(name, aggregate).alias(f"{PREFIX}{name}" if single else f"{PREFIX}{name}__{aggregate}")
        for name in names
        for aggregate in target.aggregates
    )
    return numbered.join(figures, on="_row", how="left").drop("_row", "_until", "_since")


def _values(table: Table, entity: str, target: ValuesAhead) -> pl.DataFrame:
    """Columns entity, ``at`` and the values, sorted; bills of one day are added up."""
    import polars as pl

    dataset = table.dataset
    values = table.rows.select(
        pl.col(dataset.entity).alias(entity),
        pl.col(dataset.event_time).alias("at"),
        *(pl.col(column).cast(pl.Float64).fill_nan(None) for column in target.columns),
    )
    if dataset.kind is DatasetKind.BILLING:
        values = values.group_by(entity, "at").agg(pl.col(column).sum() for column in target.columns)
    if target.total:
        parts = [pl.col(column) for column in target.columns]
        values = values.select(entity, "at", pl.sum_horizontal(parts, ignore_nulls=False).alias(target.total))
    return values.sort(entity, "at").collect()


def _figure(name: str, aggregate: Aggregate) -> pl.Expr:
    import polars as pl

    value = pl.col(name)
    match aggregate:
        case "mean":
            return value.mean()
        case "sum":
            return pl.when(value.count() > 0).then(value.sum())
        case "min":
            return value.min()
        case "max":
            return value.max()
        case "std":
            return value.std()
        case "last":
            return value.drop_nulls().last()
        case "count":
            return value.count().cast(pl.Float64)
        case "p50" | "p95" | "p99":
            return value.quantile(float(aggregate[1:]) / 100, "linear")
        case "trend":
            return pl.corr(pl.col("at").to_physical(), value).fill_nan(0.0)
        case "daily":
            # Over whole days the harmonics are uncorrelated, so what each explains adds up.
            angle = 2 * math.pi * pl.col("at").dt.epoch("s") / 86_400
            waves = [wave(angle * harmonic) for harmonic in (1, 2) for wave in (pl.Expr.cos, pl.Expr.sin)]
            explained = [pl.corr(wave, value).fill_nan(0.0) ** 2 for wave in waves]
            return pl.sum_horizontal(explained, ignore_nulls=False).clip(0.0, 1.0)
