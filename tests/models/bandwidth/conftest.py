"""A small fleet: machines of very different size, with a level that wanders and bursts that come back."""

import numpy as np
import pytest

from models.bandwidth.signals import STEPS
from models.bandwidth.spec import SPEC
from models.base import Observations
from models.manifest import FieldType, InputField

GAUGES = ("cpu_percent", "memory_percent", "disk_percent", "network_in_mbps", "network_out_mbps")


def fleet(machines: int, length: int, seed: int) -> Observations:
    rng = np.random.default_rng(seed)
    parts = []
    for number in range(machines):
        size = 10 ** rng.uniform(-1, 3)
        busy = np.repeat(rng.random(length // 6 + 1) < 0.3, 6)[:length]
        level = np.exp(np.cumsum(rng.normal(0, 0.05, length)) * 0.5) * np.where(busy, 8.0, 1.0) * size
        traffic = level * rng.lognormal(0, 0.1, length)
        gauges = {
            "cpu_percent": np.clip(10 + 60 * busy + rng.normal(0, 3, length), 0, 100),
            "memory_percent": np.full(length, 40.0),
            "disk_percent": np.linspace(10, 20, length),
            "network_in_mbps": traffic * 0.7,
            "network_out_mbps": traffic * 0.3,
        }
        now = np.arange(STEPS, length - 3, 2)
        columns = {
            f"{gauge}__lag_{step}": values[now - step]
            for gauge, values in gauges.items()
            for step in range(STEPS)
        }
        time = np.datetime64("2026-01-01", "us") + now * np.timedelta64(5, "m")
        entity = np.full(len(now), f"m{number:02}", dtype=object)
        parts.append(Observations(columns, {"throughput": traffic[now + 3]}, np.ones(len(now)), entity, time))
    names = parts[0].columns
    return Observations(
        {name: np.concatenate([part.columns[name] for part in parts]) for name in names},
        {"throughput": np.concatenate([part.targets["throughput"] for part in parts])},
        np.concatenate([part.weight for part in parts]),
        np.concatenate([part.entity for part in parts]),
        np.concatenate([part.time for part in parts]),
    )


def inputs_of(part: Observations) -> tuple[InputField, ...]:
    return tuple(InputField(name=name, type=FieldType.DOUBLE, required=False) for name in part.columns)


@pytest.fixture(scope="package")
def parts() -> tuple[Observations, Observations, Observations]:
    """Train, valid and holdout of different machines."""
    return fleet(18, 400, 1), fleet(6, 400, 2), fleet(12, 400, 3)


@pytest.fixture
def spec():
    return SPEC
