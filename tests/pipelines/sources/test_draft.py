"""A draft is always a profile, it says what each column is, and what it drafts can be read."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.datasets import ColumnRole
from pipelines.errors import SourceError
from pipelines.references import Window
from pipelines.sources.draft import draft
from pipelines.sources.files import FilesSource
from pipelines.sources.profile import load_profile

START = datetime(2026, 1, 5, tzinfo=UTC)


def telemetry(step=timedelta(minutes=5), machines=3, samples=60, **columns):
    """Rows of machines one after another in time, with columns of the caller's."""
    times = [START + step * place for place in range(samples) for _ in range(machines)]
    names = [f"web-{number}" for _ in range(samples) for number in range(machines)]
    values = {name: [make(place) for place in range(len(times))] for name, make in columns.items()}
    return pl.DataFrame({"Host": names, "sampled at": times, **values})


def drafted(rows, folder, name="export.csv"):
    """The profile that is drafted from these rows, read back as a user's own."""
    file, profile = folder / name, folder / "mine.yaml"
    if file.suffix == ".csv":
        rows.write_csv(file)
    else:
        rows.write_parquet(file)
    profile.write_text(draft(file, file.name), "utf-8")
    return load_profile(str(profile))


def roles(profile):
    return {column.name: column.role for column in profile.dataset("telemetry").columns}


def test_columns_of_any_name_are_told_by_their_values(tmp_path):
    rows = telemetry(**{"CPU usage": lambda place: 20.0 + place % 7, "errors since boot": float})
    profile = drafted(rows, tmp_path)
    assert roles(profile) == {
        "host": ColumnRole.ENTITY,
        "event_time": ColumnRole.EVENT_TIME,
        "cpu_percent": ColumnRole.GAUGE,
        "errors_since_boot": ColumnRole.COUNTER,
    }
    assert profile.grid().every == timedelta(minutes=5)
    (cpu,) = [column for column in profile.dataset("telemetry").columns if column.name == "cpu_percent"]
    assert (cpu.minimum, cpu.maximum, cpu.unit) == (0, 100, "percent")


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("rx_mbps", "network_in_mbps"),
        ("Network In (kbps)", "network_in_kbps"),
        ("errors in last hour", "errors_in_last_hour"),
        ("memUsedPct", "memory_percent"),
        ("mem_used_mib", "memory_mem_used_mib"),
        ("qps", "requests_per_second"),
        ("9 lives", "column_9_lives"),
    ],
)
def test_known_columns_get_the_names_that_models_ask_for(tmp_path, theirs, ours):
    assert list(roles(drafted(telemetry(**{theirs: lambda place: 20.0 + place % 7}), tmp_path)))[2] == ours


def test_what_was_drafted_is_read(tmp_path):
    rows = telemetry(
        cpu=lambda place: 20.0 + place % 7,
        mem=lambda place: 40.0 + place % 3,
        rx_mbps=lambda place: 3.0 + place % 5,
        tx_mbps=lambda place: 9.0 - place % 5,
    )
    profile = drafted(rows, tmp_path)
    source = FilesSource(profile.origin, profile.folder, None)
    day = Window(start=profile.window_start, end=profile.window_end)
    read = source.read(profile.dataset("telemetry"), day)
    assert read.height == rows.height
    network = {"network_in_mbps", "network_out_mbps"}
    assert set(read.columns) == {"host", "event_time", "cpu_percent", "memory_percent", *network}
    bandwidth = profile.models["bandwidth"]
    assert bandwidth["target"]["columns"] == ["network_in_mbps", "network_out_mbps"]


@pytest.mark.parametrize(
    ("unit", "factor"), [("seconds", 1), ("milliseconds", 1000), ("microseconds", 10**6)]
)
def test_numbers_that_count_since_1970_are_times(tmp_path, unit, factor):
    rows = telemetry(load=lambda place: float(place % 3))
    stamps = (pl.col("sampled at").dt.timestamp("us") // 10**6 * factor).alias("ts")
    profile = drafted(rows.with_columns(stamps).drop("sampled at"), tmp_path)
    (table,) = profile.origin.tables["telemetry"]
    assert table.columns["event_time"].counts == unit
    assert profile.window_start == START


def test_a_broken_value_and_a_clock_that_runs_ahead_mislead_nobody(tmp_path):
    rows = telemetry(samples=200, cpu=lambda place: 30.0 + place % 9)
    text = rows.with_columns(
        pl.col("cpu").cast(pl.String), pl.col("sampled at").dt.strftime("%Y-%m-%d %H:%M:%S")
    )
    broken = text.head(2).with_columns(cpu=pl.lit("n/a"), **{"sampled at": pl.lit("2027-06-01 00:00:00")})
    profile = drafted(pl.concat([text, broken]), tmp_path)
    assert roles(profile)["cpu_percent"] is ColumnRole.GAUGE
    assert profile.window_end == START + timedelta(days=1)


def test_parquet_and_a_file_without_machines(tmp_path):
    rows = telemetry(machines=1, temperature=lambda place: 40.0 + place % 4).drop("Host")
    profile = drafted(rows, tmp_path, "hall.parquet")
    (table,) = profile.origin.tables["telemetry"]
    assert table.columns["machine"].constant == "hall"


def test_what_holds_no_times_or_no_numbers_is_refused_with_what_is_there(tmp_path):
    for rows, message in (
        (pl.DataFrame({"host": ["a", "b"], "cpu": [1.0, 2.0]}), "no column of times"),
        (telemetry(), "no column of numbers"),
    ):
        file = tmp_path / "export.csv"
        rows.write_csv(file)
        with pytest.raises(SourceError, match=message):
            draft(file)
    with pytest.raises(SourceError, match=r"neither \*\.csv"):
        draft(Path("export.xlsx"))


NAMES = st.text(st.characters(codec="utf-8", exclude_characters='\r\n\x00,"'), min_size=1, max_size=12)


@given(names=st.lists(NAMES, min_size=1, max_size=5, unique_by=str.strip))
@settings(max_examples=10)
def test_a_draft_is_a_profile_whatever_the_columns_are_called(names, tmp_path_factory):
    taken = {"Host", "sampled at", ""}
    columns = {name: (lambda place: 1.0 + place % 3) for name in names if name.strip() not in taken}
    if not columns:
        return
    profile = drafted(telemetry(samples=12, **columns), tmp_path_factory.mktemp("draft"))
    gauges = [name for name, role in roles(profile).items() if role is ColumnRole.GAUGE]
    assert len(gauges) == len(columns)
