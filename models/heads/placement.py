"""Head of placement: from scores of lifetime classes and candidate hosts to a choice with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from models.heads.base import BaseHead, FieldType, OutputField
from models.placement.choice import (
    Candidates,
    Constraint,
    Prices,
    broken,
    choose,
    host_cost,
    labels_within,
    zone_within,
)
from models.placement.lifetimes import Lifetimes, softmax

Floats = NDArray[np.float64]
Columns = Mapping[str, NDArray]

#: Inputs of a candidate host, which callers give and training rows lack: name to type, unit, description.
CANDIDATE_INPUTS: dict[str, tuple[FieldType, str]] = {
    "request_id": (FieldType.STRING, ""),
    "host_id": (FieldType.STRING, ""),
    "age_hours": (FieldType.DOUBLE, "hours"),
    "host_free_cores": (FieldType.DOUBLE, "count"),
    "host_free_memory_gib": (FieldType.DOUBLE, "GiB"),
    "host_vms": (FieldType.DOUBLE, "count"),
    "host_time_to_empty_hours": (FieldType.DOUBLE, "hours"),
    "host_zone": (FieldType.STRING, ""),
    "host_labels": (FieldType.STRING, ""),
    "host_group_vms": (FieldType.DOUBLE, "count"),
    "zones": (FieldType.STRING, ""),
    "labels": (FieldType.STRING, ""),
    "group_limit_per_host": (FieldType.DOUBLE, "count"),
    "joins_group": (FieldType.DOUBLE, "1 or 0"),
}


class PlacementHead(BaseHead):
    """Lifetimes from class scores; constraints and the cheapest allowed host per request.

    Records that share a ``request_id`` are candidates for one machine; a record without one is a
    request by itself.
    """

    kind: Literal["placement"] = "placement"
    estimator: str = "lifetime"
    edges_hours: tuple[float, ...] = Field(min_length=1, description="Ends of the classes but the last.")
    tail_hours: float = Field(gt=0, description="Mean life beyond the last edge.")
    temperature: float = Field(1.0, gt=0, description="Scores are divided by it (Guo et al., 2017).")
    levels: tuple[float, float, float] = Field(
        (0.1, 0.5, 0.9),
        description="Predicted shares that have gone, by when a tenth, half and nine tenths really have.",
    )
    cores: str = Field("cores__last", description="Input: cores that the machine needs.")
    memory_gib: str = Field("memory_gib__last", description="Input: memory that the machine needs.")
    prices: Prices = Prices()

    @model_validator(mode="after")
    def _edges_rise(self) -> Self:
        if list(self.edges_hours) != sorted(set(self.edges_hours)) or self.edges_hours[0] <= 0:
            raise ValueError(f"edges_hours must be above 0 and rise: {self.edges_hours}")
        if not 0 < self.levels[0] < self.levels[1] < self.levels[2] < 1:
            raise ValueError(f"levels must rise within (0, 1): {self.levels}")
        return self

    def outputs(self) -> tuple[OutputField, ...]:
        def hours(name: str, description: str) -> OutputField:
            return OutputField(name=name, type=FieldType.DOUBLE, unit="hours", description=description)

        return (
            hours("lifetime_hours", "Median of the machine's remaining life, given its age."),
            hours("lifetime_lower_hours", "A tenth of such machines has gone by then."),
            hours("lifetime_upper_hours", "Nine tenths of such machines have gone by then."),
            hours(
                "extension_hours",
                "Expected time by which the machine keeps the host busy beyond what runs there.",
            ),
            OutputField(
                name="score",
                type=FieldType.DOUBLE,
                unit="hours",
                description="Minus the cost of the host; higher is better.",
            ),
            OutputField(
                name="feasible", type=FieldType.BOOLEAN, description="Whether the host breaks no constraint."
            ),
            OutputField(
                name="chosen",
                type=FieldType.BOOLEAN,
                description="Whether this is the host to take; one per request with an allowed host.",
            ),
            OutputField(
                name="reason", type=FieldType.STRING, description="What forbids the host, or how it compares."
            ),
        )

    def lifetimes(self, raw: Floats) -> Lifetimes:
        """Distributions from the estimator's raw scores of shape (n, classes)."""
        probability = softmax(np.asarray(raw, dtype=np.float64) / self.temperature)
        return Lifetimes.of_classes(probability, self.edges_hours, self.tail_hours)

    def explained(self, estimator: str) -> dict[str, int]:
        ends = [f"gone within {edge:g} h" for edge in self.edges_hours]
        return {name: place for place, name in enumerate([*ends, f"beyond {self.edges_hours[-1]:g} h"])}

    def answer(self, columns: Columns, raw: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """Outputs by name. Host inputs that are absent count as missing: such a row is not feasible."""
        lifetimes = self.lifetimes(raw[self.estimator])
        rows = len(lifetimes)
        numbers = {
            name: _numbers(columns, name, rows)
            for name, (kind, _) in CANDIDATE_INPUTS.items()
            if kind is FieldType.DOUBLE
        }
        texts = {
            name: _texts(columns, name, rows)
            for name, (kind, _) in CANDIDATE_INPUTS.items()
            if kind is FieldType.STRING
        }
        age = np.nan_to_num(np.maximum(numbers["age_hours"], 0.0))
        busy = np.nan_to_num(np.maximum(numbers["host_time_to_empty_hours"], 0.0))
        candidates = Candidates(
            cores=_numbers(columns, self.cores, rows),
            memory_gib=_numbers(columns, self.memory_gib, rows),
            free_cores=numbers["host_free_cores"],
            free_memory_gib=numbers["host_free_memory_gib"],
            zone_allowed=zone_within(texts["zones"], texts["host_zone"]),
            compliant=labels_within(texts["labels"], texts["host_labels"]),
            group_vms=numbers["host_group_vms"],
            group_limit=numbers["group_limit_per_host"],
            joins_group=np.nan_to_num(numbers["joins_group"]) > 0,
        )
        bits = broken(candidates)
        extension = lifetimes.extension(age, busy)
        # A host whose machines nobody counted is empty only if nothing is said to run there.
        empty = np.where(np.isnan(numbers["host_vms"]), busy <= 0, numbers["host_vms"] <= 0)
        cost = host_cost(
            extension,
            np.nan_to_num(candidates.free_cores - candidates.cores),
            np.nan_to_num(candidates.free_memory_gib - candidates.memory_gib),
            empty,
            self.prices,
        )
        request = _requests(texts["request_id"])
        chosen = choose(request, bits, cost, texts["host_id"])
        return {
            "lifetime_hours": lifetimes.remaining(age, self.levels[1]),
            "lifetime_lower_hours": lifetimes.remaining(age, self.levels[0]),
            "lifetime_upper_hours": lifetimes.remaining(age, self.levels[2]),
            "extension_hours": extension,
            "score": -cost,
            "feasible": bits == 0,
            "chosen": chosen,
            "reason": _reasons(candidates, texts, bits, extension, cost, empty, request, chosen),
        }


def _numbers(columns: Columns, name: str, rows: int) -> Floats:
    if name not in columns:
        return np.full(rows, np.nan)
    return np.asarray(columns[name], dtype=np.float64)


def _texts(columns: Columns, name: str, rows: int) -> NDArray:
    if name not in columns:
        return np.full(rows, None, dtype=object)
    return np.asarray(columns[name], dtype=object)


def _requests(names: NDArray) -> NDArray[np.int64]:
    """A number per request; rows without a name are requests by themselves."""
    numbers: dict[object, int] = {}
    return np.array(
        [
            len(names) + place if name is None else numbers.setdefault(name, len(numbers))
            for place, name in enumerate(names)
        ],
        dtype=np.int64,
    )


def _reasons(
    candidates: Candidates,
    texts: Mapping[str, NDArray],
    bits: NDArray[np.uint8],
    extension: Floats,
    cost: Floats,
    empty: NDArray[np.bool_],
    request: NDArray[np.int64],
    chosen: NDArray[np.bool_],
) -> NDArray:
    best = {int(request[place]): place for place in np.flatnonzero(chosen)}
    allowed: dict[int, int] = {}
    for number in request[bits == 0]:
        allowed[int(number)] = allowed.get(int(number), 0) + 1
    reasons = np.empty(len(bits), dtype=object)
    for place in range(len(bits)):
        number = int(request[place])
        if bits[place]:
            reasons[place] = "; ".join(
                _forbidden(constraint, candidates, texts, place)
                for constraint in Constraint
                if bits[place] & constraint
            )
        elif chosen[place]:
            others = allowed[number] - 1
            start = "an empty host is opened" if empty[place] else f"busy {extension[place]:.2f} h longer"
            reasons[place] = f"chosen: {start}; " + (
                f"the cheapest of {others + 1} allowed hosts" if others else "the only allowed host"
            )
        else:
            winner = best[number]
            more = cost[place] - cost[winner]
            reasons[place] = (
                "allowed, but empty, and an occupied host is allowed"
                if empty[place] and not empty[winner]
                else f"allowed, but costs {more:.2f} h more than host {texts['host_id'][winner]}"
            )
    return reasons


def _forbidden(
    constraint: Constraint, candidates: Candidates, texts: Mapping[str, NDArray], place: int
) -> str:
    def number(values: Floats | float) -> str:
        value = float(
            np.broadcast_to(values, (place + 1,) if np.ndim(values) == 0 else np.shape(values))[place]
        )
        return "unknown" if np.isnan(value) else f"{value:g}"

    match constraint:
        case Constraint.CORES:
            return f"cores: needs {number(candidates.cores)}, free {number(candidates.free_cores)}"
        case Constraint.MEMORY:
            return f"memory: needs {number(candidates.memory_gib)} GiB, free {number(candidates.free_memory_gib)}"
        case Constraint.ZONE:
            return (
                f"zone: wants {texts['zones'][place]}, is in {texts['host_zone'][place] or 'an unknown one'}"
            )
        case Constraint.COMPLIANCE:
            return f"compliance: wants {texts['labels'][place]}, has {texts['host_labels'][place] or 'none'}"
        case Constraint.ANTI_AFFINITY:
            return (
                f"anti-affinity: {number(candidates.group_vms)} of its group run there, "
                f"with this one at most {number(candidates.group_limit)} may"
            )
        case Constraint.AFFINITY:
            return "affinity: none of its group is known to run there"
