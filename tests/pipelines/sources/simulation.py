"""What the tests of the simulated fleet share: a fleet, its windows, and rows as they compare."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl

from feature_repo.datasets import ColumnType, Dataset
from pipelines.references import Window
from pipelines.sources.profile import SimulatedOrigin, load_profile
from pipelines.sources.simulated.source import SimulatedSource

PROFILE = load_profile("simulated")
NAMES = [dataset.name for dataset in PROFILE.datasets]
START = datetime(2026, 10, 10, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def source(machines: int = 5, seed: int = 7, script: Path | None = None) -> SimulatedSource:
    origin = SimulatedOrigin(
        kind="simulated", machines=machines, seed=seed, regimes=str(script) if script else None
    )
    return SimulatedSource(origin, PROFILE.folder)


def span(start: datetime, length: timedelta) -> Window:
    return Window(start=start, end=start + length)


def read(fleet: SimulatedSource, name: str, window: Window) -> pl.DataFrame:
    return fleet.read(PROFILE.dataset(name), window)


def as_text(frame: pl.DataFrame) -> pl.DataFrame:
    """Whether a number column is text depends on which rows are read; what stands in it does not."""
    return frame.with_columns(pl.all().cast(pl.String))


def as_numbers(frame: pl.DataFrame, dataset: Dataset) -> pl.DataFrame:
    return frame.with_columns(
        pl.col(column.name).cast(pl.Float64, strict=False)
        for column in dataset.columns
        if column.type in {ColumnType.FLOAT, ColumnType.INTEGER}
    )


def sound(frame: pl.DataFrame, dataset: Dataset, window: Window) -> pl.DataFrame:
    """Rows that keep the contract, one per key."""
    frame = as_numbers(frame, dataset).filter(
        pl.col(dataset.entity).is_not_null(), pl.col(dataset.event_time) < window.end
    )
    for column in dataset.columns:
        value = pl.col(column.name)
        if column.minimum is not None:
            frame = frame.filter((value >= column.minimum).fill_null(True))
        if column.maximum is not None:
            frame = frame.filter((value <= column.maximum).fill_null(True))
        if column.allowed is not None:
            frame = frame.filter(value.is_in(column.allowed))
    return frame.unique(dataset.key, keep="first", maintain_order=True)
