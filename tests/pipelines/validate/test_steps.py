"""Sifting rows, with real Great Expectations checkpoints on hand-made frames."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from feature_repo.datasets import Dataset
from pipelines.ingest.steps import ROW_IDENTITY, conform, stamp
from pipelines.references import Window
from pipelines.validate import steps
from pipelines.validate.checkpoint import Checkpoints

pytestmark = pytest.mark.integration  # Great Expectations

DATASET = Dataset.model_validate(
    {
        "name": "telemetry",
        "kind": "telemetry",
        "description": "x",
        "key": ["machine_id", "event_time"],
        "columns": [
            {"name": "machine_id", "type": "string", "role": "entity"},
            {"name": "event_time", "type": "timestamp", "role": "event_time"},
            {
                "name": "cpu_percent",
                "type": "float",
                "role": "gauge",
                "unit": "percent",
                "minimum": 0,
                "maximum": 100,
                "nullable": True,
            },
            {"name": "sectors", "type": "integer", "role": "counter", "minimum": 0, "nullable": True},
            {"name": "kind", "type": "string", "role": "category", "allowed": ["ok", "slow"]},
        ],
    }
)
NAMES = [column.name for column in DATASET.columns]
FIRST = datetime(2026, 1, 1, tzinfo=UTC)
Row = tuple[str | None, ...]
SOUND: Row = ("m1", "2026-01-01T10:00:00Z", "50", "3", "ok")


def raw(*slices: list[Row]) -> pl.DataFrame:
    """Rows as a raw table has them, one list per day from the first of January 2026."""
    frames = []
    for number, rows in enumerate(slices):
        start = FIRST + timedelta(days=number)
        frame = pl.DataFrame(rows, schema=dict.fromkeys(NAMES, pl.String), orient="row")
        frames.append(stamp(conform(frame, DATASET), Window(start=start, end=start + timedelta(days=1))))
    return pl.concat(frames)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    return Checkpoints(DATASET, tmp_path_factory.mktemp("docs"), "test")


def sift(
    rows: pl.DataFrame, checkpoints: Checkpoints, earlier: pl.DataFrame | None = None
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Clean rows, and quarantined rows."""
    findings = checkpoints.rows(rows)
    broken = steps.broken(rows, findings, DATASET)
    if earlier is None:
        earlier = rows.select(*DATASET.key, *ROW_IDENTITY).clear()
    duplicates = steps.duplicates(rows, findings, broken, earlier, DATASET)
    flagged = pl.concat([broken, duplicates])
    return steps.cleaned(rows, flagged, DATASET), steps.quarantined(rows, flagged)


def changed(**values: str | None) -> Row:
    return tuple((dict(zip(NAMES, SOUND, strict=True)) | values)[name] for name in NAMES)


@pytest.mark.parametrize(
    ("changes", "reasons"),
    [
        ({"cpu_percent": "180"}, ["cpu_percent=180.0 is above 100 percent"]),
        ({"cpu_percent": "-0.5"}, ["cpu_percent=-0.5 is below 0 percent"]),
        ({"sectors": "-1"}, ["sectors=-1 is below 0"]),
        ({"machine_id": None}, ["machine_id is missing"]),
        ({"kind": None}, ["kind is missing"]),
        ({"kind": "odd"}, ["kind='odd' is not one of ok, slow"]),
        ({"cpu_percent": "n/a"}, ["cpu_percent: 'n/a' is not a float"]),
        ({"sectors": "1.5"}, ["sectors: '1.5' is not an integer"]),
        ({"event_time": "soon"}, ["event_time: 'soon' is not a timestamp"]),
        (
            {"event_time": "2031-05-01T12:30"},
            ["event_time 2031-05-01T12:30Z is in the future of its slice 2026-01-01T00:00Z"],
        ),
        (
            {"machine_id": None, "cpu_percent": "101", "sectors": "x", "kind": "odd"},
            [
                "machine_id is missing",
                "cpu_percent=101.0 is above 100 percent",
                "sectors: 'x' is not an integer",
                "kind='odd' is not one of ok, slow",
            ],
        ),
    ],
)
def test_each_failing_row_is_quarantined_with_its_reasons(
    checkpoints: Checkpoints, changes: dict[str, str | None], reasons: list[str]
) -> None:
    clean, quarantine = sift(raw([SOUND, changed(**changes)]), checkpoints)
    assert clean["ordinal"].to_list() == [0]
    assert quarantine["ordinal"].to_list() == [1]
    assert quarantine["reasons"].to_list() == [reasons]


def test_missing_values_of_nullable_columns_and_the_end_of_the_slice_are_sound(
    checkpoints: Checkpoints,
) -> None:
    rows = raw([changed(cpu_percent=None, sectors=None), changed(event_time="2026-01-02T00:00:00Z")])
    clean, quarantine = sift(rows, checkpoints)
    assert clean.height == 2
    assert quarantine.is_empty()
    assert clean["day"].dt.day().to_list() == [1, 2]


def test_of_rows_with_one_key_the_first_sound_one_is_kept(checkpoints: Checkpoints) -> None:
    rows = raw(
        [changed(cpu_percent="900"), changed(machine_id="m2"), changed(sectors="1")], [changed(sectors="2")]
    )
    clean, quarantine = sift(rows.reverse(), checkpoints)
    assert clean["sectors"].to_list() == [3, 1]
    assert quarantine["reasons"].to_list() == [
        ["cpu_percent=900.0 is above 100 percent"],
        ["duplicate key (machine_id, event_time): first seen at ordinal 2 of slice 2026-01-01T00:00Z"],
    ]


def test_a_key_that_is_clean_already_is_a_duplicate(checkpoints: Checkpoints) -> None:
    earlier, _ = sift(raw([SOUND]), checkpoints)
    rows = raw([], [SOUND, SOUND, changed(machine_id="m2")])
    clean, quarantine = sift(rows, checkpoints, earlier.select(*DATASET.key, *ROW_IDENTITY))
    assert clean["machine_id"].to_list() == ["m2"]
    assert (
        quarantine["reasons"].to_list()
        == [["duplicate key (machine_id, event_time): first seen at ordinal 0 of slice 2026-01-01T00:00Z"]]
        * 2
    )


def test_single_column_keys_may_be_doubled_too(tmp_path: Path) -> None:
    dataset = DATASET.model_copy(update={"key": ("machine_id",)})
    rows = raw([SOUND, changed(event_time="2026-01-01T11:00"), changed(machine_id="m2")])
    findings = Checkpoints(dataset, tmp_path, "test").rows(rows)
    none = rows.select("machine_id", *ROW_IDENTITY).clear()
    found = steps.duplicates(rows, findings, steps.broken(rows, findings, dataset), none, dataset)
    assert found["ordinal"].to_list() == [1]


dirty_rows = st.tuples(
    st.sampled_from(["m1", "m2", None]),
    st.sampled_from(["2026-01-01", "2026-01-01T10:00", "2026-01-02T01:00", "2031-01-01", "?", None]),
    st.sampled_from(["0", "100", "100.1", "-1", "NaN", "x", None]),
    st.sampled_from(["0", "-1", "1.5", "7", None]),
    st.sampled_from(["ok", "slow", "odd", "", None]),
)


@hypothesis_settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(first=st.lists(dirty_rows, min_size=1, max_size=15), second=st.lists(dirty_rows, max_size=15))
def test_no_row_is_lost_and_clean_rows_are_sound(
    checkpoints: Checkpoints, first: list[Row], second: list[Row]
) -> None:
    rows = raw(first, second)
    clean, quarantine = sift(rows, checkpoints)
    both = Counter(clean.select(ROW_IDENTITY).rows()) + Counter(quarantine.select(ROW_IDENTITY).rows())
    assert both == Counter(rows.select(ROW_IDENTITY).rows())
    assert all(quarantine["reasons"].list.len() > 0)
    assert clean.select(DATASET.key).is_unique().all()
    assert clean["cpu_percent"].drop_nulls().is_between(0, 100).all()
    assert clean["kind"].is_in(["ok", "slow"]).all()
    assert clean.select(NAMES[:2]).null_count().row(0) == (0, 0)
    # A quarantined row that is only a duplicate has its like among the clean ones.
    only_twice = quarantine.filter(pl.col("reasons").list.first().str.starts_with("duplicate key"))
    assert only_twice.join(clean, on=DATASET.key, how="anti").is_empty()
