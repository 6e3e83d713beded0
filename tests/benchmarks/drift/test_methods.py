"""The rivals in the benchmark of drift are what they are said to be; the alarm's day is counted right."""

import numpy as np
import pytest

from benchmarks.drift.methods import _evidently, alarm_day


@pytest.mark.integration
def test_evidently_by_formula_says_what_evidently_says():
    import pandas as pd
    from evidently.legacy.calculations.stattests import get_stattest
    from evidently.legacy.core import ColumnType

    random = np.random.default_rng(1)
    past = random.normal(size=3000)
    for shift in (0.0, 0.05, 0.09, 0.12, 0.5):
        now = random.normal(size=1500) + shift
        reference, current = pd.Series(past), pd.Series(now)
        test = get_stattest(reference, current, ColumnType.Numerical, None)
        said = test(reference, current, ColumnType.Numerical, None)
        assert _evidently(past, now) == said.drifted, (shift, said)
    names = np.array(["a", "b", "c"], dtype=object)
    past_names = names[random.integers(0, 3, 3000)]
    for odds in ([0.33, 0.33, 0.34], [0.5, 0.3, 0.2], [0.7, 0.3, 0.0]):
        now_names = random.choice(names, 1500, p=odds)
        reference, current = pd.Series(past_names), pd.Series(now_names)
        test = get_stattest(reference, current, ColumnType.Categorical, None)
        said = test(reference, current, ColumnType.Categorical, None)
        assert _evidently(past_names, now_names) == said.drifted, (odds, said)


def test_an_alarm_asks_for_two_of_five_and_the_latest():
    assert alarm_day([True, False, False, False, False, True], 2, 5) is None
    assert alarm_day([True, False, False, False, True], 2, 5) == 5
    assert alarm_day([False, True, True], 2, 5) == 3
    assert alarm_day([False] * 5, 2, 5) is None
