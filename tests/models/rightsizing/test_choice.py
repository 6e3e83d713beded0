"""The choice over a price list."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import ValidationError

from models.rightsizing.choice import PriceList, Size, choose, load_prices

PRICES = load_prices()
SIZES = len(PRICES.sizes)
RISKS = arrays(np.float64, (3, SIZES), elements=st.floats(0, 1))
AMOUNTS = arrays(np.float64, 3, elements=st.floats(0, 600))


def test_sizes_are_listed_by_price_and_named_once():
    small, large = (
        Size(name=name, vcpu=1, memory_gib=1, usd_per_hour=price) for name, price in (("a", 1), ("b", 2))
    )
    with pytest.raises(ValidationError, match="cheapest first"):
        PriceList(usd_per_short_week=1, max_risk=0.1, sizes=(large, small))
    with pytest.raises(ValidationError, match="named twice"):
        PriceList(usd_per_short_week=1, max_risk=0.1, sizes=(small, small))


@given(risk=RISKS)
def test_a_choice_within_the_bound_is_taken_wherever_there_is_one(risk):
    choice = choose(risk, PRICES)
    told = risk[np.arange(3), choice.size]
    np.testing.assert_array_equal(choice.within_bound, (risk <= PRICES.max_risk).any(axis=1))
    assert np.all(told[choice.within_bound] <= PRICES.max_risk)
    np.testing.assert_array_equal(told[~choice.within_bound], risk[~choice.within_bound].min(axis=1))


@given(risk=RISKS)
def test_no_other_size_within_the_bound_is_expected_to_cost_less(risk):
    choice = choose(risk, PRICES)
    expected = PRICES.expected_cost(risk)
    for row in np.flatnonzero(choice.within_bound):
        allowed = risk[row] <= PRICES.max_risk
        assert expected[row, choice.size[row]] == expected[row, allowed].min()


def test_where_shortage_costs_little_the_cheapest_within_the_bound_is_taken():
    prices = PRICES.model_copy(
        update={"usd_per_short_week": 0.0, "prices_per_short_week": 0.0, "max_risk": 0.1}
    )
    risk = np.linspace(1.0, 0.0, SIZES)[None, :]
    assert choose(risk, prices).size[0] == np.flatnonzero(risk[0] <= 0.1)[0]


@given(cores=AMOUNTS, gib=AMOUNTS)
def test_the_best_in_hindsight_has_no_regret_and_nothing_has_less(cores, gib):
    best = PRICES.cheapest_holding(cores, gib)
    held = ~PRICES.short(best, cores, gib)
    np.testing.assert_allclose(PRICES.regret(best, cores, gib)[held], 0.0)
    for other in range(SIZES):
        assert np.all(PRICES.regret(np.full(3, other), cores, gib)[held] >= -1e-9)


def test_neighbours_are_smaller_and_larger_in_nothing_less():
    vcpu, gib = PRICES.vcpu, PRICES.memory_gib
    for place, (down, up) in enumerate(zip(PRICES.smaller(), PRICES.larger(), strict=True)):
        assert vcpu[down] <= vcpu[place] <= vcpu[up]
        assert gib[down] <= gib[place] <= gib[up]
        assert PRICES.usd_per_week[down] <= PRICES.usd_per_week[place] <= PRICES.usd_per_week[up]
    assert PRICES.smaller()[0] == 0
    assert PRICES.larger()[-1] == SIZES - 1
