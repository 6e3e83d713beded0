"""What the trees see: the last hour of a machine in units of its own level.

A tree that saw traffic in Mbit/s would learn the machines of the training part by their size. Seen
in units of its own recent level, a machine that was never seen is like others. No calendar goes in
for the same reason: on machines held out it made forecasts worse.

The same function works on NumPy arrays, for training, and on the nodes of an ONNX graph, for
serving. All arithmetic is of single IEEE operations on float32 in one order, so both give the same
bits, and the trees the same leaves.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from models.manifest import InputField
from models.specs import ModelSpec
from models.targets import ValuesAhead

STEPS = 12
WINDOWS = (3, 6, 12)
#: A machine that was idle for an hour is still measured by this share of its longer mean.
SHARE_OF_LONG_MEAN = 0.3

T = TypeVar("T")


@dataclass(frozen=True)
class Wiring:
    """Which inputs mean what.

    Attributes:
        cpu, memory: A gauge each.
        disk, traffic: Gauges that are added up; of disk there may be none.
        window: Name of the longest window that the traffic's mean and deviation are known of, where
            it is longer than the steps; else None.
        unit: Smallest traffic worth telling from none.
    """

    cpu: str
    memory: str
    disk: tuple[str, ...]
    traffic: tuple[str, ...]
    window: str | None
    unit: float = 1.0

    @property
    def of_trees(self) -> tuple[str, ...]:
        """Inputs of the trees, in order."""
        gauges = (self.cpu, *self.disk, *self.traffic)
        lags = [f"{gauge}__lag_{step}" for gauge in gauges for step in range(STEPS)]
        if self.window is None:
            return tuple(lags)
        longer = [f"{gauge}__{figure}_{self.window}" for gauge in self.traffic for figure in ("mean", "std")]
        return (*lags, f"{self.cpu}__mean_{self.window}", *longer)

    def of_network(self, steps: int) -> tuple[str, ...]:
        """Inputs of the network: oldest step first; of each step CPU, memory, disks, traffic."""
        gauges = (self.cpu, self.memory, *self.disk, *self.traffic)
        return tuple(f"{gauge}__lag_{step}" for step in reversed(range(steps)) for gauge in gauges)


def wire(inputs: Sequence[InputField], spec: ModelSpec) -> Wiring:
    """Find the gauges among the inputs by the first word of their names.

    Raises:
        ValueError: one of CPU, memory and traffic has no lags among the inputs.
    """
    if not isinstance(spec.target, ValuesAhead):
        raise ValueError(f"{spec.name} learns values ahead, its target is {spec.target.kind}")
    names = {field.name for field in inputs}
    gauges = sorted(name.partition("__")[0] for name in names if name.endswith(f"__lag_{STEPS - 1}"))
    groups = {
        word: [gauge for gauge in gauges if gauge.startswith(f"{word}_")]
        for word in ("cpu", "memory", "disk")
    }
    lacking = [word for word, found in groups.items() if not found and word != "disk"]
    lacking += [column for column in spec.target.columns if column not in gauges]
    if lacking:
        raise ValueError(f"{spec.name} needs {STEPS} lags each of {lacking}; there are lags of {gauges}")
    cpu, first = groups["cpu"][0], spec.target.columns[0]
    windows = [match[1] for name in names if (match := re.fullmatch(rf"{first}__std_(\w+)", name))]
    longer = [window for window in windows if window != "1h" and f"{cpu}__mean_{window}" in names]
    return Wiring(
        cpu=cpu,
        memory=groups["memory"][0],
        disk=tuple(groups["disk"]),
        traffic=spec.target.columns,
        window=longer[0] if longer else None,
    )


class Operations(Protocol[T]):
    """Arithmetic on columns of float32."""

    def add(self, left: T, right: T) -> T: ...
    def subtract(self, left: T, right: T) -> T: ...
    def divide(self, left: T, right: T) -> T: ...
    def multiply(self, left: T, right: T) -> T: ...
    def larger(self, left: T, right: T) -> T: ...
    def smaller(self, left: T, right: T) -> T: ...
    def constant(self, value: float) -> T: ...
    def present(self, value: T, other: T) -> T:
        """``value``, or ``other`` where it is missing."""
        ...


class OnArrays:
    """On float32 arrays of shape (n,)."""

    def add(self, left: Any, right: Any) -> Any:
        return left + right

    def subtract(self, left: Any, right: Any) -> Any:
        return left - right

    def divide(self, left: Any, right: Any) -> Any:
        return left / right

    def multiply(self, left: Any, right: Any) -> Any:
        return left * right

    def larger(self, left: Any, right: Any) -> Any:
        return np.maximum(left, right)

    def smaller(self, left: Any, right: Any) -> Any:
        return np.minimum(left, right)

    def constant(self, value: float) -> Any:
        return np.float32(value)

    def present(self, value: Any, other: Any) -> Any:
        return np.where(np.isnan(value), other, value)


class OnNodes:
    """On the names of tensors of shape (n, 1); collects the nodes that make them."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, left: str, right: str) -> str:
        return self._node("Add", left, right)

    def subtract(self, left: str, right: str) -> str:
        return self._node("Sub", left, right)

    def divide(self, left: str, right: str) -> str:
        return self._node("Div", left, right)

    def multiply(self, left: str, right: str) -> str:
        return self._node("Mul", left, right)

    def larger(self, left: str, right: str) -> str:
        return self._node("Max", left, right)

    def smaller(self, left: str, right: str) -> str:
        return self._node("Min", left, right)

    def present(self, value: str, other: str) -> str:
        return self._node("Where", self._node("IsNaN", value), other, value)

    def constant(self, value: float) -> str:
        from onnx import TensorProto, helper

        name = f"constant_{len(self.constants)}"
        self.constants.append(helper.make_tensor(name, TensorProto.FLOAT, [], [value]))
        return name

    def column(self, place: int) -> str:
        """The column at a place of the tensor ``inputs``."""
        from onnx import TensorProto, helper

        name = f"place_{place}"
        self.constants.append(helper.make_tensor(name, TensorProto.INT64, [1], [place]))
        return self._node("Gather", "inputs", name, axis=1)

    def _node(self, operation: str, *operands: str, **attributes: int) -> str:
        from onnx import helper

        name = f"value_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operation, list(operands), [name], **attributes))
        return name


@dataclass(frozen=True)
class Signals:
    """Signals by name, with the level that traffic is measured in and the inputs behind each."""

    level: Any
    values: dict[str, Any]
    sources: dict[str, tuple[str, ...]]


def signals(columns: Mapping[str, T], wiring: Wiring, do: Operations[T]) -> Signals:
    """Traffic in units of the machine's level, CPU as it is, disk in units of its own mean.

    Args:
        columns: The inputs of the trees by name, float32.
    """
    values: dict[str, Any] = {}
    sources: dict[str, tuple[str, ...]] = {}
    unit = do.constant(wiring.unit)

    def lags(*gauges: str) -> tuple[list[T], list[tuple[str, ...]]]:
        names = [tuple(f"{gauge}__lag_{step}" for gauge in gauges) for step in range(STEPS)]
        filled = [_filled([columns[step[place]] for step in names], do) for place in range(len(gauges))]
        return [_sum(list(parts), do) for parts in zip(*filled, strict=True)], names

    def add(name: str, value: T, *behind: str) -> None:
        values[name], sources[name] = value, behind

    traffic, traffic_names = lags(*wiring.traffic)
    level = do.larger(_mean(traffic, do), unit)
    if wiring.window is not None:
        means = [f"{gauge}__mean_{wiring.window}" for gauge in wiring.traffic]
        deviations = [f"{gauge}__std_{wiring.window}" for gauge in wiring.traffic]
        zero = do.constant(0.0)
        long = _sum([do.present(columns[name], zero) for name in means], do)
        spread = _sum([do.present(columns[name], zero) for name in deviations], do)
        level = do.larger(level, do.multiply(long, do.constant(SHARE_OF_LONG_MEAN)))
        add("long_mean", do.divide(long, level), *means)
        add("long_deviation", do.divide(spread, level), *deviations)
    for step in range(STEPS):
        add(f"traffic_{step}", do.divide(traffic[step], level), *traffic_names[step])
    for window in WINDOWS:
        behind = [name for names in traffic_names[:window] for name in names]
        for figure, value in _figures(traffic[:window], do):
            add(f"traffic_{figure}_{window}", do.divide(value, level), *behind)
    cpu, cpu_names = lags(wiring.cpu)
    for step in range(STEPS):
        add(f"cpu_{step}", cpu[step], *cpu_names[step])
    for window in (WINDOWS[0], WINDOWS[-1]):
        for figure, value in _figures(cpu[:window], do):
            add(f"cpu_{figure}_{window}", value, *(name for names in cpu_names[:window] for name in names))
    if wiring.window is not None:
        usual = f"{wiring.cpu}__mean_{wiring.window}"
        add("cpu_change", do.subtract(cpu[0], do.present(columns[usual], cpu[0])), cpu_names[0][0], usual)
    if not wiring.disk:
        return Signals(level, values, sources)
    disk, disk_names = lags(*wiring.disk)
    mean = _mean(disk, do)
    mean_or_unit = do.larger(mean, unit)
    for step in range(STEPS):
        add(f"disk_{step}", do.divide(disk[step], mean_or_unit), *disk_names[step])
    add("disk_to_traffic", do.divide(mean, level), *(name for names in disk_names for name in names))
    return Signals(level, values, sources)


def matrix(columns: Mapping[str, NDArray], wiring: Wiring) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Signals of shape (n, signals), and the level of each row, shape (n,); float32, finite."""
    given = {name: np.asarray(columns[name], dtype=np.float64).astype(np.float32) for name in wiring.of_trees}
    found = signals(given, wiring, OnArrays())
    return np.stack(list(found.values.values()), axis=1), found.level


def sources(wiring: Wiring) -> dict[str, tuple[str, ...]]:
    """The inputs behind each signal, in the signals' order."""
    return signals({name: np.zeros(1, np.float32) for name in wiring.of_trees}, wiring, OnArrays()).sources


def _filled(lags: list[T], do: Operations[T]) -> list[T]:
    """Gaps take the value before them; the oldest, and what has none before, the next one; else 0."""
    filled = list(lags)
    for step in reversed(range(len(filled) - 1)):
        filled[step] = do.present(filled[step], filled[step + 1])
    filled[0] = do.present(filled[0], do.constant(0.0))
    for step in range(1, len(filled)):
        filled[step] = do.present(filled[step], filled[step - 1])
    return filled


def _figures(values: list[T], do: Operations[T]) -> list[tuple[str, T]]:
    least = most = values[0]
    for value in values[1:]:
        least, most = do.smaller(least, value), do.larger(most, value)
    return [("mean", _mean(values, do)), ("min", least), ("max", most)]


def _mean(values: list[T], do: Operations[T]) -> T:
    return do.divide(_sum(values, do), do.constant(float(len(values))))


def _sum(values: list[T], do: Operations[T]) -> T:
    total = values[0]
    for value in values[1:]:
        total = do.add(total, value)
    return total
