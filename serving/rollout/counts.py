"""What a trial has shown so far: the job that advances rollouts reads it, and so does Prometheus."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from threading import Lock
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

BUCKETS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

CHAMPION, CHALLENGER = "champion", "challenger"
#: Told to the client, or computed beside it.
ANSWERED, MIRRORED = "answered", "mirrored"

_TRIAL = ("model", "champion", "challenger", "traffic")
_RELATIVE = 1e-6  # runtimes sum in other orders


class TrialKey(NamedTuple):
    """Two versions of a model, and the traffic between them. Another traffic is another trial."""

    model: str
    champion: str
    challenger: str
    traffic: str


class _Side:
    """Requests that one of the two was asked, one way."""

    __slots__ = ("buckets", "errors", "requests", "seconds")

    def __init__(self) -> None:
        self.requests = self.errors = 0
        self.seconds = 0.0
        self.buckets = [0] * (len(BUCKETS_SECONDS) + 1)


class TrialCounts:
    """Only grows. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self.sides: dict[tuple[str, str], _Side] = {}
        self.compared: dict[str, list[float]] = {}  # by output: rows, rows that differ, sum of |difference|
        self.dropped = 0

    def asked(self, role: str, how: str, seconds: float, *, failed: bool = False) -> int:
        """Count a request; returns how many failed on this side until now."""
        with self._lock:
            side = self.sides.setdefault((role, how), _Side())
            side.requests += 1
            side.errors += failed
            if not failed:
                side.seconds += seconds
                side.buckets[bisect_left(BUCKETS_SECONDS, seconds)] += 1
            return side.errors

    def drop(self) -> None:
        with self._lock:
            self.dropped += 1

    def compare(self, told: Mapping[str, NDArray], mirrored: Mapping[str, NDArray]) -> None:
        """Count how two answers to the same rows differ, output by output.

        Args:
            told, mirrored: Arrays of shape (n,) by name.
        """
        found = []
        for name in told.keys() & mirrored.keys():
            one, other = np.asarray(told[name]), np.asarray(mirrored[name])
            if one.dtype.kind in "fiu" and other.dtype.kind in "fiu":
                apart = np.abs(one.astype(np.float64) - other.astype(np.float64))
                differs = ~np.isclose(one, other, rtol=_RELATIVE, atol=0.0, equal_nan=True)
                found.append((name, len(one), int(differs.sum()), float(np.nansum(apart))))
            else:
                found.append((name, len(one), int((one != other).sum()), 0.0))
        with self._lock:
            for name, *values in found:
                sums = self.compared.setdefault(name, [0, 0, 0.0])
                for place, value in enumerate(values):
                    sums[place] += value


def families(trials: Iterable[tuple[TrialKey, TrialCounts]]) -> Iterator[Metric]:
    """The counts of all trials as Prometheus takes them."""
    requests = CounterMetricFamily(
        "headrace_trial_requests",
        "Requests that a champion or its challenger was asked while both serve; errors are those that the other one "
        "answered, or failures of the server.",
        labels=(*_TRIAL, "role", "how", "outcome"),
    )
    seconds = HistogramMetricFamily(
        "headrace_trial_seconds",
        "Time to read a request and to answer it, of those that were answered.",
        labels=(*_TRIAL, "role", "how"),
    )
    dropped = CounterMetricFamily(
        "headrace_trial_mirrors_dropped",
        "Requests that were not mirrored, for the mirror's queue was full.",
        labels=_TRIAL,
    )
    rows, differing, difference = (
        CounterMetricFamily(f"headrace_trial_{name}", text, labels=(*_TRIAL, "output"))
        for name, text in (
            ("compared_rows", "Rows that both versions answered."),
            ("differing_rows", "Rows to which they gave other answers."),
            ("difference", "Sum of the absolute differences of numbers."),
        )
    )
    for key, counts in trials:
        for (role, how), side in list(counts.sides.items()):
            labels = (*key, role, how)
            requests.add_metric((*labels, "ok"), side.requests - side.errors)
            requests.add_metric((*labels, "error"), side.errors)
            bounds = [*map(repr, BUCKETS_SECONDS), "+Inf"]
            reached = np.cumsum(side.buckets).tolist()
            seconds.add_metric(labels, list(zip(bounds, reached, strict=True)), side.seconds)
        dropped.add_metric(key, counts.dropped)
        for output, sums in list(counts.compared.items()):
            for family, value in zip((rows, differing, difference), sums, strict=True):
                family.add_metric((*key, output), value)
    yield from (requests, seconds, dropped, rows, differing, difference)
