"""One feature table, and how it takes in the clean rows that it does not hold yet.

Exactly once: the rows of touched days replace the old ones in the same commit that records the
slices, so a rerun after a kill finds either both or neither.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from feature_repo.definitions import DAY, Template, ViewDefinition
from pipelines.adapters.lake import Lake
from pipelines.errors import FeatureError, LakeConflictError
from pipelines.features.clean import Clean, Slice
from pipelines.references import Layer, TableRef, Window

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import date

    import polars as pl

    from pipelines.features.steps import Touched
    from pipelines.sources.profile import SourceProfile

# Both bound memory: at least one slice goes into a commit, then more up to so many clean rows, and
# up to so many values of features (8 bytes each).
ROWS_PER_COMMIT = 8_000_000
VALUES_PER_COMMIT = 60_000_000
MAX_CONFLICTS = 20


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
        pending: list[Slice] | None = None
        seen: tuple[int, dict[str, int]] | None = None
        while True:
            # First the version of the feature table, then those of clean: whoever commits after
            # this line may have read newer clean rows, and then this commit gives way.
            version = self._lake.version(self._table)
            clean = Clean(self._profile, self._lake, self._view.sources, self._bucket, self._buckets)
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

    def _pending(self, clean: Clean, window: Window) -> list[Slice]:
        found = [piece for name in self._view.sources for piece in clean.slices(name, window, self._suffix)]
        done = self._lake.done(self._table, [piece.work for piece in found])
        return sorted((piece for piece in found if piece.work not in done), key=lambda piece: piece.start)

    def _batch(self, clean: Clean, pending: list[Slice]) -> list[Slice]:
        """The first of the slices, as many as go into one commit."""
        width = len(self._view.stored)
        first = _batch(pending, width=0)
        if sum(piece.points for piece in first) * width > VALUES_PER_COMMIT:
            first = clean.with_points(first, self._grid.every)
        return _batch(first, width)

    def _touched(self, clean: Clean, batch: list[Slice], version: int) -> Touched:
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

    def _compute(self, clean: Clean, days: tuple[date, ...]) -> pl.DataFrame:
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

    def _features(self, clean: Clean, begin: datetime, end: datetime) -> pl.LazyFrame:
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


def _batch(pending: list[Slice], width: int) -> list[Slice]:
    """The first of the slices, as many as go into one commit of feature rows of so many values."""
    batch: list[Slice] = []
    rows = values = 0
    for piece in pending:
        rows += piece.rows
        values += piece.points * width
        if batch and (rows > ROWS_PER_COMMIT or values > VALUES_PER_COMMIT):
            break
        batch.append(piece)
    return batch
