"""What looks at a world: Headrace's own test, and what Evidently and NannyML do by default.

The rivals' formulas are theirs, written out so that 300 repeats take minutes; a test holds Evidently's
against Evidently itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from benchmarks.drift.worlds import HOURS_PER_DAY, WEEKS, World
from models.base import Array
from models.specs import DriftTest
from pipelines.monitor import drift
from pipelines.monitor.drift import Finding, Reference
from pipelines.monitor.sketch import Binned, binned, jensen_shannon, sketches

HISTORY = WEEKS * 7 * HOURS_PER_DAY
TEST = DriftTest()
DAY, WEEK = HOURS_PER_DAY, 7 * HOURS_PER_DAY


class Looked:
    """A world with all that the methods need of it, worked out once."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.past = world.between(0, HISTORY)
        self.sketches = sketches(self.past.columns)
        hours = int(world.hour.max()) + 1
        self.all = {
            name: binned(sketch, world.columns[name], world.hour, hours)
            for name, sketch in self.sketches.items()
        }
        self.reference = Reference(self.sketches, self._cut(0, HISTORY), WEEK)

    def headrace(self, end: int, length: int, test: DriftTest = TEST) -> list[Finding]:
        """The window of ``length`` hours that ends with hour ``end`` of the world."""
        return drift.check(self.reference, self._cut(end - length, end), (end - length) % WEEK, test, {})

    def both(self, end: int) -> list[Finding]:
        return drift.together([self.headrace(end, DAY), self.headrace(end, WEEK)], TEST)

    def evidently(self, end: int, length: int) -> Array:
        """Columns that drift by Evidently's defaults above 1,000 rows of reference, shape (k,)."""
        now = self.world.between(end - length, end)
        return np.array([_evidently(self.past.columns[name], values) for name, values in now.columns.items()])

    def three_sigma(self, end: int, length: int) -> Array:
        """Columns whose Jensen-Shannon distance leaves mean ± 3 standard deviations of the history's chunks."""
        found = []
        for name, sketch in self.sketches.items():
            table = self.all[name]
            distances = [
                jensen_shannon(sketch.shares, table.between(at, at + length).cells)
                for at in range(0, HISTORY, length)
            ]
            now = jensen_shannon(sketch.shares, table.between(end - length, end).cells)
            found.append(abs(now - np.mean(distances)) > 3 * np.std(distances))
        return np.array(found)

    def _cut(self, first: int, last: int) -> dict[str, Binned]:
        return {name: table.between(first, last) for name, table in self.all.items()}


def _evidently(past: Array, now: Array) -> bool:
    if past.dtype == object:
        names = sorted(set(past.tolist()) | set(now.tolist()))
        left, right = (np.array([np.sum(part == name) for name in names]) for part in (past, now))
        return jensen_shannon(left, right) >= 0.1
    return bool(stats.wasserstein_distance(past, now) / max(float(np.std(past)), 0.001) >= 0.1)


def alarm_day(checks: Sequence[bool], needed: int, of: int) -> int | None:
    """Number of the first check, from 1, that makes an alarm: flagged itself, as ``needed`` of the last ``of`` are."""
    for place, flagged in enumerate(checks):
        if flagged and sum(checks[max(0, place + 1 - of) : place + 1]) >= needed:
            return place + 1
    return None
