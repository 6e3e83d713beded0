"""Parquet and CSV files as a source: any fsspec address, any column names.

A row belongs to the window in which it arrived: the time in the column ``arrived`` of the profile
where it names one, else the row's event time. A row whose time cannot be read arrived with the
nearest row above it in its file that has one (below it, for the first rows), so that it is handed
on to validation exactly once, and the same slice gives the same rows however windows are cut.
"""

from __future__ import annotations

import difflib
import glob
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import polars as pl

from feature_repo.datasets import Dataset
from pipelines.errors import SourceError
from pipelines.references import Window
from pipelines.sources.profile import ColumnFrom, FilesOrigin, TableFile
from pipelines.times import TIME, time_text, utc_times

SHARED_DATA = "HEADRACE_SHARED_DATA"
HOME = "HEADRACE_HOME"
_ARRIVED = "_arrived"
# Object stores that Polars itself reads lazily, with filters pushed down.
_CLOUDS = ("s3://", "s3a://", "gs://", "gcs://", "az://", "abfs://", "abfss://")
# Windows are asked for one after another; a file is not opened again for each.
_READ_AHEAD_ROWS = 500_000
_READ_AHEAD_WINDOWS = 64


class _Ahead(NamedTuple):
    """Rows of more windows than were asked for, to answer the next ones from."""

    dataset: Dataset
    window: Window
    rows: pl.DataFrame


class FilesSource:
    """Reads the files of a profile.

    Args:
        origin: Files per data set, and how their columns are called.
        folder: Where relative paths start.
        shared_data: What ``${HEADRACE_SHARED_DATA}`` stands for.
        home: What ``${HEADRACE_HOME}`` stands for: files that were prepared on this machine.
    """

    def __init__(
        self, origin: FilesOrigin, folder: str, shared_data: Path | None, home: Path | None = None
    ) -> None:
        self._origin = origin
        self._folder = folder
        self._places = {SHARED_DATA: shared_data, HOME: home}
        self._ahead: _Ahead | None = None

    def read(self, dataset: Dataset, window: Window) -> pl.DataFrame:
        """Rows that arrived in the window, in the order of the profile's files and of their rows.

        Values of CSV files are text, those of Parquet files have the file's types. A column that
        no file has is absent. Where files disagree on a column's type, it is text.

        Raises:
            SourceError: a file is missing or cannot be read, lacks a column that the profile
                names, or has no readable time in any row.
        """
        ahead = self._ahead
        if ahead and ahead.dataset == dataset and _within(window, ahead.window):
            return _of_window(ahead.rows, window)
        # The first window is read alone; its rows say how many more fit.
        follows = bool(ahead and ahead.dataset == dataset and ahead.window.end == window.start)
        wide = _widened(window, ahead.rows.height, ahead.window) if ahead and follows else window
        rows = self._read(dataset, wide)
        self._ahead = _Ahead(dataset, wide, rows)
        return _of_window(rows, window)

    def _read(self, dataset: Dataset, window: Window) -> pl.DataFrame:
        tables = self._origin.tables.get(dataset.name)
        if not tables:
            named = sorted(name for name, files in self._origin.tables.items() if files)
            raise SourceError(
                f"origin.tables names no files of data set {dataset.name!r}, only of {named}: add their addresses there"
            )
        return _concat(
            _collect(table.url, _arrived_in(_renamed(name, frame, table, dataset), window, name))
            for table in tables
            for name, frame in self._scan(table)
        )

    def _scan(self, table: TableFile) -> list[tuple[str, pl.LazyFrame]]:
        """Each file with its name, by name."""
        url = self._resolve(table.url)
        if url.startswith(_CLOUDS):
            options = self._origin.storage_options or None
            if _is_csv(url):
                return [(url, pl.scan_csv(url, infer_schema=False, storage_options=options))]
            return [(url, pl.scan_parquet(url, storage_options=options))]
        if "://" not in url:
            names = sorted(glob.glob(url, recursive=True)) if glob.has_magic(url) else [url]
            names = [name for name in names if Path(name).is_file()]
            if not names:
                raise _no_file(url, (path.name for path in _existing_parent(url).iterdir()))
            return [(name, _scan_local(name)) for name in names]
        return self._read_remote(url)

    def _read_remote(self, url: str) -> list[tuple[str, pl.LazyFrame]]:
        """Other file systems of fsspec give whole files only."""
        import fsspec

        try:
            system, path = fsspec.core.url_to_fs(url, **self._origin.storage_options)
            names = sorted(system.glob(path)) if glob.has_magic(path) else [path]
            if not names or not system.exists(names[0]):
                folder = system._parent(path)
                there = system.ls(folder, detail=False) if system.exists(folder) else []
                raise _no_file(url, (PurePosixPath(name).name for name in there))
            frames = []
            for name in names:
                with system.open(name, "rb") as file:
                    content = file.read()
                frame = (
                    pl.read_csv(content, infer_schema=False) if _is_csv(name) else pl.read_parquet(content)
                )
                frames.append((system.unstrip_protocol(name), frame.lazy()))
        except (OSError, ValueError, ImportError, pl.exceptions.PolarsError) as error:
            raise SourceError(f"cannot read {url}: {error}") from error
        return frames

    def _resolve(self, url: str) -> str:
        for name, place in self._places.items():
            if f"${{{name}}}" not in url:
                continue
            if place is None:
                raise SourceError(f"{url} needs the setting {name}: set it to the folder of these files")
            url = url.replace(f"${{{name}}}", str(place))
        if unknown := re.search(r"\$\{[^}]*\}", url):
            known = " and ".join(f"${{{name}}}" for name in self._places)
            raise SourceError(f"{url}: {unknown.group()} is unknown, only {known} are replaced")
        if not url.endswith((".parquet", ".csv", ".csv.gz")):
            raise SourceError(f"{url} is neither *.parquet nor *.csv nor *.csv.gz")
        if "://" in url:
            return url.removeprefix("file://") if url.startswith("file://") else url
        return str(Path(self._folder) / Path(url).expanduser())


def _scan_local(path: str) -> pl.LazyFrame:
    return pl.scan_csv(path, infer_schema=False) if _is_csv(path) else pl.scan_parquet(path)


def _is_csv(path: str) -> bool:
    return path.endswith((".csv", ".csv.gz"))


def _renamed(name: str, frame: pl.LazyFrame, table: TableFile, dataset: Dataset) -> pl.LazyFrame:
    """The frame with the data set's columns, and the time of arrival (null where unreadable)."""
    try:
        schema = frame.collect_schema()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise SourceError(f"cannot read {name}: {error}") from error
    ours = [column.name for column in dataset.columns]
    if unknown := sorted(set(table.columns) - set(ours)):
        raise SourceError(
            f"{table.url}: columns names {unknown}, but data set {dataset.name} has only {ours}{_nearest(unknown[0], ours)}"
        )
    origins = {
        column: table.columns.get(column, ColumnFrom(column=column))
        for column in ours
        if column in table.columns or column in schema
    }
    if dataset.event_time not in origins:
        raise _no_column(name, dataset.event_time, schema)
    for origin in [*origins.values(), *([table.arrived] if table.arrived else [])]:
        if origin.column is not None and origin.column not in schema:
            raise _no_column(name, origin.column, schema)
    arrived = table.arrived or origins[dataset.event_time]
    return frame.select(
        *(_values(origin, schema).alias(column) for column, origin in origins.items()),
        _times(arrived, schema).alias(_ARRIVED),
    )


def _values(origin: ColumnFrom, schema: pl.Schema) -> pl.Expr:
    """The column as it came, but for shifted and counted times."""
    column, dtype = _column(origin, schema)
    if not origin.shift and not origin.counts:
        # Dictionaries of different files cannot be concatenated.
        return column.cast(pl.String) if isinstance(dtype, pl.Categorical | pl.Enum) else column
    times = _times(origin, schema)
    if dtype == pl.String:
        # What is no time stays as it was written, for validation to show.
        return pl.coalesce(time_text(times), column)
    return times


def _times(origin: ColumnFrom, schema: pl.Schema) -> pl.Expr:
    column, dtype = _column(origin, schema)
    times = counted(column, origin.counts) if origin.counts else utc_times(column, dtype)
    return times + origin.shift if origin.shift else times


def _column(origin: ColumnFrom, schema: pl.Schema) -> tuple[pl.Expr, pl.DataType]:
    if origin.column is not None:
        return pl.col(origin.column), schema[origin.column]
    literal = pl.lit(origin.constant)
    return literal, pl.select(literal).to_series().dtype


def counted(column: pl.Expr, unit: str) -> pl.Expr:
    microseconds = {
        "days": 86_400e6,
        "hours": 3_600e6,
        "minutes": 60e6,
        "seconds": 1e6,
        "milliseconds": 1e3,
        "microseconds": 1.0,
        "nanoseconds": 1e-3,
    }[unit]
    number = column.cast(pl.Float64, strict=False)
    # Python's datetime ends with the year 9999; a number beyond is no time.
    number = pl.when((number * microseconds).abs() < 2.5e17).then(number)
    return (number * microseconds).round().cast(pl.Int64, strict=False).cast(TIME)


def _arrived_in(frame: pl.LazyFrame, window: Window, name: str) -> pl.LazyFrame:
    """Rows of the window. Rows without a time go with their neighbours."""
    times = _collect(
        name, frame.select(pl.col(_ARRIVED).is_null().sum().alias("without"), pl.len().alias("rows"))
    )
    without, rows = times.row(0)
    if rows and without == rows:
        raise SourceError(
            f"{name}: not one of {rows:,} rows has a time that can be read, so none has a place in time"
        )
    if without:
        frame = frame.with_columns(pl.col(_ARRIVED).forward_fill().backward_fill())
    return frame.filter(_is_in(window))


def _collect(name: str, frame: pl.LazyFrame) -> pl.DataFrame:
    try:
        return frame.collect()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise SourceError(f"cannot read {name}: {error}") from error


def _concat(frames: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """One below the other; a column whose types differ becomes text."""
    parts = list(frames)
    types: dict[str, set[pl.DataType]] = {}
    for part in parts:
        for column, dtype in part.schema.items():
            types.setdefault(column, set()).add(dtype)
    mixed = [column for column, found in types.items() if len(found - {pl.Null()}) > 1]
    return pl.concat([_as_text(part, mixed) for part in parts], how="diagonal_relaxed")


def _as_text(frame: pl.DataFrame, columns: list[str]) -> pl.DataFrame:
    def text(column: str) -> pl.Expr:
        dtype = frame.schema[column]
        if isinstance(dtype, pl.Datetime | pl.Date):
            return time_text(utc_times(pl.col(column), dtype))
        return pl.col(column).cast(pl.String)

    return frame.with_columns(text(column) for column in columns if column in frame.schema)


def _within(window: Window, wide: Window) -> bool:
    return wide.start <= window.start and window.end <= wide.end


def _widened(window: Window, rows_before: int, before: Window) -> Window:
    """The window, and as many of its length after it as are likely to fit in memory."""
    length = window.end - window.start
    rows_each = max(1.0, rows_before * (length / (before.end - before.start)))
    windows = max(1, min(_READ_AHEAD_WINDOWS, int(_READ_AHEAD_ROWS / rows_each)))
    return Window(start=window.start, end=window.start + windows * length)


def _of_window(rows: pl.DataFrame, window: Window) -> pl.DataFrame:
    return rows.filter(_is_in(window)).drop(_ARRIVED)


def _is_in(window: Window) -> pl.Expr:
    return (pl.col(_ARRIVED) >= window.start) & (pl.col(_ARRIVED) < window.end)


def _existing_parent(path: str) -> Path:
    return next(parent for parent in Path(path).parents if parent.is_dir())


def _no_file(url: str, there: Iterable[str]) -> SourceError:
    names = sorted(there)
    wanted = PurePosixPath(url).name
    return SourceError(f"no file {url}{_nearest(wanted, names)}; there are {_some(names)}")


def _no_column(name: str, wanted: str, schema: pl.Schema) -> SourceError:
    there = list(schema)
    return SourceError(f"{name} has no column {wanted!r}{_nearest(wanted, there)}; it has {_some(there)}")


def _nearest(wanted: str, there: Iterable[str]) -> str:
    close = difflib.get_close_matches(wanted, list(there), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _some(names: list[str], limit: int = 20) -> str:
    return (
        ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "") or "none"
    )
