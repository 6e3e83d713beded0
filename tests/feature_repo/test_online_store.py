"""Online stores: in whatever order rows come, the newest is what is read."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

START = datetime(2026, 1, 1, tzinfo=UTC)
REDIS_URL = os.environ.get("HEADRACE_TEST_REDIS_URL", "redis://127.0.0.1:6379/15")

pytestmark = pytest.mark.integration


class Store:
    """One view ``readings`` with one feature in a real online store, under a name of its own."""

    def __init__(self, online_store: dict[str, str], project: str) -> None:
        import feast
        from feast.repo_config import RepoConfig
        from feast.types import Int64, String

        from feature_repo.offline_store import DeltaSource

        self.config = RepoConfig(
            project=project,
            provider="local",
            registry={"registry_type": "sql", "path": "sqlite://"},
            offline_store={"type": "feature_repo.offline_store.DeltaOfflineStore", "lake_url": "unused"},
            online_store=online_store,
            entity_key_serialization_version=3,
        )
        unit = feast.Entity(name="unit", join_keys=["unit"])
        self.view = feast.FeatureView(
            name="readings",
            entities=[unit],
            schema=[feast.Field(name="unit", dtype=String), feast.Field(name="value", dtype=Int64)],
            source=DeltaSource(table="unused"),
        )
        self.store = self.opened()
        self.store.update(self.config, [], [self.view], [], [unit], partial=False)

    def opened(self) -> Any:
        from feast.infra.online_stores.helpers import get_online_store_from_config

        return get_online_store_from_config(self.config.online_store)

    def write(self, *rows: tuple[str, timedelta, int], store: Any = None) -> None:
        from feast.protos.feast.types.Value_pb2 import Value

        data = [
            (_key(unit), {"value": Value(int64_val=value)}, START + after, None)
            for unit, after, value in rows
        ]
        (store or self.store).online_write_batch(self.config, self.view, data, None)

    def write_frame(self, *rows: tuple[str, timedelta, int]) -> None:
        import polars as pl

        frame = pl.DataFrame(
            {
                "unit": [unit for unit, _, _ in rows],
                "event_time": [START + after for _, after, _ in rows],
                "value": [value for _, _, value in rows],
            },
            schema={"unit": pl.String, "event_time": pl.Datetime("us", "UTC"), "value": pl.Int64},
        )
        self.store.write_frame(self.config, self.view, frame, "unit", "event_time")

    def read(self, *units: str) -> list[tuple[datetime | None, int | None]]:
        rows = self.store.online_read(self.config, self.view, [_key(unit) for unit in units], ["value"])
        # Of an unknown entity SQLite says None, Redis gives an empty value.
        return [
            (moment, values["value"].int64_val)
            if values and values["value"].WhichOneof("val")
            else (None, None)
            for moment, values in rows
        ]


def _key(unit: str) -> Any:
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    return EntityKey(join_keys=["unit"], entity_values=[Value(string_val=unit)])


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    from pipelines.adapters.feature_store import online_store_config

    project = f"test_{uuid.uuid4().hex}"
    if request.param == "sqlite":
        path: Path = tmp_path_factory.mktemp("online") / "deep" / "online.db"
        yield Store(online_store_config(f"sqlite:///{path}"), project)
        return
    import redis

    client = redis.Redis.from_url(REDIS_URL, socket_connect_timeout=1)
    try:
        client.ping()
    except redis.RedisError:
        pytest.skip("no Redis answers at HEADRACE_TEST_REDIS_URL")
    yield Store(online_store_config(REDIS_URL), project)
    # The server may hold other people's keys: only those of this run's project go.
    for key in client.scan_iter(match=f"*{project}*"):
        client.delete(key)


@pytest.fixture
def unit() -> Callable[[], str]:
    return lambda: uuid.uuid4().hex


writes = st.lists(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 5), st.integers(0, 99)), min_size=1, max_size=4),
    min_size=1,
    max_size=5,
)


@given(batches=writes)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_newest_row_stays_and_of_equal_times_the_one_written_last(
    store: Store, unit: Callable[[], str], batches: list[list[tuple[str, int, int]]]
) -> None:
    names = {"a": unit(), "b": unit()}
    newest: dict[str, tuple[int, int]] = {}
    for batch in batches:
        # Microseconds apart: a store that keeps seconds would take them for equal.
        store.write(*((names[who], timedelta(microseconds=at), value) for who, at, value in batch))
        for who, at, value in batch:
            if who not in newest or at >= newest[who][0]:
                newest[who] = (at, value)
    expected = [
        (START + timedelta(microseconds=newest[who][0]), newest[who][1]) if who in newest else (None, None)
        for who in "ab"
    ]
    assert store.read(names["a"], names["b"]) == expected


def test_an_unknown_entity_is_nothing_and_order_is_kept(store: Store, unit: Callable[[], str]) -> None:
    known = [unit() for _ in range(1200)]
    store.write(*((name, timedelta(0), number) for number, name in enumerate(known)))
    asked = [known[7], "nobody", known[7], *reversed(known)]
    found = [value for _, value in store.read(*asked)]
    assert found == [7, None, 7, *reversed(range(1200))]


def test_a_second_process_sees_and_respects_what_the_first_wrote(
    store: Store, unit: Callable[[], str]
) -> None:
    name = unit()
    other = store.opened()
    store.write((name, timedelta(hours=2), 2))
    store.write((name, timedelta(hours=1), 1), store=other)
    assert store.read(name) == [(START + timedelta(hours=2), 2)]
    store.write((name, timedelta(hours=3), 3), store=other)
    assert store.read(name) == [(START + timedelta(hours=3), 3)]


def test_features_before_1970_are_older_than_all_others(store: Store, unit: Callable[[], str]) -> None:
    name = unit()
    store.write((name, timedelta(0), 1))
    store.write((name, timedelta(days=-30_000), 0))
    assert store.read(name)[0][1] == 1


def test_redis_addresses_become_feasts_form() -> None:
    from pipelines.adapters.feature_store import online_store_config
    from pipelines.errors import SettingsError

    config = online_store_config("rediss://user:p%40ss@cache:7000/3")
    assert config["connection_string"] == "cache:7000,db=3,username=user,password=p@ss,ssl=true"
    with pytest.raises(SettingsError, match="redis://"):
        online_store_config("memcached://user:secret@cache")
    with pytest.raises(SettingsError) as refused:
        online_store_config("redis://user:sec,ret@cache")
    assert "sec,ret" not in str(refused.value)


@given(batches=writes)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_frame_is_written_as_its_rows_would_be(
    store: Store, unit: Callable[[], str], batches: list[list[tuple[str, int, int]]]
) -> None:
    by_rows, by_frame = ({name: unit() for name in "ab"} for _ in range(2))
    for batch in batches:
        # Of an entity a frame holds one row, as the newest rows of a table are.
        newest = {name: (name, seconds, value) for name, seconds, value in batch}.values()
        for names, write in ((by_rows, store.write), (by_frame, store.write_frame)):
            write(*((names[name], timedelta(seconds=seconds), value) for name, seconds, value in newest))
    assert store.read(*by_frame.values()) == store.read(*by_rows.values())


def test_a_frame_of_many_entities_is_written_whole(store: Store, unit: Callable[[], str]) -> None:
    names = [unit() for _ in range(2_500)]
    store.write_frame(*((name, timedelta(0), number) for number, name in enumerate(names)))
    assert [value for _, value in store.read(*names)] == list(range(2_500))
    store.write_frame(*((name, timedelta(seconds=-1), -1) for name in names))
    assert [value for _, value in store.read(*names)] == list(range(2_500))
