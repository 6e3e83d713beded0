"""Buckets: parts of a table by entity, which several workers take at once.

A table has as many as it was made with, for ever; the setting is for tables to come. An entity's bucket
hangs on its name alone, on any machine and in any release, so that work that was half done by others
is taken up where it was. A table of one bucket has no column of them.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import polars as pl

BUCKET = "bucket"


def bucket_of(name: str, buckets: int, within: int = 1) -> int:
    """The bucket of an entity: CRC-32 (ISO 3309) of its name in UTF-8, modulo their number.

    Args:
        within: Number of the buckets of which one is parted once more.
    """
    return zlib.crc32(name.encode()) // within % buckets


def with_bucket(frame: pl.DataFrame, entity: str, buckets: int) -> pl.DataFrame:
    """The rows with their bucket, where there is more than one; a row without entity is in the first."""
    return frame if buckets == 1 else frame.with_columns(_numbers(entity, buckets).alias(BUCKET))


def of_buckets(
    rows: pl.LazyFrame, entity: str, buckets: int, chosen: Sequence[int], within: int = 1
) -> pl.LazyFrame:
    """The rows of some of the buckets, by their entities."""
    if buckets == 1 or len(chosen) == buckets:
        return rows
    return rows.filter(_numbers(entity, buckets, within).is_in(list(chosen)))


def suffixes(buckets: int, chosen: Sequence[int] | None = None) -> list[str]:
    """What the names of work end in, by bucket: nothing where there is but one."""
    return (
        [""] if buckets == 1 else [f"#{number}" for number in (range(buckets) if chosen is None else chosen)]
    )


def _numbers(entity: str, buckets: int, within: int = 1) -> pl.Expr:
    def numbers(names: pl.Series) -> pl.Series:
        known = names.unique().drop_nulls().to_list()
        return names.replace_strict(
            known, [bucket_of(name, buckets, within) for name in known], default=0, return_dtype=pl.Int32
        )

    return pl.col(entity).map_batches(numbers, return_dtype=pl.Int32, is_elementwise=True)
