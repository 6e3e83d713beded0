"""What was really answered, beside what came of it and beside the features that the offline store has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.adapters.lake import Lake
from pipelines.errors import LakeError
from pipelines.references import Layer, Window

FEATURE = "feature__"

if TYPE_CHECKING:
    from datetime import datetime

    import polars as pl

    from models.base import Answers, Observations
    from models.specs import ModelSpec
    from pipelines.settings import Settings
    from pipelines.sources.profile import SourceProfile

#: Served rows whose features are compared with the offline ones.
COMPARED = 2_000
#: Fewer rows say nothing: one that came late may be all the difference.
LEAST = 50
#: Share of rows that may differ: an online row may be replaced between the two looks.
_MOST_DIFFERENT = 0.02
_RELATIVE = 1e-6


@dataclass(frozen=True)
class Labelled:
    """Served predictions of one version whose truth is known.

    Attributes:
        duplicates, contradictions: Of labels that came through the door.
    """

    part: Observations
    answers: Answers
    duplicates: int
    contradictions: int


def predictions(
    registered_name: str, version: str, window: Window, settings: Settings
) -> pl.DataFrame | None:
    """Answers of the version in production; None: there is no log."""
    import polars as pl

    from pipelines.predictions import table

    lake = Lake.of(settings)
    if registered_name not in table.models(lake):
        return None
    rows = table.scan(lake, registered_name, window.start, window.end)
    return rows.filter(pl.col("version") == version, pl.col("alias") == "production").collect()


def labelled(
    rows: pl.DataFrame,
    registered_name: str,
    spec: ModelSpec,
    profile: SourceProfile,
    entity: str,
    window: Window,
    settings: Settings,
) -> Labelled | None:
    """Join truths to served predictions: those that came through the door, else those that the telemetry tells.

    Args:
        rows: From :func:`predictions`.
        entity: Name of the entity's column.
        window: Truths are known up to its end.
    """
    import polars as pl

    from models.targets import PREFIX
    from pipelines.monitor import label_door
    from pipelines.monitor.labels import joined, resolve

    lake, names = Lake.of(settings), spec.target.names
    told = _told(rows, spec, profile, entity, window, lake)
    duplicates = contradictions = 0
    if lake.exists(label_door.table_of(registered_name)):
        said = resolve(lake.scan(label_door.table_of(registered_name)).collect())
        duplicates, contradictions = said.duplicates, said.contradictions
        for name in names:
            by_door = joined(rows.select("prediction_id", "entity", "event_time"), said.rows, name)
            told = told.with_columns(
                pl.coalesce(by_door[f"{PREFIX}{name}"], pl.col(f"{PREFIX}{name}")).alias(f"{PREFIX}{name}")
            )
    return _judged(told, names, duplicates, contradictions)


def late(
    registered_name: str,
    version: str,
    spec: ModelSpec,
    before: datetime,
    seen: int | None,
    settings: Settings,
) -> tuple[Labelled | None, int | None]:
    """Answers from before a time whose truth came through the door since it was last looked at.

    Args:
        seen: Version of the table of labels at that look; None, or one that is kept no more: all labels are new.

    Returns:
        None where there are none, and the version of the table of labels now; None: there is no such table.
    """
    import polars as pl

    from pipelines.monitor import label_door
    from pipelines.monitor.labels import joined, resolve
    from pipelines.predictions import table

    lake, path = Lake.of(settings), label_door.table_of(registered_name)
    if not lake.exists(path):
        return None, None
    newest = lake.version(path)
    if newest == seen or registered_name not in table.models(lake):
        return None, newest
    said = lake.scan(path, newest).collect()
    new = _since(said, path, seen, lake)
    answered = table.scan(lake, registered_name, end=before).filter(
        pl.col("version") == version, pl.col("alias") == "production"
    )
    rows = pl.concat(
        answered.join(new.lazy().select(key).drop_nulls().unique(), on=key, how="semi")
        for key in (["prediction_id"], ["entity", "event_time"])
    )
    found = rows.unique("prediction_id").sort("answered_at", "prediction_id").collect()
    resolved = resolve(said)
    for name in spec.target.names:
        found = joined(found, resolved.rows, name)
    return _judged(found, spec.target.names, resolved.duplicates, resolved.contradictions), newest


def _since(said: pl.DataFrame, path: str, seen: int | None, lake: Lake) -> pl.DataFrame:
    """Labels that an older version of the table does not have."""
    import polars as pl

    if seen is None:
        return said
    try:
        known = lake.scan(path, seen).collect()
    # Vacuumed, as a version or by its files: nobody can tell any more which are new.
    except (LakeError, OSError, pl.exceptions.ComputeError):
        return said
    return said.join(known, on=said.columns, how="anti", nulls_equal=True)


def _judged(
    told: pl.DataFrame, names: tuple[str, ...], duplicates: int, contradictions: int
) -> Labelled | None:
    """Rows of which each target is known; None: there are none."""
    import numpy as np
    import polars as pl

    from models.base import Observations
    from models.targets import PREFIX

    known = told.filter(pl.all_horizontal(pl.col(f"{PREFIX}{name}").is_finite() for name in names))
    if not known.height:
        return None
    columns = {name: known[name].to_numpy() for name in known.columns if name.startswith("output__")}
    part = Observations(
        {},
        {name: known[f"{PREFIX}{name}"].cast(pl.Float64).to_numpy() for name in names},
        np.ones(known.height),
        known["entity"].fill_null("").to_numpy(),
        known["answered_at"].dt.replace_time_zone(None).to_numpy(),
    )
    answers = {name.removeprefix("output__"): values for name, values in columns.items()}
    return Labelled(part, answers, duplicates, contradictions)


def _told(
    rows: pl.DataFrame, spec: ModelSpec, profile: SourceProfile, entity: str, window: Window, lake: Lake
) -> pl.DataFrame:
    """Rows with the targets that telemetry and events tell of their entity and time; null where they do not."""
    import polars as pl

    from models.targets import PREFIX, Table

    wanted = [f"{PREFIX}{name}" for name in spec.target.names]
    about = rows.filter(pl.col("entity").is_not_null(), pl.col("event_time").is_not_null())
    asked = about.select(pl.col("entity").alias(entity), "event_time").unique()
    tables = {}
    for name in spec.target.datasets:
        path = profile.table(Layer.CLEAN, name)
        if not lake.exists(path):
            return rows.with_columns(pl.lit(None, pl.Float64).alias(name) for name in wanted)
        tables[name] = Table(profile.dataset(name), lake.scan(path))
    if not asked.height or getattr(spec.target, "steps", 1) > 1:
        return rows.with_columns(pl.lit(None, pl.Float64).alias(name) for name in wanted)
    truths = spec.target.attach(asked, entity, tables, window.end)
    return rows.join(
        truths.select(pl.col(entity).alias("entity"), "event_time", *wanted),
        on=["entity", "event_time"],
        how="left",
        maintain_order="left",
    )


def skew(
    rows: pl.DataFrame, spec: ModelSpec, profile: SourceProfile, entity: str, settings: Settings
) -> tuple[str, ...]:
    """Features that were served otherwise than the offline store has them for the same entity and time.

    Between the end of a step of the grid and the next run of the features stage the online store rightly has the row
    of the step before: what is as it was one step earlier is no skew. Telemetry that came late moves means a little after they
    were served, so that numbers differ where they do so by ``drift.min_effect`` standard deviations.

    Returns:
        Each with the share of rows that differ.
    """
    import polars as pl

    from pipelines.adapters.feature_store import FeatureStore

    about = rows.filter(pl.col("entity").is_not_null(), pl.col("event_time").is_not_null())
    if about.height < LEAST:
        return ()
    some = about.sample(min(COMPARED, about.height), seed=0)
    keys = some.select(pl.col("entity").alias(entity), "event_time")
    store, step = FeatureStore(profile, settings), profile.grid(spec.grid).every
    looks = [store.historical(keys, grid=spec.grid)]
    if step is not None:
        looks.append(store.historical(keys.with_columns(pl.col("event_time") - step), grid=spec.grid))
    found = []
    for column in (name for name in some.columns if name.startswith(FEATURE)):
        name = column.removeprefix(FEATURE)
        if name not in looks[0].columns or some[column].dtype == pl.Null:
            continue
        same = pl.select(
            pl.any_horizontal(
                _same(some[column], look[name], spec.monitor.drift.min_effect) for look in looks
            )
        ).to_series()
        different = 1 - float(same.mean() or 0.0)  # type: ignore[arg-type]
        if different > _MOST_DIFFERENT:
            found.append(
                f"{name}: {different:.0%} of {some.height} served rows differ from the offline store"
            )
    return tuple(found)


def _same(served: pl.Series, stored: pl.Series, effect: float) -> pl.Series:
    """Row by row; missing equals missing, and of numbers so many standard deviations do not count, nor last digits."""
    import polars as pl

    pair = pl.DataFrame({"a": served, "b": stored})
    if served.dtype.is_numeric() and stored.dtype.is_numeric():
        pair = pair.select(pl.col("a", "b").cast(pl.Float64).fill_nan(None))
        digits = pl.max_horizontal(pl.col("a").abs(), pl.col("b").abs()) * _RELATIVE + 1e-12
        reach = pl.max_horizontal(digits, pl.col("b").std().fill_null(0.0) * effect)
        equal = (pl.col("a") - pl.col("b")).abs() <= reach
    elif served.dtype == stored.dtype:
        equal = pl.col("a") == pl.col("b")
    else:  # another type is another value, unless both are missing
        equal = pl.lit(value=False)
    both_missing = pl.col("a").is_null() & pl.col("b").is_null()
    return pair.select(same=equal.fill_null(value=False) | both_missing)["same"]
