"""Profiles: the grids of a source, by name."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from pipelines.adapters.feature_store import all_views
from pipelines.errors import SourceError
from pipelines.settings import load_settings
from pipelines.sources.profile import BUNDLED, load_profile, located

TEXT = """
name: small
description: For tests.
origin: {kind: files, tables: {readings: []}}
%s
datasets:
  - name: readings
    kind: telemetry
    description: What was measured.
    key: [unit, seen_at]
    columns:
      - {name: unit, type: string, role: entity}
      - {name: seen_at, type: timestamp, role: event_time}
      - {name: heat, type: float, role: gauge, unit: °C}
"""


def _profile(tmp_path: Path, features: str) -> str:
    path = tmp_path / "small.yaml"
    path.write_text(TEXT % features, "utf-8")
    return str(path)


TWO_GRIDS = "features: {daily: {every: P1D, windows: [P7D]}, fine: {every: PT5M, windows: [PT1H]}}"


@pytest.mark.parametrize("said", ["", "\ndefault_grid: hourly"])
def test_of_several_grids_one_must_be_the_default(tmp_path: Path, said: str) -> None:
    with pytest.raises(SourceError, match=r"default_grid.*daily.*fine"):
        load_profile(_profile(tmp_path, TWO_GRIDS + said))


def test_the_default_grid_is_meant_where_none_is_named(tmp_path: Path) -> None:
    profile = load_profile(_profile(tmp_path, f"{TWO_GRIDS}\ndefault_grid: fine"))
    assert profile.grid() == profile.grid("fine") == profile.features["fine"]
    assert profile.grid("daily").every == timedelta(days=1)
    with pytest.raises(SourceError, match=r"no feature grid 'weekly'.*daily.*fine"):
        profile.grid("weekly")


def test_a_profile_without_grids_has_an_hourly_one(tmp_path: Path) -> None:
    profile = load_profile(_profile(tmp_path, ""))
    assert list(profile.features) == ["hourly"]
    assert profile.grid().windows == (timedelta(hours=3), timedelta(hours=24))


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ("features: {every: PT1H, windows: [PT3H]}", "outside a grid"),
        ("features: {}", "at least 1"),
        ("features: {Hourly: {}}", "Hourly"),
        ("features: {hourly: {window: [PT3H]}}", r"hourly\.window"),
    ],
)
def test_wrong_grids_are_refused_by_name(tmp_path: Path, features: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        load_profile(_profile(tmp_path, features))


@pytest.mark.parametrize("name", sorted(path.stem for path in BUNDLED.glob("*.yaml")))
def test_bundled_profiles_make_features_with_meaning_and_limits_that_hold(name: str) -> None:
    profile = load_profile(name)
    for view in all_views(profile):
        for field in view.fields:
            assert field.minimum is None or field.maximum is None or field.minimum <= field.maximum, (
                field.name
            )


def test_a_profile_is_named_so_that_a_process_in_another_folder_finds_it(tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").write_text("name: mine")
    monkeypatch.chdir(tmp_path)
    assert located("mine.yaml") == str(tmp_path / "mine.yaml")
    assert load_settings({"HEADRACE_SOURCE": "mine.yaml"}).source == str(tmp_path / "mine.yaml")
    assert located("simulated") == load_settings({}).source == "simulated"
