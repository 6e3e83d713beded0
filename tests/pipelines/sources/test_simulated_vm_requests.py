"""Simulated requests for machines: lifetimes that hang together with who asks, and histories without a look ahead."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from pipelines.references import Window
from pipelines.sources.profile import SimulatedOrigin, load_profile
from pipelines.sources.simulated.source import SimulatedSource

PROFILE = load_profile("simulated")
START = datetime(2026, 10, 5, tzinfo=UTC)  # a Monday
DAY = timedelta(days=1)


def source() -> SimulatedSource:
    return SimulatedSource(SimulatedOrigin(kind="simulated", machines=60, seed=7), PROFILE.folder)


@pytest.fixture(scope="module")
def fortnight() -> tuple[pl.DataFrame, pl.DataFrame]:
    """Sound requests of two weeks, and the deletions of these and four more."""
    fleet = source()
    asked = fleet.read(PROFILE.dataset("vm_requests"), Window(start=START, end=START + 14 * DAY))
    ended = fleet.read(PROFILE.dataset("vm_events"), Window(start=START, end=START + 42 * DAY))
    numbers = [
        column.name for column in PROFILE.dataset("vm_requests").columns if column.type.value == "float"
    ]
    asked = (
        asked.with_columns(pl.col(name).cast(pl.Float64, strict=False) for name in numbers)
        .filter(pl.col("vm_id").is_not_null(), pl.col("cores") > 0, pl.col("event_time") < START + 14 * DAY)
        .unique("vm_id", keep="first", maintain_order=True)
    )
    return asked, ended.filter(pl.col("kind") == "deleted").unique("vm_id", keep="first")


def test_machines_are_deleted_after_they_were_asked_for(fortnight: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    asked, ended = fortnight
    lives = asked.join(ended, on="vm_id", suffix="_deleted").select(
        (pl.col("event_time_deleted") - pl.col("event_time")).dt.total_minutes() / 60
    )["event_time_deleted"]
    # All but those whose deletion was lost on its way.
    assert len(lives) > 0.98 * len(asked)
    assert lives.min() > 0  # type: ignore[operator]
    # Most are short, and the long ones hold the cores.
    assert lives.median() < 6  # type: ignore[operator]
    assert lives.quantile(0.95) > 24  # type: ignore[operator]


def test_the_tenants_history_tells_of_lifetimes(fortnight: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    asked, ended = fortnight
    lived = asked.join(ended, on="vm_id", suffix="_deleted").with_columns(
        day=(pl.col("event_time_deleted") - pl.col("event_time")) >= DAY
    )
    shares = (
        lived.filter(pl.col("tenant_outlived_24h").is_not_null())
        .group_by(pl.col("tenant_outlived_24h") > 0.5)
        .agg(pl.col("day").mean())
        .sort("tenant_outlived_24h")["day"]
    )
    assert shares[1] > shares[0] + 0.4


def test_history_is_what_was_known_then(fortnight: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    """Counted again from requests and deletions up to each moment; lost and broken rows allow a little."""
    asked, ended = fortnight
    tenants = asked.with_columns(tenant=pl.col("vm_id").str.split("-").list.first()).join(
        ended.select("vm_id", deleted="event_time"), on="vm_id", how="left"
    )
    checked = 0
    for row in (
        tenants.filter(pl.col("event_time") > START + 8 * DAY).sample(40, seed=1).iter_rows(named=True)
    ):
        now, four = row["event_time"], timedelta(hours=4)
        known = tenants.filter(
            pl.col("tenant") == row["tenant"],
            pl.col("event_time") >= now - 7 * DAY,
            pl.col("event_time") + four <= now,
        )
        if len(known) < 30:
            continue
        outlived = known.select(
            (pl.col("deleted").fill_null(now) - pl.col("event_time") >= four).mean()
        ).item()
        assert row["tenant_outlived_4h"] == pytest.approx(outlived, abs=0.03)
        checked += 1
    assert checked > 10


def test_weekends_are_quieter(fortnight: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    asked, _ = fortnight
    per_day = asked.group_by(pl.col("event_time").dt.date()).len()
    weekend = pl.col("event_time").dt.weekday() >= 6
    counts = per_day.group_by(weekend).agg(pl.col("len").mean()).sort("event_time")["len"]
    assert counts[1] < 0.8 * counts[0]
