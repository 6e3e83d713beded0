"""Feast's offline store over Delta tables, joined with Polars.

Feast finds these classes by the path in its configuration. Why not one of Feast's own: the default
one drops label rows of equal entity and time and takes gigabytes for what fits in megabytes, and
none of them reads a pinned version of a Delta table.

Times cross the door to Feast as whole microseconds since the Unix epoch (Int64), because Feast's
own timestamp type keeps whole seconds in the online store.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import feature_repo.feast_import  # noqa: F401 - before all else of Feast

# isort: split
import pandas as pd
import polars as pl
import pyarrow as pa
from feast.data_source import DataSource
from feast.feature_view import FeatureView
from feast.infra.offline_stores import offline_utils
from feast.infra.offline_stores.offline_store import OfflineStore, RetrievalJob, RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.protos.feast.core.DataSource_pb2 import DataSource as DataSourceProto
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from feast.type_map import pa_to_feast_value_type
from feast.value_type import ValueType
from pydantic import Field, StrictStr

from feature_repo.delta import ReadableDeltaTable

_ROW = "__row"
_AT = "__at"


class DeltaSource(DataSource):
    """A Delta table, named by its path below the lake; where the lake is, the store's configuration says.

    Args:
        table: Path below the lake, e.g. ``features/simulated/telemetry_windows``.
        timestamp_field: Column of event times (UTC).
        created_timestamp_column: Column that decides between rows of equal entity and event time:
            the largest counts. Empty: the row that the table holds last.
        date_partition_column: Column with the date of the event time, by which files are skipped.
    """

    def __init__(
        self,
        *,
        table: str,
        name: str = "",
        timestamp_field: str = "event_time",
        created_timestamp_column: str = "",
        date_partition_column: str = "",
        field_mapping: dict[str, str] | None = None,
        description: str = "",
        tags: dict[str, str] | None = None,
        owner: str = "",
    ) -> None:
        super().__init__(
            name=name or table.replace("/", "."),
            timestamp_field=timestamp_field,
            created_timestamp_column=created_timestamp_column,
            date_partition_column=date_partition_column,
            field_mapping=field_mapping,
            description=description,
            tags=tags,
            owner=owner,
        )
        self.table = table

    def __hash__(self) -> int:
        return hash((self.name, self.table))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DeltaSource) and super().__eq__(other) and self.table == other.table

    @staticmethod
    def from_proto(data_source: DataSourceProto) -> DeltaSource:
        return DeltaSource(
            table=json.loads(data_source.custom_options.configuration)["table"],
            name=data_source.name,
            timestamp_field=data_source.timestamp_field,
            created_timestamp_column=data_source.created_timestamp_column,
            date_partition_column=data_source.date_partition_column,
            field_mapping=dict(data_source.field_mapping),
            description=data_source.description,
            tags=dict(data_source.tags),
            owner=data_source.owner,
        )

    def _to_proto_impl(self) -> DataSourceProto:
        return DataSourceProto(
            name=self.name,
            type=DataSourceProto.CUSTOM_SOURCE,
            data_source_class_type=f"{__name__}.{type(self).__name__}",
            field_mapping=self.field_mapping,
            custom_options=DataSourceProto.CustomSourceOptions(
                configuration=json.dumps({"table": self.table}).encode()
            ),
            timestamp_field=self.timestamp_field,
            created_timestamp_column=self.created_timestamp_column,
            date_partition_column=self.date_partition_column,
            description=self.description,
            tags=self.tags,
            owner=self.owner,
        )

    def source_type(self) -> DataSourceProto.SourceType.ValueType:
        return DataSourceProto.CUSTOM_SOURCE

    def validate(self, config: RepoConfig) -> None:
        """Nothing to check: definitions may be applied before the first run makes the table."""

    @staticmethod
    def source_datatype_to_feast_value_type() -> Callable[[str], ValueType]:
        convert: Callable[[str], ValueType] = pa_to_feast_value_type
        return convert

    def get_table_column_names_and_types(self, config: RepoConfig) -> Iterable[tuple[str, str]]:
        schema = pa.schema(_open(config, self).schema().to_arrow())
        return [(field.name, str(field.type)) for field in schema]


class DeltaOfflineStoreConfig(FeastConfigBaseModel):
    """Where the lake is, and which versions of its tables to read."""

    type: StrictStr = "feature_repo.offline_store.DeltaOfflineStore"
    lake_url: StrictStr = Field(description="Folder or s3://bucket/prefix.")
    storage_options: dict[str, str] = Field(default_factory=dict, description="As deltalake takes them.")
    versions: dict[str, int] = Field(
        default_factory=dict, description="Version to read per table; the newest of those not named."
    )


class DeltaRetrievalJob(RetrievalJob):
    """A result that is computed when it is asked for."""

    def __init__(
        self,
        compute: Callable[[], pl.DataFrame],
        full_feature_names: bool,
        metadata: RetrievalMetadata | None = None,
    ) -> None:
        self._compute = compute
        self._full_feature_names = full_feature_names
        self._metadata = metadata

    def to_polars(self) -> pl.DataFrame:
        return self._compute()

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self._compute().rechunk().to_arrow()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._compute().to_pandas()

    @property
    def full_feature_names(self) -> bool:
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        return []

    @property
    def metadata(self) -> RetrievalMetadata | None:
        return self._metadata


class DeltaOfflineStore(OfflineStore):
    """Point-in-time joins and newest rows, over Delta tables."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        **_: Any,
    ) -> RetrievalJob:
        """Each row of ``entity_df`` once, in its order, with the values that were true at its time.

        A value is that of the newest row at or before the time, unless that row is older than the
        view's TTL (a row of exactly that age still counts). Of rows of equal time the one written
        last counts.
        """
        if not isinstance(entity_df, pd.DataFrame):
            raise TypeError(
                f"entity_df is a {type(entity_df).__name__}: give a pandas data frame, this store has no SQL"
            )
        time = offline_utils.infer_event_timestamp_from_entity_df(dict(entity_df.dtypes.items()))
        observations = _observations(entity_df, time)

        def compute() -> pl.DataFrame:
            joined = observations
            for view in feature_views:
                joined = _join_view(config, joined, view, feature_refs, time, full_feature_names)
            return joined.sort(_ROW).drop(_ROW)

        begin, end = _span(observations[time])
        metadata = RetrievalMetadata(
            features=feature_refs,
            keys=[column for column in entity_df.columns if column != time],
            min_event_timestamp=begin,
            max_event_timestamp=end,
        )
        return DeltaRetrievalJob(compute, full_feature_names, metadata)

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        """The newest row of each entity with an event time in [start_date, end_date]."""
        columns = _columns(join_key_columns, feature_name_columns, timestamp_field, created_timestamp_column)
        order = [timestamp_field, *([created_timestamp_column] if created_timestamp_column else [])]

        def compute() -> pl.DataFrame:
            rows = _whole_microseconds(_scan(config, data_source, start_date, end_date), feature_name_columns)
            ordered = rows.select(columns).sort(*order, maintain_order=True)
            return ordered.unique(join_key_columns, keep="last", maintain_order=True).collect()

        return DeltaRetrievalJob(compute, full_feature_names=False)

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """All rows with an event time in [start_date, end_date]."""
        columns = _columns(join_key_columns, feature_name_columns, timestamp_field, created_timestamp_column)

        def compute() -> pl.DataFrame:
            rows = _whole_microseconds(_scan(config, data_source, start_date, end_date), feature_name_columns)
            return rows.select(columns).collect()

        return DeltaRetrievalJob(compute, full_feature_names=False)


def point_in_time_join(
    left: pl.DataFrame,
    right: pl.LazyFrame,
    *,
    by: Mapping[str, str],
    time: str,
    right_time: str,
    order: Iterable[str],
    features: Mapping[str, str],
    ttl: timedelta | None,
) -> pl.DataFrame:
    """Left rows, each once and in no promised order, with the features that were true at their time.

    Args:
        left: Has the key columns and ``time`` (UTC).
        right: Feature rows with ``right_time`` (UTC).
        by: Key columns: name in ``right`` to name in ``left``.
        order: Columns of ``right`` that decide, after ``right_time``, which of the rows of equal
            key and time counts: the last.
        features: Columns to take: name in ``right`` to name in the result.
        ttl: Greatest age; None: any.
    """
    keys = list(by.values())
    rows = (
        right.sort(right_time, *order, maintain_order=True)
        .select(
            *(pl.col(theirs).alias(ours) for theirs, ours in by.items()),
            pl.col(right_time).alias(_AT),
            *(pl.col(name).alias(alias) for name, alias in features.items()),
        )
        .unique([*keys, _AT], keep="last", maintain_order=True)
    )
    joined = (
        left.lazy()
        .sort(time)
        .join_asof(rows, left_on=time, right_on=_AT, by=keys, check_sortedness=False, coalesce=False)
    )
    if ttl is not None:
        fresh = pl.col(time) - pl.col(_AT) <= ttl
        joined = joined.with_columns(
            pl.when(fresh).then(pl.col(alias)).alias(alias) for alias in features.values()
        )
    return joined.drop(_AT).collect()


def _join_view(
    config: RepoConfig,
    left: pl.DataFrame,
    view: FeatureView,
    feature_refs: list[str],
    time: str,
    full_feature_names: bool,
) -> pl.DataFrame:
    source, prefix = view.batch_source, view.projection.name_to_use()
    stored = {renamed: name for name, renamed in source.field_mapping.items()}
    wanted = [ref.split(":", 1)[1] for ref in feature_refs if ref.split(":", 1)[0] == prefix]
    by = {
        stored.get(column.name, column.name): view.projection.join_key_map.get(column.name, column.name)
        for column in view.entity_columns
    }
    ttl = view.ttl or None  # Feast writes "for ever" as zero
    begin, end = _span(left[time])
    rows = _scan(config, source, begin - ttl if begin and ttl else None, end)
    created = source.created_timestamp_column
    features = {
        stored.get(name, name): f"{prefix}__{name}" if full_feature_names else name for name in wanted
    }
    return point_in_time_join(
        left,
        _whole_microseconds(rows, features),
        by=by,
        time=time,
        right_time=source.timestamp_field,
        order=[created] if created else [],
        features=features,
        ttl=ttl,
    )


def _observations(entity_df: pd.DataFrame, time: str) -> pl.DataFrame:
    frame = pl.from_pandas(entity_df)
    if frame.schema[time] == pl.String:
        frame = frame.with_columns(pl.col(time).str.to_datetime(time_unit="us", time_zone="UTC"))
    dtype = frame.schema[time]
    assert isinstance(dtype, pl.Datetime), f"{time} holds {dtype}, not times"
    moments = pl.col(time).dt.replace_time_zone("UTC") if dtype.time_zone is None else pl.col(time)
    return frame.with_columns(moments.dt.convert_time_zone("UTC").dt.cast_time_unit("us")).with_row_index(
        _ROW
    )


def _open(config: RepoConfig, source: DataSource) -> ReadableDeltaTable:
    store = config.offline_store
    return ReadableDeltaTable(
        f"{store.lake_url}/{source.table}",
        version=store.versions.get(source.table),
        storage_options=store.storage_options or None,
    )


def _scan(
    config: RepoConfig, source: DataSource, begin: datetime | None, end: datetime | None
) -> pl.LazyFrame:
    rows = pl.scan_delta(_open(config, source))
    for bound, keep in ((begin, pl.Expr.ge), (end, pl.Expr.le)):
        if bound is None:
            continue
        moment = bound.replace(tzinfo=UTC) if bound.tzinfo is None else bound.astimezone(UTC)
        rows = rows.filter(keep(pl.col(source.timestamp_field), moment))
        if source.date_partition_column:
            rows = rows.filter(keep(pl.col(source.date_partition_column), moment.date()))
    return rows


def _span(times: pl.Series) -> tuple[Any, Any]:
    return times.min(), times.max()


def _columns(keys: list[str], features: list[str], time: str, created: str | None) -> list[str]:
    return list(dict.fromkeys([*keys, *features, time, *([created] if created else [])]))


def _whole_microseconds(rows: pl.LazyFrame, features: Iterable[str]) -> pl.LazyFrame:
    """Features that are times, as Feast gets them: Int64 microseconds since the Unix epoch."""
    schema = rows.collect_schema()
    times = [name for name in features if isinstance(schema[name], pl.Datetime)]
    return rows.with_columns(pl.col(name).dt.timestamp("us") for name in times)
