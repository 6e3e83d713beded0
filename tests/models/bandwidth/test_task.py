"""How bandwidth is judged: against the last value of both directions together."""

import numpy as np
import pytest

from models.bandwidth.build import BUILDER
from models.bandwidth.spec import SPEC
from models.base import Observations


def test_the_naive_forecast_is_the_sum_of_both_directions():
    columns = {
        f"network_{way}_mbps__lag_{step}": np.array([float(value), np.nan])
        for way, value in (("in", 3), ("out", 1))
        for step in range(3)
    }
    part = Observations(columns, {"throughput": np.array([8.0, 2.0])}, np.ones(2), np.array(["a", "a"]))
    task = BUILDER.task(SPEC)
    naive = task.baselines(part, part, ())["naive (last value)"]["forecast"]
    assert naive.tolist() == [4.0, 0.0], "what is not known counts as nothing"
    figures = task.metrics(part, {"forecast": np.array([7.0, 2.0])})
    assert figures["naive_wape"] == pytest.approx(6 / 10)
    assert figures["wape_over_naive"] == pytest.approx(1 / 6)
