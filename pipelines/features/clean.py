"""What a feature table is computed from: one version of its clean tables, and which of their slices wait."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from feature_repo.datasets import ColumnType, Dataset
from feature_repo.definitions import DAY
from pipelines.adapters.lake import Lake
from pipelines.references import Layer, Window

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import polars as pl

    from pipelines.sources.profile import SourceProfile

# Clean rows from which features are computed at a time, by whole entities: this bounds memory.
ROWS_AT_A_TIME = 2_000_000


@dataclass(frozen=True)
class Slice:
    """A slice of a data set that clean holds and the feature table does not know yet."""

    dataset: str
    start: datetime
    rows: int
    points: int  # at most so many feature rows stand at its rows
    part: str

    @property
    def work(self) -> str:
        return work_of(self.dataset, self.start, self.part)


def work_of(dataset: str, start: datetime, part: str = "") -> str:
    """Name, in a feature table, of the work of taking in one slice of a data set, or one bucket of it."""
    return f"features:{dataset}:{start.isoformat()}{part}"


class Clean:
    """One version of each clean table that a view is computed from, or one bucket of each."""

    def __init__(
        self, profile: SourceProfile, lake: Lake, names: Iterable[str], bucket: int, buckets: int
    ) -> None:
        self._datasets = {name: profile.dataset(name) for name in names}
        self._buckets = buckets
        self.versions: dict[str, int] = {}
        self._frames: dict[str, pl.LazyFrame] = {}
        for name, dataset in self._datasets.items():
            table = profile.table(Layer.CLEAN, name)
            self.versions[name] = lake.version(table) if lake.exists(table) else -1
            rows = _scan(lake, table, self.versions[name], dataset)
            self._frames[name] = _of_bucket(rows, dataset, lake.buckets(table), bucket, buckets)

    def in_turn(self, begin: datetime, end: datetime) -> Iterator[Clean]:
        """All rows, some entities at a time, so that about so many rows of a span are held at once."""
        import polars as pl

        from pipelines.buckets import of_buckets

        rows = sum(
            self.between(name, begin, end).select(pl.len()).collect().item() for name in self._datasets
        )
        turns = max(1, -(-rows // ROWS_AT_A_TIME))
        for turn in range(turns):
            some = copy.copy(self)
            some._frames = {
                name: of_buckets(frame, self._datasets[name].entity, turns, [turn], within=self._buckets)
                for name, frame in self._frames.items()
            }
            yield some

    def slices(self, name: str, window: Window, part: str) -> list[Slice]:
        """Slices of the window that have rows, in order."""
        import polars as pl

        step = self._datasets[name].slice
        # Data sets differ in their slices: of each, those that the window touches.
        span = window.widened(step)
        found = (
            self._frames[name]
            .filter(pl.col("slice_start") >= span.start, pl.col("slice_start") < span.end)
            .group_by("slice_start")
            .len()
            .collect()
        )
        rows = dict(found.iter_rows())
        return [
            Slice(name, start, rows[start], points=rows[start], part=part)
            for start in (piece.start for piece in span.slices(step))
            if start in rows
        ]

    def with_points(self, pieces: list[Slice], every: timedelta | None) -> list[Slice]:
        """The slices with a closer bound of their feature rows, which stand at multiples of ``every``."""
        import polars as pl

        from feature_repo.transformations import feature_time

        if every is None:
            return pieces
        bounds: dict[tuple[str, datetime], int] = {}
        for name, dataset in self._datasets.items():
            rows = self.rows_of(name, [piece.start for piece in pieces if piece.dataset == name])
            if rows is None:
                continue
            times = feature_time(pl.col(dataset.event_time), every).n_unique()
            counts = rows.group_by("slice_start").agg(times * pl.col(dataset.entity).n_unique()).collect()
            bounds.update({(name, start): points for start, points in counts.iter_rows()})
        return [
            replace(piece, points=min(piece.rows, bounds[piece.dataset, piece.start])) for piece in pieces
        ]

    def rows_of(self, name: str, starts: list[datetime]) -> pl.LazyFrame | None:
        """Rows of these slices; None for no slices."""
        import polars as pl

        if not starts:
            return None
        # The span lets the reader skip files and row groups, which a list does not.
        time = pl.col("slice_start")
        return self._frames[name].filter(time.is_between(min(starts), max(starts)), time.is_in(starts))

    def between(self, name: str, begin: datetime | None, end: datetime) -> pl.LazyFrame:
        """Rows with an event time in [begin, end)."""
        import polars as pl

        time = pl.col(self._datasets[name].event_time)
        rows = self._frames[name].filter(time < end, pl.col(DAY) <= end.date())
        return rows if begin is None else rows.filter(time >= begin, pl.col(DAY) >= begin.date())


def _scan(lake: Lake, table: str, version: int, dataset: Dataset) -> pl.LazyFrame:
    import polars as pl

    from feature_repo.transformations import TYPES

    if version >= 0:
        return lake.scan(table, version)
    columns = {column.name: TYPES[column.type] for column in dataset.columns}
    time = TYPES[ColumnType.TIMESTAMP]
    return pl.LazyFrame(schema={**columns, "slice_start": time, "ordinal": pl.Int64, DAY: pl.Date})


def _of_bucket(rows: pl.LazyFrame, dataset: Dataset, held_in: int, bucket: int, buckets: int) -> pl.LazyFrame:
    """The rows of one bucket of entities; read by the table's own where it has as many."""
    import polars as pl

    from pipelines.buckets import BUCKET, of_buckets

    if held_in == buckets:
        return rows if buckets == 1 else rows.filter(pl.col(BUCKET) == bucket)
    return of_buckets(rows, dataset.entity, buckets, [bucket])
