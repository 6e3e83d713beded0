"""The offline store's joins, through Feast, against a search of all rows."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

START = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
TTL = 5 * MINUTE
UTC_TIME = pl.Datetime("us", "UTC")

# Few distinct minutes: ties, equal label rows and ages of exactly the TTL come up all the time.
minutes = st.integers(0, 15)
units = st.sampled_from(["a", "b", "c"])
feature_rows = st.lists(
    st.tuples(units, minutes, st.integers(0, 3), st.one_of(st.none(), st.integers(0, 99)))
)
label_rows = st.lists(st.tuples(st.sampled_from(["a", "b", "unknown"]), minutes), min_size=1)


def _newest(
    rows: list[tuple[str, int, int, int | None]], unit: str, at: int, ttl: timedelta | None
) -> int | None:
    """Brute force: of the rows that were true by then the newest, of equal ones the one written last."""
    best: tuple[int, int, int] | None = None
    value = None
    for position, (owner, minute, written, content) in enumerate(rows):
        rank = (minute, written, position)
        if owner == unit and minute <= at and (best is None or rank > best):
            best, value = rank, content
    too_old = best is not None and ttl is not None and (at - best[0]) * MINUTE > ttl
    return None if too_old else value


@pytest.mark.parametrize("ttl", [TTL, None], ids=["with TTL", "without TTL"])
@given(rows=feature_rows, labels=label_rows)
@settings(max_examples=60, deadline=None)
def test_each_label_row_gets_what_a_search_of_all_rows_finds(
    ttl: timedelta | None, rows: list[tuple[str, int, int, int | None]], labels: list[tuple[str, int]]
) -> None:
    from feature_repo.offline_store import point_in_time_join  # imports Feast

    right = pl.LazyFrame(
        rows,
        schema={"unit": pl.String, "minute": pl.Int64, "written": pl.Int64, "value": pl.Int64},
        orient="row",
    ).with_columns(at=pl.lit(START, UTC_TIME) + pl.duration(minutes="minute"))
    left = pl.DataFrame(labels, schema={"key": pl.String, "minute": pl.Int64}, orient="row").select(
        pl.int_range(pl.len()).alias("row"),
        "key",
        time=pl.lit(START, UTC_TIME) + pl.duration(minutes="minute"),
    )
    joined = point_in_time_join(
        left,
        right,
        by={"unit": "key"},
        time="time",
        right_time="at",
        order=["written"],
        features={"value": "found"},
        ttl=ttl,
    ).sort("row")
    assert joined["row"].to_list() == list(range(len(labels)))
    assert joined["found"].to_list() == [_newest(rows, unit, at, ttl) for unit, at in labels]


@pytest.fixture
def feast_store(tmp_path: Path) -> Callable[..., Any]:
    """``feast_store(versions)`` opens a Feast store with one view ``readings`` over a table ``features/readings``."""
    import feast
    from feast.repo_config import RepoConfig
    from feast.types import Int64, String
    from feast.value_type import ValueType

    from feature_repo.offline_store import DeltaSource

    def open_store(**versions: int) -> feast.FeatureStore:
        store = feast.FeatureStore(
            config=RepoConfig(
                project="plain",
                provider="local",
                registry={"registry_type": "sql", "path": f"sqlite:///{tmp_path}/registry.db"},
                offline_store={
                    "type": "feature_repo.offline_store.DeltaOfflineStore",
                    "lake_url": str(tmp_path),
                    "versions": {f"features/{name}": version for name, version in versions.items()},
                },
                online_store={
                    "type": "feature_repo.online_store.NewestSqliteOnlineStore",
                    "path": str(tmp_path / "online.db"),
                },
                entity_key_serialization_version=3,
            )
        )
        unit = feast.Entity(name="unit", join_keys=["unit"], value_type=ValueType.STRING)
        view = feast.FeatureView(
            name="readings",
            entities=[unit],
            ttl=TTL,
            schema=[feast.Field(name="unit", dtype=String), feast.Field(name="value", dtype=Int64)],
            source=DeltaSource(
                table="features/readings",
                timestamp_field="at",
                created_timestamp_column="written",
                date_partition_column="day",
            ),
        )
        store.apply([unit, view])
        return store

    return open_store


def _write(folder: Path, rows: list[tuple[str, int, int, int | None]], mode: str = "append") -> None:
    frame = pl.DataFrame(
        rows,
        schema={"unit": pl.String, "minute": pl.Int64, "written": pl.Int64, "value": pl.Int64},
        orient="row",
    ).select(
        "unit",
        "value",
        at=pl.lit(START, UTC_TIME) + pl.duration(minutes="minute"),
        written=pl.lit(START, UTC_TIME) + pl.duration(minutes="written"),
    )
    frame = frame.with_columns(day=pl.col("at").dt.date())
    frame.write_delta(
        str(folder / "features" / "readings"), mode=mode, delta_write_options={"partition_by": ["day"]}
    )


def _labels(*rows: tuple[str, int]) -> pd.DataFrame:
    return pd.DataFrame(
        {"unit": [unit for unit, _ in rows], "event_timestamp": [START + at * MINUTE for _, at in rows]}
    )


@pytest.mark.integration
def test_through_feast_label_rows_come_back_once_and_in_order(
    feast_store: Callable[..., Any], tmp_path: Path
) -> None:
    rows = [("a", 1, 0, 1), ("a", 1, 2, 2), ("a", 1, 1, 3), ("b", 4, 0, None), ("b", 3, 0, 9)]
    _write(tmp_path, rows)
    labels = [("b", 4), ("a", 6), ("a", 6), ("a", 7), ("unknown", 5), ("a", 0), ("b", 3)]
    found = (
        feast_store()
        .get_historical_features(entity_df=_labels(*labels), features=["readings:value"])
        .to_arrow()
    )
    assert found.column("unit").to_pylist() == [unit for unit, _ in labels]
    assert found.column("value").to_pylist() == [_newest(rows, unit, at, TTL) for unit, at in labels]
    assert found.column("value").to_pylist() == [None, 2, 2, None, None, None, 9]


@pytest.mark.integration
def test_a_pinned_version_is_read_whatever_was_written_since(
    feast_store: Callable[..., Any], tmp_path: Path
) -> None:
    _write(tmp_path, [("a", 1, 0, 1)])
    _write(tmp_path, [("a", 1, 5, 2)])
    asked = {"entity_df": _labels(("a", 3)), "features": ["readings:value"]}
    assert feast_store(readings=0).get_historical_features(**asked).to_df()["value"].to_list() == [1]
    assert feast_store().get_historical_features(**asked).to_df()["value"].to_list() == [2]


@pytest.mark.integration
def test_a_day_that_was_put_in_place_of_another_is_not_seen_twice(
    feast_store: Callable[..., Any], tmp_path: Path
) -> None:
    _write(tmp_path, [("a", 1, 0, 1), ("b", 1, 0, 1)])
    _write(tmp_path, [("a", 2, 0, 5)], mode="overwrite")
    found = feast_store().get_historical_features(
        entity_df=_labels(("a", 3), ("b", 3)), features=["readings:value"], full_feature_names=True
    )
    assert found.to_df()["readings__value"].fillna(-1).to_list() == [5, -1]


@pytest.mark.integration
def test_feasts_own_materialize_takes_the_newest_row_of_each_entity(
    feast_store: Callable[..., Any], tmp_path: Path
) -> None:
    _write(tmp_path, [("a", 1, 0, 1), ("a", 3, 0, 2), ("a", 3, 1, 3), ("a", 9, 0, 4), ("b", 2, 0, 7)])
    store = feast_store()
    store.materialize(START, START + 5 * MINUTE)
    answer = store.get_online_features(
        features=["readings:value"], entity_rows=[{"unit": "a"}, {"unit": "b"}]
    )
    assert answer.to_dict()["value"] == [3, 7]


@pytest.mark.integration
def test_a_source_survives_the_way_through_the_registry(feast_store: Callable[..., Any]) -> None:
    from feature_repo.offline_store import DeltaSource

    source = feast_store().get_feature_view("readings").batch_source
    assert source == DeltaSource.from_proto(source.to_proto())
    assert (source.table, source.created_timestamp_column) == ("features/readings", "written")
