"""In however many buckets, in whatever order, killed or not: the rows are those of one worker."""

from __future__ import annotations

import tempfile
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as effort
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from pipelines.adapters.feature_store import all_views
from pipelines.adapters.lake import Lake
from pipelines.buckets import BUCKET, bucket_of
from pipelines.errors import DataValidationError, LakeError
from pipelines.features.table import FeatureTable
from pipelines.ingest import job as ingest
from pipelines.references import Layer, Window
from pipelines.settings import Settings, load_settings
from pipelines.sources.profile import load_profile
from pipelines.validate import job as validate
from tests.killing import killed_at_commit
from tests.pipelines.dirty import Line, day, days, line, write_source

DATASET = "telemetry"
WINDOW = days(1, 3)


def test_an_entitys_bucket_is_the_same_in_every_release() -> None:
    assert [bucket_of(name, 8) for name in ("m0001", "m0002", "Zürich", "")] == [1, 3, 6, 0]


def lines() -> list[Line]:
    return [
        *day(1),
        line(1, 40, cpu_percent="n/a"),
        line(1, 41, machine_id=""),
        line(1, 5, stored_at="2026-01-01T20:00:00Z"),  # again, in the same slice
        *day(2),
        line(2, 41, event_time=""),
        line(1, 6, stored_at="2026-01-02T03:00:00Z"),  # again, a day late
        *day(3),
        line(2, 77, stored_at="2026-01-03T03:00:00Z"),  # late, and new
    ]


def of(folder: Path, buckets: int) -> Settings:
    return load_settings({}, home=folder, entity_buckets=buckets)


def in_tasks(source: str, window: Window, settings: Settings, order: list[int]) -> None:
    """As the DAGs map it: a task per bucket, in this order."""
    for bucket in order:
        ingested = ingest.run(source, DATASET, window, settings, buckets=[bucket])
    sifted = [validate.sift(ingested, settings, bucket) for bucket in order]
    sifted = [validate.SiftedRef.from_xcom(each.to_xcom()) for each in sifted]
    validate.judge(ingested, sifted, settings)
    for bucket in reversed(order):
        validate.copy(ingested, settings, bucket)
    features(source, window, settings, order)


def features(source: str, window: Window, settings: Settings, order: list[int] | None) -> None:
    profile = load_profile(source)
    for view in all_views(profile):
        table = FeatureTable(view, profile, Lake.of(settings), settings.entity_buckets)
        for buckets in [None] if order is None else [[bucket] for bucket in order]:
            table.bring_up_to_date(window, buckets)


def alone(source: str, window: Window, settings: Settings) -> None:
    validate.run(ingest.run(source, DATASET, window, settings), settings)
    features(source, window, settings, None)


def tables(source: str, settings: Settings) -> dict[str, pl.DataFrame]:
    lake = Lake.of(settings)
    found = {}
    for name in lake.tables():
        rows = lake.scan(name).collect().drop(BUCKET, strict=False)
        found[name] = rows.sort(
            rows.columns[:2] if name.startswith("features") else ["slice_start", "ordinal"]
        )
    return found


def assert_same(found: dict[str, pl.DataFrame], expected: dict[str, pl.DataFrame]) -> None:
    assert found.keys() == expected.keys()
    for name, rows in expected.items():
        assert_frame_equal(found[name], rows, check_exact=True)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_source(tmp_path_factory.mktemp("source"), lines())


@pytest.fixture(scope="module")
def undisturbed(source: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, pl.DataFrame]:
    settings = of(tmp_path_factory.mktemp("alone"), 1)
    alone(source, WINDOW, settings)
    found = tables(source, settings)
    assert {name.partition("/")[0]: rows.height > 0 for name, rows in found.items()} == dict.fromkeys(
        ("raw", "clean", "quarantine", "features"), True
    )
    return found


@pytest.mark.integration
@pytest.mark.parametrize("buckets", [2, 7])
def test_one_worker_may_do_all_buckets(
    source: str, undisturbed: dict[str, pl.DataFrame], tmp_path: Path, buckets: int
) -> None:
    settings = of(tmp_path, buckets)
    alone(source, WINDOW, settings)
    assert_same(tables(source, settings), undisturbed)
    assert Lake.of(settings).buckets(f"clean/files/{DATASET}") == buckets


@pytest.mark.integration
@given(buckets=st.integers(2, 5), data=st.data())
@effort(max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_tasks_in_any_order_over_windows_in_any_cut_give_the_same(
    source: str, undisturbed: dict[str, pl.DataFrame], buckets: int, data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        settings = of(Path(folder), buckets)
        for first, last in data.draw(st.sampled_from([[(1, 3)], [(1, 2), (3, 3)], [(1, 1), (1, 3)]])):
            in_tasks(source, days(first, last), settings, data.draw(st.permutations(range(buckets))))
        # And again, as a task that is cleared is run again.
        alone(source, WINDOW, settings)
        assert_same(tables(source, settings), undisturbed)


@pytest.mark.integration
def test_a_task_that_is_killed_at_any_commit_and_run_again_loses_and_doubles_nothing(
    source: str, undisturbed: dict[str, pl.DataFrame], tmp_path: Path
) -> None:
    settings = of(tmp_path, 3)
    kills = 0

    def until_done(job, *arguments):
        nonlocal kills
        call = 1
        while killed_at_commit(call, job, *arguments, when="after" if call % 2 else "before"):
            call += 1
            kills += 1
        return job(*arguments)

    for bucket in range(3):
        ingested = until_done(ingest.run, source, DATASET, WINDOW, settings, None, [bucket])
    sifted = [validate.sift(ingested, settings, bucket) for bucket in range(3)]
    until_done(validate.judge, ingested, sifted, settings)
    for bucket in range(3):
        until_done(validate.copy, ingested, settings, bucket)
    features(source, WINDOW, settings, [2, 0, 1])
    assert kills >= 7
    assert_same(tables(source, settings), undisturbed)


@pytest.mark.integration
def test_a_batch_is_judged_as_a_whole_whatever_its_buckets(tmp_path: Path) -> None:
    # All that is broken is of one machine: of its bucket a third, of the batch a tenth.
    broken = [line(1, row, cpu_percent="500") for row in range(0, 36, 9)]
    good = [each for row, each in enumerate(day(1)) if row not in range(0, 36, 9)]
    source = write_source(tmp_path, [*good, *broken], max_quarantined_share=0.11)
    settings = of(tmp_path / "kept", 3)
    in_tasks(source, days(1, 1), settings, [0, 1, 2])
    assert tables(source, settings)[f"quarantine/files/{DATASET}"].height == 4
    strict = write_source(tmp_path / "strict", [*good, *broken], max_quarantined_share=0.09)
    settings = of(tmp_path / "stopped", 3)
    with pytest.raises(DataValidationError, match="4 of 40 rows"):
        in_tasks(strict, days(1, 1), settings, [0, 1, 2])
    assert not Lake.of(settings).exists(f"quarantine/files/{DATASET}")


@pytest.mark.integration
def test_a_batch_of_which_a_bucket_is_missing_is_not_judged(source: str, tmp_path: Path) -> None:
    settings = of(tmp_path, 3)
    ingested = ingest.run(source, DATASET, WINDOW, settings)
    sifted = [validate.sift(ingested, settings, bucket) for bucket in (0, 2)]
    with pytest.raises(LakeError, match=r"buckets \[0, 2\] of 3 were sifted"):
        validate.judge(ingested, sifted, settings)


@pytest.mark.integration
def test_a_table_keeps_the_number_that_it_was_made_with(
    source: str, undisturbed: dict[str, pl.DataFrame], tmp_path: Path
) -> None:
    alone(source, days(1, 1), of(tmp_path, 3))
    # Two shares of the work are all of it, of three buckets as of two.
    validate.run(ingest.run(source, DATASET, days(2, 2), of(tmp_path, 2)), of(tmp_path, 2))
    features(source, days(2, 2), of(tmp_path, 2), [1, 0])
    assert_same(tables(source, of(tmp_path, 2)), _of_two_days(source, tmp_path / "two"))
    alone(source, WINDOW, of(tmp_path, 8))
    settings = of(tmp_path, 1)
    alone(source, WINDOW, settings)
    assert_same(tables(source, settings), undisturbed)
    lake = Lake.of(settings)
    assert {lake.buckets(name) for name in lake.tables() if not name.startswith("quarantine")} == {3}
    assert Layer.RAW in {name.partition("/")[0] for name in lake.tables()}


def _of_two_days(source: str, folder: Path) -> dict[str, pl.DataFrame]:
    settings = of(folder, 1)
    alone(source, days(1, 2), settings)
    return tables(source, settings)
