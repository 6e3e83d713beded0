"""From a table's version or a feature back to the versions that used it."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from feature_repo.transformations import UTC_TIME
from pipelines.adapters.lake import Lake
from pipelines.errors import LakeError, LineageError
from pipelines.features.clean import work_of as features_of
from pipelines.ingest.job import work_of as ingest_of
from pipelines.lineage import trace
from pipelines.references import Window
from pipelines.validate.job import work_of as validate_of
from tests.pipelines.lineage.records import a_record

DAY = timedelta(days=1)
START = datetime(2026, 1, 1, tzinfo=UTC)
# Days that each commit of a layer brought. Version 0 makes the table; version n has the n-th commit.
RAW = ((0, 1), (2,), (3, 4), (5,))
CLEAN = ((0, 1, 2), (4,), (3, 5))
FEATURES = ((0,), (1, 2), (4, 3), (5,))


def day(number):
    return START + number * DAY


def held(commits, version):
    return {number for commit in commits[:version] for number in commit}


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    """Three layers of data set ``readings``, in which days came in different orders."""
    lake = Lake(str(tmp_path_factory.mktemp("lake")))
    works = {
        "raw/small/readings": (RAW, lambda at: ingest_of(Window(start=at, end=at + DAY))),
        "clean/small/readings": (CLEAN, lambda at: validate_of(Window(start=at, end=at + DAY))),
        "features/small/readings_windows": (FEATURES, lambda at: features_of("readings", at)),
    }
    for table, (commits, work) in works.items():
        for commit in commits:
            rows = pl.DataFrame(
                {"slice_start": [day(number) for number in commit]}, schema={"slice_start": UTC_TIME}
            )
            lake.append(table, rows, work=[work(day(number)) for number in commit])
    return lake


@pytest.fixture
def configured(settings, lake):
    return settings.model_copy(update={"lake_url": lake.url})


@pytest.fixture(scope="session")
def small(small_source):
    """A profile whose slices are days."""
    from pipelines.sources.profile import load_profile

    assert load_profile(small_source).dataset("readings").slice == DAY
    return small_source


def windowed(small):
    """Name of the view that is made of readings."""
    from pipelines.adapters.feature_store import views
    from pipelines.sources.profile import load_profile

    return next(view.name for view in views(load_profile(small)) if view.dataset == "readings")


@pytest.mark.parametrize("layer", ["raw", "clean"])
@pytest.mark.parametrize("end", [2, 4, 6])
def test_it_is_told_slice_by_slice_through_every_layer(configured, small, layer, end):
    """Against a count by hand: which version held a day that the table's version brought, and needed it."""
    view = windowed(small)
    assert view == "readings_windows"
    table, commits = f"{layer}/small/readings", RAW if layer == "raw" else CLEAN
    window = Window(start=day(1), end=day(end))
    records = [
        a_record(
            str(10 * clean + features),
            source=small,
            window=window,
            tables={"clean/small/readings": clean, f"features/small/{view}": features},
        )
        for clean in range(len(CLEAN) + 1)
        for features in range(len(FEATURES) + 1)
    ]
    for version in range(1, len(commits) + 1):
        brought = {number for number in commits[version - 1] if number < end}
        wanted = {
            record.version
            for record in records
            if brought & held(CLEAN, record.training.tables["clean/small/readings"])
            or brought & held(FEATURES, record.training.tables[f"features/small/{view}"])
        }
        found = trace.using_table(records, table, version, configured)
        assert {use.version for use in found} == wanted


def test_the_way_is_told(configured, small):
    window = Window(start=day(1), end=day(6))
    record = a_record(source=small, window=window, tables={"features/small/readings_windows": 2})

    (use,) = trace.using_table([record], "raw/small/readings", 1, configured)

    assert use.how == (
        "features/small/readings_windows@2 held 2 of its slices (2026-01-01T00:00Z to 2026-01-02T00:00Z), "
        "1 of them in the training window"
    )


def test_a_feature_table_is_read_at_a_version(configured):
    table = "features/small/readings_windows"
    records = [a_record(str(version), tables={table: version}) for version in (1, 2, 3)]

    found = trace.using_table(records, table, 2, configured)

    assert [(use.version, use.how) for use in found] == [
        ("2", "read it"),
        ("3", "read version 3 of it, which came after"),
    ]


def test_what_is_not_kept_any_more_is_not_ruled_out(configured, small):
    record = a_record(
        source=small, window=Window(start=day(1), end=day(6)), tables={"clean/small/readings": 99}
    )

    (use,) = trace.using_table([record], "clean/small/readings", 1, configured)

    assert "cannot be ruled out" in use.how


def test_a_table_or_version_that_is_not_there_is_an_error(configured):
    with pytest.raises(LakeError):
        trace.using_table([], "raw/small/readings", 77, configured)
    with pytest.raises(LakeError, match="no table"):
        trace.using_table([], "features/small/other", 1, configured)
    with pytest.raises(LineageError, match="used by no version"):
        trace.using_table([], "quarantine/small/readings", 1, configured)


def test_features_are_found_by_name_and_by_pattern():
    records = [a_record("1"), a_record("2", features={"load": ""})]

    assert [use.version for use in trace.using_feature(records, "cpu_mean")] == ["1"]
    assert [use.version for use in trace.using_feature(records, "load")] == ["1", "2"]
    (use,) = trace.using_feature(records, "cpu_*")
    assert use.how == "takes cpu_mean, cpu_max (windows)"
    assert trace.using_feature(records, "memory") == ()


@pytest.mark.parametrize("text", ["raw/small/readings", "raw/small@x", "@3", "ledger/pointers@1", "raw/x@-1"])
def test_what_is_no_version_of_a_table_is_refused(text):
    with pytest.raises(LineageError, match="raw/simulated/telemetry@12"):
        trace.parse_table(text)


def test_a_table_s_version_is_read():
    assert trace.parse_table("clean/simulated/events@12") == ("clean/simulated/events", 12)
