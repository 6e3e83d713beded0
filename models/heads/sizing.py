"""Head of sizing decisions: workload class, distributions of demand, and a size from a price list.

The estimator answers, side by side, votes for the classes and, per resource, distribution functions
at fixed levels: the probability that next week's demand is at most ``2 ** level`` times a reference
(the high quantile of last week's use). From these come the risk of each size, and the choice is
:mod:`models.rightsizing.choice`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from feature_repo.datasets import Frozen
from models.heads.base import BaseHead, FieldType, OutputField
from models.rightsizing.choice import HOURS_PER_MONTH, PriceList, choose

Array = NDArray[np.float64]
Columns = Mapping[str, NDArray]

CHEAPEST = "least expected cost within the bound on risk"
NONE_WITHIN = "no listed size is within the bound on risk; this is the safest"
UNKNOWN = "no use is known; this is the present size"


class Amount(Frozen):
    """A figure in cores or GiB, from a column: ``value * factor``, times a capacity where it is a share."""

    column: str
    factor: float = Field(1.0, gt=0)
    of: str | None = Field(None, description="Column of the capacity that the value is a share of.")
    largest: float | None = Field(None, description="Larger values of the column count as this.")

    def of_rows(self, columns: Columns) -> Array:
        """Shape (n,); NaN where the column or the capacity is missing."""
        return self.scaled(np.asarray(columns[self.column], dtype=np.float64), columns)

    def scaled(self, values: Array, columns: Columns) -> Array:
        """Values in the column's unit as an amount."""
        bounded = values if self.largest is None else np.minimum(values, self.largest)
        amount = bounded * self.factor
        return amount if self.of is None else amount * np.asarray(columns[self.of], dtype=np.float64)


class Demand(Frozen):
    """How raw answers say the distribution of a resource's demand."""

    reference: Amount = Field(description="What the levels are relative to.")
    floor: float = Field(gt=0, description="Smallest reference, cores or GiB.")
    capacity: Amount = Field(description="What the machine has now.")
    first: int = Field(ge=0, description="Place of the first level's probability in the raw answer.")
    levels: tuple[float, ...] = Field(min_length=2, description="log2 of demand over reference, rising.")
    widen: tuple[float, float] = Field(
        (0.0, 0.0), description="Conformal offsets of the 80 % interval's ends, in log2, outwards."
    )

    @model_validator(mode="after")
    def _levels_rise(self) -> Self:
        if any(left >= right for left, right in zip(self.levels, self.levels[1:], strict=False)):
            raise ValueError(f"levels must rise: {self.levels}")
        return self

    def references(self, columns: Columns) -> Array:
        """Shape (n,); NaN where last week's use is missing."""
        return np.maximum(self.reference.of_rows(columns), self.floor)

    def is_known(self, columns: Columns) -> NDArray[np.bool_]:
        """Whether last week's use and the capacity are there; a machine that has none is switched off."""
        capacity = self.capacity.of_rows(columns)
        return np.asarray(np.isfinite(self.references(columns)) & np.isfinite(capacity) & (capacity > 0))

    def distribution(self, raw: Array) -> Array:
        """Probabilities at the levels, shape (n, levels): rising, within [0, 1], the last one 1."""
        at_levels = np.clip(raw[:, self.first : self.first + len(self.levels)], 0.0, 1.0)
        rising = np.maximum.accumulate(at_levels, axis=1)
        rising[:, -1] = 1.0
        return rising

    def exceedance(self, raw: Array, columns: Columns, amounts: Array) -> Array:
        """Probability that demand passes each amount, shape (n, amounts): falling along the amounts.

        Use cannot be measured beyond the present capacity, so it never passes what holds as much.
        """
        level = np.log2(np.maximum(amounts[None, :], 1e-9) / self.references(columns)[:, None])
        held = _interpolated(self.distribution(raw), np.asarray(self.levels), level)
        enough = amounts[None, :] >= self.capacity.of_rows(columns)[:, None]
        return np.where(enough, 0.0, 1.0 - held)

    def quantile(self, raw: Array, columns: Columns, share: float) -> Array:
        """The amount that demand stays within with a probability, shape (n,); at most the present capacity."""
        levels = np.asarray(self.levels)
        held = self.distribution(raw)
        right = np.clip((held < share).sum(axis=1), 1, len(levels) - 1)
        rows = np.arange(len(held))
        low, high = held[rows, right - 1], held[rows, right]
        step = np.clip((share - low) / np.maximum(high - low, 1e-12), 0.0, 1.0)
        level = levels[right - 1] + step * (levels[right] - levels[right - 1])
        return self.amount(level, columns)

    def amount(self, level: Array, columns: Columns) -> Array:
        """Cores or GiB of a level, at most the present capacity."""
        found = self.references(columns) * np.exp2(level)
        capacity = self.capacity.of_rows(columns)
        return np.where(np.isfinite(capacity), np.minimum(found, capacity), found)


class SizingHead(BaseHead):
    """Workload class, demand with an interval, and the size to take with its cost, risk and neighbours."""

    kind: Literal["sizing"] = "sizing"
    estimator: str = "forest"
    classes: tuple[str, ...] = Field(min_length=2, description="Their votes come first in the raw answer.")
    sharpness: float = Field(1.0, gt=0, description="Votes are raised to this power and made to add up to 1.")
    cpu: Demand
    memory: Demand
    risk_seen: tuple[float, ...] = Field(
        (0.0, 1.0), min_length=2, description="Computed risks, rising; what they came to is in risk_true."
    )
    risk_true: tuple[float, ...] = Field((0.0, 1.0), min_length=2)
    prices: PriceList

    @model_validator(mode="after")
    def _tables_fit(self) -> Self:
        if len(self.risk_seen) != len(self.risk_true):
            raise ValueError(f"risk_seen has {len(self.risk_seen)} values, risk_true {len(self.risk_true)}")
        for name, values in (("risk_seen", self.risk_seen), ("risk_true", self.risk_true)):
            if list(values) != sorted(values):
                raise ValueError(f"{name} must rise: {values}")
            # What holds the present capacity is never measured short; calibration must not say otherwise.
            if values[0] != 0.0:
                raise ValueError(f"{name} must begin at 0: {values}")
        return self

    def outputs(self) -> tuple[OutputField, ...]:
        def output(name: str, kind: FieldType, unit: str, description: str) -> OutputField:
            return OutputField(name=name, type=kind, unit=unit, description=description)

        text, number, flag = FieldType.STRING, FieldType.DOUBLE, FieldType.BOOLEAN
        return (
            output("workload_class", text, "", f"Behaviour expected next week: {', '.join(self.classes)}."),
            output("class_probability", number, "", "Calibrated probability of that class."),
            *(output(f"probability_{name}", number, "", f"Of class {name}.") for name in self.classes),
            *(
                output(f"{resource}_demand{end}", number, unit, f"{what} of next week's peak use.")
                for resource, unit in (("cpu", "cores"), ("memory", "GiB"))
                for end, what in (
                    ("", "Median"),
                    ("_lower", "Lower end of the 80 % interval"),
                    ("_upper", "Upper end of the 80 % interval"),
                )
            ),
            output("size", text, "", "Size to run it on."),
            output("vcpu", number, "cores", "Of that size."),
            output("memory_gib", number, "GiB", "Of that size."),
            output("cost_usd_month", number, "USD", "Price of that size."),
            output("risk", number, "", "Probability that next week is short of it for over 1 % of the time."),
            output("within_bound", flag, "", "Whether the risk holds the price list's bound."),
            output("reason", text, "", "Why this size."),
            output(
                "saturated", flag, "", "Last week reached the present capacity: true demand may be larger."
            ),
            output(
                "present_cost_usd_month", number, "USD", "Cheapest listed size that holds the present one."
            ),
            output("saving_usd_month", number, "USD", "Present cost less cost."),
            *(
                field
                for side, none in (
                    ("smaller", "the same where none is"),
                    ("larger", "the same where none is"),
                )
                for field in (
                    output(f"{side}_size", text, "", f"The next {side} size; {none}."),
                    output(f"{side}_cost_usd_month", number, "USD", "Its price."),
                    output(f"{side}_risk", number, "", "Its risk."),
                )
            ),
        )

    def explained(self, estimator: str) -> dict[str, int]:
        return {f"vote for {name}": place for place, name in enumerate(self.classes)}

    def answer(self, columns: Columns, raw: Mapping[str, NDArray]) -> dict[str, NDArray]:
        votes = np.asarray(raw[self.estimator], dtype=np.float64)
        classes = self.class_probabilities(votes)
        best = classes.argmax(axis=1)
        rows = np.arange(len(votes))
        known = self._known(columns)
        risk = np.where(known[:, None], self.risk(columns, votes), 1.0)
        chosen, within = self._chosen(risk, known, columns)
        prices = self.prices
        month = prices.usd_per_month
        names = np.array([size.name for size in prices.sizes], dtype=object)
        present = month[self._present(columns)]
        answers: dict[str, NDArray] = {
            "workload_class": np.array(self.classes, dtype=object)[best],
            "class_probability": classes[rows, best],
        }
        answers |= {f"probability_{name}": classes[:, place] for place, name in enumerate(self.classes)}
        for name, demand in (("cpu", self.cpu), ("memory", self.memory)):
            answers |= self._demanded(name, demand, votes, columns)
        answers |= {
            "size": names[chosen],
            "vcpu": prices.vcpu[chosen],
            "memory_gib": prices.memory_gib[chosen],
            "cost_usd_month": month[chosen],
            "risk": risk[rows, chosen],
            "within_bound": within,
            "reason": np.where(known, np.where(within, CHEAPEST, NONE_WITHIN), UNKNOWN).astype(object),
            "saturated": self._saturated(columns),
            "present_cost_usd_month": present,
            "saving_usd_month": present - month[chosen],
        }
        for side, places in (("smaller", prices.smaller()), ("larger", prices.larger())):
            other = places[chosen]
            answers |= {
                f"{side}_size": names[other],
                f"{side}_cost_usd_month": month[other],
                f"{side}_risk": risk[rows, other],
            }
        return answers

    def class_probabilities(self, votes: Array) -> Array:
        """Shape (n, classes), rows adding up to 1."""
        share = np.clip(votes[:, : len(self.classes)], 1e-6, 1.0) ** self.sharpness
        return np.asarray(share / share.sum(axis=1, keepdims=True))

    def computed_risk(self, columns: Columns, votes: Array) -> Array:
        """Risk of each size before calibration, shape (n, sizes).

        The two resources count as independent given the answers; calibration mends the rest.
        """
        cpu = self.cpu.exceedance(votes, columns, self.prices.vcpu)
        memory = self.memory.exceedance(votes, columns, self.prices.memory_gib)
        return 1.0 - (1.0 - cpu) * (1.0 - memory)

    def risk(self, columns: Columns, votes: Array) -> Array:
        """Calibrated probability of a short week by size, shape (n, sizes); NaN where no use is known."""
        computed = self.computed_risk(columns, votes)
        calibrated = np.interp(computed, self.risk_seen, self.risk_true)
        return np.asarray(np.where(np.isnan(computed), np.nan, calibrated))

    def margin(self, answers: Mapping[str, NDArray]) -> Array:
        """How far the leading class is ahead, and how far the risk is from the bound: the smaller of the two."""
        classes = np.stack([answers[f"probability_{name}"] for name in self.classes], axis=1)
        ordered = np.sort(classes, axis=1)
        risk = np.asarray(answers["risk"], dtype=np.float64)
        ahead = ordered[:, -1] - ordered[:, -2]
        return np.asarray(np.minimum(ahead, np.abs(risk - self.prices.max_risk)))

    def _known(self, columns: Columns) -> NDArray[np.bool_]:
        return self.cpu.is_known(columns) & self.memory.is_known(columns)

    def _chosen(
        self, risk: Array, known: NDArray[np.bool_], columns: Columns
    ) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        choice = choose(risk, self.prices)
        return np.where(known, choice.size, self._present(columns)), choice.within_bound & known

    def _present(self, columns: Columns) -> NDArray[np.intp]:
        cores, gib = (
            np.nan_to_num(demand.capacity.of_rows(columns), nan=0.0) for demand in (self.cpu, self.memory)
        )
        return self.prices.cheapest_holding(cores, gib)

    def _saturated(self, columns: Columns) -> NDArray[np.bool_]:
        near = [
            demand.reference.of_rows(columns) >= 0.95 * demand.capacity.of_rows(columns)
            for demand in (self.cpu, self.memory)
        ]
        return np.asarray(near[0] | near[1])

    def _demanded(self, name: str, demand: Demand, votes: Array, columns: Columns) -> dict[str, NDArray]:
        middle = demand.quantile(votes, columns, 0.5)
        down, up = demand.widen
        lower = demand.quantile(votes, columns, 0.1) * np.exp2(-down)
        upper = demand.quantile(votes, columns, 0.9) * np.exp2(up)
        capacity = demand.capacity.of_rows(columns)
        upper = np.where(np.isfinite(capacity), np.minimum(upper, capacity), upper)
        ends = {
            f"{name}_demand": middle,
            f"{name}_demand_lower": np.minimum(lower, middle),
            f"{name}_demand_upper": np.maximum(upper, middle),
        }
        # Where no use is known the whole capacity may be asked for.
        return {
            key: np.nan_to_num(np.where(np.isnan(values), capacity, values)) for key, values in ends.items()
        }


def _interpolated(held: Array, levels: Array, asked: Array) -> Array:
    """Distribution functions (n, levels) at asked levels (n, m), linear in between; 0 below the first."""
    inside = np.where(np.isfinite(asked), np.clip(asked, levels[0], levels[-1]), levels[0])
    right = np.clip(np.searchsorted(levels, inside, side="right"), 1, len(levels) - 1)
    left_level, right_level = levels[right - 1], levels[right]
    share = (inside - left_level) / (right_level - left_level)
    low, high = np.take_along_axis(held, right - 1, axis=1), np.take_along_axis(held, right, axis=1)
    found = low + share * (high - low)
    found = np.where(asked < levels[0], 0.0, found)
    return np.where(np.isnan(asked), np.nan, found)


__all__ = ["CHEAPEST", "HOURS_PER_MONTH", "NONE_WITHIN", "UNKNOWN", "Amount", "Demand", "SizingHead"]
