"""Ingest into a real lake."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from polars.testing import assert_frame_equal

from pipelines.adapters.lake import Lake
from pipelines.errors import SourceError, WindowError
from pipelines.ingest import job
from pipelines.references import IngestRef, Window
from pipelines.settings import Settings, load_settings
from tests.killing import killed_at_commit
from tests.pipelines.dirty import FIRST, day, days, line, write_source

RAW = "raw/files/telemetry"


def test_each_slice_is_ingested_once_however_windows_overlap(tmp_path: Path, settings: Settings) -> None:
    source = write_source(tmp_path, day(1) + day(2) + day(3))
    first = job.run(source, "telemetry", days(1, 2), settings)
    second = job.run(source, "telemetry", days(2, 3), settings)
    third = job.run(source, "telemetry", days(1, 3), settings)
    assert [ref.raw.rows_added for ref in (first, second, third)] == [80, 40, 0]
    assert IngestRef.from_xcom(third.to_xcom()) == third
    rows = Lake.of(settings).scan(RAW).collect()
    assert rows.select("slice_start", "ordinal").is_unique().all()
    assert sorted(rows["ordinal"].unique()) == list(range(40))


def test_a_slice_without_rows_is_done_too(tmp_path: Path, settings: Settings) -> None:
    source = write_source(tmp_path, day(1))
    assert job.run(source, "telemetry", days(2, 4), settings).raw.rows_added == 0
    write_source(tmp_path, day(1) + day(3))
    assert job.run(source, "telemetry", days(2, 4), settings).raw.rows_added == 0
    assert Lake.of(settings).scan(RAW).collect().is_empty()


def test_a_row_stays_in_the_slice_in_which_it_arrived(tmp_path: Path, settings: Settings) -> None:
    late = line(1, 7, stored_at="2026-01-03T04:00:00Z")
    source = write_source(tmp_path, [*day(1, 5), *day(3, 5), late])
    job.run(source, "telemetry", days(1, 3), settings)
    rows = Lake.of(settings).scan(RAW).sort("slice_start", "ordinal").collect()
    assert rows.select(slice=rows["slice_start"].dt.day())["slice"].to_list() == [1] * 5 + [3] * 6
    assert rows.tail(1).select("ordinal", "sectors").row(0) == (5, 7)
    assert rows.tail(1)["event_time"].item() == FIRST + timedelta(minutes=35)


def test_progress_counts_slices(tmp_path: Path, settings: Settings) -> None:
    source = write_source(tmp_path, day(1))
    seen: list[tuple[int, int]] = []
    job.run(
        source, "telemetry", days(1, 40), settings, progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(0, 40), (32, 40), (40, 40)]


def test_what_cannot_be_ingested_says_why(tmp_path: Path, settings: Settings) -> None:
    source = write_source(tmp_path, day(1))
    with pytest.raises(WindowError, match="not on a border"):
        job.run(source, "telemetry", Window(start=FIRST, end=FIRST + timedelta(hours=3)), settings)
    with pytest.raises(SourceError, match="no data set 'bills'"):
        job.run(source, "bills", days(1, 1), settings)
    (tmp_path / "telemetry.csv").unlink()
    with pytest.raises(SourceError, match="no file"):
        job.run(source, "telemetry", days(1, 1), settings)
    assert not Lake.of(settings).exists(RAW)


@pytest.mark.integration
def test_killed_at_any_commit_and_run_again_it_is_as_if_never_killed(
    tmp_path: Path, settings: Settings
) -> None:
    lines = [each for number in range(1, 70) for each in day(number, 3)]
    source = write_source(tmp_path, lines)
    window = days(1, 69)
    job.run(source, "telemetry", window, settings)
    undisturbed = Lake.of(settings).scan(RAW).sort("slice_start", "ordinal").collect()
    assert undisturbed.height == len(lines)

    other = load_settings({}, home=tmp_path / "killed")
    kills = 0
    while killed_at_commit(1, job.run, source, "telemetry", window, other, when="after"):
        kills += 1
    assert kills == 3
    assert_frame_equal(Lake.of(other).scan(RAW).sort("slice_start", "ordinal").collect(), undisturbed)

    third = load_settings({}, home=tmp_path / "before")
    for commit in (1, 2, 2):
        assert killed_at_commit(commit, job.run, source, "telemetry", window, third, when="before")
    job.run(source, "telemetry", window, third)
    assert_frame_equal(Lake.of(third).scan(RAW).sort("slice_start", "ordinal").collect(), undisturbed)
