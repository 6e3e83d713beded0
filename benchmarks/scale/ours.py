"""The same as :mod:`benchmarks.scale.feast_own`, by Headrace's stores under Feast's interface.

python -m benchmarks.scale.ours join delta FOLDER
python -m benchmarks.scale.ours online sqlite:PATH|redis:URL FOLDER
"""

from __future__ import annotations

import json
import resource
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl

from benchmarks.scale.worlds import FEATURES, TABLE


def store_of(folder: Path, online: str) -> tuple[Any, Any, list[str]]:
    from feature_repo.feast_import import feast

    # isort: split
    from feast.repo_config import RepoConfig
    from feast.types import Float64, String
    from feast.value_type import ValueType

    from feature_repo.offline_store import DeltaSource
    from pipelines.adapters.feature_store import online_store_config

    names = [f"f{number}" for number in range(FEATURES)]
    unit = feast.Entity(name="unit", join_keys=["unit"], value_type=ValueType.STRING)
    view = feast.FeatureView(
        name="readings",
        entities=[unit],
        ttl=timedelta(days=2),
        schema=[
            feast.Field(name="unit", dtype=String),
            *(feast.Field(name=name, dtype=Float64) for name in names),
        ],
        source=DeltaSource(table=TABLE, date_partition_column="day"),
    )
    store = feast.FeatureStore(
        config=RepoConfig(
            project="bench",
            provider="local",
            registry={"registry_type": "sql", "path": f"sqlite:///{folder}/registry-ours.db"},
            offline_store={
                "type": "feature_repo.offline_store.DeltaOfflineStore",
                "lake_url": str(folder / "lake"),
            },
            online_store=online_store_config(online),
            entity_key_serialization_version=3,
        )
    )
    store.apply([unit, view])
    return store, view, [f"readings:{name}" for name in names]


def join(_: str, folder: Path) -> dict[str, Any]:
    store, _view, features = store_of(folder, f"sqlite:///{folder}/unused-ours.db")
    labels = pd.read_parquet(folder / "labels.parquet").rename(columns={"event_time": "event_timestamp"})
    began = time.perf_counter()
    joined = store.get_historical_features(entity_df=labels, features=features).to_df()
    seconds = time.perf_counter() - began
    joined.rename(columns={"event_timestamp": "event_time"}).to_parquet(folder / "joined-delta.parquet")
    return {"seconds": seconds, "returned": len(joined)}


def online(address: str, folder: Path) -> dict[str, Any]:
    """What ``features`` does to publish: the newest row of each entity, into the online store."""
    from benchmarks.scale.feast_own import looks
    from feature_repo.offline_store import DeltaOfflineStore

    kind, _, where = address.partition(":")
    store, view, features = store_of(folder, f"sqlite:///{where}" if kind == "sqlite" else address)
    end = pl.scan_parquet(folder / "features.parquet").select(pl.col("event_time").max()).collect().item()
    began = time.perf_counter()
    newest = DeltaOfflineStore.pull_latest_from_table_or_query(
        config=store.config,
        data_source=view.batch_source,
        join_key_columns=["unit"],
        feature_name_columns=[name.partition(":")[2] for name in features],
        timestamp_field="event_time",
        created_timestamp_column=None,
        start_date=datetime(2020, 1, 1, tzinfo=UTC),
        end_date=end,
    ).to_polars()
    store.provider.online_store.write_frame(store.config, view, newest, "unit", "event_time")
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "rows": newest.height} | looks(store, features, newest["unit"].to_numpy())


def main() -> None:
    what, store, folder = sys.argv[1:]
    found = (join if what == "join" else online)(store, Path(folder))
    found["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(found))


if __name__ == "__main__":
    main()
