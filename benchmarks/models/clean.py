"""Rows of a source in their data set's types and within its limits, without a lake."""

from __future__ import annotations

from datetime import UTC, datetime

import polars as pl

from feature_repo.datasets import ColumnType
from pipelines.references import Window
from pipelines.settings import Settings
from pipelines.sources.base import open_source
from pipelines.sources.profile import SourceProfile

EVERYTHING = Window(start=datetime(1990, 1, 1, tzinfo=UTC), end=datetime(2100, 1, 1, tzinfo=UTC))


def clean(profile: SourceProfile, name: str, settings: Settings, window: Window = EVERYTHING) -> pl.DataFrame:
    """Rows of a data set, one per key, with the columns of arrival that features ask for.

    What cannot be read as its type, or lies beyond its limits, goes the way of the quarantine: the
    row is left out.
    """
    dataset = profile.dataset(name)
    read = open_source(profile, settings).read(dataset, window)
    typed = read.with_columns(
        _typed(column.name, column.type, read.schema[column.name])
        for column in dataset.columns
        if column.name in read.columns
    )
    for column in dataset.columns:
        value = pl.col(column.name)
        if column.name not in read.columns:
            continue
        if not column.nullable:
            typed = typed.filter(value.is_not_null())
        if column.minimum is not None:
            typed = typed.filter((value >= column.minimum) | value.is_null())
        if column.maximum is not None:
            typed = typed.filter((value <= column.maximum) | value.is_null())
    return typed.unique(list(dataset.key), keep="first", maintain_order=True).with_columns(
        slice_start=pl.col(dataset.event_time), ordinal=pl.int_range(pl.len())
    )


def _typed(name: str, kind: ColumnType, dtype: pl.DataType) -> pl.Expr:
    value = pl.col(name)
    match kind:
        case ColumnType.TIMESTAMP:
            if dtype == pl.String:
                value = value.str.to_datetime(time_unit="us", time_zone="UTC", strict=False)
            elif isinstance(dtype, pl.Datetime) and dtype.time_zone is None:
                value = value.dt.replace_time_zone("UTC")
            return value.cast(pl.Datetime("us", "UTC"))
        case ColumnType.STRING:
            return value.cast(pl.String)
        case _:
            return value.cast(pl.Float64, strict=False)
