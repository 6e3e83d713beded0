"""Head of what-if answers about performance: latency, throughput and the risk to a service level.

The estimator says, side by side, quantiles of the logarithm of the tail latency over a blend of its
past values, then the middle of the same for the median latency, then of ``log(1 + errors in percent)``. Every part
rises with load and falls with size, and so does everything that is made of them here:

- beyond the utilisation that training saw, latencies grow as the waiting time of a single server
  does, with ``1 / (1 - utilisation)`` (M/M/1), because trees would stay level;
- the probability of passing a limit comes from the quantiles, linear in between and exponential
  outside (in the logarithm of the latency).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from feature_repo.datasets import Frozen
from models.heads.base import BaseHead, FieldType, OutputField

Array = NDArray[np.float64]
Columns = Mapping[str, NDArray]

LOAD = "load_rps"
CORES = "candidate_cpu_cores"
MEMORY = "candidate_memory_gib"
LIMIT = "slo_ms"
_FULL = 0.99  # utilisation from which on a waiting time is not told apart
_MEMORY_NEEDED = 1.05  # of what is in use: some is needed beyond


class Machine(Frozen):
    """Columns that say how the machine is and was used. Services without a size of their own lack some."""

    cores: str | None = None
    memory_gib: str | None = None
    cpu_percent: str | None = Field(None, description="Usual CPU use.")
    memory_percent: str | None = Field(None, description="Memory in use.")
    load: str = Field(description="Usual load, in the unit of `load_rps`.")
    tail_latency: str = Field(description="Usual tail latency, ms.")
    median_latency: str = Field(description="Usual median latency, ms.")


class Blend(Frozen):
    """Weighted geometric mean of past latencies: what the quantiles are relative to."""

    columns: tuple[str, ...] = Field(min_length=1)
    weights: tuple[float, ...] = Field(min_length=1, description="They add up to 1.")

    @model_validator(mode="after")
    def _weights_fit(self) -> Self:
        if len(self.weights) != len(self.columns):
            raise ValueError(f"{len(self.columns)} columns need as many weights, got {len(self.weights)}")
        if abs(sum(self.weights) - 1.0) > 1e-6:
            raise ValueError(f"weights must add up to 1: {self.weights}")
        return self

    def of_rows(self, columns: Columns, otherwise: Array) -> Array:
        """Shape (n,), ms; where a latency is missing or 0, ``otherwise`` stands in for it."""
        logarithms = []
        for name in self.columns:
            values = np.asarray(columns[name], dtype=np.float64)
            logarithms.append(np.log(np.where(np.isfinite(values) & (values > 0), values, otherwise)))
        return np.asarray(np.exp(np.einsum("k,kn->n", np.asarray(self.weights), np.stack(logarithms))))


class SloHead(BaseHead):
    """Latencies with an interval, throughput, and the probability that the tail latency passes a limit."""

    kind: Literal["slo"] = "slo"
    estimator: str = "boosters"
    machine: Machine
    tail_reference: Blend
    median_reference: Blend
    levels: tuple[float, ...] = Field(min_length=3, description="Of the quantiles, rising; 0.5 among them.")
    offsets: tuple[float, ...] = Field((), description="Added to each quantile, found on held-out rows.")
    lower: float = Field(0.1, description="Level of the interval's lower end; one of the levels.")
    upper: float = Field(0.9, description="Level of the interval's upper end; one of the levels.")
    tail: tuple[float, float] = Field(
        (0.05, 0.05),
        description="Scale of the exponential tails below and above the quantiles, in logarithms.",
    )
    usual: tuple[float, float] = Field(
        description="Tail and median latency of a machine whose own are unknown, ms."
    )
    seen_utilisation: float = Field(gt=0, lt=100, description="Highest that training saw, percent.")
    default_limit: float = Field(
        1.5, gt=0, description="Times the usual tail latency, where no limit is given."
    )

    @model_validator(mode="after")
    def _levels_fit(self) -> Self:
        if list(self.levels) != sorted(set(self.levels)):
            raise ValueError(f"levels must rise: {self.levels}")
        if missing := [level for level in (self.lower, 0.5, self.upper) if level not in self.levels]:
            raise ValueError(f"levels lack {missing}")
        if self.offsets and len(self.offsets) != len(self.levels):
            raise ValueError(f"{len(self.levels)} levels need as many offsets, got {len(self.offsets)}")
        return self

    def outputs(self) -> tuple[OutputField, ...]:
        def number(name: str, unit: str, description: str) -> OutputField:
            return OutputField(name=name, type=FieldType.DOUBLE, unit=unit, description=description)

        share = f"{self.upper - self.lower:.0%}"
        return (
            number("latency_p95_ms", "ms", "95th percentile of latency, as likely to be passed as not."),
            number("lower", "ms", f"Lower end of the {share} interval of latency_p95_ms."),
            number("upper", "ms", "Upper end of it."),
            number("latency_p50_ms", "ms", "Median latency."),
            number("throughput_rps", "1/s", "Requests answered without an error."),
            number("slo_ms", "ms", "The limit that the next figure is about."),
            number("slo_probability", "", "Probability that the 95th percentile of latency passes slo_ms."),
            number("utilisation_percent", "percent", "Expected CPU use."),
            OutputField(
                name="fits_memory",
                type=FieldType.BOOLEAN,
                description="Whether the memory in use, and 5 % more, fits the size asked about.",
            ),
            OutputField(
                name="extrapolates",
                type=FieldType.BOOLEAN,
                description="Whether the utilisation lies beyond what training saw.",
            ),
        )

    def explained(self, estimator: str) -> dict[str, int]:
        return {"latency_p95_ms": self.levels.index(0.5), "latency_p50_ms": len(self.levels)}

    def answer(self, columns: Columns, raw: Mapping[str, NDArray]) -> dict[str, NDArray]:
        told = np.asarray(raw[self.estimator], dtype=np.float64)
        tail_usual, _ = self.usual_latencies(columns)
        tail, median = self.references(columns)
        work, utilisation = self.work(columns), self.utilisation(columns)
        waiting = self.waiting(utilisation)
        quantiles = self.quantiles(told) + waiting[:, None]
        limit = _given(columns, LIMIT, len(told))
        limit = np.where(np.isnan(limit) | (limit <= 0), self.default_limit * tail_usual, limit)
        places = {level: place for place, level in enumerate(self.levels)}
        errors = np.clip(np.expm1(np.clip(told[:, -1], 0.0, 10.0)), 0.0, 100.0)
        load = np.nan_to_num(_given(columns, LOAD, len(told)))
        return {
            "latency_p95_ms": tail * np.exp(quantiles[:, places[0.5]]),
            "lower": tail * np.exp(quantiles[:, places[self.lower]]),
            "upper": tail * np.exp(quantiles[:, places[self.upper]]),
            "latency_p50_ms": median * np.exp(told[:, -2] + waiting),
            "throughput_rps": load * (1.0 - errors / 100.0) * np.minimum(1.0, 1.0 / np.maximum(work, 1e-9)),
            "slo_ms": limit,
            "slo_probability": self.exceedance(quantiles, np.log(limit / tail)),
            "utilisation_percent": utilisation,
            "fits_memory": self._fits(columns, len(told)),
            "extrapolates": utilisation > self.seen_utilisation,
        }

    def quantiles(self, told: Array) -> Array:
        """Quantiles of log(tail latency / reference), shape (n, levels), in rising order.

        Sorting keeps what all of them have in common: rising with load.
        """
        offsets = np.asarray(self.offsets) if self.offsets else 0.0
        return np.sort(told[:, : len(self.levels)] + offsets, axis=1)

    def exceedance(self, quantiles: Array, limit: Array) -> Array:
        """Probability of passing a limit, shape (n,); it never falls where every quantile rises."""
        levels = np.asarray(self.levels)
        last = len(levels) - 1
        right = np.clip((quantiles <= limit[:, None]).sum(axis=1), 1, last)
        rows = np.arange(len(limit))
        low, high = quantiles[rows, right - 1], quantiles[rows, right]
        share = np.clip((limit - low) / np.maximum(high - low, 1e-12), 0.0, 1.0)
        within = levels[right - 1] + share * (levels[right] - levels[right - 1])
        below, above = quantiles[:, 0] - limit, limit - quantiles[:, -1]
        within = np.where(below > 0, levels[0] * np.exp(-np.maximum(below, 0.0) / self.tail[0]), within)
        passed = (1.0 - levels[-1]) * np.exp(-np.maximum(above, 0.0) / self.tail[1])
        return np.asarray(np.where(above > 0, passed, 1.0 - within))

    def usual_latencies(self, columns: Columns) -> tuple[Array, Array]:
        """Usual tail and median latency, ms, shape (n,) each."""
        found = []
        for name, otherwise in zip(
            (self.machine.tail_latency, self.machine.median_latency), self.usual, strict=True
        ):
            values = np.asarray(columns[name], dtype=np.float64)
            found.append(np.where(np.isfinite(values) & (values > 0), values, otherwise))
        return found[0], found[1]

    def references(self, columns: Columns) -> tuple[Array, Array]:
        """What quantiles of the tail and the middle of the median latency are relative to, ms, shape (n,) each."""
        tail, median = self.usual_latencies(columns)
        return self.tail_reference.of_rows(columns, tail), self.median_reference.of_rows(columns, median)

    def work(self, columns: Columns) -> Array:
        """Work at the load and size asked about, in units of what the size can do: 1 keeps all cores busy.

        In proportion to the usual (the utilisation law). Where no use is known it is 0: nothing then
        says that a load is beyond what was seen.
        """
        machine = self.machine
        usual_load = np.asarray(columns[machine.load], dtype=np.float64)
        rows = len(usual_load)
        if machine.cpu_percent is None:
            return np.zeros(rows)
        relative = _given(columns, LOAD, rows) / np.maximum(usual_load, 1e-6)
        if machine.cores is not None:
            cores = np.asarray(columns[machine.cores], dtype=np.float64)
            asked = _given(columns, CORES, rows)
            relative = relative * cores / np.maximum(np.where(np.isnan(asked), cores, asked), 1e-6)
        usual = np.clip(np.asarray(columns[machine.cpu_percent], dtype=np.float64) / 100.0, 0.0, _FULL)
        # What kept cores busy for a share u of the time was work of -log(1 - u), if it came at random.
        return np.nan_to_num(-np.log1p(-usual) * relative, nan=0.0, posinf=1e9)

    def utilisation(self, columns: Columns) -> Array:
        """CPU use in percent at the load and size asked about, below 100: cores that random work finds idle."""
        return -100.0 * np.expm1(-self.work(columns))

    def waiting(self, utilisation: Array) -> Array:
        """What utilisation beyond the seen adds to the logarithm of latency, shape (n,), at least 0."""
        free_seen = 1.0 - min(self.seen_utilisation / 100.0, _FULL)
        free = 1.0 - np.clip(utilisation / 100.0, 0.0, _FULL)
        return np.maximum(np.log(free_seen / free), 0.0)

    def _fits(self, columns: Columns, rows: int) -> NDArray[np.bool_]:
        asked = _given(columns, MEMORY, rows)
        if self.machine.memory_gib is None or self.machine.memory_percent is None:
            return np.ones(rows, dtype=bool)
        has = np.asarray(columns[self.machine.memory_gib], dtype=np.float64)
        used = has * np.asarray(columns[self.machine.memory_percent], dtype=np.float64) / 100.0
        # Unknown use is no reason to say that it does not fit what it runs on.
        return np.asarray(np.isnan(asked) | np.isnan(used) | (used * _MEMORY_NEEDED <= asked))


def _given(columns: Columns, name: str, rows: int) -> Array:
    """An optional input, shape (n,); NaN where it is not given."""
    if name not in columns:
        return np.full(rows, np.nan)
    return np.asarray(columns[name], dtype=np.float64)
