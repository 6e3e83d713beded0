"""What a model would have been asked over a window: every entity at each time, with features and truths.

The grid of observations is that of training, not that of the callers, so that a change of who asks is
not taken for a change of what is asked about.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from typing import TYPE_CHECKING

from models.specs import ModelSpec
from pipelines.adapters.lake import Lake
from pipelines.references import Layer, Window

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

    from feature_repo.datasets import Dataset
    from pipelines.settings import Settings
    from pipelines.sources.profile import SourceProfile

#: More observations than this are drawn from, by whole entities; what is lost is told with the figures.
MOST_ROWS = 1_000_000


@dataclass(frozen=True)
class Observed:
    """Rows of a window.

    Attributes:
        rows: The entity, ``event_time`` and the model's features, sorted by both.
        entity: Name of the entity's column.
        features: Names of the features.
        sampled: Share of the entities that are here.
    """

    rows: pl.DataFrame
    entity: str
    features: tuple[str, ...]
    sampled: float

    def columns(self) -> dict[str, NDArray]:
        """Features as arrays: strings as objects, anything else as floats with NaN for missing."""
        import numpy as np
        import polars as pl

        return {
            name: np.array(self.rows[name].to_list(), dtype=object)
            if self.rows.schema[name] == pl.String
            else self.rows[name].cast(pl.Float64).to_numpy()
            for name in self.features
        }


def observe(
    spec: ModelSpec,
    profile: SourceProfile,
    window: Window,
    settings: Settings,
    versions: Mapping[str, int] | None = None,
) -> Observed:
    """Observations of ``(start, end]`` with their features as they were known then.

    Args:
        versions: Of the lake's tables, by path; those not named are read as they are now.

    Raises:
        LakeError: a feature table is missing.
    """
    import polars as pl

    from pipelines.adapters.feature_store import FeatureStore, views
    from pipelines.snapshot.steps import observation_times

    store, lake = FeatureStore(profile, settings), Lake.of(settings)
    entity, own = store.entity_of(spec.grid), views(profile, spec.grid)
    paths = {view.name: profile.table(Layer.FEATURES, view.name) for view in own}
    pinned = {name: versions[path] for name, path in paths.items() if versions and path in versions}
    times = (
        lake.scan(paths[own[0].name], pinned.get(own[0].name))
        .filter(pl.col("event_time").is_between(window.start, window.end, closed="right"))
        .select(entity, "event_time")
    )
    if spec.observe_every is None:
        grid = times.sort(entity, "event_time").collect()
    else:
        lives = (
            times.group_by(entity)
            .agg(first=pl.col("event_time").min(), last=pl.col("event_time").max())
            .collect()
        )
        grid = observation_times(lives, entity, spec.observe_every)
    grid, sampled = _thinned(grid, entity)
    names = [field.name for field in store.fields(spec.grid)]
    chosen = tuple(name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in spec.inputs))
    rows = store.historical(grid, pinned, spec.grid) if grid.height else grid
    return Observed(rows, entity, chosen if grid.height else (), sampled)


def truths(
    spec: ModelSpec,
    profile: SourceProfile,
    observed: Observed,
    window: Window,
    settings: Settings,
    versions: Mapping[str, int] | None = None,
) -> pl.DataFrame:
    """The observations whose outcome is known by the window's end, with ``target__<name>``."""
    from models.targets import Table

    lake = Lake.of(settings)
    tables = {}
    for name in spec.target.datasets:
        path = profile.table(Layer.CLEAN, name)
        tables[name] = Table(profile.dataset(name), lake.scan(path, (versions or {}).get(path)))
    return spec.target.attach(observed.rows, observed.entity, tables, window.end)


def gauges(
    spec: ModelSpec,
    profile: SourceProfile,
    window: Window,
    settings: Settings,
    versions: Mapping[str, int] | None = None,
) -> dict[str, tuple[Dataset, pl.DataFrame]]:
    """Clean telemetry of the window, as it was measured: what sensors and exporters did shows here first."""
    import polars as pl

    from feature_repo.datasets import DatasetKind

    lake, found = Lake.of(settings), {}
    for name in spec.datasets:
        dataset = profile.dataset(name)
        path = profile.table(Layer.CLEAN, name)
        if dataset.kind is not DatasetKind.TELEMETRY or not lake.exists(path):
            continue
        rows = lake.scan(path, (versions or {}).get(path)).filter(
            pl.col("day").is_between(window.start.date(), window.end.date()),
            pl.col(dataset.event_time).is_between(window.start, window.end, closed="right"),
        )
        numbers = [column.name for column in dataset.columns if column.role.value == "gauge"]
        found[name] = dataset, rows.select(dataset.entity, dataset.event_time, *numbers).collect()
    return found


def _thinned(grid: pl.DataFrame, entity: str) -> tuple[pl.DataFrame, float]:
    """Whole entities, so that each one's course stays whole; the same ones each time."""
    import polars as pl

    if grid.height <= MOST_ROWS:
        return grid, 1.0
    names = grid[entity].unique().sort()
    kept = max(1, int(len(names) * MOST_ROWS / grid.height))
    order = names.hash(seed=0).arg_sort()[:kept]
    return grid.filter(pl.col(entity).is_in(names.gather(order).implode())), kept / len(names)


def hours_since(start: NDArray[np.datetime64] | pl.Series, first: np.datetime64) -> NDArray[np.int64]:
    """Whole hours from ``first``; an observation at the full hour closes the hour before it."""
    import numpy as np

    times = np.asarray(start).astype("datetime64[us]").astype(np.int64)
    origin = first.astype("datetime64[us]").astype(np.int64)
    hours: NDArray[np.int64] = (times - origin - 1) // 3_600_000_000
    return hours
