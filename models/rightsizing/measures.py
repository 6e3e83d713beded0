"""What the columns of a source mean in cores and GiB, by how they are called. Data and arithmetic only."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.heads.sizing import Amount

Array = NDArray[np.float64]

#: By the end of a gauge's name: factor to cores or GiB (of the capacity, where it is a share), largest
#: value that counts, and the least that a ratio divides by, in the gauge's own unit.
_UNITS: dict[str, tuple[float, bool, float | None, float]] = {
    "percent": (0.01, True, 100.0, 0.2),
    "pct": (0.01, True, 100.0, 0.2),
    "kb": (2.0**-20, False, None, 16_384.0),
    "gib": (1.0, False, None, 0.016),
    "cores": (1.0, False, None, 0.005),
}
#: Where the present capacity is found: an attribute of the inventory, or else what the machine reports.
_CAPACITIES = {
    "cpu": ("cpu_cores", "cpu_cores__p95_7d"),
    "memory": ("memory_gib", "memory_capacity_kb__p95_7d"),
}
FLOORS = {"cpu": 0.01, "memory": 0.02}  # cores, GiB: less use than that is no use
WEEK = "7d"


class Resource(NamedTuple):
    """One resource of a source.

    Attributes:
        name: ``cpu`` or ``memory``.
        gauge: The column that measures its use.
        least: What a ratio to the gauge divides by at least, in the gauge's unit.
    """

    name: str
    gauge: str
    peak: Amount
    usual: Amount
    capacity: Amount
    least: float

    def demand(self, targets: Mapping[str, Array], columns: Mapping[str, NDArray]) -> Array:
        """What the following week used for all but 1 % of its time, cores or GiB, at most the capacity.

        Use beyond what the machine has is no use: monitors report 103 % of a core.
        """
        used = self.peak.scaled(targets[f"{self.gauge}__p99"], columns)
        return np.minimum(used, self.capacity.of_rows(columns))


def resources(gauges: tuple[str, ...], names: Collection[str]) -> tuple[Resource, Resource]:
    """CPU and memory of a source.

    Args:
        gauges: Columns that measure the use of CPU and of memory, in this order.
        names: Inputs that there are.

    Raises:
        ValueError: a unit is unknown, or nothing says what a machine has; the text says what is known.
    """
    if len(gauges) != len(_CAPACITIES):
        raise ValueError(f"the target must name a gauge of CPU and one of memory, it names {gauges}")
    cpu, memory = (_resource(name, gauge, names) for name, gauge in zip(_CAPACITIES, gauges, strict=True))
    return cpu, memory


def _resource(name: str, gauge: str, names: Collection[str]) -> Resource:
    factor, is_share, largest, least = _unit(gauge)
    found = [column for column in _CAPACITIES[name] if column in names]
    if not found:
        raise ValueError(f"no input says how much {name} a machine has; one of {_CAPACITIES[name]} is wanted")
    capacity_factor = _unit(re.sub(r"__.*", "", found[0]))[0]

    def amount(figure: str) -> Amount:
        return Amount(
            column=f"{gauge}__{figure}_{WEEK}",
            factor=factor,
            of=found[0] if is_share else None,
            largest=largest,
        )

    peak = amount("max")
    if is_share and capacity_factor != 1.0:
        peak, usual = (
            item.model_copy(update={"factor": factor * capacity_factor}) for item in (peak, amount("p95"))
        )
    else:
        usual = amount("p95")
    return Resource(name, gauge, peak, usual, Amount(column=found[0], factor=capacity_factor), least)


def _unit(column: str) -> tuple[float, bool, float | None, float]:
    unit = column.rsplit("_", 1)[-1]
    if unit not in _UNITS:
        raise ValueError(f"{column}: {unit!r} is no unit that is known here, only {sorted(_UNITS)}")
    return _UNITS[unit]
