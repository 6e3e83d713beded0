"""Which size to take: a price list, the risk of each size, and what a shortage costs.

The choice is the size with the least expected cost (price plus risk times the cost of a shortage)
among those whose risk stays within a bound. Where no size does, the one of least risk is named, and
the answer says that it does not hold the bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from feature_repo.datasets import Frozen

Array = NDArray[np.float64]
Index = NDArray[np.intp]
HOURS_PER_WEEK = 168.0
HOURS_PER_MONTH = 730.0
PRICES_FILE = Path(__file__).with_name("prices.yaml")


class Size(Frozen):
    """One line of a price list."""

    name: str
    vcpu: float = Field(gt=0, description="CPU cores.")
    memory_gib: float = Field(gt=0)
    usd_per_hour: float = Field(gt=0)


class PriceList(Frozen):
    """What can be had, what it costs, and what being short costs.

    A week is short where use passes the size for more than one percent of it, be it CPU or memory.
    """

    usd_per_short_week: float = Field(
        ge=0, description="What one short week costs, however small the machine."
    )
    prices_per_short_week: float = Field(
        1.0,
        ge=1,
        description="What it costs besides, in week's prices of the size that would have held it. At 1 or more, "
        "being short never pays.",
    )
    max_risk: float = Field(
        gt=0, le=1, description="Largest probability of a short week that a choice may have."
    )
    sizes: tuple[Size, ...] = Field(min_length=1, description="Cheapest first.")

    @model_validator(mode="after")
    def _sizes_rise(self) -> Self:
        prices = [size.usd_per_hour for size in self.sizes]
        if prices != sorted(prices):
            raise ValueError("sizes must be sorted by price, cheapest first")
        names = [size.name for size in self.sizes]
        if len(set(names)) != len(names):
            raise ValueError(f"a size is named twice: {names}")
        return self

    @property
    def vcpu(self) -> Array:
        return np.array([size.vcpu for size in self.sizes])

    @property
    def memory_gib(self) -> Array:
        return np.array([size.memory_gib for size in self.sizes])

    @property
    def usd_per_week(self) -> Array:
        return HOURS_PER_WEEK * np.array([size.usd_per_hour for size in self.sizes])

    @property
    def usd_per_month(self) -> Array:
        return HOURS_PER_MONTH * np.array([size.usd_per_hour for size in self.sizes])

    def cheapest_holding(self, cores: Array, gib: Array) -> Index:
        """Index of the cheapest size that holds so much, shape (n,); the dearest where none does."""
        holds = (self.vcpu >= cores[:, None]) & (self.memory_gib >= gib[:, None])
        return np.where(holds.any(axis=1), holds.argmax(axis=1), len(self.sizes) - 1)

    def short(self, chosen: Index, cores: Array, gib: Array) -> NDArray[np.bool_]:
        """Whether a choice is short of so much use, shape (n,)."""
        return np.asarray((self.vcpu[chosen] < cores) | (self.memory_gib[chosen] < gib))

    def regret(self, chosen: Index, cores: Array, gib: Array) -> Array:
        """USD per week beyond the best choice in hindsight, shape (n,): price, and the cost of being short.

        The best choice knew what the week would use: the cheapest size that held it.
        """
        best = self.usd_per_week[self.cheapest_holding(cores, gib)]
        shortage = self.usd_per_short_week + self.prices_per_short_week * best
        return np.asarray(self.usd_per_week[chosen] + shortage * self.short(chosen, cores, gib) - best)

    def expected_cost(self, risk: Array) -> Array:
        """USD per week of each size, shape (n, sizes): its price, and risk times what being short of it costs.

        What would have held the week is not known in advance; the next size with more of both stands for it.
        """
        shortage = (
            self.usd_per_short_week + self.prices_per_short_week * self.usd_per_week[self._more_of_both()]
        )
        return np.asarray(self.usd_per_week + risk * shortage)

    def _more_of_both(self) -> Index:
        """For each size the cheapest one with more cores and more memory; the last one where there is none."""
        more = (self.vcpu > self.vcpu[:, None]) & (self.memory_gib > self.memory_gib[:, None])
        return np.where(more.any(axis=1), more.argmax(axis=1), len(self.sizes) - 1)

    def smaller(self) -> Index:
        """For each size the dearest one that has no more of anything and costs less; itself where none does."""
        return self._neighbour(smaller=True)

    def larger(self) -> Index:
        """For each size the cheapest one that has no less of anything and more of one; itself where none does."""
        return self._neighbour(smaller=False)

    def _neighbour(self, *, smaller: bool) -> Index:
        vcpu, gib = self.vcpu, self.memory_gib
        found = np.arange(len(self.sizes))
        for place in range(len(self.sizes)):
            sign = 1 if smaller else -1
            fits = (sign * (vcpu[place] - vcpu) >= 0) & (sign * (gib[place] - gib) >= 0)
            fits &= (vcpu != vcpu[place]) | (gib != gib[place])
            others = np.flatnonzero(fits)
            others = others[others < place] if smaller else others[others > place]
            if len(others):
                found[place] = others[-1] if smaller else others[0]
        return found


@dataclass(frozen=True)
class Choice:
    """Choices of n rows: indices into the price list, and whether each holds the bound."""

    size: Index
    within_bound: NDArray[np.bool_]


def choose(risk: Array, prices: PriceList) -> Choice:
    """The size with the least expected weekly cost among those within the bound.

    Args:
        risk: Probability of a short week, shape (n, sizes), in the order of the price list.
    """
    allowed = risk <= prices.max_risk
    expected = prices.expected_cost(risk)
    best = np.where(allowed, expected, np.inf).argmin(axis=1)
    safest = risk.argmin(axis=1)  # the first, so the cheapest, of equals
    any_allowed = np.asarray(allowed.any(axis=1))
    return Choice(np.where(any_allowed, best, safest), any_allowed)


def load_prices(file: Path = PRICES_FILE) -> PriceList:
    """The price list in a YAML file.

    Raises:
        pydantic.ValidationError: a line is wrong; the text says which.
    """
    import yaml  # training reads the file; the server has the list in the manifest

    return PriceList.model_validate(yaml.safe_load(file.read_text("utf-8")))
