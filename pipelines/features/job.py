"""features: clean rows become rows of the feature tables, and the newest of them go online.

Exactly once: the rows of touched days replace the old ones in the same commit that records the
slices, so a rerun after a kill finds either both or neither. Publishing is repeatable by itself.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from feature_repo.datasets import ColumnType, Dataset
from feature_repo.definitions import DAY, Template, ViewDefinition
from pipelines.adapters.lake import Lake
from pipelines.errors import FeatureError, LakeConflictError
from pipelines.references import FeaturesRef, Layer, TableRef, Window

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import date

    import polars as pl

    from pipelines.features.steps import Touched
    from pipelines.settings import Settings
    from pipelines.sources.profile import SourceProfile

# Both bound memory: at least one slice goes into a commit, then more up to so many clean rows, and
# up to so many values of features (8 bytes each).
ROWS_PER_COMMIT = 8_000_000
VALUES_PER_COMMIT = 60_000_000
# Clean rows from which features are computed at a time, by whole entities.
ROWS_AT_A_TIME = 2_000_000
MAX_CONFLICTS = 20


def run(
    source: str,
    window: Window,
    settings: Settings,
    grids: Iterable[str | None] | None = None,
    buckets: Sequence[int] | None = None,
) -> FeaturesRef:
    """Bring the feature tables up to date with the clean slices of a window, and publish.

    Args:
        grids: Only the tables of these grids, and inventory's; a None among them is the source's
            default grid. None: all tables.
        buckets: Only entities of these buckets, by the number that the setting names; nothing is
            published then, see :func:`publish`. None: all.

    Raises:
        FeatureError: other writers kept changing the same days.
        LakeError: a table cannot be read or written.
        SourceError: the source has no such grid.
    """
    from pipelines.adapters.feature_store import FeatureStore
    from pipelines.sources.profile import load_profile

    profile = load_profile(source)
    store = FeatureStore(profile, settings)
    lake = Lake.of(settings)
    chosen = None if grids is None else list(grids)
    views = {}
    for view in store.views_of(chosen):
        table = FeatureTable(view, profile, lake, settings.entity_buckets)
        views[view.name] = table.bring_up_to_date(window, buckets)
    made = FeaturesRef(source=source, window=window, views=views, online_rows=0)
    return made if buckets is not None else publish(made, settings, chosen)


def together(built: Sequence[FeaturesRef]) -> FeaturesRef:
    """What several tasks made of one window, each of other buckets, as of one."""
    views = {
        name: TableRef(
            table=ref.table,
            version=max(each.views[name].version for each in built),
            rows_added=sum(each.views[name].rows_added for each in built),
        )
        for name, ref in built[0].views.items()
    }
    return built[0].model_copy(update={"views": views})


def publish(built: FeaturesRef, settings: Settings, grids: Iterable[str | None] | None = None) -> FeaturesRef:
    """Write the newest row of each entity at the window's end to the online store.

    Args:
        grids: As of :func:`run`.
    """
    from pipelines.adapters.feature_store import FeatureStore
    from pipelines.sources.profile import load_profile

    store = FeatureStore(load_profile(built.source), settings)
    store.apply()
    return built.model_copy(update={"online_rows": store.publish(built.window.end, grids)})


@dataclass(frozen=True)
class _Slice:
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


class FeatureTable:
    """One feature table and the clean tables that it is computed from."""

    def __init__(
        self, view: ViewDefinition, profile: SourceProfile, lake: Lake, entity_buckets: int = 1
    ) -> None:
        self._view = view
        self._profile = profile
        self._lake = lake
        self._table = profile.table(Layer.FEATURES, view.name)
        self._grid = profile.grid(view.grid)
        self._wanted_buckets = entity_buckets

    def bring_up_to_date(self, window: Window, buckets: Sequence[int] | None = None) -> TableRef:
        """Take in the clean slices of the window that the table does not hold yet.

        Args:
            buckets: Shares of the work, of as many as were asked for; a table that was made with another
                number is shared by its own. None: all.

        Raises:
            FeatureError: other writers kept changing the same days.
        """
        import polars as pl

        from feature_repo.transformations import table_schema
        from pipelines.buckets import BUCKET

        schema = table_schema(self._view)
        wanted = self._wanted_buckets
        if wanted > 1:
            schema = pl.Schema({**schema, BUCKET: pl.Int32()})
        self._lake.create(
            self._table,
            pl.DataFrame(schema=schema),
            partition_by=DAY if wanted == 1 else (DAY, BUCKET),
            buckets=wanted,
        )
        count = self._lake.buckets(self._table)
        mine = [number for number in range(count) if buckets is None or number % wanted in buckets]
        added = sum(_Part(self, number, count).bring_up_to_date(window) for number in mine)
        return TableRef(table=self._table, version=self._lake.version(self._table), rows_added=added)


class _Part:
    """One bucket of a feature table; where there is but one, all of it."""

    def __init__(self, whole: FeatureTable, bucket: int, buckets: int) -> None:
        from pipelines.buckets import suffixes

        self._view, self._profile, self._lake = whole._view, whole._profile, whole._lake
        self._table, self._grid = whole._table, whole._grid
        self._bucket, self._buckets = bucket, buckets
        [self._suffix] = suffixes(buckets, [bucket])

    def bring_up_to_date(self, window: Window) -> int:
        """Batch after batch; returns the rows that were written."""
        added = conflicts = 0
        pending: list[_Slice] | None = None
        seen: tuple[int, dict[str, int]] | None = None
        while True:
            # First the version of the feature table, then those of clean: whoever commits after
            # this line may have read newer clean rows, and then this commit gives way.
            version = self._lake.version(self._table)
            clean = _Clean(self._profile, self._lake, self._view.sources, self._bucket, self._buckets)
            if pending is None or seen != (version, clean.versions):
                pending = self._pending(clean, window)
            batch = self._batch(clean, pending)
            if not batch:
                return added
            touched = self._touched(clean, batch, version)
            rows = self._compute(clean, touched.days)
            try:
                ref = self._lake.replace(
                    self._table,
                    rows,
                    where=self._where(touched),
                    work=[piece.work for piece in batch],
                    version=version,
                    plain_numbers=True,
                )
            except LakeConflictError as error:
                conflicts += 1
                pending = None
                if conflicts == MAX_CONFLICTS:
                    raise FeatureError(f"{conflicts} other writers came first: {error}") from error
                continue
            added += ref.rows_added
            # Where nobody else wrote since, what is left is known.
            pending, seen = pending[len(batch) :], (ref.version, clean.versions)

    def _where(self, touched: Touched) -> str:
        from pipelines.buckets import BUCKET

        return touched.where if self._buckets == 1 else f"({touched.where}) AND {BUCKET} = {self._bucket}"

    def _pending(self, clean: _Clean, window: Window) -> list[_Slice]:
        found = [piece for name in self._view.sources for piece in clean.slices(name, window, self._suffix)]
        done = self._lake.done(self._table, [piece.work for piece in found])
        return sorted((piece for piece in found if piece.work not in done), key=lambda piece: piece.start)

    def _batch(self, clean: _Clean, pending: list[_Slice]) -> list[_Slice]:
        """The first of the slices, as many as go into one commit."""
        width = len(self._view.stored)
        first = _batch(pending, width=0)
        if sum(piece.points for piece in first) * width > VALUES_PER_COMMIT:
            first = clean.with_points(first, self._grid.every)
        return _batch(first, width)

    def _touched(self, clean: _Clean, batch: list[_Slice], version: int) -> Touched:
        from pipelines.features import steps

        days: set[date] = set()
        onwards: date | None = None
        for name in self._view.sources:
            rows = clean.rows_of(name, [piece.start for piece in batch if piece.dataset == name])
            if rows is None:
                continue
            time, every = self._profile.dataset(name).event_time, self._grid.every
            match self._view.template:
                case Template.WINDOWS:
                    own = steps.point_days(rows, time, every)
                    reached = steps.window_days(rows, time, every, self._grid.look_back) - own
                    # Rows that do not stand yet come with slices of their own.
                    days |= own | (reached & set(self._existing_days(version)) if reached else set())
                case Template.HISTORY if name == self._view.dataset:
                    # The time of the last event reaches into all later rows.
                    onwards = min(steps.point_days(rows, time, every))
                    days |= {day for day in self._existing_days(version) if day >= onwards}
                case Template.HISTORY:
                    days |= steps.point_days(rows, time, every)
                case Template.PROFILE:
                    days |= steps.point_days(rows, time, None)
        return steps.Touched(days=tuple(sorted(days)), onwards=onwards)

    def _existing_days(self, version: int) -> Iterable[date]:
        import polars as pl

        from pipelines.buckets import BUCKET

        rows = self._lake.scan(self._table, version)
        mine = rows if self._buckets == 1 else rows.filter(pl.col(BUCKET) == self._bucket)
        return mine.select(DAY).unique().collect()[DAY]

    def _compute(self, clean: _Clean, days: tuple[date, ...]) -> pl.DataFrame:
        """Rows of whole days, from all clean rows that they may use."""
        import polars as pl

        from feature_repo.transformations import table_schema, to_table
        from pipelines.buckets import BUCKET
        from pipelines.features import steps

        parts = [pl.DataFrame(schema=table_schema(self._view))]
        # Runs closer than the look-back share most of what they read.
        for first, last in steps.spans(days, gap=self._grid.look_back):
            begin, end = steps.midnight(first), steps.midnight(last) + timedelta(days=1)
            # Entities have nothing to do with each other: some at a time bound memory.
            for some in clean.in_turn(begin - self._grid.look_back, end):
                features = self._features(some, begin, end)
                parts.append(to_table(features, self._view).filter(pl.col(DAY).is_in(days)).collect())
        rows = pl.concat(parts)
        return rows if self._buckets == 1 else rows.with_columns(pl.lit(self._bucket, pl.Int32).alias(BUCKET))

    def _features(self, clean: _Clean, begin: datetime, end: datetime) -> pl.LazyFrame:
        """Feature rows at each T in [begin, end); rows before may be incomplete and are cut off."""
        import polars as pl

        from feature_repo import transformations

        dataset = self._profile.dataset(self._view.dataset)
        match self._view.template:
            case Template.WINDOWS:
                rows = clean.between(dataset.name, begin - self._grid.look_back, end)
                return transformations.telemetry_features(rows, dataset, self._grid)
            case Template.HISTORY:
                reach = self._grid.every or timedelta(0)
                points = pl.concat(
                    transformations.feature_points(
                        clean.between(name, begin - reach, end), self._profile.dataset(name), self._grid
                    )
                    for name in self._view.sources
                    if name != dataset.name
                ).unique()
                return transformations.event_features(
                    clean.between(dataset.name, None, end), points, dataset, self._grid
                )
            case Template.PROFILE:
                return transformations.inventory_features(clean.between(dataset.name, begin, end), dataset)


class _Clean:
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

    def in_turn(self, begin: datetime, end: datetime) -> Iterator[_Clean]:
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

    def slices(self, name: str, window: Window, part: str) -> list[_Slice]:
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
            _Slice(name, start, rows[start], points=rows[start], part=part)
            for start in (piece.start for piece in span.slices(step))
            if start in rows
        ]

    def with_points(self, pieces: list[_Slice], every: timedelta | None) -> list[_Slice]:
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


def _batch(pending: list[_Slice], width: int) -> list[_Slice]:
    """The first of the slices, as many as go into one commit of feature rows of so many values."""
    batch: list[_Slice] = []
    rows = values = 0
    for piece in pending:
        rows += piece.rows
        values += piece.points * width
        if batch and (rows > ROWS_PER_COMMIT or values > VALUES_PER_COMMIT):
            break
        batch.append(piece)
    return batch
