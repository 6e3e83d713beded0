"""Definitions: which features a source's data sets make."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta

import pytest

from feature_repo.datasets import Column, ColumnRole, ColumnType, Dataset, DatasetKind, Family, FeatureGrid
from feature_repo.definitions import entity_fields, event_codes, feature_views, grid_views, window_name
from pipelines.adapters.feature_store import all_views
from pipelines.sources.profile import load_profile

ENTITY = Column(name="unit", type=ColumnType.STRING, role=ColumnRole.ENTITY)
TIME = Column(name="seen_at", type=ColumnType.TIMESTAMP, role=ColumnRole.EVENT_TIME)


def _dataset(name: str, kind: DatasetKind, *columns: Column) -> Dataset:
    return Dataset(
        name=name, kind=kind, description="", columns=(ENTITY, TIME, *columns), key=("unit", "seen_at")
    )


def _category(name: str, *allowed: str) -> Column:
    return Column(name=name, type=ColumnType.STRING, role=ColumnRole.CATEGORY, allowed=allowed or None)


HOUR = timedelta(hours=1)
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
    views = grid_views(all_views(profile), "hourly")
    assert [view.name for view in views] == ["telemetry_windows", "events_history", "machines_profile"]
    names = [field.name for field in entity_fields(views)]
    assert len(names) == len(set(names)) == 96
    assert {"cpu_percent__mean_3h", "error_disk__count_24h", "hours_since_maintenance_disk", "zone"} <= set(
        names
    )


def test_limits_of_a_feature_follow_from_those_of_its_column() -> None:
    (view,) = feature_views(
        (_dataset("t", DatasetKind.TELEMETRY, GAUGE, COUNTER),), {"hourly": FeatureGrid()}
    )
    limits = {field.name: (field.minimum, field.maximum) for field in view.fields}
    assert limits["heat__mean_24h"] == (-20, 130)
    assert limits["heat__std_24h"] == (0, 150)
    assert limits["heat__change"] == (-150, 150)
    assert limits["resets__increase_3h"] == (0, None)
    assert {field.unit for field in view.fields if field.name.startswith("heat")} == {"°C"}
    assert {field.type for field in view.fields if field.name.startswith("resets")} == {ColumnType.INTEGER}


def test_the_grids_of_the_simulated_source_stay_small() -> None:
    profile = load_profile("simulated")
    views = all_views(profile)
    sizes = {name: len(entity_fields(grid_views(views, name))) for name in profile.features}
    assert {"hourly", "recent", "weekly", "billing"} <= sizes.keys()
    assert max(sizes.values()) <= 200


def test_views_beyond_the_default_grid_carry_its_name_and_inventory_stands_once() -> None:
    telemetry = _dataset("t", DatasetKind.TELEMETRY, GAUGE)
    events = _dataset("log", DatasetKind.EVENTS, _category("kind", "repair"))
    units = _dataset("units", DatasetKind.INVENTORY, _category("model"))
    grids = {
        "hourly": FeatureGrid(),
        "daily": FeatureGrid(every=timedelta(days=1), windows=(timedelta(days=3),), datasets=("t",)),
    }
    with pytest.raises(ValueError, match="name the default"):
        feature_views((telemetry, events, units), grids)
    views = feature_views((telemetry, events, units), grids, "hourly")
    assert [(view.name, view.grid) for view in views] == [
        ("t_windows", "hourly"),
        ("log_history", "hourly"),
        ("t_windows_daily", "daily"),
        ("units_profile", None),
    ]
    assert [view.name for view in grid_views(views, "daily")] == ["t_windows_daily", "units_profile"]
    assert "heat__last" in {field.name for field in entity_fields(grid_views(views, "daily"))}


def test_inventory_of_other_entities_is_not_of_the_grid() -> None:
    other = Column(name="project", type=ColumnType.STRING, role=ColumnRole.ENTITY)
    bills = Dataset(
        name="bills",
        kind=DatasetKind.BILLING,
        description="",
        columns=(other, TIME, GAUGE),
        key=("project", "seen_at"),
    )
    units = _dataset("units", DatasetKind.INVENTORY, _category("model"))
    views = feature_views((bills, units), {"billing": FeatureGrid(datasets=("bills",))})
    assert [view.name for view in grid_views(views, "billing")] == ["bills_windows"]
    # Without telemetry and bills there is inventory alone.
    views = feature_views((bills, units), {"hourly": FeatureGrid()})
    assert [view.name for view in grid_views(views, "hourly")] == ["units_profile"]


def test_sums_of_bills_keep_only_the_limits_that_hold_for_sums() -> None:
    bills = _dataset("bills", DatasetKind.BILLING, GAUGE.model_copy(update={"minimum": 0.0}), COUNTER)
    (view,) = feature_views((bills,), {"billing": FeatureGrid(datasets=("bills",), lags=1)})
    limits = {field.name: (field.minimum, field.maximum) for field in view.fields}
    assert limits["heat__lag_0"] == (0, None)
    assert limits["heat__change"] == (None, None)
    assert not any(name.startswith("resets") for name in limits)


ALL = FeatureGrid(
    families=tuple(Family), lags=2, differences=(1,), autocorrelation=(3,), columns=("heat",), resolution=HOUR
)


def test_every_feature_has_a_meaning_and_a_unit() -> None:
    (view,) = feature_views((_dataset("t", DatasetKind.TELEMETRY, GAUGE, COUNTER),), {"all": ALL})
    assert len(view.fields) == 35
    assert all(field.description and field.unit for field in view.fields)
    fields = {field.name: field for field in view.fields}
    assert fields["heat__lag_0"].description == "heat Mean of the 1h that ended at the row's time."
    assert fields["heat__lag_1"].description == "heat Mean of the 1h that ended 1h earlier."
    assert (fields["heat__diff_1"].minimum, fields["heat__diff_1"].maximum) == (-150, 150)
    assert (fields["heat__p05_24h"].minimum, fields["heat__p05_24h"].maximum) == (-20, 130)
    assert fields["heat__dominant_period_24h"].unit == "hours"
    assert (fields["heat__dominant_period_24h"].minimum, fields["heat__dominant_period_24h"].maximum) == (
        2,
        24,
    )
    assert fields["heat__hours_since_spike"].at_column == "heat__last_spike_at"


def test_the_calendar_stands_once_per_entity() -> None:
    grid = FeatureGrid(families=(Family.BASIC, Family.CALENDAR))
    heat = _dataset("t", DatasetKind.TELEMETRY, GAUGE)
    more = _dataset("u", DatasetKind.TELEMETRY, COUNTER)
    first, second = feature_views((heat, more), {"hourly": grid})
    assert "month" in {field.name for field in first.fields}
    assert "month" not in {field.name for field in second.fields}


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (FeatureGrid(datasets=("nothing",)), "features.hourly.datasets.*nothing"),
        (FeatureGrid(datasets=("units",)), "features.hourly.datasets.*units"),
        (FeatureGrid(columns=("cold",)), "features.hourly.columns.*cold.*heat"),
    ],
)
def test_a_grid_that_names_what_is_not_there_is_refused(grid: FeatureGrid, message: str) -> None:
    datasets = (
        _dataset("t", DatasetKind.TELEMETRY, GAUGE),
        _dataset("units", DatasetKind.INVENTORY, _category("model")),
    )
    with pytest.raises(ValueError, match=message):
        feature_views(datasets, {"hourly": grid})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"every": None, "lags": 3}, "every"),
        ({"every": None, "families": ["spectral"]}, "every"),
        ({"differences": [3, 1]}, "differences"),
        ({"differences": [0]}, "differences"),
        ({"autocorrelation": [24]}, "autocorrelation"),
        ({"autocorrelation": [1], "resolution": "PT40M"}, "resolution"),
        ({"windows": ["PT3H"], "families": ["spectral"]}, "longest window"),
        ({"windows": ["PT90M"]}, "multiple"),
        ({"families": ["wavelets"]}, "families"),
    ],
)
def test_a_grid_that_cannot_be_computed_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FeatureGrid.model_validate(changes)


def test_the_look_back_holds_all_that_a_row_uses() -> None:
    assert FeatureGrid().look_back == 24 * HOUR
    assert FeatureGrid(lags=30).look_back == 30 * HOUR
    assert FeatureGrid(lags=30, differences=(2, 40)).look_back == 41 * HOUR


def test_one_window_makes_no_change_feature() -> None:
    grid = FeatureGrid(every=timedelta(days=1), windows=(timedelta(days=3),))
    (view,) = feature_views((_dataset("t", DatasetKind.TELEMETRY, GAUGE),), {"daily": grid})
    assert [field.name for field in view.fields] == ["heat__last", "heat__mean_3d", "heat__std_3d"]


def test_elapsed_features_are_stored_as_the_time_of_the_event() -> None:
    telemetry = _dataset("t", DatasetKind.TELEMETRY, GAUGE)
    events = _dataset("log", DatasetKind.EVENTS, _category("kind", "repair"))
    history = feature_views((telemetry, events), {"hourly": FeatureGrid()})[1]
    assert [(column.name, column.type) for column in history.stored] == [
        ("repair__count_24h", ColumnType.INTEGER),
        ("repair_last_at", ColumnType.TIMESTAMP),
    ]
    assert history.fields[1].name == "hours_since_repair"
    assert history.sources == ("log", "t")


def test_events_without_telemetry_of_the_same_entity_have_no_features() -> None:
    events = _dataset("log", DatasetKind.EVENTS, _category("kind", "repair"))
    assert feature_views((events,), {"hourly": FeatureGrid()}) == ()


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
        feature_views(both, {"hourly": FeatureGrid()})


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
