"""Survival curves: proper distributions at every age, and the same through classes and quantiles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.placement.lifetimes import Lifetimes, softmax

EDGES = (0.5, 1.0, 4.0, 24.0)


def curves(scores: list[list[float]], tail_hours: float = 48.0) -> Lifetimes:
    return Lifetimes.of_classes(softmax(np.array(scores)), EDGES, tail_hours)


scores = st.lists(
    st.lists(st.floats(-8, 8), min_size=len(EDGES) + 1, max_size=len(EDGES) + 1), min_size=1, max_size=4
)


@given(scores=scores, age=st.floats(0, 200))
def test_survival_falls_from_one_at_every_age(scores: list[list[float]], age: float) -> None:
    alive = curves(scores).survival(np.full(len(scores), age), np.array([0.0, 0.1, 1.0, 10.0, 500.0]))
    assert alive[:, 0] == pytest.approx(1.0)
    assert (np.diff(alive, axis=1) <= 1e-12).all()
    assert ((alive >= 0) & (alive <= 1)).all()


@given(scores=scores, age=st.floats(0, 100), share=st.floats(0.02, 0.98))
def test_remaining_is_where_the_share_has_gone(scores: list[list[float]], age: float, share: float) -> None:
    lifetimes = curves(scores)
    hours = lifetimes.remaining(np.full(len(scores), age), share)
    for row, left in enumerate(hours):
        one = lifetimes.rows(np.array([row]))
        # Where nothing goes for hours, the time of a share is any of them.
        assert one.survival(np.array([age]), np.array([left]))[0, 0] == pytest.approx(1 - share, abs=1e-3)


@given(scores=scores, age=st.floats(0, 60), busy=st.floats(0, 80))
def test_extension_is_the_integral_of_survival_from_there_on(
    scores: list[list[float]], age: float, busy: float
) -> None:
    lifetimes = curves(scores)
    ahead = np.concatenate([np.linspace(0, 100, 20_001), np.geomspace(100, 3000, 4_000)])
    ages = np.full(len(scores), age)
    alive = lifetimes.survival(ages, busy + ahead)
    expected = np.sum((alive[:, 1:] + alive[:, :-1]) / 2 * np.diff(ahead), axis=1)
    assert lifetimes.extension(ages, np.full(len(scores), busy)) == pytest.approx(
        expected, rel=2e-3, abs=2e-3
    )


def test_extension_of_several_hosts_is_that_of_each() -> None:
    lifetimes = curves([[0, 1, 2, 0, 1], [3, 0, 0, 0, 0]])
    age, busy = np.array([0.0, 2.0]), np.array([[0.0, 1.0, 30.0], [0.2, 5.0, 100.0]])
    together = lifetimes.extension(age, busy)
    for host in range(3):
        assert lifetimes.extension(age, busy[:, host]) == pytest.approx(together[:, host])
    assert (np.diff(together, axis=1) < 0).all()


def test_a_survivor_is_expected_to_live_longer() -> None:
    """Most go within the hour; who is a day old is one of the others."""
    lifetimes = curves([[4.0, 2.0, 0.0, 0.0, 0.0]])
    young, old = (lifetimes.remaining(np.array([age]), 0.5)[0] for age in (0.0, 24.0))
    assert young < 0.5
    assert old > 24.0


def test_curves_through_quantiles_have_those_quantiles() -> None:
    lifetimes = curves([[0, 1, 2, 0, 1], [3, 0, 0, 0, 0], [0, 0, 0, 0, 5]])
    shares, age = (0.1, 0.5, 0.9), np.zeros(3)
    quantiles = np.stack([lifetimes.remaining(age, share) for share in shares], axis=1)
    knots = np.concatenate([[0.0], np.geomspace(0.01, 300, 400)])
    again = Lifetimes.of_quantiles(quantiles, shares, knots)
    for place, share in enumerate(shares):
        assert again.remaining(age, share) == pytest.approx(quantiles[:, place], rel=0.02)
    # Equal quantiles, as of a machine that is sure to go at once, are no division by zero.
    assert np.isfinite(Lifetimes.of_quantiles(np.zeros((1, 3)), shares, knots).hazard).all()


def test_gone_is_one_minus_survival() -> None:
    lifetimes = curves([[0, 1, 2, 0, 1]] * 2)
    hours = np.array([0.7, 30.0])
    alive = lifetimes.survival(np.zeros(2), hours)
    assert lifetimes.gone(hours) == pytest.approx(1 - np.diag(alive))
