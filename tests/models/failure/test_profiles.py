"""The spec of ``failure`` on real telemetry: what its sources change, and what their rows become."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from feature_repo.definitions import entity_fields
from models.catalogue import find
from pipelines.adapters.feature_store import all_views
from pipelines.references import Window
from pipelines.settings import load_settings
from pipelines.sources.base import open_source
from pipelines.sources.profile import load_profile

SOURCES = ("azure_pdm", "backblaze_drives")


@pytest.mark.parametrize("source", SOURCES)
def test_the_same_spec_fits_the_source(source):
    profile = load_profile(source)
    spec = profile.spec_of(find("failure"))
    assert spec.name == "failure"
    assert spec.target.horizon == timedelta(hours=24)
    label = next(
        column for column in profile.dataset(spec.target.dataset).columns if column.name == spec.target.column
    )
    assert spec.target.value in (label.allowed or ())
    assert entity_fields(all_views(profile))


def test_a_drive_has_an_age_and_no_history_of_failures():
    profile = load_profile("backblaze_drives")
    names = {field.name for field in entity_fields(all_views(profile))}
    assert {"hours_since_powered_on", "hours_since_first_seen", "first_power_on_hours"} <= names
    assert not [name for name in names if "failure" in name]


@pytest.mark.parametrize("source", SOURCES)
def test_the_window_is_made_of_whole_slices(source):
    profile = load_profile(source)
    assert profile.window_start is not None
    assert profile.window_end is not None
    window = Window(start=profile.window_start, end=profile.window_end)
    for dataset in profile.datasets:
        slices = list(window.slices(dataset.slice))
        assert slices[-1].end == window.end


def test_the_mean_of_a_day_is_known_when_the_day_is_over(shared_data: Path, tmp_path: Path):
    profile = load_profile("azure_pdm")
    source = open_source(profile, load_settings({}, home=tmp_path, shared_data=shared_data))
    rows = source.read(profile.dataset("telemetry"), Window.parse("2015-03-05", "2015-03-06"))
    file = pl.read_parquet(shared_data / "azure_pdm" / "telemetry_daily.parquet")
    day_before = file.filter(pl.col("date") == pl.datetime(2015, 3, 4))
    assert rows["volt"].to_list() == day_before["volt"].to_list()
    assert rows["event_time"].dt.date().unique().to_list() == [
        Window.parse("2015-03-05", "2015-03-06").start.date()
    ]


def test_failures_are_labels_beside_errors_and_replacements(shared_data: Path, tmp_path: Path):
    profile = load_profile("azure_pdm")
    source = open_source(profile, load_settings({}, home=tmp_path, shared_data=shared_data))
    assert profile.window_start is not None
    assert profile.window_end is not None
    window = Window(start=profile.window_start, end=profile.window_end)
    kinds = dict(source.read(profile.dataset("events"), window)["kind"].value_counts().iter_rows())
    assert kinds["failure"] == 637
    assert set(kinds) == {"error", "maintenance", "failure"}
