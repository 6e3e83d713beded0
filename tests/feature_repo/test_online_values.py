"""Whole columns are laid down as Feast would serialize each value."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytestmark = pytest.mark.integration  # Feast takes seconds to import

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@given(st.lists(st.none() | st.floats()))
def test_floats_are_as_feast_writes_them_and_missing_ones_are_empty(floats: list[float | None]) -> None:
    from feast.protos.feast.types.Value_pb2 import Value

    from feature_repo.online_values import values

    for content, value in zip(values(pl.Series(floats, dtype=pl.Float64)), floats, strict=True):
        missing = value is None or math.isnan(value)
        assert content == (b"" if missing else Value(double_val=value).SerializeToString())


@given(st.lists(st.none() | st.integers(-(2**63), 2**63 - 1)), st.lists(st.none() | st.text()))
def test_integers_and_strings_are_as_feast_writes_them(
    integers: list[int | None], texts: list[str | None]
) -> None:
    from feast.protos.feast.types.Value_pb2 import Value

    from feature_repo.online_values import values

    assert values(pl.Series(integers, dtype=pl.Int64)) == [
        b"" if value is None else Value(int64_val=value).SerializeToString() for value in integers
    ]
    assert values(pl.Series(texts, dtype=pl.String)) == [
        b"" if value is None else Value(string_val=value).SerializeToString() for value in texts
    ]


@given(st.lists(st.text()), st.lists(st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1))))  # noqa: DTZ001
def test_keys_and_times_are_as_feast_writes_them(names: list[str], times: list[datetime]) -> None:
    from feast.infra.key_encoding_utils import serialize_entity_key
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value
    from google.protobuf.timestamp_pb2 import Timestamp

    from feature_repo.online_values import keys, timestamps

    assert keys("unit", names, 3) == [
        serialize_entity_key(EntityKey(join_keys=["unit"], entity_values=[Value(string_val=name)]), 3)
        for name in names
    ]
    micros = [(moment.replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1) for moment in times]
    expected = []
    for moment in micros:
        stamp = Timestamp()
        stamp.FromMicroseconds(moment)
        expected.append(stamp.SerializeToString())
    assert timestamps(micros) == expected


def test_a_column_that_is_no_feature_is_refused() -> None:
    from feature_repo.online_values import values

    with pytest.raises(TypeError, match="column 'day' holds Date"):
        values(pl.Series("day", [EPOCH.date()]))
