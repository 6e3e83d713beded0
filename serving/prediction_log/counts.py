"""What became of the rows that were to be logged, and how Prometheus sees it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from pipelines.adapters.spool.segments import spool_size


@dataclass
class Counts:
    """What became of rows. Only grows.

    Attributes:
        written: In the spool.
        dropped_queue: Not logged, for the disk did not keep up and the queue was full.
        dropped_spool: Removed before they were shipped, for the spool was full.
        dropped_invalid: Not of the shape that their version's manifest states.
        write_errors: Writes that failed; they are tried again.
    """

    written: int = 0
    dropped_queue: int = 0
    dropped_spool: int = 0
    dropped_invalid: int = 0
    write_errors: int = 0


class Counted(Protocol):
    counts: Counts
    folder: Path

    @property
    def queued_bytes(self) -> int: ...


class LogCollector:
    """Metrics that are read at each scrape: a request pays nothing for them."""

    def __init__(self, log: Counted) -> None:
        self._log = log

    def collect(self) -> Iterator[Metric]:
        counts = self._log.counts
        yield CounterMetricFamily(
            "headrace_prediction_log_rows", "Rows that are in the spool, or were.", value=counts.written
        )
        dropped = CounterMetricFamily(
            "headrace_prediction_log_dropped_rows",
            "Rows that do not reach the lake: queue (the disk did not keep up), spool (removed before they were "
            "shipped, for the spool was full), invalid (a defect of the server).",
            labels=("reason",),
        )
        dropped.add_metric(("queue",), counts.dropped_queue)
        dropped.add_metric(("spool",), counts.dropped_spool)
        dropped.add_metric(("invalid",), counts.dropped_invalid)
        yield dropped
        yield CounterMetricFamily(
            "headrace_prediction_log_write_errors",
            "Writes to the spool that failed; they are tried again.",
            value=counts.write_errors,
        )
        yield GaugeMetricFamily(
            "headrace_prediction_log_queued_bytes",
            "Answers in memory that wait for the disk, about.",
            value=self._log.queued_bytes,
        )
        size, segments = spool_size(self._log.folder)
        yield GaugeMetricFamily(
            "headrace_prediction_log_spool_bytes",
            "Answers of this replica on the disk that wait to be shipped.",
            value=size,
        )
        yield GaugeMetricFamily(
            "headrace_prediction_log_spool_segments", "Files that these are in.", value=segments
        )
