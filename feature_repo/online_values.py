"""Columns as the bytes that Feast keeps online, a column at a time.

Feast makes a Python object of each value (``feast.types.Value``, protobuf) and serializes those one by
one; here the same bytes are laid down for whole columns. Wire format:
https://protobuf.dev/programming-guides/encoding. A missing value is an empty message.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

import feature_repo.feast_import  # noqa: F401 - before all else of Feast

# isort: split
import numpy as np
import polars as pl
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp

# Field number and wire type of each kind in Value.
_STRING, _INT64, _DOUBLE = b"\x12", b"\x20", 0x29


def values(column: pl.Series) -> list[bytes]:
    """``Value`` messages of a column of floats, integers or strings.

    Raises:
        TypeError: the column holds something else.
    """
    match column.dtype:
        case pl.Float64():
            return _doubles(column)
        case pl.Int64():
            return _each(column, lambda number: _INT64 + _varint(number))
        case pl.String():
            return _each(column, _text)
        case other:
            raise TypeError(f"column {column.name!r} holds {other}: features are Float64, Int64 or String")


def keys(name: str, entities: Sequence[str], version: int) -> list[bytes]:
    """Entity keys of one string key, as :func:`serialize_entity_key` makes them."""
    if not entities:
        return []
    one = serialize_entity_key(
        EntityKey(join_keys=[name], entity_values=[Value(string_val=entities[0])]),
        entity_key_serialization_version=version,
    )
    first = entities[0].encode()
    tail = struct.pack("<I", len(first)) + first
    head = one.removesuffix(tail)
    if head + tail != one:
        raise TypeError(f"Feast writes entity keys of version {version} in a way that is not known here")
    encoded = [entity.encode() for entity in entities]
    return [head + struct.pack("<I", len(text)) + text for text in encoded]


def microseconds(times: pl.Series) -> list[int]:
    """Times (UTC) as whole microseconds since the Unix epoch."""
    return times.dt.timestamp("us").to_list()


def timestamps(times: Sequence[int]) -> list[bytes]:
    """Microseconds as ``google.protobuf.Timestamp`` messages."""
    known: dict[int, bytes] = {}
    for moment in set(times):
        stamp = Timestamp()
        stamp.FromMicroseconds(moment)
        known[moment] = stamp.SerializeToString()
    return [known[moment] for moment in times]


def _doubles(column: pl.Series) -> list[bytes]:
    rows = np.empty((len(column), 9), dtype=np.uint8)
    rows[:, 0] = _DOUBLE
    rows[:, 1:] = column.fill_null(np.nan).to_numpy().astype("<f8").view(np.uint8).reshape(-1, 8)
    content = rows.tobytes()
    found = [content[at : at + 9] for at in range(0, len(content), 9)]
    for row in np.flatnonzero((column.is_null() | column.is_nan().fill_null(value=True)).to_numpy()).tolist():
        found[row] = b""
    return found


def _each(column: pl.Series, encode: Callable[[Any], bytes]) -> list[bytes]:
    """Values repeat: each is encoded once."""
    known = {value: encode(value) for value in column.unique().drop_nulls().to_list()}
    known[None] = b""
    return [known[value] for value in column.to_list()]


def _text(text: str) -> bytes:
    content = text.encode()
    return _STRING + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    rest = number & 0xFFFF_FFFF_FFFF_FFFF  # negative ones in two's complement of 64 bits
    found = bytearray()
    while rest > 0x7F:
        found.append(rest & 0x7F | 0x80)
        rest >>= 7
    found.append(rest)
    return bytes(found)
