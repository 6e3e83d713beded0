"""Feature rows and label rows of which the right join is known, as Parquet and as a Delta table."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

START = datetime(2026, 1, 1, tzinfo=UTC)
STEP = timedelta(minutes=5)
ENTITIES = 1_000
FEATURES = 4
SEED = 20261121
TABLE = "features/bench/readings"


def make(folder: Path, rows: int, labels: int, entities: int = ENTITIES) -> None:
    """Write ``features.parquet``, ``labels.parquet`` and the Delta table.

    Feature rows stand five minutes apart, all at times of their own; one label row in a thousand comes
    twice, as callers do send it.
    """
    from pipelines.adapters.lake import Lake

    random = np.random.default_rng(SEED)
    names = np.array([f"u{number:07d}" for number in range(entities)])
    per_entity = rows // entities
    step = STEP // timedelta(microseconds=1)
    jitter = random.integers(0, step // 2, rows)
    moments = np.tile(np.arange(per_entity) * step, entities) + jitter
    features = pl.DataFrame(
        {
            "unit": np.repeat(names, per_entity),
            "event_time": moments + int(START.timestamp() * 1e6),
            **{f"f{number}": random.normal(size=rows) for number in range(FEATURES)},
        }
    ).with_columns(pl.col("event_time").cast(pl.Datetime("us")).dt.replace_time_zone("UTC"))
    features = features.sort("event_time", "unit")
    features.write_parquet(folder / "features.parquet")
    day = pl.col("event_time").dt.date().alias("day")
    Lake(str(folder / "lake")).append(TABLE, features.with_columns(day), work=["made"], partition_by="day")
    if not labels:
        return
    span = per_entity * step
    times = int(START.timestamp() * 1e6) + random.integers(0, span, labels)
    asked = pl.DataFrame({"unit": random.choice(names, labels), "event_time": times}).with_columns(
        pl.col("event_time").cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    )
    twice = asked.head(labels // 1_000)
    asked = pl.concat([asked.head(labels - twice.height), twice]).with_row_index("label")
    asked.write_parquet(folder / "labels.parquet")


def expected(folder: Path) -> pl.DataFrame:
    """The right answer, by pandas' own ``merge_asof``."""
    import pandas as pd

    features = pd.read_parquet(folder / "features.parquet").sort_values("event_time")
    labels = pd.read_parquet(folder / "labels.parquet").sort_values("event_time", kind="stable")
    joined = pd.merge_asof(labels, features, on="event_time", by="unit", tolerance=pd.Timedelta(days=2))
    return pl.from_pandas(joined).sort("label")
