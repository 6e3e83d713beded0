"""Histories know nothing of what came later, and say what a slow count says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.placement.history import history

AGES, WINDOW = (60, 600), 5_000

machines = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 12_000), st.integers(1, 4_000)), min_size=1, max_size=40
)


def arrays(rows: list[tuple[int, int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    group, created, lifetime = (np.array(column, dtype=np.int64) for column in zip(*rows, strict=True))
    return group, created, lifetime.astype(np.float64)


@given(rows=machines)
def test_it_is_what_a_slow_count_says(rows: list[tuple[int, int, int]]) -> None:
    group, created, lifetime = arrays(rows)
    seen = history(group, created, lifetime, AGES, WINDOW)
    for row in range(len(rows)):
        earlier = (group == group[row]) & (created < created[row]) & (created >= created[row] - WINDOW)
        assert seen.count[row] == earlier.sum()
        if earlier.any():
            assert seen.hours_since[row] == pytest.approx((created[row] - created[earlier].max()) / 3600)
        else:
            assert np.isnan(seen.hours_since[row])
        for column, age in enumerate(AGES):
            known = earlier & (created + age <= created[row])
            expected = (lifetime[known] >= age).mean() if known.any() else np.nan
            assert seen.outlived[row, column] == pytest.approx(expected, nan_ok=True)


@given(rows=machines, now=st.integers(0, 12_000))
def test_what_is_not_known_yet_changes_nothing(rows: list[tuple[int, int, int]], now: int) -> None:
    group, created, lifetime = arrays(rows)
    before = created <= now
    # Machines that still run get other ends, and later machines other lives altogether.
    unknown = np.where(created + lifetime > now, np.maximum(now - created, 0) + 1.0, lifetime)
    for known, other in zip(
        (history(group, created, lifetime, AGES, WINDOW).outlived, history(group, created, lifetime, AGES, WINDOW).count),
        (history(group, created, unknown, AGES, WINDOW).outlived, history(group, created, unknown, AGES, WINDOW).count),
        strict=True,
    ):  # fmt: skip
        np.testing.assert_array_equal(known[before], other[before])
