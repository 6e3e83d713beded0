"""The last minutes of a server, for its own page: looks at the counters from time to time, never at a request."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from threading import Lock

from prometheus_client.core import Metric

EVERY_SECONDS = 5.0
KEPT = 120  # looks: ten minutes
_SWITCHES = 20
_FAILED = 500
_PERCENTILE = 0.95

_REQUESTS, _SECONDS = "headrace_requests", "headrace_request_seconds"


@dataclass
class _Counts:
    """What was counted for one model until one look."""

    requests: float = 0.0
    refused: float = 0.0  # 4xx
    failed: float = 0.0  # 5xx
    buckets: dict[float, float] = field(default_factory=dict)  # by upper bound, cumulative


@dataclass(frozen=True)
class Course:
    """One model's last minutes, one value for each span between two looks, oldest first.

    Attributes:
        requests, refused, failed: Per second; refused are 4xx, failed are 5xx.
        seconds: 95th percentile of the time to answer, from the buckets of the histogram; None where nobody asked.
    """

    requests: Sequence[float]
    refused: Sequence[float]
    failed: Sequence[float]
    seconds: Sequence[float | None]


@dataclass(frozen=True)
class Switch:
    """A version that began to answer, as this process saw it."""

    at: datetime
    model: str
    alias: str
    version: str
    seconds: float  # since its alias was seen to name it


class Recent:
    """Looks and switches, the newest of them. Safe from any thread.

    Args:
        collect: Yields the metrics, of all processes of the server together.
    """

    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self._collect = collect
        self._lock = Lock()
        self._looks: deque[tuple[float, Mapping[str, _Counts]]] = deque(maxlen=KEPT + 1)
        self._switches: deque[Switch] = deque(maxlen=_SWITCHES)

    def look(self, now: float) -> None:
        """Remember the counters of this moment.

        Args:
            now: Monotonic clock, in seconds.
        """
        counts = _counts(self._collect())
        with self._lock:
            self._looks.append((now, counts))

    def switched(self, model: str, alias: str, version: str, seconds: float) -> None:
        with self._lock:
            self._switches.append(Switch(datetime.now(UTC), model, alias, version, seconds))

    def switches(self) -> list[Switch]:
        """Newest first."""
        with self._lock:
            return list(reversed(self._switches))

    def course(self, model: str) -> Course:
        with self._lock:
            looks = list(self._looks)
        spans = [
            (later - earlier, before.get(model, _Counts()), after.get(model, _Counts()))
            for (earlier, before), (later, after) in pairwise(looks)
            if later > earlier
        ]
        return Course(
            requests=[_rate(b.requests, a.requests, span) for span, b, a in spans],
            refused=[_rate(b.refused, a.refused, span) for span, b, a in spans],
            failed=[_rate(b.failed, a.failed, span) for span, b, a in spans],
            seconds=[_percentile(b.buckets, a.buckets) for _, b, a in spans],
        )


def _rate(before: float, after: float, seconds: float) -> float:
    return max(0.0, after - before) / seconds


def _percentile(before: Mapping[float, float], after: Mapping[float, float]) -> float | None:
    """Of what was counted between two looks; within a bucket, values are taken to lie evenly."""
    bounds = sorted(after)
    reached = [after[bound] - before.get(bound, 0.0) for bound in bounds]
    if not reached or reached[-1] <= 0:
        return None
    wanted, floor, below = _PERCENTILE * reached[-1], 0.0, 0.0
    for bound, count in zip(bounds, reached, strict=True):
        if count >= wanted:
            if bound == float("inf"):
                return floor  # beyond the last bound: more is not known
            return floor + (bound - floor) * (wanted - below) / (count - below)
        floor, below = bound, count
    return floor


def _counts(metrics: Iterable[Metric]) -> dict[str, _Counts]:
    found: dict[str, _Counts] = {}
    for metric in metrics:
        if metric.name not in {_REQUESTS, _SECONDS}:
            continue
        for sample in metric.samples:
            counts = found.setdefault(sample.labels.get("model", ""), _Counts())
            if sample.name == f"{_REQUESTS}_total":
                counts.requests += sample.value
                code = int(sample.labels["code"])
                counts.failed += sample.value if code >= _FAILED else 0.0
                counts.refused += sample.value if 400 <= code < _FAILED else 0.0
            elif sample.name == f"{_SECONDS}_bucket":
                bound = float(sample.labels["le"])
                counts.buckets[bound] = counts.buckets.get(bound, 0.0) + sample.value
    return found
