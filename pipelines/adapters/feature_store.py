"""The feature store of a source: definitions, training retrieval, online values. Feast does the work.

Feast takes seconds to import, so it is imported at the first use.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from feature_repo.definitions import (
    EVENT_TIME,
    FeatureField,
    ViewDefinition,
    entity_fields,
    feature_views,
    grid_views,
)
from models.catalogue import CATALOGUE
from pipelines.errors import FeatureError, SettingsError
from pipelines.references import Layer

if TYPE_CHECKING:
    import feast
    import polars as pl

    from models.specs import ModelSpec
    from pipelines.settings import Settings
    from pipelines.sources.profile import SourceProfile

_FEAST_TIME = "event_timestamp"
_REGISTRY_CACHE_SECONDS = 60
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def all_views(profile: SourceProfile) -> tuple[ViewDefinition, ...]:
    """The feature views of a source, of all its grids.

    Raises:
        FeatureError: two of its columns would make features of one name, or a grid names what is not there.
    """
    try:
        return feature_views(profile.datasets, profile.features, profile.grid_name(None))
    except ValueError as error:
        raise FeatureError(f"profile {profile.name}: {error}") from error


def views(profile: SourceProfile, grid: str | None = None) -> tuple[ViewDefinition, ...]:
    """The feature views that a model on one grid takes, inventory included; by default on the default grid.

    Raises:
        FeatureError: as :func:`all_views`.
        SourceError: the source has no such grid.
    """
    profile.grid(grid)
    return grid_views(all_views(profile), profile.grid_name(grid))


def fields(profile: SourceProfile, grid: str | None = None) -> tuple[FeatureField, ...]:
    """The features of a grid's entities, in the order in which models take them; by default of the default grid."""
    return entity_fields(views(profile, grid))


STALE_VIEWS = "stale_views"
"""Key under which :meth:`FeatureStore.online` names the views whose row is too old, or too young."""


def age_name(view: str) -> str:
    """Key under which :meth:`FeatureStore.online` gives the age of a view's row, in hours."""
    return f"{view}__age_hours"


class FeatureStore:
    """Features of one source."""

    def __init__(self, profile: SourceProfile, settings: Settings) -> None:
        self._profile = profile
        self._settings = settings
        self.views = all_views(profile)

    def views_of(self, grids: Iterable[str | None] | None = None) -> tuple[ViewDefinition, ...]:
        """The views of these grids (None among them: the first) with their inventory; None: all views.

        Raises:
            SourceError: the source has no such grid.
        """
        if grids is None:
            return self.views
        names = [self._profile.grid_name(grid) for grid in grids]
        for name in names:
            self._profile.grid(name)
        wanted = {view.name for name in names for view in grid_views(self.views, name)}
        return tuple(view for view in self.views if view.name in wanted)

    def fields(self, grid: str | None = None) -> tuple[FeatureField, ...]:
        """As :func:`fields`."""
        return entity_fields(self.views_of([grid]))

    @property
    def entity(self) -> str:
        """As :meth:`entity_of` the default grid."""
        return self.entity_of()

    def entity_of(self, grid: str | None = None) -> str:
        """Column that names the entity of :meth:`fields`.

        Raises:
            FeatureError: the grid has no features.
        """
        chosen = self.views_of([grid])
        if not chosen:
            raise FeatureError(
                f"profile {self._profile.name} has no features on grid {self._profile.grid_name(grid)}: "
                "it has no telemetry with gauges or counters"
            )
        return chosen[0].entity

    def apply(self) -> None:
        """Write the definitions to the registry and make the online tables. Again: changes nothing."""
        from feature_repo.feast_objects import feast_objects

        chosen = {name: self._views_for(self._profile.spec_of(spec)) for name, spec in CATALOGUE.items()}
        self._store.apply(feast_objects(self.views, chosen, self._table))

    def historical(
        self,
        observations: pl.DataFrame,
        versions: Mapping[str, int] | None = None,
        grid: str | None = None,
    ) -> pl.DataFrame:
        """The features of each observation as they were known at its time.

        Args:
            observations: Columns of the entity and ``event_time`` (UTC); others are passed through.
            versions: Version to read of each view's table, by view; the newest of those not named.
            grid: Whose features, with those of inventory; None: the default grid's.

        Returns:
            The observations, each once and in their order, and one column per feature: Float64,
            Int64 or String; null where there was no value, or only one older than the view's TTL.

        Raises:
            FeatureError: a column is missing, or a feature table cannot be read.
        """
        import polars as pl
        from deltalake.exceptions import DeltaError, TableNotFoundError

        from feature_repo.transformations import elapsed

        known = self.views_of([grid])
        entity = self._entity_among(observations.columns, known)
        chosen = entity_fields(known, entity)
        if clash := sorted({field.name for field in chosen} & set(observations.columns)):
            raise FeatureError(f"observations have columns named as features: {clash}; drop or rename them")
        pinned = {self._table(view): version for view, version in (versions or {}).items()}
        store = self._open(pinned) if pinned else self._store
        keys = observations.select(entity, pl.col(EVENT_TIME).alias(_FEAST_TIME))
        try:
            table = store.get_historical_features(
                entity_df=keys.to_pandas(), features=_references(chosen)
            ).to_arrow()
        except (TableNotFoundError, DeltaError) as error:
            raise FeatureError(
                f"the feature tables of {self._profile.name} cannot be read: {error}; has the features stage run?"
            ) from error
        complete = elapsed(_as_times(pl.DataFrame(table), chosen), chosen, _FEAST_TIME)
        return observations.hstack(complete.select(field.name for field in chosen))

    def publish(self, end: datetime, grids: Iterable[str | None] | None = None) -> int:
        """Write the newest row of each entity with an event time up to ``end`` to the online store.

        Rows that would be missing for their age at ``end`` are left out. An older row never
        overwrites a newer one, so windows may be published in any order, and again.

        Args:
            grids: Only the views of these, as :meth:`views_of` chooses them.

        Returns:
            Rows written or found there already, over all the views.
        """
        return sum(self._publish(view, end) for view in self.views_of(grids))

    def online(
        self, entities: Sequence[str], at: datetime, grid: str | None = None
    ) -> list[dict[str, object] | None]:
        """The features of each entity as a model on the grid is to see them at ``at``; None: the default grid.

        Returns:
            Per entity, in order: each feature by name (float, int, str or None), and per view the
            age of its row in hours under :func:`age_name` (None: no row). Where a row is older
            than the view's TTL, or younger than ``at``, its features are None, its age is
            still given, and the view is named under ``STALE_VIEWS``. None for an entity of which
            the store knows nothing.

        Raises:
            FeatureError: ``at`` is not in UTC, or the definitions were never applied.
        """
        if at.utcoffset() != timedelta(0):
            raise FeatureError(f"at={at.isoformat()} is not in UTC: write it with +00:00")
        if not entities:
            return []
        import polars as pl

        from feature_repo.transformations import elapsed

        entity = self.entity_of(grid)
        known = [view for view in self.views_of([grid]) if view.entity == entity]
        moments, stored = self._stored_online(known, entity, entities)
        ages = {
            view.name: [None if moment is None else at - moment for moment in moments[view.name]]
            for view in known
        }
        stale: list[list[str]] = [[] for _ in entities]
        for view in known:
            usable = [_is_usable(age, view.ttl) for age in ages[view.name]]
            for row, age in enumerate(ages[view.name]):
                if age is not None and not usable[row]:
                    stale[row].append(view.name)
            for column in view.stored:
                values = stored[column.name]
                stored[column.name] = [
                    value if use else None for value, use in zip(values, usable, strict=True)
                ]
        chosen = self.fields(grid)
        times = {field.at_column: stored[field.at_column] for field in chosen if field.at_column}
        frame = pl.DataFrame(times, schema=dict.fromkeys(times, pl.Int64)).with_columns(
            pl.lit(at).alias(_FEAST_TIME)
        )
        hours = elapsed(_as_times(frame, chosen), chosen, _FEAST_TIME)
        columns: dict[str, list[Any]] = {
            field.name: hours[field.name].to_list() if field.at_column else stored[field.name]
            for field in chosen
        }
        for name, spans in ages.items():
            columns[age_name(name)] = [None if span is None else span / timedelta(hours=1) for span in spans]
        columns[STALE_VIEWS] = stale
        return [
            {name: values[row] for name, values in columns.items()}
            if any(ages[view.name][row] is not None for view in known)
            else None
            for row in range(len(entities))
        ]

    @cached_property
    def _store(self) -> feast.FeatureStore:
        return self._open({})

    def _open(self, versions: Mapping[str, int]) -> feast.FeatureStore:
        from feature_repo.feast_import import feast

        # isort: split
        from feast.repo_config import RepoConfig

        lake = self._settings.lake
        return feast.FeatureStore(
            config=RepoConfig(
                project=self._profile.name,
                provider="local",
                registry={
                    "registry_type": "sql",
                    "path": _registry_path(self._settings.feature_registry),
                    "cache_ttl_seconds": _REGISTRY_CACHE_SECONDS,
                },
                offline_store={
                    "type": "feature_repo.offline_store.DeltaOfflineStore",
                    "lake_url": lake.rstrip("/"),
                    "storage_options": self._settings.s3_storage_options,
                    "versions": dict(versions),
                },
                online_store=online_store_config(self._settings.online_store),
                entity_key_serialization_version=3,
            )
        )

    def _views_for(self, spec: ModelSpec) -> tuple[str, ...]:
        """Names of the views that a model takes; none where the source lacks its grid."""
        grid = self._profile.grid_name(spec.grid)
        if grid not in self._profile.features:
            return ()
        return tuple(view.name for view in grid_views(self.views, grid) if view.dataset in spec.datasets)

    def _publish(self, view: ViewDefinition, end: datetime) -> int:
        from feature_repo.offline_store import DeltaOfflineStore

        store = self._store
        feature_view = store.get_feature_view(view.name)
        newest: pl.DataFrame = DeltaOfflineStore.pull_latest_from_table_or_query(
            config=store.config,
            data_source=feature_view.batch_source,
            join_key_columns=[view.entity],
            feature_name_columns=[column.name for column in view.stored],
            timestamp_field=EVENT_TIME,
            created_timestamp_column=None,
            start_date=_EPOCH if view.ttl is None else end - view.ttl,
            end_date=end,
        ).to_polars()
        # Past Feast's own way, which makes an object of each value, and drops rows of which all values
        # are missing, so that older values would go on being served.
        store.provider.online_store.write_frame(store.config, feature_view, newest, view.entity, EVENT_TIME)
        return newest.height

    def _stored_online(
        self, known: Sequence[ViewDefinition], entity: str, entities: Sequence[str]
    ) -> tuple[dict[str, list[datetime | None]], dict[str, list[object]]]:
        """Per view the times of the rows, and per stored column the values; both in order of ``entities``."""
        from feast.errors import FeatureViewNotFoundException

        try:
            answer = self._store.get_online_features(
                features=[f"{view.name}:{column.name}" for view in known for column in view.stored],
                entity_rows={entity: list(entities)},
            ).proto
        except (FeatureViewNotFoundException, sqlite3.OperationalError) as error:
            raise FeatureError(
                f"the online store has no features of {self._profile.name} yet ({error}): run the features stage"
            ) from error
        vectors = dict(zip(answer.metadata.feature_names.val, answer.results, strict=True))
        moments = {
            view.name: [_moment(stamp) for stamp in vectors[view.stored[0].name].event_timestamps]
            for view in known
        }
        columns = [column.name for view in known for column in view.stored]
        return moments, {name: [_value(value) for value in vectors[name].values] for name in columns}

    def _table(self, view: str) -> str:
        return self._profile.table(Layer.FEATURES, view)

    def _entity_among(self, columns: Sequence[str], known: Sequence[ViewDefinition]) -> str:
        entities = list(dict.fromkeys(view.entity for view in known))
        found = [name for name in entities if name in columns]
        if EVENT_TIME not in columns or not found:
            raise FeatureError(
                f"observations have columns {list(columns)}: they need {EVENT_TIME!r} and one of the entities {entities}"
            )
        return found[0]


def _references(chosen: Iterable[FeatureField]) -> list[str]:
    return [f"{field.view}:{field.at_column or field.name}" for field in chosen]


def _as_times(frame: pl.DataFrame, chosen: Iterable[FeatureField]) -> pl.DataFrame:
    """Stored times as they come from Feast, Int64 microseconds, made times again."""
    import polars as pl

    return frame.with_columns(
        pl.from_epoch(field.at_column, time_unit="us").dt.replace_time_zone("UTC")
        for field in chosen
        if field.at_column
    )


def _is_usable(age: timedelta | None, ttl: timedelta | None) -> bool:
    return age is not None and age >= timedelta(0) and (ttl is None or age <= ttl)


def _moment(stamp: Any) -> datetime | None:
    """Feast writes a missing time as zero."""
    microseconds = stamp.ToMicroseconds()
    return _EPOCH + timedelta(microseconds=microseconds) if microseconds else None


def _value(value: Any) -> object:
    kind = value.WhichOneof("val")
    content = None if kind is None else getattr(value, kind)
    # Feast carries a missing number as NaN; features themselves are never NaN.
    return None if isinstance(content, float) and math.isnan(content) else content


def _registry_path(url: str) -> str:
    """The registry's URL as Feast is to see it; makes the folder of a SQLite file."""
    if url.startswith("sqlite:///"):
        Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    # Feast would take psycopg 3, which is not installed.
    return (
        url.replace("postgresql://", "postgresql+psycopg2://", 1) if url.startswith("postgresql://") else url
    )


def online_store_config(url: str) -> dict[str, str]:
    """Feast's configuration of the online store.

    Raises:
        SettingsError: the URL is neither ``sqlite:///path`` nor ``redis://…``.
    """
    if url.startswith("sqlite:///"):
        return {
            "type": "feature_repo.online_store.NewestSqliteOnlineStore",
            "path": url.removeprefix("sqlite:///"),
        }
    parts = urlsplit(url)
    if parts.scheme not in ("redis", "rediss"):
        shown = url.split("@")[-1]
        raise SettingsError(
            f"HEADRACE_ONLINE_STORE_URL …{shown}: give redis://host:port/db or sqlite:///path"
        )
    options = {
        "db": parts.path.strip("/") or "0",
        "username": unquote(parts.username) if parts.username else None,
        "password": unquote(parts.password) if parts.password else None,
        "ssl": "true" if parts.scheme == "rediss" else None,
    }
    if "," in f"{options['username']}{options['password']}":
        raise SettingsError(
            "HEADRACE_ONLINE_STORE_URL: Feast cannot take a Redis user or password with a comma"
        )
    pairs = [f"{name}={value}" for name, value in options.items() if value is not None]
    return {
        "type": "feature_repo.online_store.NewestRedisOnlineStore",
        "connection_string": ",".join([f"{parts.hostname}:{parts.port or 6379}", *pairs]),
    }
