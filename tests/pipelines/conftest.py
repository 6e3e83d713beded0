"""A small source of its own columns, and clean tables of it as validate leaves them.

``small_source``: path of a profile with telemetry (gauge, counter), events and inventory.
``put_clean``: appends rows to a clean table of that source.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

PROFILE = """
name: small
description: Three data sets of few columns, for tests.
origin:
  kind: files
  tables: {readings: [], log: [], units: []}
default_grid: hourly
features:
  hourly: {every: PT1H, windows: [PT2H, PT6H], ttl: PT3H}
  fine:
    every: PT2H
    windows: [PT6H]
    ttl: PT4H
    datasets: [readings]
    families: [basic, statistics, spectral, spike, calendar]
    lags: 4
    differences: [1, 5]
    autocorrelation: [1]
    resolution: PT1H
models:
  failure: {datasets: [readings, log, units], target: {dataset: log}}
datasets:
  - name: readings
    kind: telemetry
    description: What was measured.
    key: [unit, seen_at]
    columns:
      - {name: unit, type: string, role: entity}
      - {name: seen_at, type: timestamp, role: event_time}
      - {name: heat, type: float, role: gauge, unit: °C, nullable: true, minimum: -50, maximum: 200}
      - {name: resets, type: integer, role: counter, nullable: true, minimum: 0}
  - name: log
    kind: events
    description: What happened.
    key: [unit, seen_at, kind]
    columns:
      - {name: unit, type: string, role: entity}
      - {name: seen_at, type: timestamp, role: event_time}
      - {name: kind, type: string, role: category, allowed: [error, failure]}
  - name: units
    kind: inventory
    description: What is known.
    key: [unit, seen_at]
    columns:
      - {name: unit, type: string, role: entity}
      - {name: seen_at, type: timestamp, role: event_time}
      - {name: model, type: string, role: category}
      - {name: cores, type: integer, role: attribute, nullable: true}
"""

Row = dict[str, Any]
PutClean = Callable[..., None]


@pytest.fixture(scope="session")
def small_source(tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("profile") / "small.yaml"
    path.write_text(PROFILE, "utf-8")
    return str(path)


@pytest.fixture(scope="session")
def put_clean(small_source: str) -> PutClean:
    """``put_clean(settings, dataset, rows)``: a row is a dict of its columns, and ``arrived`` (default: ``seen_at``).

    ``source=`` names another profile whose times are called ``seen_at``. Rows are appended by daily slices of their arrival, one commit per slice.
    """

    def put(settings: Any, dataset: str, rows: Sequence[Row], source: str = small_source) -> None:
        import polars as pl

        from feature_repo.transformations import TYPES, UTC_TIME
        from pipelines.adapters.lake import Lake
        from pipelines.references import Layer
        from pipelines.sources.profile import load_profile

        profile = load_profile(source)
        columns = {column.name: TYPES[column.type] for column in profile.dataset(dataset).columns}
        slices: dict[datetime, list[Row]] = {}
        for row in rows:
            slices.setdefault(_midnight(row.get("arrived", row["seen_at"])), []).append(row)
        for start, arrived in sorted(slices.items()):
            frame = pl.DataFrame(
                [{name: row.get(name) for name in columns} for row in arrived], schema=columns
            )
            Lake.of(settings).append(
                profile.table(Layer.CLEAN, dataset),
                frame.with_columns(
                    slice_start=pl.lit(start, UTC_TIME),
                    ordinal=pl.int_range(pl.len(), dtype=pl.Int64),
                    day=pl.col("seen_at").dt.date(),
                ),
                work=[f"validate:{start.isoformat()}"],
                partition_by="day",
            )

    return put


def _midnight(moment: datetime) -> datetime:
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return epoch + (moment - epoch) // timedelta(days=1) * timedelta(days=1)
