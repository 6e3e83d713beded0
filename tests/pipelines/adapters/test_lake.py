"""The lake: exactly-once writes, replacement, versions and objects; local, and over S3's wire."""

from __future__ import annotations

import multiprocessing
import threading
import uuid
from collections.abc import Callable
from datetime import date
from pathlib import Path

import polars as pl
import pytest

from pipelines.adapters.lake import Lake
from pipelines.adapters.object_store import ensure_bucket
from pipelines.errors import LakeConflictError, LakeError
from pipelines.settings import load_settings

TABLE = "raw/test/readings"


def _rows(*values: int, day: int = 1) -> pl.DataFrame:
    days = pl.Series([date(2026, 1, day)] * len(values), dtype=pl.Date)
    return pl.DataFrame({"day": days, "value": pl.Series(values, dtype=pl.Int64)})


def _values(lake: Lake, version: int | None = None) -> list[int]:
    return sorted(lake.scan(TABLE, version).collect()["value"].to_list())


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.integration)])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    if request.param == "local":
        return Lake.of(load_settings({}, home=tmp_path))
    bucket = f"lake-{uuid.uuid4().hex}"
    settings = load_settings(
        {},
        home=tmp_path,
        lake_url=f"s3://{bucket}/deep/er",
        s3_endpoint_url=request.getfixturevalue("s3_server"),
        s3_access_key_id="key",
        s3_secret_access_key="secret",
    )
    assert ensure_bucket(settings, bucket)
    assert not ensure_bucket(settings, bucket)
    return Lake.of(settings)


def test_rows_are_added_once_for_their_work(lake: Lake) -> None:
    first = lake.append(TABLE, _rows(1, 2), work=["a", "b"], partition_by="day")
    again = lake.append(TABLE, _rows(1, 2), work=["a", "b"])
    assert (first.rows_added, again.rows_added, again.version) == (2, 0, first.version)
    assert _values(lake) == [1, 2]
    assert lake.done(TABLE, ["a", "b", "c"]) == {"a", "b"}


def test_work_that_is_partly_there_is_refused(lake: Lake) -> None:
    lake.append(TABLE, _rows(1), work=["a"])
    with pytest.raises(LakeError, match=r"holds \['a'\] but not all"):
        lake.append(TABLE, _rows(1, 2), work=["a", "b"])
    with pytest.raises(LakeError, match=r"holds \['a'\] but not all"):
        lake.replace(TABLE, _rows(1, 2), where="value > 0", work=["a", "b"])
    assert _values(lake) == [1]


def test_an_append_must_name_its_work(lake: Lake) -> None:
    with pytest.raises(LakeError, match="name its work"):
        lake.append(TABLE, _rows(1), work=[])


def test_no_rows_are_work_too(lake: Lake) -> None:
    lake.append(TABLE, _rows(), work=["quiet day"])
    assert lake.done(TABLE, ["quiet day"]) == {"quiet day"}
    assert _values(lake) == []


def test_a_new_column_enters_the_table(lake: Lake) -> None:
    lake.append(TABLE, _rows(1), work=["a"])
    lake.append(TABLE, _rows(2).with_columns(unit=pl.lit("ms")), work=["b"])
    found = lake.scan(TABLE).sort("value").collect()
    assert found["unit"].to_list() == [None, "ms"]


def test_a_version_stays_as_it_was(lake: Lake) -> None:
    first = lake.append(TABLE, _rows(1), work=["a"], partition_by="day")
    lake.append(TABLE, _rows(2), work=["b"])
    lake.replace(TABLE, _rows(7), where="day = '2026-01-01'")
    assert _values(lake, first.version) == [1]
    assert _values(lake) == [7]
    assert lake.version(TABLE) == first.version + 2


def test_replacing_takes_only_what_matches(lake: Lake) -> None:
    lake.append(TABLE, pl.concat([_rows(1, day=1), _rows(2, day=2)]), work=["a"], partition_by="day")
    lake.replace(TABLE, _rows(20, 21, day=2), where="day IN ('2026-01-02')", work=["b"])
    assert _values(lake) == [1, 20, 21]
    lake.replace(TABLE, _rows(), where="day = '2026-01-02'")
    assert _values(lake) == [1]


def test_replacing_for_work_that_is_done_changes_nothing(lake: Lake) -> None:
    lake.replace(TABLE, _rows(1), where="day = '2026-01-01'", work=["a"], partition_by="day")
    again = lake.replace(TABLE, _rows(2), where="day = '2026-01-01'", work=["a"])
    assert again.rows_added == 0
    assert _values(lake) == [1]


def test_rows_computed_beside_an_old_version_give_way_to_newer_ones(lake: Lake) -> None:
    lake.create(TABLE, _rows(), partition_by="day")
    before = lake.version(TABLE)
    lake.replace(TABLE, _rows(2), where="day = '2026-01-01'", work=["newer"], version=before)
    with pytest.raises(LakeConflictError, match="compute them anew"):
        lake.replace(TABLE, _rows(1), where="day = '2026-01-01'", work=["older"], version=before)
    other_day = lake.replace(
        TABLE, _rows(3, day=3), where="day = '2026-01-03'", work=["apart"], version=before
    )
    assert other_day.rows_added == 1
    assert _values(lake) == [2, 3]
    assert lake.done(TABLE, ["newer", "older", "apart"]) == {"newer", "apart"}


@pytest.mark.parametrize("folder", ["my data", "ü100%", "a#b"])
def test_a_lake_may_lie_in_a_folder_of_any_name(tmp_path: Path, folder: str) -> None:
    lake = Lake(str(tmp_path / folder))
    lake.append(TABLE, _rows(1), work=["a"], partition_by="day")
    lake.replace(TABLE, _rows(2), where="day = '2026-01-01'")
    assert _values(lake) == [2]
    assert lake.read_object(lake.write_object("snapshots/x.bin", b"x")) == b"x"
    assert [path.name for path in tmp_path.iterdir()] == [folder]


def test_creating_twice_keeps_the_rows(lake: Lake) -> None:
    lake.append(TABLE, _rows(1), work=["a"], partition_by="day")
    lake.create(TABLE, _rows(), partition_by="day")
    assert _values(lake) == [1]


def test_a_missing_table_or_version_is_named(lake: Lake) -> None:
    assert not lake.exists(TABLE)
    assert lake.done(TABLE, ["a"]) == set()
    with pytest.raises(LakeError, match=TABLE):
        lake.version(TABLE)
    lake.append(TABLE, _rows(1), work=["a"])
    with pytest.raises(LakeError, match="version 99"):
        lake.scan(TABLE, 99)


def test_objects_are_stored_whole_and_read_back(lake: Lake) -> None:
    url = lake.write_object("snapshots/x/data.bin", b"\x00one")
    assert url == f"{lake.url}/snapshots/x/data.bin"
    assert lake.read_object(url) == b"\x00one"
    assert lake.write_object("snapshots/x/data.bin", b"two") == url
    assert lake.read_object(url) == b"two"
    with pytest.raises(LakeError, match="no object at"):
        lake.read_object(f"{lake.url}/snapshots/x/other.bin")


def test_a_stored_object_leaves_no_part_behind(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    lake.write_object("a/b.bin", b"x")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["b.bin"]


def test_two_threads_with_the_same_and_with_other_work_lose_and_double_nothing(lake: Lake) -> None:
    lake.create(TABLE, _rows())
    start = threading.Barrier(4)
    errors: list[BaseException] = []

    def write(number: int) -> None:
        try:
            start.wait()
            lake.append(TABLE, _rows(number), work=[f"work {number}"])
        except BaseException as error:  # noqa: BLE001 - told to the test below
            errors.append(error)

    writers = [threading.Thread(target=write, args=(number,)) for number in (1, 1, 2, 3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert errors == []
    assert _values(lake) == [1, 2, 3]


def _append_in_process(url: str, start: Callable[[], int], names: list[str], value: int) -> None:
    start()
    for name in names:
        Lake(url).append(TABLE, _rows(value), work=[name])


@pytest.mark.integration
def test_two_processes_doing_the_same_work_do_it_once(tmp_path: Path) -> None:
    """Both make the table, and both go through the same work."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    names = [f"slice {number}" for number in range(6)]
    workers = [
        context.Process(target=_append_in_process, args=(str(tmp_path), barrier.wait, names, 1))
        for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert _values(Lake(str(tmp_path))) == [1] * len(names)
