"""The bundled profiles of real loads fit the model."""

from __future__ import annotations

import fnmatch

import pytest

from feature_repo.definitions import entity_fields, grid_views
from models.manifest import FieldType, InputField
from models.scaling.build import present_load, tree_inputs
from models.scaling.spec import SPEC
from pipelines.adapters.feature_store import all_views
from pipelines.sources.profile import load_profile


@pytest.mark.parametrize("source", ["simulated", "web_requests", "datacenter_aggregates"])
def test_the_grid_has_what_the_model_needs(source: str) -> None:
    profile = load_profile(source)
    spec = profile.spec_of(SPEC)
    views = grid_views(all_views(profile), spec.grid)
    dataset = profile.dataset("telemetry")
    names = [field.name for field in entity_fields(views, dataset.entity)]
    chosen = {name for pattern in spec.inputs for name in fnmatch.filter(names, pattern)}
    assert all(fnmatch.filter(names, pattern) for pattern in spec.inputs)
    assert spec.task.naive in chosen
    inputs = tuple(InputField(name=name, type=FieldType.DOUBLE) for name in names if name in chosen)
    gauge = spec.target.columns[0]
    assert len(present_load(gauge, inputs, 1.0).columns) == 3
    # Only the load itself and the calendar: no other gauge slips in.
    assert all(name.startswith((f"{gauge}__", "hour_", "weekday_", "is_weekend")) for name in chosen)
    assert len(tree_inputs(gauge, inputs, 1.0).ratios) >= 12


@pytest.mark.parametrize("source", ["web_requests", "datacenter_aggregates"])
def test_real_loads_bring_the_growth_of_yesterday(source: str) -> None:
    profile = load_profile(source)
    spec = profile.spec_of(SPEC)
    assert any(fnmatch.fnmatch("load__lag_282", pattern) for pattern in spec.inputs)
    assert profile.grid(spec.grid).lags > 291
