"""Asks a second version what a request was about, off the request's path."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING

from prometheus_client.core import GaugeMetricFamily

from pipelines.adapters.traffic import SHADOW
from serving.prediction_log import PredictionLog

if TYPE_CHECKING:
    from serving.dataplane import Answer

_BYTES_PER_TASK = 2_000  # the answer and the closure that waits with it, about

log = logging.getLogger(__name__)


class Mirror:
    """One thread, and a queue of bounded size before it: a request neither waits for it nor fails for it.

    Args:
        predictions: Where mirrored answers are logged, under the ids of the answers that they mirror.
        queue_bytes: Beyond it, requests are not mirrored.
    """

    clock = staticmethod(time.perf_counter)

    def __init__(self, predictions: PredictionLog, queue_bytes: int) -> None:
        self._predictions = predictions
        self._queue_bytes = queue_bytes
        self._queue: deque[tuple[int, Callable[[], None]]] = deque()
        self._queued = 0
        self._lock = Lock()
        self._wake = Event()
        self._stopping = False
        self._thread = Thread(target=self._run, name="mirror", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End with the request that is being mirrored; those that wait are let go."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def offer(self, task: Callable[[], None], size: int) -> bool:
        """Have a request mirrored; False: there is no room.

        Args:
            size: Bytes of the body that the task holds.
        """
        size += _BYTES_PER_TASK
        with self._lock:
            if self._queued + size > self._queue_bytes:
                return False
            self._queued += size
            self._queue.append((size, task))
        if not self._wake.is_set():
            self._wake.set()
        return True

    def record(self, mirrored: Answer, answer: Answer, seconds: float) -> None:
        """Log a mirrored answer under the ids of the one that the client has: labels come for both alike."""
        self._predictions.record(
            mirrored.version,
            SHADOW,  # as what mirrored answers are logged, whoever gave them
            answer.prediction_ids,  # type: ignore[arg-type]
            mirrored.rows.matrix,
            mirrored.outputs,
            seconds=seconds,
            transport="mirror",
            entities=mirrored.entities,
            at=mirrored.at,
            texts=mirrored.rows.texts,
        )

    def queued(self) -> GaugeMetricFamily:
        """For Prometheus."""
        return GaugeMetricFamily(
            "headrace_trial_mirror_queued_bytes", "Requests that wait to be mirrored.", value=self._queued
        )

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait()
            self._wake.clear()
            while self._queue and not self._stopping:
                size, task = self._queue.popleft()
                try:
                    task()
                except Exception:
                    # The thread must outlive what nobody thought of: without it nothing is mirrored.
                    log.exception("a request could not be mirrored")
                with self._lock:
                    self._queued -= size
                time.sleep(0)  # lets the threads that answer clients have the interpreter between any two
