"""Daily bills: what each project's machines used, at list prices. A project pays for one service."""

from __future__ import annotations

import numpy as np

from pipelines.sources.simulated.fleet import SERVICES, Fleet
from pipelines.sources.simulated.randomness import Floats, Randomness
from pipelines.sources.simulated.telemetry import Measured

BILLED = ("compute", "storage", "network")
CORE_HOUR_USD = 0.034
IDLE_SHARE = 0.45  # of the price of a core that does nothing
STORED_GIB_DAY_USD = 0.10 / 30
DISK_GIB = 2_000.0
SENT_GB_USD = 0.004


def day_of_use(fleet: Fleet, measured: Measured) -> Floats:
    """What one day costs each project, USD, shape (services, 3). Machines that are down cost nothing."""
    up = ~measured.silent
    share_up = up.mean(axis=1)

    def mean_of(metric: str) -> Floats:
        total = np.where(up, measured.truth[metric], 0.0).sum(axis=1)
        return np.asarray(total / np.maximum(up.sum(axis=1), 1))

    compute = fleet.cores * 24.0 * share_up * CORE_HOUR_USD
    compute = compute * (IDLE_SHARE + (1.0 - IDLE_SHARE) * mean_of("cpu_percent") / 100.0)
    stored = DISK_GIB * mean_of("disk_percent") / 100.0 * STORED_GIB_DAY_USD * (share_up > 0)
    sent = mean_of("network_out_mbps") * share_up * 86_400 / 8 / 1_000 * SENT_GB_USD
    return np.stack(
        [
            np.bincount(fleet.service, weights=cost, minlength=len(SERVICES))
            for cost in (compute, stored, sent)
        ],
        axis=1,
    )


def forgotten(randomness: Randomness, day: int) -> Floats:
    """Factor on compute per project: now and then an experiment is left running for days."""
    project = np.arange(len(SERVICES))
    week = day // 7
    begins = randomness.choice(4, "forgotten/begins", project, week)
    lasts = 1 + randomness.choice(3, "forgotten/lasts", project, week)
    running = (day % 7 >= begins) & (day % 7 < begins + lasts)
    happens = randomness.uniform("forgotten/is", project, week) < 0.08
    height = randomness.between(0.25, 0.9, "forgotten/height", project, week)
    return np.asarray(np.where(happens & running, 1.0 + height, 1.0))
