"""Times as sources write them: ISO 8601 text, dates, and date-times of any unit and zone."""

from __future__ import annotations

import polars as pl

TIME = pl.Datetime("us", "UTC")

# Date; then hours and minutes, seconds with fraction, and zone, all optional.
_ISO_8601 = r"^\s*(\d{4}-\d{2}-\d{2})(?:[Tt ](\d{2}:\d{2})(?:(:\d{2})([.,]\d+)?)?\s?([Zz]|UTC|[+-]\d{2}(?::?\d{2})?)?)?\s*$"


def utc_times(column: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """The column as times in UTC, microseconds; null where it holds no time.

    A time without zone is UTC, a date is its midnight. Numbers are no times: whether they count
    seconds or milliseconds cannot be seen from them.

    Args:
        column: Any column.
        dtype: Its type.
    """
    match dtype:
        case pl.Datetime(time_zone=None) | pl.Date():
            times = column.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
        case pl.Datetime():
            times = column.dt.convert_time_zone("UTC").cast(TIME)
        case pl.String():
            times = _from_text(column)
        case _:
            return pl.lit(None, TIME)
    # What Python's own datetime cannot hold would stop the reader instead of being sifted.
    return pl.when(times.dt.year().is_between(1, 9999)).then(times)


def time_text(column: pl.Expr) -> pl.Expr:
    """Times (UTC, microseconds) as ISO 8601 text that :func:`utc_times` reads back."""
    return column.dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ")


def _from_text(column: pl.Expr) -> pl.Expr:
    part = column.str.extract_groups(_ISO_8601).struct
    zone = part["5"].fill_null("Z").str.to_uppercase()
    zone = pl.when(zone.is_in(["Z", "UTC"])).then(pl.lit("+00:00")).otherwise(zone)
    zone = pl.when(zone.str.len_chars() == len("+00")).then(zone + ":00").otherwise(zone)
    written = pl.concat_str(
        part["1"],
        pl.lit("T"),
        part["2"].fill_null("00:00"),
        part["3"].fill_null(":00"),
        part["4"].str.replace(",", ".", literal=True).fill_null(""),
        zone,
    )
    return written.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%z", time_unit="us", strict=False).cast(TIME)
