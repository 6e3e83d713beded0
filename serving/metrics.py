"""What Prometheus sees."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
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
        self._requests = Counter(
            "headrace_requests",
            "Requests for predictions by model, version that answered and status code.",
            ("model", "version", "code"),
            registry=self.registry,
        )
        self._rows = Counter(
            "headrace_predictions", "Rows predicted.", ("model", "version"), registry=self.registry
        )
        self._seconds = Histogram(
            "headrace_request_seconds",
            "From the whole request being read to the answer being ready.",
            ("model",),
            buckets=_BUCKETS_SECONDS,
            registry=self.registry,
        )
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
        self._requests.labels(model, version, str(code)).inc()
        self._seconds.labels(model).observe(seconds)
        if rows:
            self._rows.labels(model, version).inc(rows)

    def load_failed(self, pointer: Pointer) -> None:
        self._load_failures.labels(pointer.name, pointer.alias).inc()

    def follow(self, follower: Follower, table: VersionTable) -> None:
        """Show what the follower and the table hold at the time of each scrape."""
        self.registry.register(_FollowerCollector(follower, table))

    def text(self) -> bytes:
        return generate_latest(self.registry)


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
