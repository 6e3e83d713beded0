"""What Prometheus sees."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from threading import Lock

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector

from serving.errors import kind_of
from serving.follower import Follower, Pointer
from serving.shards import Shards
from serving.versions import VersionTable

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_BUCKETS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_BUCKETS_ROWS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)
_BUCKETS_LAG_SECONDS = (0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 300.0)

Labels = tuple[str, ...]

log = logging.getLogger(__name__)


class ServingMetrics:
    """Counters of one server process, with a registry of their own.

    Args:
        shards: Where the processes of one server show each other their figures; None for a process alone.
    """

    def __init__(self, shards: Shards | None = None) -> None:
        self.registry = CollectorRegistry()
        self._shards = shards
        self._unpublished = False
        ProcessCollector(registry=self.registry)
        self._requests = _RequestCollector()
        self.registry.register(self._requests)
        self._load = _LoadCollector()
        self.registry.register(self._load)
        self._errors = Counter(
            "headrace_errors",
            "Requests for predictions that were refused or failed, by kind of error.",
            ("transport", "model", "kind"),
            registry=self.registry,
        )
        self._load_failures = Counter(
            "headrace_load_failures",
            "Versions that an alias named and that were not served: download or verification failed.",
            ("model", "alias"),
            registry=self.registry,
        )
        self._lag = Histogram(
            "headrace_alias_lag_seconds",
            "From the alias being seen to name a version until that version answers; its count is that of switches.",
            ("model", "alias"),
            buckets=_BUCKETS_LAG_SECONDS,
            registry=self.registry,
        )
        self._lookups = Histogram(
            "headrace_feature_lookup_seconds",
            "Looks for features of entities in the online store, by outcome: found, unknown, failed.",
            ("outcome",),
            buckets=_BUCKETS_SECONDS,
            registry=self.registry,
        )

    def answered(
        self, model: str, version: str, code: int, rows: int, seconds: float, transport: str
    ) -> None:
        """Count one request.

        Args:
            model, version: Empty where no loaded version was found; names that a client makes up
                must not become label values.
            code: Of HTTP, or what comes closest to it.
        """
        self._requests.tally(model, version, code, transport).add(rows, seconds)

    def failed(self, model: str, error: Exception, transport: str) -> None:
        """Count an error by its kind, beside :meth:`answered`."""
        self._errors.labels(transport, model, kind_of(error)).inc()

    def load_failed(self, pointer: Pointer) -> None:
        self._load_failures.labels(pointer.name, pointer.alias).inc()

    def switched(self, pointer: Pointer, seconds: float) -> None:
        """Count a version that answers now, so long after its alias was seen to name it."""
        self._lag.labels(pointer.name, pointer.alias).observe(seconds)

    def looked_up(self, outcome: str, seconds: float) -> None:
        """Count one look for features of entities."""
        self._lookups.labels(outcome).observe(seconds)

    def follow(self, follower: Follower, table: VersionTable) -> None:
        """Show what the follower and the table hold at the time of each scrape."""
        self.registry.register(_FollowerCollector(follower, table))

    def watch(self, transport: str, under_way: Callable[[], int], waiting: Callable[[], int]) -> None:
        """Show what is under way at the time of each scrape.

        Args:
            under_way: Requests that were begun and not answered.
            waiting: Of those, the ones that wait for a thread.
        """
        self._load.watched[transport] = (under_way, waiting)

    def publish(self) -> None:
        """Let the other processes of this server see the figures; nothing where there are none.

        A disk that does not take them is said in the log once, and the figures of before go on to be shown.
        """
        if self._shards is None:
            return
        try:
            self._shards.write(self.registry.collect())  # a generator: nothing is read yet
        except OSError as error:
            if not self._unpublished:
                log.error("cannot write this process's figures for the others: %s", error)
            self._unpublished = True
        else:
            self._unpublished = False

    def counted(self) -> Iterator[Metric]:
        """Requests and their durations, of all processes of the server together, as last published."""
        return self._requests.collect() if self._shards is None else self._shards.collect()

    def text(self) -> bytes:
        """What Prometheus reads: of all processes of the server together."""
        if self._shards is None:
            return generate_latest(self.registry)
        # Written first: what was shown once, no other process may show less of.
        self.publish()
        return generate_latest(self._shards)  # it asks for collect() only


class _Tally:
    """Requests of one model, version and transport that ended with one code."""

    __slots__ = ("_lock", "batches", "buckets", "requests", "rows", "seconds")

    def __init__(self) -> None:
        self._lock = Lock()
        self.requests = 0
        self.rows = 0
        self.seconds = 0.0
        self.buckets = [0] * (len(_BUCKETS_SECONDS) + 1)
        self.batches = [0] * (len(_BUCKETS_ROWS) + 1)

    def add(self, rows: int, seconds: float) -> None:
        with self._lock:
            self.requests += 1
            self.rows += rows
            self.seconds += seconds
            self.buckets[bisect_left(_BUCKETS_SECONDS, seconds)] += 1
            self.batches[0 if rows == 1 else bisect_left(_BUCKETS_ROWS, rows)] += 1


class _RequestCollector:
    """Counts requests, rows and durations under one lock, and shows them when they are asked for.

    The client library's own counters take several locks and calls each: more than all the rest of
    what a request of one row costs beside its prediction.
    """

    def __init__(self) -> None:
        self._tallies: dict[tuple[str, str, int, str], _Tally] = {}

    def tally(self, model: str, version: str, code: int, transport: str) -> _Tally:
        found = self._tallies.get((model, version, code, transport))
        # setdefault: of two threads that come first, both must count in the one that stays.
        return found or self._tallies.setdefault((model, version, code, transport), _Tally())

    def collect(self) -> Iterator[Metric]:
        labels: Labels = ("transport", "model", "version")
        requests = CounterMetricFamily(
            "headrace_requests",
            "Requests for predictions by model, version that answered and status code.",
            labels=(*labels, "code"),
        )
        rows = CounterMetricFamily("headrace_predictions", "Rows predicted.", labels=labels)
        timed, sized = _Histograms(_BUCKETS_SECONDS), _Histograms(tuple(map(float, _BUCKETS_ROWS)))
        predicted: dict[Labels, int] = {}
        for (model, version, code, transport), tally in list(self._tallies.items()):
            named: Labels = (transport, model, version)
            requests.add_metric((*named, str(code)), tally.requests)
            timed.add(named, tally.buckets, tally.seconds)
            if tally.rows:
                predicted[named] = predicted.get(named, 0) + tally.rows
                sized.add(named, tally.batches, tally.rows)
        for named, count in predicted.items():
            rows.add_metric(named, count)
        yield requests
        yield rows
        yield timed.family(
            "headrace_request_seconds", "From the whole request being read to the answer being ready.", labels
        )
        yield sized.family("headrace_batch_rows", "Rows of the requests that were answered.", labels)


class _Histograms:
    """Sums of counts by label, as one family."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = (*bounds, float("inf"))
        self._sums: dict[Labels, tuple[list[int], float]] = {}

    def add(self, labels: Labels, counts: Sequence[int], total: float) -> None:
        before, sum_before = self._sums.get(labels, ([0] * len(counts), 0.0))
        self._sums[labels] = [a + b for a, b in zip(before, counts, strict=True)], sum_before + total

    def family(self, name: str, about: str, labels: Labels) -> HistogramMetricFamily:
        family = HistogramMetricFamily(name, about, labels=labels)
        for values, (counts, total) in self._sums.items():
            reached = [sum(counts[: place + 1]) for place in range(len(counts))]
            named = [(_bound(bound), count) for bound, count in zip(self._bounds, reached, strict=True)]
            family.add_metric(values, buckets=named, sum_value=total)
        return family


def _bound(value: float) -> str:
    return "+Inf" if value == float("inf") else repr(value)


class _LoadCollector:
    """How busy each transport is."""

    def __init__(self) -> None:
        self.watched: dict[str, tuple[Callable[[], int], Callable[[], int]]] = {}

    def collect(self) -> Iterator[Metric]:
        under_way = GaugeMetricFamily(
            "headrace_requests_in_flight", "Requests for predictions under way.", labels=("transport",)
        )
        waiting = GaugeMetricFamily(
            "headrace_requests_waiting", "Of those, the ones that wait for a thread.", labels=("transport",)
        )
        for transport, (begun, queued) in self.watched.items():
            under_way.add_metric((transport,), begun())
            waiting.add_metric((transport,), queued())
        yield from (under_way, waiting)


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
