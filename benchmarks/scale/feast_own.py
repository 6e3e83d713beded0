"""Feast as it comes, in whatever environment it is run with: it knows nothing of Headrace.

    python feast_own.py join STORE FOLDER        # STORE: duckdb or file (dask, Feast's default)
    python feast_own.py online STORE FOLDER      # STORE: sqlite:PATH or redis:HOST:PORT,db=N

FOLDER holds ``features.parquet`` and ``labels.parquet`` as :mod:`benchmarks.scale.worlds` makes them. The last
line of the output is JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource
from feast.repo_config import RepoConfig
from feast.types import Float64
from feast.value_type import ValueType

LOOKS = 200


def store_of(folder: Path, offline: str, online: dict) -> tuple[FeatureStore, list[str]]:
    frame = pd.read_parquet(folder / "features.parquet", columns=None)
    names = [name for name in frame.columns if name not in ("unit", "event_time")]
    unit = Entity(name="unit", join_keys=["unit"], value_type=ValueType.STRING)
    view = FeatureView(
        name="readings",
        entities=[unit],
        ttl=timedelta(days=2),
        schema=[Field(name=name, dtype=Float64) for name in names],
        source=FileSource(path=str(folder / "features.parquet"), timestamp_field="event_time"),
    )
    store = FeatureStore(
        config=RepoConfig(
            project="bench",
            provider="local",
            registry={"registry_type": "sql", "path": f"sqlite:///{folder}/registry-{offline}.db"},
            offline_store={"type": offline},
            online_store=online,
            entity_key_serialization_version=3,
        )
    )
    store.apply([unit, view])
    return store, [f"readings:{name}" for name in names]


def join(offline: str, folder: Path) -> dict:
    store, features = store_of(folder, offline, {"type": "sqlite", "path": str(folder / "unused.db")})
    labels = pd.read_parquet(folder / "labels.parquet").rename(columns={"event_time": "event_timestamp"})
    began = time.perf_counter()
    joined = store.get_historical_features(entity_df=labels, features=features).to_df()
    seconds = time.perf_counter() - began
    joined.rename(columns={"event_timestamp": "event_time"}).to_parquet(folder / f"joined-{offline}.parquet")
    return {"seconds": seconds, "returned": len(joined)}


def online(address: str, folder: Path) -> dict:
    kind, _, where = address.partition(":")
    config = (
        {"type": "sqlite", "path": where}
        if kind == "sqlite"
        else {"type": "redis", "connection_string": where}
    )
    store, features = store_of(folder, "file", config)
    # Read before, so that the figure is of writing.
    frame = pd.read_parquet(folder / "features.parquet")
    end = frame["event_time"].max().to_pydatetime()
    del frame
    began = time.perf_counter()
    store.materialize(datetime(2020, 1, 1, tzinfo=UTC), end)
    seconds = time.perf_counter() - began
    entities = pd.read_parquet(folder / "features.parquet", columns=["unit"])["unit"].unique()
    return {"seconds": seconds, "rows": len(entities)} | looks(store, features, entities)


def looks(store: FeatureStore, features: list[str], entities: np.ndarray) -> dict:
    """Milliseconds of reads of 1 and of 100 entities, p50 and p99."""
    random = np.random.default_rng(1)
    found = {}
    for size in (1, 100):
        times = []
        for _ in range(LOOKS + 20):
            asked = random.choice(entities, size).tolist()
            began = time.perf_counter()
            store.get_online_features(
                features=features, entity_rows=[{"unit": name} for name in asked]
            ).to_dict()
            times.append((time.perf_counter() - began) * 1000)
        p50, p99 = np.percentile(times[20:], [50, 99])
        found |= {f"p50_ms_{size}": p50, f"p99_ms_{size}": p99}
    return found


def main() -> None:
    what, store, folder = sys.argv[1:]
    found = (join if what == "join" else online)(store, Path(folder))
    found["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(found))


if __name__ == "__main__":
    main()
