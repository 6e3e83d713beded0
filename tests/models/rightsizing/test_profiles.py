"""The specs of ``rightsizing`` and ``performance`` on their sources: every input that they count on is a feature."""

from __future__ import annotations

import fnmatch

import pytest

from models.manifest import FieldType, InputField
from models.performance.build import machine_of
from models.performance.spec import SPEC as PERFORMANCE
from models.rightsizing.measures import resources
from models.rightsizing.spec import SPEC as RIGHTSIZING
from models.specs import ModelSpec
from models.targets import ValuesAhead
from pipelines.adapters.feature_store import fields
from pipelines.sources.profile import load_profile


def inputs_of(source: str, base: ModelSpec) -> tuple[ModelSpec, list[str]]:
    profile = load_profile(source)
    spec = profile.spec_of(base)
    names = [field.name for field in fields(profile, spec.grid)]
    for pattern in spec.inputs:
        assert fnmatch.filter(names, pattern), pattern
    return spec, [name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in spec.inputs)]


@pytest.mark.parametrize("source", ["simulated", "bitbrains_rnd"])
def test_use_and_capacity_are_among_the_inputs(source):
    spec, names = inputs_of(source, RIGHTSIZING)
    assert isinstance(spec.target, ValuesAhead)
    for resource in resources(spec.target.columns, names):
        for amount in (resource.peak, resource.usual, resource.capacity):
            assert amount.column in names
            assert amount.of is None or amount.of in names


def test_load_size_and_latency_are_among_the_inputs():
    _, names = inputs_of("simulated", PERFORMANCE)
    machine = machine_of(tuple(InputField(name=name, type=FieldType.DOUBLE) for name in names))
    assert None not in machine.model_dump().values()
    assert PERFORMANCE.task.naive in names
    assert PERFORMANCE.task.seasonal_naive in names
