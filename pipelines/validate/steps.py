"""Sift rows: which are clean, which go to quarantine, and why in words.

Frames called ``findings`` have the schema :data:`pipelines.validate.checkpoint.FINDINGS`; frames
called ``flagged`` have one line per quarantined row: its identity and its ``reasons``.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import polars as pl

from feature_repo.datasets import Column, Dataset
from pipelines.ingest.steps import ORDINAL, ROW_IDENTITY, SLICE_START, UNPARSED
from pipelines.times import TIME, time_text

REASONS = "reasons"
DAY = "day"
FLAGGED = pl.Schema({SLICE_START: TIME, ORDINAL: pl.Int64(), REASONS: pl.List(pl.String)})

_UNIQUE = ("expect_compound_columns_to_be_unique", "expect_column_values_to_be_unique")
_FUTURE = "expect_column_pair_values_a_to_be_greater_than_b"
_MISSING = "expect_column_values_to_not_be_null"
_PARSED = "expect_column_values_to_be_null"
_RANGE = "expect_column_values_to_be_between"
_SET = "expect_column_values_to_be_in_set"


def broken(rows: pl.DataFrame, findings: pl.DataFrame, dataset: Dataset) -> pl.DataFrame:
    """Rows that are wrong in themselves, whatever other rows say, with the reasons (``flagged``)."""
    found = findings.filter(~pl.col("expectation").is_in(_UNIQUE))
    if found.is_empty():
        return FLAGGED.to_frame()
    failing = rows.join(found.select(ROW_IDENTITY).unique(), on=ROW_IDENTITY, how="semi")
    columns = {column.name: (place, column) for place, column in enumerate(dataset.columns)}
    texts = []
    for (expectation, name), group in found.partition_by("expectation", "column", as_dict=True).items():
        concerned = failing.join(group.select(ROW_IDENTITY), on=ROW_IDENTITY, how="semi")
        if expectation == _PARSED:
            texts.append(_not_parsed(concerned, dataset))
            continue
        place, column = columns[dataset.event_time if name is None else name]
        if expectation == _MISSING:
            # What was there and could not be read is told with its text.
            told = pl.col(UNPARSED).str.contains(f'"{column.name}":', literal=True)
            concerned = concerned.filter(~told.fill_null(False))
        texts.append(
            concerned.select(
                *ROW_IDENTITY, pl.lit(place).alias("place"), _in_words(expectation, column).alias(REASONS)
            )
        )
    return (
        pl.concat(texts, how="vertical_relaxed")
        .sort(*ROW_IDENTITY, "place", maintain_order=True)
        .group_by(ROW_IDENTITY, maintain_order=True)
        .agg(REASONS)
        .match_to_schema(FLAGGED)
    )


def duplicates(
    rows: pl.DataFrame, findings: pl.DataFrame, broken: pl.DataFrame, earlier: pl.DataFrame, dataset: Dataset
) -> pl.DataFrame:
    """Sound rows whose key an earlier row has already (``flagged``).

    Of several sound rows with one key the first, by slice and ordinal, is not a duplicate.

    Args:
        rows: All rows of the chunk, broken ones too.
        findings: With those on the uniqueness of the key.
        broken: ``flagged`` rows, which count neither as first nor as duplicate.
        earlier: Key and identity of rows outside of the chunk that are clean.
        dataset: The contract; its key is compared, missing parts being equal.
    """
    key = list(dataset.key)
    first = [f"first_{name}" for name in ROW_IDENTITY]
    sound = rows.select(*ROW_IDENTITY, *key).join(broken, on=ROW_IDENTITY, how="anti")
    known = (
        earlier.sort(ROW_IDENTITY)
        .unique(key, keep="first", maintain_order=True)
        .select(
            *key, *(pl.col(name).alias(as_first) for name, as_first in zip(ROW_IDENTITY, first, strict=True))
        )
    )
    of_earlier = sound.join(known, on=key, how="inner", nulls_equal=True)
    suspects = findings.filter(pl.col("expectation").is_in(_UNIQUE)).select(ROW_IDENTITY).unique()
    within = (
        sound.join(suspects, on=ROW_IDENTITY, how="semi")
        .join(of_earlier, on=ROW_IDENTITY, how="anti")
        .sort(ROW_IDENTITY)
        .with_columns(
            pl.col(name).first().over(key).alias(as_first)
            for name, as_first in zip(ROW_IDENTITY, first, strict=True)
        )
        .filter((pl.col(SLICE_START) != pl.col(first[0])) | (pl.col(ORDINAL) != pl.col(first[1])))
    )
    reason = pl.format(
        "duplicate key ({}): first seen at ordinal {} of slice {}",
        pl.lit(", ".join(key)),
        pl.col(first[1]),
        _moment(first[0]),
    )
    found = pl.concat([of_earlier, within.select(of_earlier.columns)])
    return found.select(*ROW_IDENTITY, pl.concat_list(reason).alias(REASONS)).match_to_schema(FLAGGED)


def quarantined(rows: pl.DataFrame, flagged: pl.DataFrame) -> pl.DataFrame:
    """The flagged rows, whole, with their reasons, by identity."""
    return rows.join(flagged, on=ROW_IDENTITY, how="inner").sort(ROW_IDENTITY)


def cleaned(rows: pl.DataFrame, flagged: pl.DataFrame, dataset: Dataset) -> pl.DataFrame:
    """The other rows: the data set's columns, their identity, and the day of their event time."""
    return (
        rows.join(flagged, on=ROW_IDENTITY, how="anti")
        .sort(ROW_IDENTITY)
        .select(
            *(column.name for column in dataset.columns),
            *ROW_IDENTITY,
            pl.col(dataset.event_time).dt.date().alias(DAY),
        )
    )


def in_words(row: dict[str, Any], dataset: Dataset, limit: int = 300) -> str:
    """One row on one line, for a message: where it stands in raw, and its values."""
    texts = [f"{column.name}={_value(row[column.name])}" for column in dataset.columns]
    values = ", ".join(texts)
    return f"slice {row[SLICE_START]:%Y-%m-%dT%H:%MZ}, ordinal {row[ORDINAL]}: " + (
        values if len(values) <= limit else values[:limit] + " …"
    )


def _value(value: Any) -> str:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%dT%H:%M:%SZ}"
    return f"{value:.6g}" if isinstance(value, float) else repr(value)


def _not_parsed(rows: pl.DataFrame, dataset: Dataset) -> pl.DataFrame:
    columns = {column.name: (place, column.type.value) for place, column in enumerate(dataset.columns)}
    lines = [
        (start, ordinal, columns[name][0], f"{name}: {text!r} is not {_with_article(columns[name][1])}")
        for start, ordinal, texts in rows.select(*ROW_IDENTITY, UNPARSED).iter_rows()
        for name, text in json.loads(texts).items()
    ]
    schema = {SLICE_START: TIME, ORDINAL: pl.Int64(), "place": pl.Int32(), REASONS: pl.String()}
    return pl.DataFrame(lines, schema=schema, orient="row")


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _in_words(expectation: str, column: Column) -> pl.Expr:
    value = pl.col(column.name)
    match expectation:
        case _ if expectation == _MISSING:
            return pl.lit(f"{column.name} is missing")
        case _ if expectation == _SET:
            allowed = ", ".join(column.allowed or ())
            return pl.format("{}='{}' is not one of {}", pl.lit(column.name), value, pl.lit(allowed))
        case _ if expectation == _FUTURE:
            return pl.format(
                "{} {} is in the future of its slice {}",
                pl.lit(column.name),
                _moment(column.name),
                _moment(SLICE_START),
            )
        case _ if expectation == _RANGE:
            unit = f" {column.unit}" if column.unit else ""
            below = pl.lit(f" is below {_bound(column.minimum)}{unit}")
            above = pl.lit(f" is above {_bound(column.maximum)}{unit}")
            is_below = value < column.minimum if column.minimum is not None else pl.lit(False)
            return pl.format(
                "{}={}{}", pl.lit(column.name), value, pl.when(is_below).then(below).otherwise(above)
            )
        case _:
            raise ValueError(f"no words for {expectation}")


def _moment(name: str) -> pl.Expr:
    return time_text(pl.col(name)).str.replace(r"(:00)?\.0+Z$", "Z")


def _bound(value: float | None) -> str:
    return "" if value is None else f"{value:.15g}"
