"""The profiles that bandwidth runs on offer what it takes."""

import fnmatch

import pytest

from feature_repo.definitions import entity_fields, grid_views
from models.bandwidth.signals import wire
from models.bandwidth.spec import SPEC
from models.manifest import FieldType, InputField
from pipelines.adapters.feature_store import all_views
from pipelines.sources.profile import load_profile


@pytest.mark.parametrize(
    ("source", "window", "disks"),
    [("simulated", None, ("disk_percent",)), ("bitbrains_rnd", "24h", ("disk_read_kbps", "disk_write_kbps"))],
)
def test_each_gauge_of_the_windows_is_found_in_the_profile(source, window, disks):
    profile = load_profile(source)
    spec = profile.spec_of(SPEC)
    views = all_views(profile)
    fields = entity_fields(grid_views(views, spec.grid))
    names = [field.name for field in fields if any(fnmatch.fnmatch(field.name, each) for each in spec.inputs)]
    inputs = tuple(InputField(name=name, type=FieldType.DOUBLE, required=False) for name in names)
    wiring = wire(inputs, spec)
    assert (wiring.window, wiring.disk, wiring.traffic) == (window, disks, spec.target.columns)
    assert set(wiring.of_trees) | set(wiring.of_network(10)) <= set(names)
