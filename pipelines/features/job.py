"""features: clean rows become rows of the feature tables, and the newest of them go online.

Exactly once: the rows of touched days replace the old ones in the same commit that records the
slices, so a rerun after a kill finds either both or neither. Publishing is repeatable by itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from feature_repo.datasets import ColumnType, Dataset
from feature_repo.definitions import DAY, Template, ViewDefinition
from pipelines.adapters.lake import Lake
from pipelines.errors import FeatureError, LakeConflictError
from pipelines.references import FeaturesRef, Layer, TableRef, Window

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import date

    import polars as pl

    from pipelines.features.steps import Touched
    from pipelines.settings import Settings
    from pipelines.sources.profile import SourceProfile

# Both bound memory: at least one slice goes into a commit, then more up to so many clean rows, and
# up to so many values of features (8 bytes each).
ROWS_PER_COMMIT = 2_000_000
VALUES_PER_COMMIT = 40_000_000
MAX_CONFLICTS = 20


def run(
    source: str, window: Window, settings: Settings, grids: Iterable[str | None] | None = None
) -> FeaturesRef:
    """Bring the feature tables up to date with the clean slices of a window, and publish.

    Args:
        grids: Only the tables of these grids, and inventory's; a None among them is the source's
            default grid. None: all tables.

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
    views = {
        view.name: FeatureTable(view, profile, lake).bring_up_to_date(window)
        for view in store.views_of(chosen)
    }
    store.apply()
    return FeaturesRef(
        source=source, window=window, views=views, online_rows=store.publish(window.end, chosen)
    )


@dataclass(frozen=True)
class _Slice:
    """A slice of a data set that clean holds and the feature table does not know yet."""

    dataset: str
    start: datetime
    rows: int
    points: int  # at most so many feature rows stand at its rows

    @property
    def work(self) -> str:
        return work_of(self.dataset, self.start)


def work_of(dataset: str, start: datetime) -> str:
    """Name, in a feature table, of the work of taking in one slice of a data set."""
    return f"features:{dataset}:{start.isoformat()}"


class FeatureTable:
    """One feature table and the clean tables that it is computed from."""

    def __init__(self, view: ViewDefinition, profile: SourceProfile, lake: Lake) -> None:
        self._view = view
        self._profile = profile
        self._lake = lake
        self._table = profile.table(Layer.FEATURES, view.name)
        self._grid = profile.grid(view.grid)

    def bring_up_to_date(self, window: Window) -> TableRef:
        """Take in the clean slices of the window that the table does not hold yet.

        Raises:
            FeatureError: other writers kept changing the same days.
        """
        import polars as pl

        from feature_repo.transformations import table_schema

        self._lake.create(self._table, pl.DataFrame(schema=table_schema(self._view)), partition_by=DAY)
        rows_added = conflicts = 0
        while True:
            # First the version of the feature table, then those of clean: whoever commits after
            # this line may have read newer clean rows, and then this commit gives way.
            version = self._lake.version(self._table)
            clean = _Clean(self._profile, self._lake, self._view.sources)
            batch = _batch(self._pending(clean, window), len(self._view.stored))
            if not batch:
                return TableRef(table=self._table, version=version, rows_added=rows_added)
            touched = self._touched(clean, batch, version)
            rows = self._compute(clean, touched.days)
            try:
                ref = self._lake.replace(
                    self._table,
                    rows,
                    where=touched.where,
                    work=[piece.work for piece in batch],
                    version=version,
                    plain_numbers=True,
                )
            except LakeConflictError as error:
                conflicts += 1
                if conflicts == MAX_CONFLICTS:
                    raise FeatureError(f"{conflicts} other writers came first: {error}") from error
                continue
            rows_added += ref.rows_added

    def _pending(self, clean: _Clean, window: Window) -> list[_Slice]:
        found = [piece for name in self._view.sources for piece in clean.slices(name, window)]
        done = self._lake.done(self._table, [piece.work for piece in found])
        pending = sorted((piece for piece in found if piece.work not in done), key=lambda piece: piece.start)
        if sum(piece.points for piece in pending) * len(self._view.stored) > VALUES_PER_COMMIT:
            return clean.with_points(pending, self._grid.every)
        return pending

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
                    days |= steps.window_days(rows, time, every, self._grid.look_back)
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
        return self._lake.scan(self._table, version).select(DAY).unique().collect()[DAY]

    def _compute(self, clean: _Clean, days: tuple[date, ...]) -> pl.DataFrame:
        """Rows of whole days, from all clean rows that they may use."""
        import polars as pl

        from feature_repo.transformations import table_schema, to_table
        from pipelines.features import steps

        parts = [pl.LazyFrame(schema=table_schema(self._view))]
        # Runs closer than the look-back share most of what they read.
        for first, last in steps.spans(days, gap=self._grid.look_back):
            features = self._features(clean, steps.midnight(first), steps.midnight(last) + timedelta(days=1))
            parts.append(to_table(features, self._view).filter(pl.col(DAY).is_in(days)))
        return pl.concat(parts).collect()

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
    """One version of each clean table that a view is computed from."""

    def __init__(self, profile: SourceProfile, lake: Lake, names: Iterable[str]) -> None:
        self._datasets = {name: profile.dataset(name) for name in names}
        self._frames = {name: _scan(lake, profile, dataset) for name, dataset in self._datasets.items()}

    def slices(self, name: str, window: Window) -> list[_Slice]:
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
            _Slice(name, start, rows[start], points=rows[start])
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

        return self._frames[name].filter(pl.col("slice_start").is_in(starts)) if starts else None

    def between(self, name: str, begin: datetime | None, end: datetime) -> pl.LazyFrame:
        """Rows with an event time in [begin, end)."""
        import polars as pl

        time = pl.col(self._datasets[name].event_time)
        rows = self._frames[name].filter(time < end, pl.col(DAY) <= end.date())
        return rows if begin is None else rows.filter(time >= begin, pl.col(DAY) >= begin.date())


def _scan(lake: Lake, profile: SourceProfile, dataset: Dataset) -> pl.LazyFrame:
    import polars as pl

    from feature_repo.transformations import TYPES

    table = profile.table(Layer.CLEAN, dataset.name)
    if lake.exists(table):
        return lake.scan(table)
    columns = {column.name: TYPES[column.type] for column in dataset.columns}
    time = TYPES[ColumnType.TIMESTAMP]
    return pl.LazyFrame(schema={**columns, "slice_start": time, "ordinal": pl.Int64, DAY: pl.Date})


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
