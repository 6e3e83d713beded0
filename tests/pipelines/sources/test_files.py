"""Parquet and CSV files as a source."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from feature_repo.datasets import Dataset
from pipelines.errors import SourceError
from pipelines.references import Window
from pipelines.sources.files import FilesSource
from pipelines.sources.profile import FilesOrigin

DATASET = Dataset.model_validate(
    {
        "name": "telemetry",
        "kind": "telemetry",
        "description": "x",
        "key": ["machine_id", "event_time"],
        "columns": [
            {"name": "machine_id", "type": "string", "role": "entity"},
            {"name": "event_time", "type": "timestamp", "role": "event_time"},
            {"name": "cpu_percent", "type": "float", "role": "gauge", "nullable": True},
            {"name": "kind", "type": "string", "role": "category", "nullable": True},
        ],
    }
)
DAY = timedelta(days=1)


def days(first: int, last: int) -> Window:
    """From the first to the end of the last day of January 2026."""
    return Window(start=datetime(2026, 1, first, tzinfo=UTC), end=datetime(2026, 1, last, tzinfo=UTC) + DAY)


def naive(day: int) -> datetime:
    """A time without zone, as files often have them."""
    return datetime(2026, 1, day, tzinfo=UTC).replace(tzinfo=None)


def source(
    folder: Path, *tables: dict[str, object], shared: Path | None = None, **origin: object
) -> FilesSource:
    model = FilesOrigin.model_validate({"kind": "files", "tables": {"telemetry": tables}, **origin})
    return FilesSource(model, str(folder), shared)


def write_csv(path: Path, *lines: str) -> None:
    path.write_text("\n".join(lines) + "\n")


def test_a_row_belongs_to_the_day_of_its_event_time_and_naive_times_are_utc(tmp_path: Path) -> None:
    write_csv(
        tmp_path / "t.csv",
        "machine_id,event_time,cpu_percent",
        "a,2026-01-01 23:59:59,1",
        "b,2026-01-02,2",
        "c,2026-01-02T23:30:00+01:00,3",
        "d,2026-01-03T00:30:00+01:00,4",
        "e,2026-01-03T00:00:00Z,5",
    )
    rows = source(tmp_path, {"url": "t.csv"}).read(DATASET, days(2, 2))
    assert rows["machine_id"].to_list() == ["b", "c", "d"]


def test_values_of_csv_files_stay_text_so_that_nothing_is_lost(tmp_path: Path) -> None:
    write_csv(
        tmp_path / "t.csv", "machine_id,event_time,cpu_percent", "007,2026-01-01,n/a", "8,2026-01-01,1e1"
    )
    rows = source(tmp_path, {"url": "t.csv"}).read(DATASET, days(1, 1))
    assert rows["machine_id"].to_list() == ["007", "8"]
    assert rows["cpu_percent"].to_list() == ["n/a", "1e1"]


def test_columns_are_mapped_filled_with_constants_and_times_shifted(tmp_path: Path) -> None:
    pl.DataFrame({"id": [1, 2], "day": [naive(1), naive(2)], "load": [0.5, 0.6]}).write_parquet(
        tmp_path / "t.parquet"
    )
    columns = {
        "machine_id": {"column": "id"},
        "event_time": {"column": "day", "shift": "P1D"},
        "cpu_percent": {"column": "load"},
        "kind": {"constant": "daily"},
    }
    rows = source(tmp_path, {"url": "t.parquet", "columns": columns}).read(DATASET, days(2, 2))
    assert rows.rows(named=True) == [
        {"machine_id": 1, "event_time": datetime(2026, 1, 2, tzinfo=UTC), "cpu_percent": 0.5, "kind": "daily"}
    ]


def test_shifted_text_keeps_what_is_no_time(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", "machine_id,at", "a,2026-01-01", "b,soon")
    mapped = {"url": "t.csv", "columns": {"event_time": {"column": "at", "shift": "P1D"}}}
    rows = source(tmp_path, mapped).read(DATASET, days(2, 2))
    assert rows["event_time"].to_list() == ["2026-01-02T00:00:00.000000Z", "soon"]


@pytest.mark.parametrize(
    ("counts", "value"), [("seconds", 1767225600), ("milliseconds", 1767225600000), ("days", 20454)]
)
def test_numbers_may_count_time_since_1970(tmp_path: Path, counts: str, value: int) -> None:
    pl.DataFrame({"machine_id": ["a"], "at": [value]}).write_parquet(tmp_path / "t.parquet")
    mapped = {"url": "t.parquet", "columns": {"event_time": {"column": "at", "counts": counts}}}
    rows = source(tmp_path, mapped).read(DATASET, days(1, 1))
    assert rows["event_time"].to_list() == [datetime(2026, 1, 1, tzinfo=UTC)]


def test_a_constant_time_puts_a_whole_file_into_one_day(tmp_path: Path) -> None:
    pl.DataFrame({"machine_id": ["a", "b"]}).write_parquet(tmp_path / "t.parquet")
    inventory = source(tmp_path, {"url": "t.parquet", "columns": {"event_time": {"constant": "2026-01-02"}}})
    assert [inventory.read(DATASET, days(day, day)).height for day in (1, 2, 3)] == [0, 2, 0]


def test_files_of_a_data_set_follow_one_another_in_the_order_of_the_profile(tmp_path: Path) -> None:
    for name, machine in (("b1", "b"), ("b2", "c"), ("a", "a")):
        write_csv(tmp_path / f"{name}.csv", "machine_id,event_time", f"{machine},2026-01-01")
    both = source(tmp_path, {"url": "b*.csv"}, {"url": "a.csv", "columns": {"kind": {"constant": "x"}}})
    rows = both.read(DATASET, days(1, 1))
    assert rows.select("machine_id", "kind").rows() == [("b", None), ("c", None), ("a", "x")]


def test_files_that_disagree_on_a_type_meet_as_text(tmp_path: Path) -> None:
    at = naive(1)
    pl.DataFrame({"machine_id": [1], "event_time": [at], "cpu_percent": [1.5]}).write_parquet(
        tmp_path / "a.parquet"
    )
    write_csv(tmp_path / "b.csv", "machine_id,event_time,cpu_percent", "x,2026-01-01,?")
    rows = source(tmp_path, {"url": "a.parquet"}, {"url": "b.csv"}).read(DATASET, days(1, 1))
    assert rows["machine_id"].to_list() == ["1", "x"]
    assert rows["cpu_percent"].to_list() == ["1.5", "?"]
    assert rows["event_time"].to_list() == ["2026-01-01T00:00:00.000000Z", "2026-01-01"]


def test_a_row_without_a_time_arrives_with_the_row_above_it(tmp_path: Path) -> None:
    write_csv(
        tmp_path / "t.csv",
        "machine_id,event_time",
        *("first,", "a,2026-01-01", "b,2026-01-03", "c,yesterday", "d,", "e,2026-01-02"),
    )
    one = source(tmp_path, {"url": "t.csv"})
    arrived = {day: one.read(DATASET, days(day, day))["machine_id"].to_list() for day in (1, 2, 3)}
    assert arrived == {1: ["first", "a"], 2: ["e"], 3: ["b", "c", "d"]}


def test_the_time_of_arrival_may_be_a_column_of_its_own(tmp_path: Path) -> None:
    write_csv(
        tmp_path / "t.csv",
        "machine_id,event_time,stored_at",
        "late,2026-01-01,2026-01-03",
        "future,2031-01-01,2026-01-02",
        "broken,?,2026-01-02",
    )
    rows = source(tmp_path, {"url": "t.csv", "arrived": {"column": "stored_at"}}).read(DATASET, days(2, 2))
    assert rows.rows() == [("future", "2031-01-01"), ("broken", "?")]


time_texts = st.one_of(
    st.datetimes(naive(1), naive(10)).map(lambda moment: moment.isoformat()),
    st.sampled_from(["", "soon", "2026-02-30"]),
)


@settings(max_examples=15, deadline=None)
@given(times=st.lists(time_texts, min_size=1, max_size=30), length=st.sampled_from([1, 2, 5]))
def test_windows_part_the_rows_however_they_are_cut(
    tmp_path_factory: pytest.TempPathFactory, times: list[str], length: int
) -> None:
    folder = tmp_path_factory.mktemp("files")
    write_csv(
        folder / "t.csv",
        "machine_id,event_time",
        "m,2026-01-04",
        *(f"{n},{at}" for n, at in enumerate(times)),
    )
    one = source(folder, {"url": "t.csv"})
    whole = source(folder, {"url": "t.csv"}).read(DATASET, days(1, 10))
    assert whole.height == len(times) + 1
    parts = [one.read(DATASET, days(first, first + length - 1)) for first in range(1, 11, length)]
    again = [
        source(folder, {"url": "t.csv"}).read(DATASET, days(first, first + length - 1))
        for first in range(1, 11, length)
    ]
    for part, alone in zip(parts, again, strict=True):
        assert_frame_equal(part, alone)
    assert sorted(pl.concat(parts)["machine_id"]) == sorted(whole["machine_id"])


def test_compressed_csv_and_fsspec_addresses(tmp_path: Path) -> None:
    import fsspec

    text = b"machine_id,event_time\na,2026-01-01\n"
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(text))
    with fsspec.open("memory://telemetry/t.csv", "wb") as file:
        file.write(text)
    local = source(tmp_path, {"url": "t.csv.gz"}).read(DATASET, days(1, 1))
    remote = source(tmp_path, {"url": "memory://telemetry/*.csv"}).read(DATASET, days(1, 1))
    assert_frame_equal(local, remote)
    with pytest.raises(SourceError, match=r"no file memory://telemetry/s\.csv \(did you mean 't\.csv'\?\)"):
        source(tmp_path, {"url": "memory://telemetry/s.csv"}).read(DATASET, days(1, 1))


def test_shared_data_stands_for_its_setting(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", "machine_id,event_time", "a,2026-01-01")
    url = {"url": "${HEADRACE_SHARED_DATA}/t.csv"}
    assert source(tmp_path / "elsewhere", url, shared=tmp_path).read(DATASET, days(1, 1)).height == 1
    with pytest.raises(SourceError, match="needs the setting HEADRACE_SHARED_DATA"):
        source(tmp_path, url).read(DATASET, days(1, 1))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            {"url": "telemetri.csv"},
            r"no file .*telemetri\.csv \(did you mean 'telemetry\.csv'\?\); there are others, telemetry\.csv",
        ),
        ({"url": "nowhere/*.csv"}, r"no file .*nowhere/\*\.csv"),
        ({"url": "telemetry.json"}, r"neither \*\.parquet nor \*\.csv"),
        ({"url": "${HOME}/t.csv"}, r"\$\{HOME\} is unknown"),
        (
            {"url": "telemetry.csv", "columns": {"cpu_percent": {"column": "cpu_load"}}},
            r"has no column 'cpu_load' \(did you mean 'cpu_laod'\?\); it has machine_id, event_time, cpu_laod",
        ),
        (
            {"url": "telemetry.csv", "columns": {"cpu_procent": {"column": "cpu_laod"}}},
            r"data set telemetry has only .* \(did you mean 'cpu_percent'\?\)",
        ),
        ({"url": "telemetry.csv", "arrived": {"column": "at"}}, "has no column 'at'"),
        (
            {"url": "telemetry.csv", "columns": {"event_time": {"column": "cpu_laod"}}},
            "not one of 1 rows has a time",
        ),
        ({"url": "broken.parquet"}, r"cannot read .*broken\.parquet"),
        ({"url": "no_time.csv"}, "has no column 'event_time'"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, table: dict[str, object], message: str) -> None:
    write_csv(tmp_path / "telemetry.csv", "machine_id,event_time,cpu_laod", "a,2026-01-01,1")
    folder = tmp_path / "others"
    folder.mkdir()
    write_csv(folder / "no_time.csv", "machine_id", "a")
    (folder / "broken.parquet").write_text("not parquet")
    if str(table["url"]).startswith(("broken", "no_time")):
        table = {**table, "url": f"others/{table['url']}"}
    with pytest.raises(SourceError, match=message):
        source(tmp_path, table).read(DATASET, days(1, 1))


@pytest.mark.integration
def test_files_in_an_object_store(tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3
    from moto.server import ThreadedMotoServer

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    endpoint = f"http://127.0.0.1:{free_port}"
    server = ThreadedMotoServer("127.0.0.1", free_port)
    server.start()
    try:
        client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
        client.create_bucket(Bucket="fleet")
        for day in (1, 2, 3):
            path = tmp_path / f"{day}.parquet"
            pl.DataFrame({"machine_id": [f"m{day}"], "event_time": [naive(day)]}).write_parquet(path)
            client.upload_file(str(path), "fleet", f"telemetry/{day}.parquet")
        options = {"AWS_ENDPOINT_URL": endpoint, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1"}
        one = source(tmp_path, {"url": "s3://fleet/telemetry/*.parquet"}, storage_options=options)
        assert one.read(DATASET, days(1, 2))["machine_id"].to_list() == ["m1", "m2"]
        with pytest.raises(SourceError, match="s3://fleet/nothing"):
            source(tmp_path, {"url": "s3://fleet/nothing.parquet"}, storage_options=options).read(
                DATASET, days(1, 1)
            )
    finally:
        server.stop()


def test_a_data_set_without_files_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"names no files of data set 'telemetry'.*add their addresses"):
        source(tmp_path).read(DATASET, days(1, 1))
