"""Cast rows to their data set's contract without losing what does not fit."""

from __future__ import annotations

import json

import polars as pl

from feature_repo.datasets import ColumnType, Dataset
from pipelines.references import Window
from pipelines.times import TIME, time_text, utc_times

UNPARSED = "unparsed"
SLICE_START = "slice_start"
ORDINAL = "ordinal"
SLICE_DAY = "slice_day"
# Together they name a row of a raw table for ever.
ROW_IDENTITY = (SLICE_START, ORDINAL)

LAKE_TYPES: dict[ColumnType, pl.DataType] = {
    ColumnType.FLOAT: pl.Float64(),
    ColumnType.INTEGER: pl.Int64(),
    ColumnType.STRING: pl.String(),
    ColumnType.TIMESTAMP: TIME,
}
# From here on a float does not hold each integer.
_EXACT_INTEGERS = 2**53


def conform(frame: pl.DataFrame, dataset: Dataset) -> pl.DataFrame:
    """The rows with the data set's columns, in its order and types.

    A value that cannot be parsed, is not finite, or is a fraction where an integer belongs,
    becomes null. A column that the frame lacks is null in each row; a column that the data set
    lacks is dropped.

    Returns:
        The data set's columns, and ``unparsed``: null where all was parsed, else a JSON object of
        the original texts by column.
    """
    texts = {column.name: f"_text_{column.name}" for column in dataset.columns if column.name in frame.schema}
    # The row index gives columns that the frame lacks their height.
    cast = frame.with_row_index("_row").select(
        "_row",
        *(
            _parsed(frame, column.name, column.type).cast(LAKE_TYPES[column.type]).alias(column.name)
            for column in dataset.columns
        ),
        *(_text(pl.col(name), frame.schema[name]).alias(text) for name, text in texts.items()),
    )
    lost = [
        pl.when(pl.col(name).is_null() & pl.col(text).is_not_null()).then(pl.col(text)).alias(name)
        for name, text in texts.items()
    ]
    unparsed = cast.select(lost) if lost else pl.DataFrame()
    return cast.drop("_row", *texts.values()).with_columns(_objects(unparsed, cast.height))


def stamp(frame: pl.DataFrame, window: Window) -> pl.DataFrame:
    """The rows of one slice with ``slice_start``, ``ordinal`` and ``slice_day``."""
    return frame.with_columns(
        pl.lit(window.start, TIME).alias(SLICE_START),
        pl.int_range(pl.len(), dtype=pl.Int64).alias(ORDINAL),
        pl.lit(window.start.date(), pl.Date).alias(SLICE_DAY),
    )


def _parsed(frame: pl.DataFrame, name: str, wanted: ColumnType) -> pl.Expr:
    dtype = frame.schema.get(name)
    if dtype is None:
        return pl.lit(None)
    column = pl.col(name)
    match wanted:
        case ColumnType.STRING:
            return _text(column, dtype)
        case ColumnType.TIMESTAMP:
            return utc_times(column, dtype)
        case ColumnType.FLOAT:
            return _float(column, dtype)
        case ColumnType.INTEGER:
            return _integer(column, dtype)


def _float(column: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    number = _number(column, dtype).cast(pl.Float64, strict=False)
    return pl.when(number.is_finite()).then(number)


def _integer(column: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    if dtype.is_integer() or dtype == pl.Boolean:
        return column.cast(pl.Int64, strict=False)
    number = _number(column, dtype)
    approximate = number.cast(pl.Float64, strict=False)
    whole = (
        approximate.is_finite() & (approximate == approximate.round()) & (approximate.abs() < _EXACT_INTEGERS)
    )
    from_float = pl.when(whole).then(approximate).cast(pl.Int64, strict=False)
    return pl.coalesce(number.cast(pl.Int64, strict=False), from_float) if dtype == pl.String else from_float


def _number(column: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    if dtype == pl.String:
        return column.str.strip_chars()
    # Of dates, lists and the like a cast would make numbers that nobody wrote.
    return column if dtype.is_numeric() or dtype == pl.Boolean else pl.lit(None, pl.Float64)


def _text(column: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    if isinstance(dtype, pl.Datetime | pl.Date):
        return pl.coalesce(time_text(utc_times(column, dtype)), column.cast(pl.String))
    if dtype == pl.Binary:
        return pl.coalesce(column.cast(pl.String, strict=False), column.bin.encode("hex"))
    if dtype.is_nested():
        return column.map_elements(str, return_dtype=pl.String)
    return column.cast(pl.String)


def _objects(texts: pl.DataFrame, height: int) -> pl.Series:
    """Per row a JSON object of the texts that are not null; null where all are."""
    objects: list[str | None] = [None] * height
    if texts.width:
        some = texts.with_row_index("_row").filter(pl.any_horizontal(pl.exclude("_row").is_not_null()))
        for row in some.iter_rows(named=True):
            at = row.pop("_row")
            objects[at] = json.dumps(
                {name: text for name, text in row.items() if text is not None}, ensure_ascii=False
            )
    return pl.Series(UNPARSED, objects, dtype=pl.String)
