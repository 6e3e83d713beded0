"""Casting rows to the contract."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.datasets import Dataset
from pipelines.ingest.steps import LAKE_TYPES, conform, stamp
from pipelines.references import Window

DATASET = Dataset.model_validate(
    {
        "name": "telemetry",
        "kind": "telemetry",
        "description": "x",
        "key": ["machine_id", "event_time"],
        "columns": [
            {"name": "machine_id", "type": "string", "role": "entity"},
            {"name": "event_time", "type": "timestamp", "role": "event_time"},
            {"name": "cpu_percent", "type": "float", "nullable": True},
            {"name": "sectors", "type": "integer", "nullable": True},
        ],
    }
)
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def conformed(
    column: str, values: list[Any], dtype: pl.DataType | None = None
) -> list[tuple[Any, str | None]]:
    """Each value as the contract has it, and what ``unparsed`` keeps of it."""
    rows = conform(pl.DataFrame({column: pl.Series(values, dtype=dtype, strict=False)}), DATASET)
    kept = [json.loads(text)[column] if text else None for text in rows["unparsed"]]
    return list(zip(rows[column].to_list(), kept, strict=True))


@pytest.mark.parametrize(
    ("column", "value", "cast"),
    [
        ("cpu_percent", "1.5", 1.5),
        ("cpu_percent", " 1e2 ", 100.0),
        ("cpu_percent", 3, 3.0),
        ("cpu_percent", None, None),
        ("sectors", "12", 12),
        ("sectors", "12.0", 12),
        ("sectors", 12.0, 12),
        ("sectors", "9007199254740993", 9007199254740993),
        ("machine_id", 7, "7"),
        ("machine_id", b"m-7", "m-7"),
        ("event_time", "2026-01-01T12:00:00Z", NOON),
        ("event_time", "2026-01-01 12:00", NOON),
        ("event_time", "2026-01-01T13:00:00.000+01:00", NOON),
        ("event_time", NOON.replace(tzinfo=None), NOON),
        ("event_time", date(2026, 1, 1), datetime(2026, 1, 1, tzinfo=UTC)),
    ],
)
def test_what_fits_is_cast(column: str, value: object, cast: object) -> None:
    assert conformed(column, [value]) == [(cast, None)]


@pytest.mark.parametrize(
    ("column", "value", "kept"),
    [
        ("cpu_percent", "n/a", "n/a"),
        ("cpu_percent", "", ""),
        ("cpu_percent", "1,5", "1,5"),
        ("cpu_percent", math.nan, "NaN"),
        ("cpu_percent", math.inf, "inf"),
        ("cpu_percent", "-inf", "-inf"),
        ("cpu_percent", "1e999", "1e999"),
        ("cpu_percent", date(2026, 1, 1), "2026-01-01T00:00:00.000000Z"),
        ("sectors", "12.5", "12.5"),
        ("sectors", 12.5, "12.5"),
        ("sectors", 1e300, "1e+300"),
        ("sectors", "99999999999999999999", "99999999999999999999"),
        ("event_time", "yesterday", "yesterday"),
        ("event_time", "2026-02-30", "2026-02-30"),
        ("event_time", 1767225600, "1767225600"),
    ],
)
def test_what_does_not_fit_becomes_null_and_its_text_is_kept(column: str, value: object, kept: str) -> None:
    assert conformed(column, [value, None]) == [(None, kept), (None, None)]


def test_integers_beyond_64_bits_are_kept_as_text() -> None:
    assert conformed("sectors", [2**64 - 1], pl.UInt64()) == [(None, str(2**64 - 1))]


def test_columns_that_the_source_lacks_are_null_and_others_are_dropped() -> None:
    rows = conform(pl.DataFrame({"machine_id": ["a", "b"], "surplus": [1, 2]}), DATASET)
    assert rows.schema == {c.name: LAKE_TYPES[c.type] for c in DATASET.columns} | {"unparsed": pl.String()}
    assert rows["machine_id"].to_list() == ["a", "b"]
    assert rows.drop("machine_id").null_count().row(0) == (2, 2, 2, 2)


def test_no_rows_have_the_same_types() -> None:
    empty = conform(pl.DataFrame(), DATASET)
    assert empty.height == 0
    assert empty.schema == conform(pl.DataFrame({"machine_id": ["a"]}), DATASET).schema


def test_rows_are_named_by_slice_and_place() -> None:
    window = Window(start=NOON, end=NOON + timedelta(hours=1))
    rows = stamp(conform(pl.DataFrame({"machine_id": ["a", "b"]}), DATASET), window)
    assert rows.select("slice_start", "ordinal", "slice_day").rows() == [
        (NOON, 0, date(2026, 1, 1)),
        (NOON, 1, date(2026, 1, 1)),
    ]
    assert rows.schema["slice_start"] == pl.Datetime("us", "UTC")


texts = st.one_of(st.none(), st.text(max_size=8), st.integers().map(str), st.floats().map(str))


@settings(max_examples=40, deadline=None)
@given(values=st.lists(st.tuples(texts, texts, texts, texts), max_size=20))
def test_each_value_is_cast_or_kept(values: list[tuple[str | None, ...]]) -> None:
    names = [column.name for column in DATASET.columns]
    rows = conform(pl.DataFrame(values, schema=dict.fromkeys(names, pl.String), orient="row"), DATASET)
    assert rows.height == len(values)
    for source, row in zip(values, rows.iter_rows(named=True), strict=True):
        kept = json.loads(row["unparsed"] or "{}")
        for name, value in zip(names, source, strict=True):
            assert (value is None) == (row[name] is None and name not in kept)
            assert kept.get(name, value) == value
            assert not (name in kept and row[name] is not None)
