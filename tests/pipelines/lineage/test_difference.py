"""How two sets of predictions are held against each other."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipelines.lineage.reproduce import difference


def test_bits_are_compared_and_what_is_no_number_equals_itself():
    then = np.array([0.1, np.nan, np.inf, 0.0])

    same = difference("p", then, then.copy())
    other = difference("p", then, np.array([0.1 + 2**-56, np.nan, np.inf, -0.0]))
    missing = difference("p", then, np.array([np.nan, np.nan, np.inf, 0.0]))

    assert (same.largest, same.differing) == (0.0, 0)
    assert (other.largest, other.differing) == (pytest.approx(2**-56), 2)
    assert (missing.largest, missing.differing) == (np.inf, 1)
    words = difference("a", np.array(["x", "y"], dtype=object), np.array(["x", "z"], dtype=object))
    assert (words.largest, words.differing) == (0.5, 1)


@given(arrays(np.float64, st.integers(0, 20)), st.randoms())
def test_what_is_the_same_differs_nowhere_and_each_changed_row_is_counted(then, random):
    assert difference("p", then, then.copy()).differing == 0

    now = then.copy()
    changed = [row for row in range(len(now)) if random.random() < 0.3]
    for row in changed:
        now[row] = 1.0 if np.isnan(now[row]) else np.nextafter(now[row], -np.inf if now[row] > 0 else np.inf)
    assert difference("p", then, now).differing == len(changed)
