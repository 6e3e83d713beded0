"""Validation through ingest, in a real lake."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from pipelines.adapters.lake import Lake
from pipelines.errors import DataValidationError, LakeError, WindowError
from pipelines.ingest import job as ingest
from pipelines.ingest.steps import ROW_IDENTITY
from pipelines.references import ValidationRef, Window
from pipelines.settings import Settings, load_settings
from pipelines.validate import job, reload
from tests.killing import killed_at_commit
from tests.pipelines.dirty import FIRST, Line, day, days, line, write_source

pytestmark = pytest.mark.integration

DATASET = "telemetry"


def run(source: str, window: Window, settings: Settings) -> ValidationRef:
    return job.run(ingest.run(source, DATASET, window, settings), settings)


def table(settings: Settings, layer: str) -> pl.DataFrame:
    lake = Lake.of(settings)
    name = f"{layer}/files/{DATASET}"
    return lake.scan(name).sort(ROW_IDENTITY).collect() if lake.exists(name) else pl.DataFrame()


def assert_no_row_is_lost(settings: Settings) -> None:
    parts = pl.concat([table(settings, layer).select(ROW_IDENTITY) for layer in ("clean", "quarantine")])
    assert_frame_equal(parts.sort(ROW_IDENTITY), table(settings, "raw").select(ROW_IDENTITY))


def dirty_lines() -> list[Line]:
    return [
        *day(1),
        line(1, 40, cpu_percent="n/a"),
        line(1, 41, cpu_percent="180"),
        line(1, 5, stored_at=(FIRST + timedelta(hours=20)).isoformat()),
        *day(2),
        line(2, 40, event_time="2031-01-01T00:00:00Z"),
        line(2, 41, event_time=""),
        line(1, 6, stored_at=(FIRST + timedelta(days=1, hours=3)).isoformat()),
        *day(3),
    ]


def test_broken_rows_are_quarantined_with_reasons_and_the_rest_goes_on(
    tmp_path: Path, settings: Settings
) -> None:
    source = write_source(tmp_path, dirty_lines())
    done = run(source, days(1, 3), settings)
    assert (done.clean.rows_added, done.quarantine.rows_added) == (120, 6)
    assert_no_row_is_lost(settings)
    assert table(settings, "quarantine").select("slice_start", "ordinal", "reasons").rows() == [
        (FIRST, 40, ["cpu_percent: 'n/a' is not a float"]),
        (FIRST, 41, ["cpu_percent=180.0 is above 100 percent"]),
        (
            FIRST,
            42,
            ["duplicate key (machine_id, event_time): first seen at ordinal 5 of slice 2026-01-01T00:00Z"],
        ),
        (
            FIRST + timedelta(days=1),
            40,
            ["event_time 2031-01-01T00:00Z is in the future of its slice 2026-01-02T00:00Z"],
        ),
        (FIRST + timedelta(days=1), 41, ["event_time is missing"]),
        (
            FIRST + timedelta(days=1),
            42,
            ["duplicate key (machine_id, event_time): first seen at ordinal 6 of slice 2026-01-01T00:00Z"],
        ),
    ]
    assert done.data_docs_url is not None
    page = Path(urlsplit(done.data_docs_url).path)
    assert "telemetry_rows" in page.read_text()
    assert page.is_relative_to(settings.home / "data_docs" / "files" / DATASET)


def test_a_day_at_a_time_and_again_comes_to_the_same(tmp_path: Path, settings: Settings) -> None:
    source = write_source(tmp_path, dirty_lines())
    whole = load_settings({}, home=tmp_path / "whole")
    run(source, days(1, 3), whole)
    for number in (1, 2, 3):
        run(source, days(number, number), settings)
    again = run(source, days(1, 3), settings)
    assert (again.clean.rows_added, again.quarantine.rows_added) == (0, 0)
    for layer in ("clean", "quarantine"):
        assert_frame_equal(table(settings, layer), table(whole, layer))


def test_batches_larger_than_memory_allows_are_judged_as_one(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_source(tmp_path, dirty_lines())
    whole = load_settings({}, home=tmp_path / "whole")
    run(source, days(1, 3), whole)
    monkeypatch.setattr(job, "_ROWS_AT_A_TIME", 50)
    run(source, days(1, 3), settings)
    for layer in ("clean", "quarantine"):
        assert_frame_equal(table(settings, layer), table(whole, layer))


def test_a_batch_broken_as_a_whole_stops_and_says_what_and_where(tmp_path: Path, settings: Settings) -> None:
    broken = [line(2, row, cpu_percent="n/a" if row % 2 else "180") for row in range(40)]
    source = write_source(tmp_path, day(1) + broken)
    run(source, days(1, 1), settings)
    before = {layer: table(settings, layer) for layer in ("clean", "quarantine")}
    with pytest.raises(DataValidationError) as stopped:
        run(source, days(2, 2), settings)
    for layer, rows in before.items():
        assert_frame_equal(table(settings, layer), rows)
    text = str(stopped.value)
    for part in (
        "data set telemetry of source files, window 2026-01-02T00:00Z..2026-01-03T00:00Z, table raw/files/telemetry version 2",
        "expect_column_values_to_be_between(quarantined_share <= 0.2): 40 of 40 rows (100.0%) are broken",
        "expect_column_values_to_be_null(unparsed): 20 rows",
        "expect_column_values_to_be_between(cpu_percent): 20 rows",
        "row: slice 2026-01-02T00:00Z, ordinal 0: machine_id='m0', event_time=2026-01-02T00:00:00Z, cpu_percent=180",
        "-> cpu_percent: 'n/a' is not a float",
        "Data Docs: file://",
        "What to do",
    ):
        assert part in text, text
    assert text.count("  row: ") == 3


@pytest.mark.parametrize(
    ("lines", "limits", "message"),
    [
        (day(1, 30), {"min_rows": 31}, r"\(rows >= 31\): the batch has 30 rows"),
        ([], {}, r"\(rows >= 1\): the batch has 0 rows"),
        (day(1, 30) * 3, {}, r"\(duplicate_share <= 0.5\): 60 of 90 rows \(66.7%\) are duplicates"),
        (
            [line(1, row, cpu_percent="" if row % 3 else "1") for row in range(30)],
            {"max_missing_share": 0.6},
            r"\(missing_share_of_cpu_percent <= 0.6\): 20 of 30 rows \(66.7%\) have no value of cpu_percent",
        ),
        (
            [line(1, row, sectors="") for row in range(30)],
            {},
            r"\(missing_share_of_sectors < 1\): 30 of 30 rows \(100.0%\) have no value of sectors",
        ),
        ([line(1, row, kind="") for row in range(30)], {}, r"missing_share_of_kind < 1"),
        ([line(1, 0, kind="odd")], {}, r"\(quarantined_share < 1\): 1 of 1 rows"),
    ],
)
def test_what_stops_a_batch(
    tmp_path: Path, settings: Settings, lines: list[Line], limits: dict[str, float], message: str
) -> None:
    source = write_source(tmp_path, [*lines, line(9, 0)], **limits)
    with pytest.raises(DataValidationError, match=message):
        run(source, days(1, 1), settings)
    assert table(settings, "clean").is_empty()
    assert table(settings, "quarantine").is_empty()


@pytest.mark.parametrize(
    ("lines", "limits"),
    [
        ([], {"min_rows": 0}),
        ([line(1, 0), line(1, 1, kind="odd")], {}),
        ([line(1, row, cpu_percent="") for row in range(30)], {"max_missing_share": 1}),
    ],
)
def test_what_does_not_stop_a_batch(
    tmp_path: Path, settings: Settings, lines: list[Line], limits: dict[str, float]
) -> None:
    source = write_source(tmp_path, [*lines, line(9, 0)], **limits)
    run(source, days(1, 1), settings)
    assert_no_row_is_lost(settings)


def test_a_stopped_batch_goes_on_once_its_source_is_mended_and_reloaded(
    tmp_path: Path, settings: Settings
) -> None:
    broken = [line(2, row, cpu_percent="n/a") for row in range(40)]
    source = write_source(tmp_path, day(1) + broken)
    run(source, days(1, 1), settings)
    with pytest.raises(DataValidationError):
        run(source, days(2, 2), settings)
    write_source(tmp_path, day(1) + day(2, 35))
    with pytest.raises(LakeError, match="was validated already"):
        reload.run(source, DATASET, days(1, 2), settings)
    with pytest.raises(LakeError, match="does not hold"):
        reload.run(source, DATASET, days(2, 3), settings)
    with pytest.raises(WindowError, match="not on a border"):
        reload.run(source, DATASET, Window(start=FIRST, end=FIRST + timedelta(hours=1)), settings)
    assert reload.run(source, DATASET, days(2, 2), settings).raw.rows_added == 35
    done = run(source, days(1, 2), settings)
    assert (done.clean.rows_added, done.quarantine.rows_added) == (35, 0)
    assert table(settings, "raw").height == 75
    assert_no_row_is_lost(settings)


def test_killed_at_any_commit_and_run_again_it_is_as_if_never_killed(
    tmp_path: Path, settings: Settings
) -> None:
    source = write_source(tmp_path, dirty_lines())
    run(source, days(1, 3), settings)
    for commit in (1, 2):
        other = load_settings({}, home=tmp_path / f"killed{commit}")
        ingested = ingest.run(source, DATASET, days(1, 3), other)
        assert killed_at_commit(commit, job.run, ingested, other)
        assert table(other, "clean").is_empty()
        assert table(other, "quarantine").is_empty() == (commit == 1)
        done = job.run(ingested, other)
        assert done.clean.rows_added == 120
        for layer in ("raw", "clean", "quarantine"):
            assert_frame_equal(table(other, layer), table(settings, layer))


def test_rows_doubled_in_slices_that_a_kill_left_half_done_are_decided_the_same(
    tmp_path: Path, settings: Settings
) -> None:
    source = write_source(tmp_path, dirty_lines())
    run(source, days(1, 1), settings)
    run(source, days(2, 3), settings)
    other = load_settings({}, home=tmp_path / "killed")
    first = ingest.run(source, DATASET, days(1, 1), other)
    assert killed_at_commit(2, job.run, first, other)
    run(source, days(1, 3), other)
    for layer in ("clean", "quarantine"):
        assert_frame_equal(table(other, layer), table(settings, layer))
