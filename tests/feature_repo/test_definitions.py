"""Definitions: which features a source's data sets make."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta

import pytest

from feature_repo.datasets import Column, ColumnRole, ColumnType, Dataset, DatasetKind, FeatureGrid
from feature_repo.definitions import entity_fields, event_codes, feature_views, window_name
from pipelines.sources.profile import load_profile

ENTITY = Column(name="unit", type=ColumnType.STRING, role=ColumnRole.ENTITY)
TIME = Column(name="seen_at", type=ColumnType.TIMESTAMP, role=ColumnRole.EVENT_TIME)


def _dataset(name: str, kind: DatasetKind, *columns: Column) -> Dataset:
    return Dataset(
        name=name, kind=kind, description="", columns=(ENTITY, TIME, *columns), key=("unit", "seen_at")
    )


def _category(name: str, *allowed: str) -> Column:
    return Column(name=name, type=ColumnType.STRING, role=ColumnRole.CATEGORY, allowed=allowed or None)


GAUGE = Column(
    name="heat",
    type=ColumnType.FLOAT,
    role=ColumnRole.GAUGE,
    unit="°C",
    minimum=-20,
    maximum=130,
    nullable=True,
)
COUNTER = Column(name="resets", type=ColumnType.INTEGER, role=ColumnRole.COUNTER, minimum=0)


def test_the_simulated_source_has_a_sensible_number_of_features() -> None:
    profile = load_profile("simulated")
    views = feature_views(profile.datasets, profile.features)
    assert [view.name for view in views] == ["telemetry_windows", "events_history", "machines_profile"]
    names = [field.name for field in entity_fields(views)]
    assert len(names) == len(set(names)) == 96
    assert {"cpu_percent__mean_3h", "error_disk__count_24h", "hours_since_maintenance_disk", "zone"} <= set(
        names
    )


def test_limits_of_a_feature_follow_from_those_of_its_column() -> None:
    (view,) = feature_views((_dataset("t", DatasetKind.TELEMETRY, GAUGE, COUNTER),), FeatureGrid())
    limits = {field.name: (field.minimum, field.maximum) for field in view.fields}
    assert limits["heat__mean_24h"] == (-20, 130)
    assert limits["heat__std_24h"] == (0, 150)
    assert limits["heat__change"] == (-150, 150)
    assert limits["resets__increase_3h"] == (0, None)
    assert {field.unit for field in view.fields if field.name.startswith("heat")} == {"°C"}
    assert {field.type for field in view.fields if field.name.startswith("resets")} == {ColumnType.INTEGER}


def test_one_window_makes_no_change_feature() -> None:
    grid = FeatureGrid(every=timedelta(days=1), windows=(timedelta(days=3),))
    (view,) = feature_views((_dataset("t", DatasetKind.TELEMETRY, GAUGE),), grid)
    assert [field.name for field in view.fields] == ["heat__last", "heat__mean_3d", "heat__std_3d"]


def test_elapsed_features_are_stored_as_the_time_of_the_event() -> None:
    telemetry = _dataset("t", DatasetKind.TELEMETRY, GAUGE)
    events = _dataset("log", DatasetKind.EVENTS, _category("kind", "repair"))
    history = feature_views((telemetry, events), FeatureGrid())[1]
    assert [(column.name, column.type) for column in history.stored] == [
        ("repair__count_24h", ColumnType.INTEGER),
        ("repair_last_at", ColumnType.TIMESTAMP),
    ]
    assert history.fields[1].name == "hours_since_repair"
    assert history.sources == ("log", "t")


def test_events_without_telemetry_of_the_same_entity_have_no_features() -> None:
    events = _dataset("log", DatasetKind.EVENTS, _category("kind", "repair"))
    assert feature_views((events,), FeatureGrid()) == ()


@pytest.mark.parametrize(
    ("columns", "codes"),
    [
        ((_category("kind", "a", "b"), _category("code", "x")), ["a_x", "b_x"]),
        ((_category("kind", "a", "b"), _category("code")), ["a", "b"]),
        ((_category("kind"), _category("code")), ["log"]),
        ((_category("kind", "a"), _category("code", *(f"c{n}" for n in range(60)))), ["a"]),
        ((_category("kind", "5XX: gone!"),), ["log_5xx_gone"]),
    ],
)
def test_event_codes_follow_the_values_that_columns_declare(
    columns: tuple[Column, ...], codes: list[str]
) -> None:
    assert [code.name for code in event_codes(_dataset("log", DatasetKind.EVENTS, *columns))] == codes


def test_two_features_of_one_name_are_refused() -> None:
    both = (_dataset("a", DatasetKind.TELEMETRY, GAUGE), _dataset("b", DatasetKind.TELEMETRY, GAUGE))
    with pytest.raises(ValueError, match="heat__last"):
        feature_views(both, FeatureGrid())


@pytest.mark.parametrize(
    ("window", "name"),
    [
        (timedelta(seconds=90), "90s"),
        (timedelta(minutes=30), "30min"),
        (timedelta(hours=3), "3h"),
        (timedelta(days=1), "24h"),
        (timedelta(days=3), "3d"),
    ],
)
def test_window_names(window: timedelta, name: str) -> None:
    assert window_name(window) == name


def test_definitions_import_nothing_heavy() -> None:
    code = "import feature_repo.definitions, sys; print({'polars', 'feast', 'pandas', 'deltalake'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
