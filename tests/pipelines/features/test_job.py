"""The features stage: whatever the order of rows, runs and kills, the tables are those of one straight run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feature_repo.transformations import UTC_TIME
from pipelines.adapters.feature_store import FeatureStore, all_views
from pipelines.adapters.lake import Lake
from pipelines.adapters.object_store import ensure_bucket
from pipelines.features import clean, job, table
from pipelines.features.table import FeatureTable
from pipelines.references import Layer, TableRef, Window
from pipelines.settings import Settings, load_settings
from pipelines.sources.profile import load_profile

Row = dict[str, Any]
PutClean = Callable[[Settings, str, list[Row]], None]
Tables = dict[str, pl.DataFrame]
START = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
DAYS = 6
WHOLE = Window(start=START, end=START + DAYS * DAY)


def _readings(step: timedelta = timedelta(minutes=50)) -> list[Row]:
    moments = [START + number * step for number in range(1, int(DAYS * DAY / step))]
    return [
        {"unit": unit, "seen_at": moment, "heat": float(number % 7) + shift, "resets": number % 11}
        for shift, unit in enumerate(("a", "b"))
        for number, moment in enumerate(moments)
    ]


LOG = [
    {"unit": "a", "seen_at": START + timedelta(hours=hours), "kind": kind}
    for hours, kind in ((5, "error"), (30, "failure"), (31, "error"), (100, "error"))
]
UNITS = [
    {"unit": unit, "seen_at": START + timedelta(hours=1), "model": "m1", "cores": 4} for unit in ("a", "b")
]


def _update(source: str, settings: Settings, window: Window) -> dict[str, TableRef]:
    """The stage without Feast."""
    profile = load_profile(source)
    views = all_views(profile)
    return {
        view.name: FeatureTable(view, profile, Lake.of(settings)).bring_up_to_date(window) for view in views
    }


def _tables(source: str, settings: Settings) -> Tables:
    profile = load_profile(source)
    lake = Lake.of(settings)
    return {
        view.name: lake.scan(profile.table(Layer.FEATURES, view.name)).collect().sort("unit", "event_time")
        for view in all_views(profile)
    }


def _assert_equal(found: Tables, expected: Tables) -> None:
    for name, rows in expected.items():
        assert found[name].equals(rows), name
        assert not rows.select("unit", "event_time").is_duplicated().any(), name


@pytest.fixture
def filled(settings: Settings, put_clean: PutClean) -> Settings:
    put_clean(settings, "readings", _readings())
    put_clean(settings, "log", LOG)
    put_clean(settings, "units", UNITS)
    return settings


@pytest.fixture
def undisturbed(tmp_path: Path, small_source: str, put_clean: PutClean) -> Tables:
    """The tables of one run over the same rows."""
    elsewhere = load_settings({}, home=tmp_path / "undisturbed")
    put_clean(elsewhere, "readings", _readings())
    put_clean(elsewhere, "log", LOG)
    put_clean(elsewhere, "units", UNITS)
    _update(small_source, elsewhere, WHOLE)
    return _tables(small_source, elsewhere)


def test_day_by_day_gives_what_one_run_gives(
    small_source: str, filled: Settings, undisturbed: Tables
) -> None:
    for piece in WHOLE.slices(DAY):
        _update(small_source, filled, piece)
    _assert_equal(_tables(small_source, filled), undisturbed)


@pytest.mark.integration
def test_days_in_any_order_give_what_one_run_gives(
    small_source: str, filled: Settings, undisturbed: Tables
) -> None:
    for piece in reversed(list(WHOLE.slices(DAY))):
        _update(small_source, filled, piece)
    _assert_equal(_tables(small_source, filled), undisturbed)


def test_a_rerun_adds_no_rows_and_no_version(small_source: str, filled: Settings) -> None:
    first = _update(small_source, filled, WHOLE)
    again = _update(small_source, filled, WHOLE)
    assert all(ref.rows_added > 0 for ref in first.values())
    assert {name: ref.version for name, ref in again.items()} == {
        name: ref.version for name, ref in first.items()
    }
    assert all(ref.rows_added == 0 for ref in again.values())


def test_slices_enter_the_table_with_the_rows(small_source: str, filled: Settings) -> None:
    _update(small_source, filled, Window(start=START, end=START + DAY))
    lake = Lake.of(filled)
    names = [
        f"features:{dataset}:{(START + DAY * day).isoformat()}"
        for dataset in ("readings", "log")
        for day in (0, 1)
    ]
    assert lake.done("features/small/log_history", names) == {names[0], names[2]}
    assert lake.done("features/small/readings_windows", names) == {names[0]}


@pytest.mark.integration
@pytest.mark.parametrize(("bound", "limit"), [("ROWS_PER_COMMIT", 40), ("VALUES_PER_COMMIT", 300)])
def test_small_commits_give_the_same_tables(
    small_source: str,
    filled: Settings,
    undisturbed: Tables,
    monkeypatch: pytest.MonkeyPatch,
    bound: str,
    limit: int,
) -> None:
    monkeypatch.setattr(table, bound, limit)
    refs = _update(small_source, filled, WHOLE)
    assert refs["readings_windows"].version > DAYS - 1
    _assert_equal(_tables(small_source, filled), undisturbed)


@pytest.mark.integration
def test_some_entities_at_a_time_give_the_same_tables(
    small_source: str, filled: Settings, undisturbed: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clean, "ROWS_AT_A_TIME", 60)
    _update(small_source, filled, WHOLE)
    _assert_equal(_tables(small_source, filled), undisturbed)


def test_sources_without_any_clean_row_make_empty_tables(
    small_source: str, settings: Settings, put_clean: PutClean
) -> None:
    put_clean(settings, "readings", _readings())
    _update(small_source, settings, WHOLE)
    tables = _tables(small_source, settings)
    assert tables["units_profile"].height == 0
    history = tables["log_history"]
    assert history.height == tables["readings_windows"].height > 0
    assert history["error__count_6h"].unique().to_list() == [0]
    assert history["error_last_at"].null_count() == history.height


def test_a_window_of_part_slices_takes_in_the_slices_that_it_touches(
    small_source: str, filled: Settings, tmp_path: Path
) -> None:
    partly = Window(start=START + timedelta(hours=2), end=START + timedelta(hours=30))
    _update(small_source, filled, partly)
    found = _tables(small_source, filled)
    whole = load_settings({}, home=tmp_path / "whole slices", lake_url=filled.lake)
    _update(small_source, whole, partly.widened(DAY))
    assert {name: rows.height for name, rows in found.items()} == {
        name: rows.height for name, rows in _tables(small_source, whole).items()
    }
    assert found["readings_windows"].height > 0


# A row with the day on which it arrives: at once, or up to three days late.
arrivals = st.integers(0, 3).map(lambda late: late * DAY)
moments = st.integers(1, 3 * 24 * 3 - 1).map(lambda number: START + number * timedelta(minutes=20))
random_readings = st.lists(
    st.tuples(st.sampled_from("ab"), moments, st.one_of(st.none(), st.floats(-50, 200)), arrivals),
    max_size=40,
    unique_by=lambda row: row[:2],
)
random_log = st.lists(
    st.tuples(st.sampled_from("ab"), moments, st.sampled_from(["error", "failure"]), arrivals),
    max_size=15,
    unique_by=lambda row: row[:3],
)


@pytest.mark.integration
@given(readings=random_readings, log=random_log, order=st.permutations(range(DAYS)))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_late_rows_are_picked_up_in_whatever_order_slices_come(
    small_source: str, put_clean: PutClean, readings: list[Any], log: list[Any], order: list[int]
) -> None:
    """Each slice is put into clean and run before the next; at the end all is as if it had come at once."""
    rows = {
        "readings": [
            {"unit": unit, "seen_at": at, "heat": heat, "resets": 1, "arrived": at + late}
            for unit, at, heat, late in readings
        ],
        "log": [
            {"unit": unit, "seen_at": at, "kind": kind, "arrived": at + late} for unit, at, kind, late in log
        ],
    }
    pieces = list(WHOLE.slices(DAY))
    with tempfile.TemporaryDirectory() as folder:
        by_slice = load_settings({}, home=Path(folder) / "by slice")
        at_once = load_settings({}, home=Path(folder) / "at once")
        for piece in (pieces[number] for number in order):
            for dataset, all_rows in rows.items():
                put_clean(
                    by_slice, dataset, [row for row in all_rows if piece.start <= row["arrived"] < piece.end]
                )
            _update(small_source, by_slice, piece)
        for dataset, all_rows in rows.items():
            put_clean(at_once, dataset, all_rows)
        _update(small_source, at_once, WHOLE)
        _assert_equal(_tables(small_source, by_slice), _tables(small_source, at_once))


@pytest.mark.integration
def test_the_stage_runs_on_a_lake_in_s3(
    small_source: str, tmp_path: Path, s3_server: str, put_clean: PutClean, undisturbed: Tables
) -> None:
    bucket = f"features-{uuid.uuid4().hex}"
    in_s3 = load_settings(
        {},
        home=tmp_path,
        lake_url=f"s3://{bucket}/lake",
        s3_endpoint_url=s3_server,
        s3_access_key_id="key",
        s3_secret_access_key="secret",
    )
    ensure_bucket(in_s3, bucket)
    for dataset, rows in (("readings", _readings()), ("log", LOG), ("units", UNITS)):
        put_clean(in_s3, dataset, rows)
    ref = job.run(small_source, WHOLE, in_s3)
    _assert_equal(_tables(small_source, in_s3), undisturbed)
    observed = pl.DataFrame(
        {"unit": ["a"], "event_time": [WHOLE.end]}, schema_overrides={"event_time": UTC_TIME}
    )
    versions = {name: view.version for name, view in ref.views.items()}
    found = FeatureStore(load_profile(small_source), in_s3).historical(observed, versions)
    assert found["heat__mean_6h"][0] is not None
    assert found["hours_since_error"][0] == DAYS * 24 - 100


class KilledError(BaseException):
    """Stands for the end of the process: nothing of the job may catch it."""


@pytest.mark.integration
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("door", "call"),
    [
        *((("lake", name), number) for name in ("create", "replace") for number in (1, 2, 3)),
        (("store", "apply"), 1),
        (("store", "publish"), 1),
    ],
)
def test_killed_around_any_write_a_rerun_completes_the_tables(
    small_source: str,
    filled: Settings,
    undisturbed: Tables,
    monkeypatch: pytest.MonkeyPatch,
    door: tuple[str, str],
    call: int,
    when: str,
) -> None:
    owner: Any = {"lake": Lake, "store": FeatureStore}[door[0]]
    real, calls = getattr(owner, door[1]), 0

    def killed(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and when == "before":
            raise KilledError
        result = real(*args, **kwargs)
        if calls == call:
            raise KilledError
        return result

    with monkeypatch.context() as patch:
        patch.setattr(owner, door[1], killed)
        with pytest.raises(KilledError):
            job.run(small_source, WHOLE, filled)
    ref = job.run(small_source, WHOLE, filled)
    _assert_equal(_tables(small_source, filled), undisturbed)
    assert ref.online_rows == 8  # two units in four views
    online = FeatureStore(load_profile(small_source), filled).online(["a", "b"], WHOLE.end)
    assert all(row is not None and row["heat__mean_6h"] is not None for row in online)


_RUN = """
import sys
from pipelines.features import job, table
from pipelines.references import Window
from pipelines.settings import load_settings
table.ROWS_PER_COMMIT = 40
print("started", flush=True)
job.run(sys.argv[1], Window.parse(sys.argv[3], sys.argv[4]), load_settings({}, home=sys.argv[2]))
"""


@pytest.mark.integration
def test_a_process_killed_again_and_again_leaves_nothing_lost_or_doubled(
    small_source: str, filled: Settings, undisturbed: Tables
) -> None:
    command = [sys.executable, "-c", _RUN, small_source, str(filled.home), str(WHOLE.start), str(WHOLE.end)]
    for seconds in (0.6, 0.9, 1.2):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(job.__file__).parents[2])
        assert process.stdout is not None
        assert process.stdout.readline() == b"started\n"
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    job.run(small_source, WHOLE, filled)
    _assert_equal(_tables(small_source, filled), undisturbed)


@pytest.mark.integration
def test_two_writers_of_overlapping_days_end_with_the_tables_of_one(
    small_source: str, filled: Settings, undisturbed: Tables
) -> None:
    """Neighbouring days touch each other's rows: whoever comes second has to compute anew."""
    pieces = list(WHOLE.slices(DAY))
    windows = [pieces[0::2], pieces[1::2], pieces]
    errors: list[BaseException] = []
    start = threading.Barrier(len(windows))

    def work(mine: list[Window]) -> None:
        try:
            start.wait()
            for window in mine:
                _update(small_source, filled, window)
        except BaseException as error:  # noqa: BLE001 - told to the test below
            errors.append(error)

    writers = [threading.Thread(target=work, args=(mine,)) for mine in windows]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert errors == []
    _assert_equal(_tables(small_source, filled), undisturbed)


def test_the_job_module_imports_nothing_heavy() -> None:
    code = "import pipelines.features.job, sys; print({'polars', 'feast', 'pandas', 'deltalake'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ}
    )
    assert done.stdout.strip() == "set()"
