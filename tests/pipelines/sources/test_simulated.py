"""The simulated fleet: the same rows always, however a window is cut, and causes before failures."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from feature_repo.datasets import ColumnType
from pipelines.references import Window
from pipelines.settings import load_settings
from pipelines.sources.base import open_source
from pipelines.sources.simulated.source import SimulatedSource
from pipelines.sources.simulated.telemetry import COUNTERS, METRICS
from tests.pipelines.sources.simulation import (
    DAY,
    HOUR,
    NAMES,
    PROFILE,
    START,
    as_numbers,
    as_text,
    read,
    sound,
    source,
    span,
)


@pytest.fixture(scope="module")
def month() -> Window:
    return span(START, 28 * DAY)


@pytest.fixture(scope="module")
def fleet_month(month: Window) -> dict[str, pl.DataFrame]:
    """All data sets of 40 machines over four weeks."""
    fleet = source(machines=40)
    return {name: read(fleet, name, month) for name in NAMES}


def test_the_profile_opens_it(tmp_path: Path) -> None:
    assert isinstance(open_source(PROFILE, load_settings({}, home=tmp_path)), SimulatedSource)


@pytest.mark.parametrize("name", NAMES)
def test_columns_are_those_of_the_contract(name: str, fleet_month: dict[str, pl.DataFrame]) -> None:
    dataset, frame = PROFILE.dataset(name), fleet_month[name]
    assert frame.columns == [column.name for column in dataset.columns]
    expected = {
        ColumnType.FLOAT: (pl.Float64, pl.String),
        ColumnType.INTEGER: (pl.Int64, pl.String),
        ColumnType.STRING: (pl.String,),
        ColumnType.TIMESTAMP: (pl.Datetime("us", "UTC"),),
    }
    for column in dataset.columns:
        assert frame.schema[column.name] in expected[column.type], column.name


@pytest.mark.parametrize("name", NAMES)
def test_the_same_window_and_seed_give_the_same_rows(name: str) -> None:
    window = span(START, 2 * DAY)
    first, again, other = (read(source(seed=seed), name, window) for seed in (7, 7, 8))
    assert_frame_equal(first, again)
    assert not as_text(first).equals(as_text(other))


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    name=st.sampled_from(NAMES),
    seed=st.integers(0, 2**40),
    machines=st.integers(1, 6),
    begin=st.integers(-400_000, 400_000),
    cuts=st.sets(st.integers(1, 71), max_size=6),
    fresh=st.booleans(),
)
def test_slices_of_a_window_are_the_window(
    name: str, seed: int, machines: int, begin: int, cuts: set[int], fresh: bool
) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC) + begin * timedelta(minutes=5)
    whole = as_text(read(source(machines, seed), name, span(start, 72 * HOUR)))
    borders = [0, *sorted(cuts), 72]
    fleet = source(machines, seed)
    parts = []
    for low, high in pairwise(borders):
        fleet = source(machines, seed) if fresh else fleet
        parts.append(as_text(read(fleet, name, span(start + low * HOUR, (high - low) * HOUR))))
    assert_frame_equal(pl.concat(parts), whole)


@pytest.mark.parametrize("name", ["telemetry", "events", "machines"])
def test_a_larger_fleet_begins_with_the_same_machines(name: str) -> None:
    window = span(START, 2 * DAY)
    small, large = (as_text(read(source(machines), name, window)) for machines in (4, 9))
    ids = [f"m{number:04d}" for number in range(1, 5)]
    assert_frame_equal(
        large.filter(pl.col("machine_id").is_in(ids)), small.filter(pl.col("machine_id").is_in(ids))
    )


def test_order_of_reading_does_not_matter() -> None:
    fleet, days = source(), [span(START + day * DAY, DAY) for day in range(0, 60, 12)]
    forward = [read(fleet, "telemetry", day) for day in days]
    for day, frame in reversed(list(zip(days, forward, strict=True))):
        assert_frame_equal(read(fleet, "telemetry", day), frame)


def test_rows_come_late_but_within_two_days() -> None:
    fleet = source(machines=20)
    day = read(fleet, "telemetry", span(START, DAY))
    late = day.filter(pl.col("event_time") < START)
    # Of half a percent of late rows, those that come over midnight.
    assert 0.0005 < len(late) / len(day) < 0.006
    assert late["event_time"].min() >= START - 2 * DAY  # type: ignore[operator]


def test_dirt_is_there_in_realistic_shares(fleet_month: dict[str, pl.DataFrame], month: Window) -> None:
    raw = fleet_month["telemetry"]
    grid = 40 * 288 * 28
    numbers = as_numbers(raw, PROFILE.dataset("telemetry"))
    assert 0.95 < len(raw) / grid < 0.995  # samples are missing, and machines are down
    assert 0.002 < raw.is_duplicated().sum() / 2 / len(raw) < 0.005

    text = sum(
        int((numbers[metric].is_null() & raw[metric].is_not_null()).sum())
        for metric in METRICS
        if raw.schema[metric] == pl.String
    )
    impossible = sum(
        int(((numbers[metric] < low) | (numbers[metric] > high)).sum())
        for metric, low, high in [
            ("cpu_percent", 0, 100),
            ("memory_percent", 0, 100),
            ("temperature_c", -20, 130),
            ("reallocated_sectors", 0, 10**9),
        ]
    )
    future = int((raw["event_time"] >= month.end).sum())
    nobody = int(raw["machine_id"].is_null().sum())
    keyed = raw.unique().filter(pl.col("machine_id").is_not_null())
    conflicting = len(keyed) - len(keyed.unique(["machine_id", "event_time"]))
    for share in (text, impossible, future, nobody, conflicting):
        assert 0.0002 < share / len(raw) < 0.0015
    broken = (text + impossible + future + nobody + conflicting) / len(raw)
    assert 0.002 < broken < 0.005


def test_every_machine_is_in_the_inventory_of_every_day(fleet_month: dict[str, pl.DataFrame]) -> None:
    machines = as_numbers(fleet_month["machines"], PROFILE.dataset("machines"))
    per_day = machines.group_by(pl.col("event_time")).agg(pl.col("machine_id").n_unique())
    # A snapshot row may come a day or two late, and then from before the window too.
    assert (
        per_day.filter(pl.col("event_time").is_between(START, START + 25 * DAY))["machine_id"].to_list()
        == [40] * 26
    )
    ages = (
        machines.filter(pl.col("age_years") >= 0).sort("event_time").group_by("machine_id").agg("age_years")
    )
    growing = [all(b >= a for a, b in pairwise(each)) for each in ages["age_years"].to_list()]
    assert sum(growing) >= 38  # a machine of six years is replaced


def test_a_machine_fails_about_every_18_days(fleet_month: dict[str, pl.DataFrame], month: Window) -> None:
    failures = sound(fleet_month["events"], PROFILE.dataset("events"), month).filter(
        pl.col("kind") == "failure"
    )
    assert 40 < len(failures) < 90  # 40 machines, 28 days: 62 expected
    assert set(failures["code"]) == {"disk", "memory", "thermal", "network"}


def test_a_failed_machine_is_silent_until_its_repair_and_its_counter_starts_anew(
    fleet_month: dict[str, pl.DataFrame], month: Window
) -> None:
    events = sound(fleet_month["events"], PROFILE.dataset("events"), month)
    telemetry = sound(fleet_month["telemetry"], PROFILE.dataset("telemetry"), month)
    failures = events.filter(pl.col("kind") == "failure").sort("event_time")
    repairs = events.filter(pl.col("kind") == "maintenance", pl.col("code") != "planned")
    checked = 0
    for failure in failures.rows(named=True):
        after = repairs.filter(
            pl.col("machine_id") == failure["machine_id"], pl.col("event_time") > failure["event_time"]
        )["event_time"].min()
        if after is None or after - failure["event_time"] > 10 * HOUR:  # type: ignore[operator]
            continue  # the repair is past the window, or its row was lost
        own = telemetry.filter(pl.col("machine_id") == failure["machine_id"]).sort("event_time")
        assert own.filter(
            pl.col("event_time").is_between(failure["event_time"], after, closed="left")
        ).is_empty()
        counter = {"disk": "reallocated_sectors", "memory": "corrected_memory_errors"}.get(failure["code"])
        fresh = own.filter(pl.col("event_time").is_between(after, after + HOUR))  # type: ignore[operator]
        if counter and len(fresh):
            assert fresh[counter].max() <= 2  # type: ignore[operator]
            checked += 1
    assert checked > 10


def test_counters_only_grow_between_replacements(fleet_month: dict[str, pl.DataFrame], month: Window) -> None:
    telemetry = sound(fleet_month["telemetry"], PROFILE.dataset("telemetry"), month).sort(
        "machine_id", "event_time"
    )
    for counter in COUNTERS:
        known = telemetry.filter(pl.col(counter).is_not_null())
        falls = known.filter(pl.col(counter) < pl.col(counter).shift().over("machine_id"))
        # Only a repair or a renewal sets it back: less than two per machine and month.
        assert len(falls) < 60
        assert falls[counter].max() <= 2  # type: ignore[operator]


def test_failures_show_beforehand_but_not_all_of_them(
    fleet_month: dict[str, pl.DataFrame], month: Window
) -> None:
    """Signature of each cause: 6 h before the failure against 2 to 5 days before, same machine."""
    events = sound(fleet_month["events"], PROFILE.dataset("events"), month)
    telemetry = sound(fleet_month["telemetry"], PROFILE.dataset("telemetry"), month)
    signature = {
        "disk": ("disk_latency_ms", 1.5),
        "memory": ("memory_percent", 1.12),
        "thermal": ("temperature_c", 1.12),
        "network": ("error_percent", 1.8),
    }
    shown: list[bool] = []
    failures = events.filter(pl.col("kind") == "failure", pl.col("event_time") > START + 6 * DAY)
    for failure in failures.rows(named=True):
        metric, factor = signature[failure["code"]]
        hours_before = (failure["event_time"] - pl.col("event_time")).dt.total_minutes() / 60
        own = telemetry.filter(pl.col("machine_id") == failure["machine_id"])
        last = own.filter(hours_before.is_between(0, 6))[metric].median()
        # The same hours of earlier days, so that the daily cycle is the same.
        calm = own.filter(hours_before.is_between(48, 120), (hours_before % 24) < 6)[metric].median()
        if last is not None and calm is not None:
            shown.append(last > factor * calm)  # type: ignore[operator]
    assert len(shown) > 25
    assert 0.7 < sum(shown) / len(shown) < 1.0


def test_load_has_a_daily_and_a_weekly_cycle_and_a_memory(
    fleet_month: dict[str, pl.DataFrame], month: Window
) -> None:
    telemetry = sound(fleet_month["telemetry"], PROFILE.dataset("telemetry"), month)
    hourly = (
        telemetry.filter(pl.col("event_time") >= START)
        .sort("event_time")
        .group_by_dynamic("event_time", every="1h")
        .agg(pl.col("requests_per_second").mean().alias("load"))
    )
    by_hour = (
        hourly.group_by(pl.col("event_time").dt.hour()).agg(pl.col("load").mean()).sort("event_time")["load"]
    )
    assert by_hour[14] > 1.4 * by_hour[3]
    weekday = (
        hourly.group_by(pl.col("event_time").dt.weekday() >= 6).agg(pl.col("load").mean()).sort("event_time")
    )
    assert weekday["load"][1] < 0.9 * weekday["load"][0]
    assert hourly.select(pl.corr("load", pl.col("load").shift(1))).item() > 0.8


def test_bills_follow_the_use(fleet_month: dict[str, pl.DataFrame], month: Window) -> None:
    bills = sound(fleet_month["billing"], PROFILE.dataset("billing"), month)
    assert set(bills["project"]) == {"web", "api", "batch", "database"}
    assert bills["event_time"].dt.hour().max() == 0
    per_day = bills.group_by("event_time").agg(pl.col("cost_usd").sum(), pl.len()).filter(pl.col("len") == 12)
    assert len(per_day) > 22
    # 40 machines at about 20 to 60 USD a day.
    assert per_day["cost_usd"].min() > 600  # type: ignore[operator]
    assert per_day["cost_usd"].max() < 3000  # type: ignore[operator]
    # The network's bill of a project goes with what its machines sent: less at weekends.
    web = bills.filter(pl.col("project") == "web", pl.col("service") == "network")
    at_weekend = pl.col("event_time").dt.offset_by("-1d").dt.weekday() >= 6
    means = web.group_by(at_weekend).agg(pl.col("cost_usd").mean()).sort("event_time")["cost_usd"]
    assert means[1] < 0.85 * means[0]


def test_bills_do_not_depend_on_whether_telemetry_was_read(fleet_month: dict[str, pl.DataFrame]) -> None:
    window = span(START + 3 * DAY, 2 * DAY)
    alone = as_text(read(source(machines=40), "billing", window))
    whole = as_text(fleet_month["billing"])
    assert alone.join(whole, on=alone.columns, how="anti", nulls_equal=True).is_empty()
