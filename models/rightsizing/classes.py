"""Workload classes, by a stated rule on the week that followed.

In this order, of CPU use as a share of what the machine has:

========= ==================================================================================
idle      the 95th percentile is below 5 %
trending  the correlation with time is beyond ±0.6: it grows or shrinks all week
periodic  the time of day explains at least 25 % of the variance (two harmonics of 24 h)
bursty    the standard deviation is above the mean, or the 99th percentile above 3 medians
steady    all others
========= ==================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from models.rightsizing.measures import Resource
from models.rightsizing.spec import AGGREGATES

CLASSES = ("idle", "trending", "periodic", "bursty", "steady")
IDLE_SHARE = 0.05
TREND = 0.6
DAILY = 0.25
SPREAD = 1.0
PEAK = 3.0


def workload_class(
    targets: Mapping[str, NDArray[np.float64]], cpu: Resource, columns: Mapping[str, NDArray]
) -> NDArray[np.intp]:
    """Place in :data:`CLASSES` of each row, shape (n,).

    Args:
        targets: Aggregates of the following week, named ``<gauge>__<aggregate>``.
        cpu: Which gauge measures CPU, and in what unit.
        columns: Inputs of the rows, for the capacity.
    """
    figure = {name: targets[f"{cpu.gauge}__{name}"] for name in AGGREGATES}
    capacity = np.maximum(cpu.capacity.of_rows(columns), 1e-9)
    busy = cpu.peak.scaled(figure["p95"], columns) / capacity
    spread = figure["std"] > SPREAD * figure["mean"]
    peaks = figure["p99"] > PEAK * figure["p50"]
    rules = (
        busy < IDLE_SHARE,
        np.abs(figure["trend"]) > TREND,
        figure["daily"] >= DAILY,
        spread | peaks,
    )
    return np.select(rules, range(len(rules)), default=len(rules)).astype(np.intp)
