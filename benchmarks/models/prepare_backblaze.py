"""Turn the life histories of ``backblaze_drives`` into telemetry, events and inventory.

    python -m benchmarks.models.prepare_backblaze --data DATA

The public files hold one row for each stretch of a drive's life in which its SMART counters stayed
the same, in power-on hours. The chain wants rows with times. What becomes what:

- telemetry: one row at the start of each stretch, when a snapshot first showed its counters, and one
  where the drive is last seen, so that the drive is observed until then;
- events: a ``change`` wherever a snapshot showed other counters than the one before, a ``rise`` for
  each counter that it showed higher, the ``start`` of the drive's life and of its being watched, and
  the ``failure``;
- machines: type, capacity and power-on hours at the first snapshot, known from then on.

**Times.** A drive has a date for its first snapshot only; after that it counts hours. An hour
``h`` is at ``first_date + (h - first_hours)``: each drive's own clock, which runs late where the
drive was switched off (1 % of the drives by half a year or more). Distances in time along one drive are
exact, and they are what labels and features are made of.

**No leaks.** The counters of a stretch ``(start, stop]`` are those of the snapshot at ``start``
(the data set's maker merged them in so, as time-dependent covariates, and tested it), so they are
known from ``start`` on. What the last snapshot of a failed drive showed is not in the data. The
row where a drive is last seen stands a microsecond before that moment, for failed and surviving
drives alike: no observation at a whole hour can see it, so that its presence tells nothing.

**Age.** A drive was ``powered_on`` at hour 0, so that the hours since then are its power-on hours at
any moment, also long after the last change of a counter. The first snapshot told of it: that is
when it ``arrived``. Drives fail more often in the weeks after they were put in their place, new or
not, so the moment when each was ``first_seen`` is told as well.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import polars as pl

from pipelines.settings import load_settings

COUNTERS = (
    "smart_5", "smart_10", "smart_12", "smart_187", "smart_188", "smart_189", "smart_196", "smart_197", "smart_198",
)  # fmt: skip
ANY_COUNTER = "any_counter"
POWERED_ON, FIRST_SEEN = "powered_on", "first_seen"
BEFORE_THE_END = timedelta(microseconds=1)


@dataclass(frozen=True)
class Tables:
    """Columns ``drive_id`` (text), ``event_time`` (UTC, microseconds), and:

    Attributes:
        telemetry: ``power_on_hours`` and the raw SMART values, null where a model has none.
        events: ``kind`` (change, rise, start, failure), ``code`` (the counter; ``any_counter`` for a
            change, ``powered_on`` or ``first_seen`` for a start, null for a failure), ``arrived``.
        machines: ``manufacturer``, ``model``, ``capacity_tb``, ``first_power_on_hours``.
    """

    telemetry: pl.DataFrame
    events: pl.DataFrame
    machines: pl.DataFrame


def prepare(intervals: pl.DataFrame, drives: pl.DataFrame) -> Tables:
    """The three tables of the profile ``backblaze_drives``, by drive and time.

    Args:
        intervals: As ``intervals.parquet``, described in the data set's README.
        drives: As ``drives.parquet``.
    """
    clock = drives.select("drive_id", "first_date", "first_hours")
    stretches = (
        intervals.join(clock, on="drive_id", how="inner", validate="m:1")
        .sort("drive_id", "start_hours")
        .with_columns(
            pl.col("drive_id").cast(pl.String),
            pl.col(COUNTERS).cast(pl.Int64),
            start=_at("start_hours"),
            stop=_at("stop_hours"),
        )
    )
    return Tables(_telemetry(stretches), _events(stretches, drives), _machines(drives))


def _first() -> pl.Expr:
    return pl.col("first_date").cast(pl.Datetime("us")).dt.replace_time_zone("UTC")


def _at(hours: str) -> pl.Expr:
    return _first() + pl.duration(hours=pl.col(hours) - pl.col("first_hours"))


def _telemetry(stretches: pl.DataFrame) -> pl.DataFrame:
    starts = stretches.select("drive_id", "start", pl.col("start_hours").alias("power_on_hours"), *COUNTERS)
    ends = stretches.group_by("drive_id", maintain_order=True).last()
    ends = ends.select(
        "drive_id",
        (pl.col("stop") - BEFORE_THE_END).alias("start"),
        pl.col("stop_hours").alias("power_on_hours"),
        *COUNTERS,
    )
    return (
        pl.concat([starts, ends])
        .rename({"start": "event_time"})
        .with_columns(pl.col("power_on_hours").cast(pl.Int64))
        .sort("drive_id", "event_time")
    )


def _events(stretches: pl.DataFrame, drives: pl.DataFrame) -> pl.DataFrame:
    rises = [
        stretches.filter(pl.col(counter) > pl.col(counter).shift(1).over("drive_id")).select(
            "drive_id", event_time="start", kind=pl.lit("rise"), code=pl.lit(counter)
        )
        for counter in COUNTERS
    ]
    changes = stretches.filter(pl.int_range(pl.len()).over("drive_id") > 0).select(
        "drive_id", event_time="start", kind=pl.lit("change"), code=pl.lit(ANY_COUNTER)
    )
    failures = stretches.filter(pl.col("failed") == 1).select(
        "drive_id", event_time="stop", kind=pl.lit("failure"), code=pl.lit(None, pl.String)
    )
    happened = pl.concat([changes, *rises, failures]).with_columns(arrived="event_time")
    starts = [
        drives.select(
            pl.col("drive_id").cast(pl.String),
            event_time=at,
            kind=pl.lit("start"),
            code=pl.lit(code),
            arrived=_first(),
        )
        for code, at in (
            (POWERED_ON, _first() - pl.duration(hours="first_hours")),
            (FIRST_SEEN, _first()),
        )
    ]
    return pl.concat([*starts, happened]).sort("drive_id", "event_time", "code", nulls_last=True)


def _machines(drives: pl.DataFrame) -> pl.DataFrame:
    return drives.select(
        pl.col("drive_id").cast(pl.String),
        _first().alias("event_time"),
        pl.col("manufacturer", "model").cast(pl.String),
        pl.col("capacity_tb").cast(pl.Float64).round(3),
        pl.col("first_hours").cast(pl.Int64).alias("first_power_on_hours"),
    ).sort("drive_id")


def write(data: Path, home: Path, one_in: int = 1) -> Path:
    """Prepare the files below ``data/backblaze_drives`` and write them where the profile reads them.

    Args:
        one_in: Of so many drives one is taken.
    """
    source, folder = data / "backblaze_drives", home / "prepared" / "backblaze_drives"
    drives = pl.read_parquet(source / "drives.parquet").filter(pl.col("drive_id") % one_in == 0)
    tables = prepare(pl.read_parquet(source / "intervals.parquet"), drives)
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in vars(tables).items():
        table.write_parquet(folder / f"{name}.parquet", compression="zstd")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--data", type=Path, help="folder that holds backblaze_drives/; default HEADRACE_SHARED_DATA"
    )
    given = parser.parse_args().data
    settings = load_settings(**({"shared_data": given} if given else {}))
    if settings.shared_data is None:
        parser.error("give --data, or set HEADRACE_SHARED_DATA to the folder that holds backblaze_drives/")
    folder = write(settings.shared_data, settings.home)
    for file in sorted(folder.glob("*.parquet")):
        print(f"{file}: {pl.scan_parquet(file).select(pl.len()).collect().item():,} rows")


if __name__ == "__main__":
    main()
