"""Feast's online stores, made safe against stale writes.

Both of these keep, per entity and view, the row of the newest event time; a row of equal time
overwrites, because a recomputed row carries late data. Feast's own SQLite store lets an older row
overwrite a newer one and keeps whole seconds of local time. Feast's own Redis store drops rows of
equal time, and looks before it writes in two steps, between which another writer may come.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import polars as pl

import feature_repo.feast_import  # noqa: F401 - before all else of Feast

# isort: split
from feast.feature_view import FeatureView
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import _mmh3, _redis_key, compute_table_id, compute_versioned_name
from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig, RedisType
from feast.infra.online_stores.sqlite import SqliteOnlineStore, SqliteOnlineStoreConfig
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import RepoConfig
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import StrictStr

from feature_repo import online_values

Rows = list[tuple[EntityKey, dict[str, Value], datetime, datetime | None]]
Progress = Callable[[int], Any] | None
ReadRow = tuple[datetime | None, dict[str, Value] | None]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BUSY_SECONDS = 30
_ROWS_PER_TRANSACTION = 50_000
_KEYS_PER_QUERY = 500  # SQLite bounds the variables of one statement


class NewestSqliteOnlineStoreConfig(SqliteOnlineStoreConfig):
    type: StrictStr = "feature_repo.online_store.NewestSqliteOnlineStore"


class NewestSqliteOnlineStore(SqliteOnlineStore):
    """SQLite, for one machine. Event times are whole microseconds since the Unix epoch."""

    def _get_conn(self, config: RepoConfig) -> sqlite3.Connection:
        if not self._conn:
            Path(self._get_db_path(config)).parent.mkdir(parents=True, exist_ok=True)
            connection: sqlite3.Connection = super()._get_conn(config)
            # The server reads while the features job writes.
            connection.execute(f"PRAGMA busy_timeout = {_BUSY_SECONDS * 1000}")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
        opened: sqlite3.Connection = self._conn
        return opened

    def online_write_batch(
        self, config: RepoConfig, table: FeatureView, data: Rows, progress: Progress
    ) -> None:
        """Write rows in one transaction; a row older than the stored one changes nothing."""
        rows = (
            (key, name, value.SerializeToString(), microseconds)
            for entity, values, moment, _ in data
            for key, microseconds in [(_key(config, entity), _microseconds(moment))]
            for name, value in values.items()
        )
        connection = self._get_conn(config)
        with connection:
            connection.executemany(_upsert(_table(config, table)), rows)
        if progress:
            progress(len(data))

    def write_frame(
        self, config: RepoConfig, table: FeatureView, frame: pl.DataFrame, key: str, time: str
    ) -> None:
        """As :meth:`online_write_batch`, for whole columns.

        Args:
            frame: Columns of the entity (strings, each once), of the event time (UTC) and of features.
            key: Name of the entity's column.
            time: Name of the event time's.
        """
        names = [name for name in frame.columns if name not in (key, time)]
        connection = self._get_conn(config)
        for part in frame.iter_slices(_ROWS_PER_TRANSACTION):
            written = online_values.keys(key, part[key].to_list(), config.entity_key_serialization_version)
            moments = online_values.microseconds(part[time])
            # In the order of the index, which is by key and name.
            order = sorted(range(len(written)), key=written.__getitem__)
            columns = [(name, online_values.values(part[name])) for name in sorted(names)]
            rows = (
                (written[row], name, values[row], moments[row]) for row in order for name, values in columns
            )
            with connection:
                connection.executemany(_upsert(_table(config, table)), rows)

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[ReadRow]:
        keys = [_key(config, entity) for entity in entity_keys]
        wanted = None if requested_features is None else set(requested_features)
        found: dict[bytes, dict[str, Value]] = defaultdict(dict)
        moments: dict[bytes, int] = {}
        for start in range(0, len(keys), _KEYS_PER_QUERY):
            part = keys[start : start + _KEYS_PER_QUERY]
            # "+ 0" takes the number as it is, past the converter that Feast registers for the column.
            cursor = self._get_conn(config).execute(
                f"SELECT entity_key, feature_name, value, event_ts + 0 FROM {_table(config, table)} "
                f"WHERE entity_key IN ({', '.join('?' * len(part))})",
                part,
            )
            for key, name, content, microseconds in cursor:
                if wanted is None or name in wanted:
                    found[key][name] = Value.FromString(content)
                    # A feature that left the view keeps its last time: the row's is the newest.
                    moments[key] = max(microseconds, moments.get(key, microseconds))
        return [(_moment(moments[key]), found[key]) if key in found else (None, None) for key in keys]


class NewestRedisOnlineStoreConfig(RedisOnlineStoreConfig):
    type: StrictStr = "feature_repo.online_store.NewestRedisOnlineStore"


# One step in the server, so that no other writer comes between the look and the write.
_WRITE_IF_NOT_OLDER = """
local stored = redis.call('HGET', KEYS[1], ARGV[1])
if stored and tonumber(stored) > tonumber(ARGV[2]) then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV))
return 1
"""
_ROWS_PER_PIPELINE = 1000
# The same for several entities in one call: ARGV begins with the number of its fields per entity.
_WRITE_MANY_IF_NOT_OLDER = """
local width = tonumber(ARGV[1])
local expiry = tonumber(ARGV[2])
for i, key in ipairs(KEYS) do
  local first = 3 + (i - 1) * width
  local stored = redis.call('HGET', key, ARGV[first])
  if not (stored and tonumber(stored) > tonumber(ARGV[first + 1])) then
    redis.call('HSET', key, unpack(ARGV, first, first + width - 1))
  end
  if expiry > 0 then redis.call('EXPIRE', key, expiry) end
end
return #KEYS
"""
_FIELDS_PER_CALL = (
    4000  # Lua unpacks one entity's at a time; the bound keeps one call below a millisecond or so
)


class NewestRedisOnlineStore(RedisOnlineStore):
    """Redis, for many machines. Laid out as Feast's own, with the event time once more as a number."""

    def online_write_batch(
        self, config: RepoConfig, table: FeatureView, data: Rows, progress: Progress
    ) -> None:
        """Write rows; a row older than the stored one changes nothing."""
        client = self._get_client(config.online_store)
        script = client.register_script(_WRITE_IF_NOT_OLDER)
        view = compute_versioned_name(table, config.registry.enable_online_feature_view_versioning)
        expiry = config.online_store.key_ttl_seconds
        for start in range(0, len(data), _ROWS_PER_PIPELINE):
            with client.pipeline(transaction=False) as pipe:
                for entity, values, moment, _ in data[start : start + _ROWS_PER_PIPELINE]:
                    key = _redis_key(config.project, entity, config.entity_key_serialization_version)
                    fields: list[Any] = [f"_us:{view}", _microseconds(moment)]
                    fields += [f"_ts:{view}", _timestamp(moment).SerializeToString()]
                    for name, value in values.items():
                        fields += [_mmh3(f"{view}:{name}"), value.SerializeToString()]
                    script(keys=[key], args=fields, client=pipe)
                    if expiry:
                        pipe.expire(name=key, time=expiry)
                written = pipe.execute()
            if progress:
                progress(len(written))

    def write_frame(
        self, config: RepoConfig, table: FeatureView, frame: pl.DataFrame, key: str, time: str
    ) -> None:
        """As that of SQLite."""
        client = self._get_client(config.online_store)
        store = config.online_store
        names = [name for name in frame.columns if name not in (key, time)]
        view = compute_versioned_name(table, config.registry.enable_online_feature_view_versioning)
        width = 2 * (2 + len(names))
        # Keys of one call must live on one node: in a cluster they need not.
        per_call = 1 if store.redis_type == RedisType.redis_cluster else max(1, _FIELDS_PER_CALL // width)
        script = client.register_script(_WRITE_MANY_IF_NOT_OLDER)
        project = config.project.encode()
        for part in frame.iter_slices(_ROWS_PER_TRANSACTION):
            entities = online_values.keys(key, part[key].to_list(), config.entity_key_serialization_version)
            moments = online_values.microseconds(part[time])
            fields = [
                repeat(f"_us:{view}"),
                moments,
                repeat(f"_ts:{view}"),
                online_values.timestamps(moments),
            ]
            for name in names:
                fields += [repeat(_mmh3(f"{view}:{name}")), online_values.values(part[name])]
            rows = list(zip(*fields, strict=False))  # the names go on for ever
            with client.pipeline(transaction=False) as pipe:
                for start in range(0, len(rows), per_call):
                    some = slice(start, start + per_call)
                    script(
                        keys=[entity + project for entity in entities[some]],
                        args=[width, store.key_ttl_seconds or 0, *chain.from_iterable(rows[some])],
                        client=pipe,
                    )
                pipe.execute()


def _key(config: RepoConfig, entity: EntityKey) -> bytes:
    key: bytes = serialize_entity_key(
        entity, entity_key_serialization_version=config.entity_key_serialization_version
    )
    return key


def _upsert(table: str) -> str:
    return (
        f"INSERT INTO {table} (entity_key, feature_name, value, event_ts) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (entity_key, feature_name) DO UPDATE "
        "SET value = excluded.value, event_ts = excluded.event_ts WHERE excluded.event_ts >= event_ts"
    )


def _table(config: RepoConfig, view: FeatureView) -> str:
    name: str = compute_table_id(config.project, view, config.registry.enable_online_feature_view_versioning)
    return '"' + name.replace('"', '""') + '"'


def _microseconds(moment: datetime) -> int:
    """Feast hands over naive times in UTC."""
    aware = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    return (aware - _EPOCH) // timedelta(microseconds=1)


def _moment(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)


def _timestamp(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromMicroseconds(_microseconds(moment))
    return stamp
