"""What may go, of what there is."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import SettingsError
from pipelines.maintain.steps import RunFacts, too_short, unneeded_folders, unneeded_runs
from pipelines.settings import load_settings

NOW = datetime(2026, 6, 1, tzinfo=UTC)
OLD, YOUNG = NOW - timedelta(days=60), NOW - timedelta(days=1)
BEFORE = NOW - timedelta(days=30)


def run(name, parent=None, at=OLD, ours=True):
    return RunFacts(name, parent, at, ours)


def test_a_run_that_a_version_names_stays_with_its_trials_and_others_go():
    runs = [
        run("named"),
        run("trial", parent="named", ours=False),
        run("old"),
        run("its trial", parent="old", ours=False),
        run("somebody's", ours=False),
        run("young", at=YOUNG),
        run("trial from before a break", parent="young", ours=False),
    ]
    assert unneeded_runs(runs, ["named"], BEFORE) == ["old", "its trial"]


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.none() | st.integers(0, 9), st.booleans(), st.booleans()),
        unique_by=lambda each: each[0],
    ),
    st.sets(st.integers(0, 9)),
)
def test_neither_needed_nor_young_nor_foreign_runs_are_ever_named(facts, needed):
    runs = [
        run(str(name), None if parent is None else str(parent), YOUNG if young else OLD, ours)
        for name, parent, young, ours in facts
    ]
    gone = set(unneeded_runs(runs, map(str, needed), BEFORE))
    known = {each.run_id: each for each in runs}
    for name in gone:
        each = known[name]
        assert name not in set(map(str, needed))
        assert each.parent not in set(map(str, needed)) & known.keys()
        assert each.started_at < BEFORE
        assert each.ours or known[each.parent].ours


def test_a_folder_goes_whole_or_not_at_all():
    objects = [
        ("snapshots/s/m/needed/data.parquet", OLD),
        ("snapshots/s/m/needed/manifest.json", OLD),
        ("snapshots/s/m/old/data.parquet", OLD),
        ("snapshots/s/m/old/manifest.json", OLD),
        ("snapshots/s/m/rewritten/data.parquet", YOUNG),
        ("snapshots/s/m/rewritten/manifest.json", OLD),
    ]
    assert unneeded_folders(objects, ["snapshots/s/m/needed/data.parquet"], BEFORE) == {
        "snapshots/s/m/old": ["snapshots/s/m/old/data.parquet", "snapshots/s/m/old/manifest.json"]
    }


def test_a_retention_that_would_starve_a_training_is_named():
    windows = {"cost": timedelta(days=400), "failure": timedelta(days=42)}
    assert too_short({"clean": 90, "raw": 1, "predictions": 1}, windows) == [
        "clean=90 is less than the 400 days that cost is trained on"
    ]
    assert too_short({"features": 400}, windows) == []


def test_retention_is_read_by_layer_and_nothing_else_is_taken():
    settings = load_settings({"HEADRACE_RETENTION": " raw = 90, predictions=365"})
    assert settings.retention_days == {"raw": 90, "predictions": 365}
    assert load_settings({}).retention_days == {}
    for wrong in ("snapshots=3", "raw", "raw=0", "raw=90;clean=90"):
        with pytest.raises(SettingsError, match="RETENTION"):
            load_settings({"HEADRACE_RETENTION": wrong})
