"""What the columns of a file are, as far as their names and values tell: the time, the machine, gauges, counters.

Nothing is guessed that the values speak against, and no unit is claimed that the file does not name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.errors import SourceError

if TYPE_CHECKING:
    import polars as pl

# Enough rows to know a column by; of more, the first ones.
_ROWS = 200_000
_ENTITIES = (
    "machine",
    "host",
    "hostname",
    "instance",
    "server",
    "node",
    "vm",
    "pod",
    "service",
    "entity",
    "device",
    "name",
    "id",
)
_TIMES = ("event_time", "timestamp", "time", "ts", "datetime", "date", "at")
_STEPS = tuple(timedelta(minutes=minutes) for minutes in (1, 2, 5, 10, 15, 30, 60, 180, 360, 720, 1440))
# Counted since 1970, a time of this century lies between these powers of ten.
_EPOCHS = (
    ("seconds", 1e9, 4.2e9),
    ("milliseconds", 1e12, 4.2e12),
    ("microseconds", 1e15, 4.2e15),
    ("nanoseconds", 1e18, 4.2e18),
)
_UNITS = (
    "gbps",
    "mbps",
    "kbps",
    "bps",
    "gbit",
    "mbit",
    "kbit",
    "gib",
    "mib",
    "kib",
    "gb",
    "mb",
    "kb",
    "bytes",
)
_TRAFFIC = {"net", "network", "traffic"}
# Words of a name, and what models of the catalogue call such a column; {unit}: as far as the name has one.
_KNOWN = (
    ({"rx", "ingress", "received", "receive", "download"}, "network_in{unit}"),
    ({"tx", "egress", "sent", "transmit", "upload"}, "network_out{unit}"),
    ({"rps", "qps"}, "requests_per_second"),
    ({"cpu"}, "cpu_percent"),
    ({"mem", "memory", "ram"}, "memory_percent"),
    ({"disk", "filesystem", "fs"}, "disk_percent"),
)


@dataclass(frozen=True)
class Known:
    """One column of the profile.

    Attributes:
        theirs: Name in the file.
        ours: Name in the profile.
        role: As in :class:`feature_repo.datasets.ColumnRole`.
        lowest, highest: Of nearly all of its values.
    """

    theirs: str
    ours: str
    role: str
    type: str = "float"
    unit: str = ""
    lowest: float = 0.0
    highest: float = 0.0


@dataclass(frozen=True)
class Found:
    """What a file was seen to hold.

    Attributes:
        counts: What the time's numbers count since 1970; empty: it is text or a time.
        step: Between two samples of one entity, in round minutes.
        first, last: Of the times.
    """

    columns: tuple[Known, ...]
    counts: str
    step: timedelta
    first: datetime
    last: datetime

    def of_role(self, *roles: str) -> list[Known]:
        return [column for column in self.columns if column.role in roles]


def look(path: Path) -> Found:
    """What each column of a Parquet or CSV file is.

    Raises:
        SourceError: the file cannot be read, or has no column of times, or no numbers.
    """
    import polars as pl

    if not path.name.endswith((".csv", ".csv.gz", ".parquet")):
        raise SourceError(f"{path} is neither *.csv nor *.csv.gz nor *.parquet")
    try:
        rows = pl.scan_parquet(path) if path.suffix == ".parquet" else pl.scan_csv(path, infer_schema=False)
        head = _read_as_numbers(rows.head(_ROWS).collect())
    except (OSError, pl.exceptions.PolarsError) as error:
        raise SourceError(f"cannot read {path}: {error}") from error
    times = {name: found for name in head.columns if (found := _times_of(head[name])) is not None}
    if not times:
        raise SourceError(
            f"{path} has no column of times: ISO 8601 (2026-01-31T12:00:00Z), or numbers that count since 1970; it has "
            f"{', '.join(head.columns)}"
        )
    time = min(times, key=lambda name: _rank(name, _TIMES))
    entity = _entity_of(head, [name for name in head.columns if name not in times])
    counts, at = times[time]
    seen = head.with_columns(at.alias("_at"))
    first, last = _span(rows, time, counts)
    columns = [
        Known(entity, _plain(entity), "entity", "string")
        if entity
        else Known("", "machine", "entity", "string"),
        Known(time, "event_time", "event_time", "timestamp"),
        *_numbers(seen, entity, [name for name in head.columns if name not in {time, entity}]),
    ]
    if len(columns) < 3:
        raise SourceError(f"{path} has no column of numbers beside its times: {', '.join(head.columns)}")
    return Found(tuple(columns), counts, _step(seen, entity), first, last)


def _read_as_numbers(head: pl.DataFrame) -> pl.DataFrame:
    """Text that is a number in nearly all rows is one: collectors write n/a here and there."""
    import polars as pl

    for column in head:
        if column.dtype == pl.String:
            number = column.str.strip_chars().cast(pl.Float64, strict=False)
            if column.count() and number.count() > 0.9 * column.count():
                whole = number.drop_nulls()
                is_whole = bool((whole == whole.round()).all()) and float(whole.abs().max() or 0) < 2**62  # type: ignore[arg-type]
                head = head.with_columns(number.cast(pl.Int64) if is_whole else number)
    return head


def _times_of(column: pl.Series) -> tuple[str, pl.Series] | None:
    """What it counts and its times, where nearly all of its values are times."""
    import polars as pl

    counts = ""
    if column.dtype.is_numeric():
        middle = column.cast(pl.Float64).median()
        units = (unit for unit, low, high in _EPOCHS if isinstance(middle, float) and low <= middle <= high)
        if not (counts := next(units, "")):
            return None
    times = column.to_frame().select(at=_at(column.name, counts, column.dtype))["at"]
    return (counts, times) if times.count() > 0.9 * len(times) else None


def _at(name: str, counts: str, dtype: pl.DataType) -> pl.Expr:
    import polars as pl

    from pipelines.sources.files import counted
    from pipelines.times import utc_times

    return counted(pl.col(name), counts) if counts else utc_times(pl.col(name), dtype)


def _entity_of(head: pl.DataFrame, names: list[str]) -> str | None:
    """The text (or, by its name, the number) that says who the row is about."""
    texts = [name for name in names if not head[name].dtype.is_numeric()]
    named = [name for name in names if set(_words(name)) & set(_ENTITIES) and not head[name].dtype.is_float()]
    several = [name for name in dict.fromkeys([*named, *texts]) if 1 < head[name].n_unique() < len(head) / 2]
    return min(several, key=lambda name: _rank(name, _ENTITIES), default=None)


def _numbers(seen: pl.DataFrame, entity: str | None, names: list[str]) -> Iterable[Known]:
    taken = {"event_time", _plain(entity or "machine")}
    for name in names:
        column = seen[name]
        if not column.dtype.is_numeric() or column.null_count() == len(column):
            continue
        # Of nearly all: single values are broken, and which is for validation to say.
        low, high = (float(column.quantile(share) or 0) for share in (0.005, 0.995))
        ours, unit = _ours(name, low, high)
        if ours in taken:
            ours = _plain(name)
        if ours in taken:
            ours = next(f"{ours}_{number}" for number in count(2) if f"{ours}_{number}" not in taken)
        taken.add(ours)
        counter = _only_grows(seen, entity, name)
        yield Known(name, ours, "counter" if counter else "gauge", "float", unit, low, high)


def _ours(name: str, low: float, high: float) -> tuple[str, str]:
    """Our name of a column, and its unit where that is certain."""
    words = _words(name)
    unit = next((unit for unit in _UNITS if any(word.endswith(unit) for word in words)), "")
    if unit or _TRAFFIC & set(words):  # "in" alone is said of many things
        words = [{"in": "rx", "out": "tx"}.get(word, word) for word in words]
    percent = low >= 0 and 1.5 < high <= 100.0
    for known, ours in _KNOWN:
        if not known & set(words):
            continue
        if not ours.endswith("_percent"):
            return ours.format(unit=f"_{unit}" if unit else ""), ""
        if percent and not unit:
            return ours, "percent"
        head = ours.removesuffix("percent")
        return (_plain(name) if _plain(name).startswith(head) else f"{head}{_plain(name)}"), ""
    return _plain(name), ""


def _only_grows(seen: pl.DataFrame, entity: str | None, name: str) -> bool:
    """Whether it is a count that nearly never falls, and moves at all."""
    import polars as pl

    change = pl.col(name).cast(pl.Float64).diff()
    change = change.over(entity, order_by="_at") if entity else change
    found = seen.sort("_at").select(change.alias("change")).drop_nulls()["change"]
    return (found < 0).sum() < 0.01 * len(found) and (found > 0).sum() > 0.05 * len(found)


def _step(seen: pl.DataFrame, entity: str | None) -> timedelta:
    import polars as pl

    gap = pl.col("_at").diff()
    gaps = seen.sort("_at").select((gap.over(entity, order_by="_at") if entity else gap).alias("gap"))["gap"]
    middle = gaps.filter(gaps > timedelta(0)).median()
    seconds = middle.total_seconds() if isinstance(middle, timedelta) else 60.0
    return min(_STEPS, key=lambda step: abs(step.total_seconds() / seconds - 1))


def _span(rows: pl.LazyFrame, time: str, counts: str) -> tuple[datetime, datetime]:
    """First and last moment of the days that hold rows in earnest: single clocks run months ahead."""
    import polars as pl

    times = rows.select(at=_at(time, counts, rows.collect_schema()[time])).drop_nulls()
    by_day = times.group_by(pl.col("at").dt.date().alias("day")).agg(
        pl.len().alias("rows"), first=pl.col("at").min(), last=pl.col("at").max()
    )
    days = by_day.filter(pl.col("rows") * 20 >= pl.col("rows").max())
    first, last = days.select(pl.col("first").min(), pl.col("last").max()).collect().row(0)
    return first, last


def _words(name: str) -> list[str]:
    return [
        word for word in re.split(r"[^a-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()) if word
    ]


def _plain(name: str) -> str:
    plain = "_".join(_words(name))
    return plain if re.match(r"[a-z]", plain) else f"column_{plain}"


def _rank(name: str, wanted: tuple[str, ...]) -> tuple[int, int]:
    """Before others come names that say what is wanted."""
    words = _words(name)
    places = [wanted.index(word) for word in words if word in wanted]
    return (min(places), len(words)) if places else (len(wanted), 0)
