"""What Prometheus sees."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from threading import Lock

from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector

from serving.follower import Follower, Pointer
from serving.versions import VersionTable

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_BUCKETS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class ServingMetrics:
    """Counters of one server process, with a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = _RequestCollector()
        self.registry.register(self._requests)
        self._load_failures = Counter(
            "headrace_load_failures",
            "Versions that an alias named and that were not served: download or verification failed.",
            ("model", "alias"),
            registry=self.registry,
        )

    def answered(self, model: str, version: str, code: int, rows: int, seconds: float) -> None:
        """Count one request.

        Args:
            model, version: Empty where no loaded version was found; names that a client makes up
                must not become label values.
        """
        self._requests.tally(model, version, code).add(rows, seconds)

    def load_failed(self, pointer: Pointer) -> None:
        self._load_failures.labels(pointer.name, pointer.alias).inc()

    def follow(self, follower: Follower, table: VersionTable) -> None:
        """Show what the follower and the table hold at the time of each scrape."""
        self.registry.register(_FollowerCollector(follower, table))

    def text(self) -> bytes:
        return generate_latest(self.registry)


class _Tally:
    """Requests of one model and version that ended with one code."""

    __slots__ = ("_lock", "buckets", "requests", "rows", "seconds")

    def __init__(self) -> None:
        self._lock = Lock()
        self.requests = 0
        self.rows = 0
        self.seconds = 0.0
        self.buckets = [0] * (len(_BUCKETS_SECONDS) + 1)

    def add(self, rows: int, seconds: float) -> None:
        with self._lock:
            self.requests += 1
            self.rows += rows
            self.seconds += seconds
            self.buckets[bisect_left(_BUCKETS_SECONDS, seconds)] += 1


class _RequestCollector:
    """Requests, rows and durations, counted in one place each: a request is counted in about a microsecond.

    The client's own counters take a lock and a cascade of calls for each of the three.
    """

    def __init__(self) -> None:
        self._tallies: dict[tuple[str, str, int], _Tally] = {}

    def tally(self, model: str, version: str, code: int) -> _Tally:
        found = self._tallies.get((model, version, code))
        # setdefault: of two threads that come first, both must count in the one that stays.
        return found or self._tallies.setdefault((model, version, code), _Tally())

    def collect(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "headrace_requests",
            "Requests for predictions by model, version that answered and status code.",
            labels=("model", "version", "code"),
        )
        rows = CounterMetricFamily("headrace_predictions", "Rows predicted.", labels=("model", "version"))
        seconds = HistogramMetricFamily(
            "headrace_request_seconds",
            "From the whole request being read to the answer being ready.",
            labels=("model", "version"),
        )
        timed: dict[tuple[str, str], tuple[list[int], float]] = {}
        for (model, version, code), tally in list(self._tallies.items()):
            requests.add_metric((model, version, str(code)), tally.requests)
            if tally.rows:
                rows.add_metric((model, version), tally.rows)
            buckets, total = timed.get((model, version), ([0] * len(tally.buckets), 0.0))
            timed[model, version] = (
                [a + b for a, b in zip(buckets, tally.buckets, strict=True)],
                total + tally.seconds,
            )
        for labels, (counts, total) in timed.items():
            bounds = (*_BUCKETS_SECONDS, float("inf"))
            reached = [sum(counts[: place + 1]) for place in range(len(counts))]
            named = [(_bound(bound), count) for bound, count in zip(bounds, reached, strict=True)]
            seconds.add_metric(labels, buckets=named, sum_value=total)
        yield from (requests, rows, seconds)


def _bound(seconds: float) -> str:
    return "+Inf" if seconds == float("inf") else repr(seconds)


class _FollowerCollector:
    """Gauges that are read, not kept: they cannot go stale."""

    def __init__(self, follower: Follower, table: VersionTable) -> None:
        self._follower = follower
        self._table = table

    def collect(self) -> Iterator[Metric]:
        loaded = GaugeMetricFamily(
            "headrace_model_info",
            "1 for each version that answers.",
            labels=("model", "alias", "version", "manifest_sha256"),
        )
        for name, aliases in self._table.live().items():
            for alias, live in aliases.items():
                loaded.add_metric((name, alias, live.version, live.manifest_sha256), 1)
        yield loaded

        status = self._follower.status()
        behind = GaugeMetricFamily(
            "headrace_alias_behind_seconds",
            "How long the registry's alias has named another version than the one that answers.",
            labels=("model", "alias"),
        )
        for pointer, state in status.pointers.items():
            behind.add_metric(pointer, state.behind_seconds)
        yield behind
        yield GaugeMetricFamily(
            "headrace_registry_up",
            "1 if the last look at the registry succeeded.",
            value=float(status.registry_error is None and status.looked_seconds_ago is not None),
        )
        if status.looked_seconds_ago is not None:
            yield GaugeMetricFamily(
                "headrace_registry_looked_seconds_ago",
                "Age of the last successful look at the registry.",
                value=status.looked_seconds_ago,
            )
