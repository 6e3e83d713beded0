"""The simulated fleet: the same rows always, however a window is cut, and causes before failures."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from feature_repo.datasets import ColumnType, Dataset
from pipelines.errors import SourceError
from pipelines.references import Window
from pipelines.sources.base import open_source
from pipelines.sources.profile import SimulatedOrigin, load_profile
from pipelines.sources.simulated.regimes import append_regime, load_regimes, parse_regime
from pipelines.sources.simulated.source import SimulatedSource
from pipelines.sources.simulated.telemetry import COUNTERS, METRICS

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


@pytest.fixture(scope="module")
def month() -> Window:
    return span(START, 28 * DAY)


@pytest.fixture(scope="module")
def fleet_month(month: Window) -> dict[str, pl.DataFrame]:
    """All data sets of 40 machines over four weeks."""
    fleet = source(machines=40)
    return {name: read(fleet, name, month) for name in NAMES}


def test_the_profile_opens_it() -> None:
    class NoSettings: ...

    assert isinstance(open_source(PROFILE, NoSettings()), SimulatedSource)  # type: ignore[arg-type]


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


# Regimes ---------------------------------------------------------------------------------------


def write(path: Path, *regimes: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump({"regimes": list(regimes)}), encoding="utf-8")
    return path


def moment(hours: int) -> str:
    return (START + hours * HOUR).isoformat()


KINDS = st.one_of(
    st.builds(lambda f: {"kind": "load_scale", "factor": f}, st.floats(0, 5)),
    st.builds(
        lambda c, a, m: {"kind": "metric_shift", "column": c, "add": a, "multiply": m},
        st.sampled_from(METRICS),
        st.floats(-20, 20),
        st.floats(0, 3),
    ),
    st.builds(lambda f: {"kind": "noise", "factor": f}, st.floats(0, 5)),
    st.builds(lambda f: {"kind": "failure_rate", "factor": f}, st.floats(0, 50)),
    st.builds(
        lambda c, f: {"kind": "unit_change", "column": c, "factor": f},
        st.sampled_from(METRICS),
        st.floats(0.001, 1024),
    ),
    st.builds(lambda c: {"kind": "stuck_sensor", "column": c}, st.sampled_from(METRICS)),
    st.builds(lambda n: {"kind": "new_machines", "count": n}, st.integers(1, 4)),
    st.builds(
        lambda c, s: {"kind": "missing_column", "column": c, "share": s},
        st.sampled_from(METRICS),
        st.floats(0.01, 1),
    ),
)


@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(
    name=st.sampled_from(NAMES),
    changes=st.lists(
        st.tuples(KINDS, st.integers(-200, 60), st.none() | st.integers(1, 300)), min_size=1, max_size=3
    ),
    machines=st.integers(2, 6),
    seed=st.integers(0, 10_000),
)
def test_before_a_regime_all_rows_are_as_without_it(
    tmp_path: Path,
    name: str,
    changes: list[tuple[dict[str, Any], int, int | None]],
    machines: int,
    seed: int,
) -> None:
    first = min(at for _, at, _ in changes)
    script = write(
        tmp_path / "script.yaml",
        *(
            kind | {"from": moment(at)} | ({"until": moment(at + length)} if length else {})
            for kind, at, length in changes
        ),
    )
    # From some days before the first regime to some days after it.
    window = span(START + (first - 60) * HOUR, 84 * HOUR)
    with_it, without = (
        as_text(read(fleet, name, window).filter(pl.col("event_time") < START + first * HOUR))
        for fleet in (source(machines, seed, script), source(machines, seed))
    )
    assert_frame_equal(with_it, without)


def test_slices_agree_under_regimes_too(tmp_path: Path) -> None:
    script = write(
        tmp_path / "script.yaml",
        {"kind": "new_machines", "from": moment(17), "until": moment(41), "count": 3},
        {"kind": "stuck_sensor", "from": moment(2), "column": "temperature_c"},
        {"kind": "load_scale", "from": moment(20), "factor": 2.0},
    )
    for name in NAMES:
        whole = as_text(read(source(script=script), name, span(START, 3 * DAY)))
        parts = [
            as_text(read(source(script=script), name, span(START + hour * HOUR, 8 * HOUR)))
            for hour in range(0, 72, 8)
        ]
        assert_frame_equal(pl.concat(parts), whole)


def medians(tmp_path: Path, column: str, *regimes: dict[str, Any], machines: int = 12) -> tuple[float, float]:
    """Median of a metric over the day after a regime began, without and with it."""
    window = span(START, DAY)
    values = []
    for fleet in (source(machines), source(machines, script=write(tmp_path / "script.yaml", *regimes))):
        dataset = PROFILE.dataset("telemetry")
        values.append(sound(fleet.read(dataset, window), dataset, window)[column].median())
    return values[0], values[1]  # type: ignore[return-value]


def test_load_scale_takes_cpu_and_bills_along(tmp_path: Path) -> None:
    change = {"kind": "load_scale", "from": moment(0), "factor": 2.0}
    for column, low, high in (("requests_per_second", 1.9, 2.1), ("cpu_percent", 1.3, 2.0)):
        without, with_it = medians(tmp_path, column, change)
        assert low < with_it / without < high
    script = write(tmp_path / "script.yaml", change)
    cheap, dear = (
        as_numbers(read(fleet, "billing", span(START + DAY, DAY)), PROFILE.dataset("billing"))[
            "cost_usd"
        ].sum()
        for fleet in (source(12), source(12, script=script))
    )
    assert dear > 1.2 * cheap


def test_metric_shift_and_unit_change(tmp_path: Path) -> None:
    without, with_it = medians(
        tmp_path,
        "temperature_c",
        {"kind": "metric_shift", "from": moment(0), "column": "temperature_c", "add": 6.0},
    )
    assert with_it - without == pytest.approx(6.0, abs=0.3)
    without, with_it = medians(
        tmp_path,
        "network_in_mbps",
        {"kind": "unit_change", "from": moment(0), "column": "network_in_mbps", "factor": 0.001},
    )
    assert with_it / without == pytest.approx(0.001, rel=0.05)


def test_stuck_sensor_repeats_its_first_value(tmp_path: Path) -> None:
    change = {"kind": "stuck_sensor", "from": moment(6), "column": "cpu_percent", "machines": ["m0002"]}
    window = span(START, 2 * DAY)
    dataset = PROFILE.dataset("telemetry")
    rows = sound(source(script=write(tmp_path / "s.yaml", change)).read(dataset, window), dataset, window)
    spread = (
        rows.filter(pl.col("event_time") >= START + 6 * HOUR)
        .group_by("machine_id")
        .agg(
            pl.col("cpu_percent").mode().count().alias("modes"),
            pl.col("cpu_percent").n_unique().alias("values"),
        )
    )
    # The stuck one shows its value, or nothing, or a second row that differs by mistake.
    assert spread.filter(pl.col("machine_id") == "m0002")["values"].item() <= 4
    assert spread.filter(pl.col("machine_id") != "m0002")["values"].min() > 100  # type: ignore[operator]


def test_new_machines_join_with_inventory_events_and_other_behaviour(tmp_path: Path) -> None:
    change = {"kind": "new_machines", "from": moment(30), "count": 4, "zones": ["b"], "services": ["api"]}
    fleet = source(script=write(tmp_path / "s.yaml", change))
    window = span(START, 4 * DAY)
    mine = pl.col("machine_id").str.starts_with("n1-")
    telemetry = read(fleet, "telemetry", window).filter(mine)
    assert telemetry["machine_id"].n_unique() == 4
    assert telemetry["event_time"].min() == START + 30 * HOUR
    inventory = read(fleet, "machines", window).filter(mine)
    assert set(inventory["zone"]) == {"b"}
    assert inventory["event_time"].min() == START + 30 * HOUR


def test_missing_column_and_noise(tmp_path: Path) -> None:
    dataset, window = PROFILE.dataset("telemetry"), span(START, DAY)
    change = {"kind": "missing_column", "from": moment(0), "column": "disk_percent", "share": 0.4}
    rows = source(12, script=write(tmp_path / "s.yaml", change)).read(dataset, window)
    rows = rows.filter(pl.col("event_time") >= START)
    assert 0.37 < rows["disk_percent"].null_count() / len(rows) < 0.43

    change = {"kind": "noise", "from": moment(0), "factor": 3.0}
    steps = [
        sound(fleet.read(dataset, window), dataset, window)
        .sort("machine_id", "event_time")
        .select(pl.col("memory_percent").diff().over("machine_id").abs().median())
        .item()
        for fleet in (source(12), source(12, script=write(tmp_path / "s.yaml", change)))
    ]
    assert 2.0 < steps[1] / steps[0] < 3.5


def test_failure_rate_changes_the_number_of_failures(tmp_path: Path) -> None:
    window = span(START + 8 * DAY, 40 * DAY)
    counts = []
    for factor in (0.0, 1.0, 2.0):
        script = write(tmp_path / "s.yaml", {"kind": "failure_rate", "from": moment(0), "factor": factor})
        events = read(source(30, script=script), "events", window)
        counts.append(len(events.filter(pl.col("kind") == "failure").unique()))
    assert counts[0] == 0
    assert counts[2] > 1.5 * counts[1] > 0


@pytest.mark.parametrize(
    ("regime", "said"),
    [
        ({"kind": "load_scale", "from": "2026-01-01", "factor": 2, "speed": 1}, "speed"),
        ({"kind": "earthquake", "from": "2026-01-01"}, "earthquake"),
        ({"kind": "load_scale", "factor": 2}, "from"),
        ({"kind": "load_scale", "from": "2026-01-02", "until": "2026-01-01", "factor": 2}, "until"),
        ({"kind": "stuck_sensor", "from": "2026-01-01", "column": "fan_rpm"}, "cpu_percent"),
        ({"kind": "load_scale", "from": "2026-01-01", "factor": 2, "zones": ["z"]}, "zones"),
        ({"kind": "new_machines", "from": "2026-01-01", "count": 2, "machines": ["m0001"]}, "machines"),
        ({"kind": "noise", "from": "2026-01-01", "factor": 2, "machines": ["m0009"]}, "m0009"),
    ],
)
def test_a_wrong_script_is_refused_with_the_reason(tmp_path: Path, regime: dict[str, Any], said: str) -> None:
    with pytest.raises(SourceError, match=said):
        source(script=write(tmp_path / "s.yaml", regime))


@pytest.mark.parametrize("text", ["", "- 1", "regimes: [", "regimes: {}", "others: []"])
def test_a_script_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SourceError, match=r"s\.yaml"):
        load_regimes(path)


def test_a_missing_script_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="nowhere"):
        source(script=tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "# ours\nregimes:\n  - {kind: noise, from: 2026-01-01, factor: 2}  # louder\n",
        "# ours\nregimes:\n- kind: noise\n  from: 2026-01-01\n  factor: 2\n",
        "regimes: [{kind: noise, from: 2026-01-01, factor: 2}]\n",
        "regimes: []\n",
        None,
    ],
)
def test_a_regime_is_appended_and_comments_stay(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "new" / "s.yaml"
    before = ()
    if text is not None:
        path.parent.mkdir()
        path.write_text(text, encoding="utf-8")
        before = load_regimes(path)
    added = parse_regime(
        {"kind": "load_scale", "from": "2026-02-01T06:00:00+02:00", "factor": 1.5, "zones": ["a"]}
    )
    append_regime(path, added)
    assert load_regimes(path) == (*before, added)
    assert added.start == datetime(2026, 2, 1, 4, tzinfo=UTC)
    assert ("# ours" in path.read_text("utf-8")) == (text is not None and "# ours" in text)
    assert [file.name for file in path.parent.iterdir()] == ["s.yaml"]


def test_a_refused_script_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("regimes: [{kind: nonsense}]", encoding="utf-8")
    with pytest.raises(SourceError, match="nonsense"):
        append_regime(path, parse_regime({"kind": "noise", "from": "2026-02-01", "factor": 1.5}))
    assert path.read_text("utf-8") == "regimes: [{kind: nonsense}]"


def test_a_data_set_or_column_that_is_not_simulated_is_named() -> None:
    telemetry = PROFILE.dataset("telemetry")
    with pytest.raises(SourceError, match="traffic"):
        source().read(telemetry.model_copy(update={"name": "traffic"}), span(START, DAY))
    fan = telemetry.columns[2].model_copy(update={"name": "fan_rpm"})
    with pytest.raises(SourceError, match="fan_rpm"):
        source().read(telemetry.model_copy(update={"columns": (*telemetry.columns, fan)}), span(START, DAY))
