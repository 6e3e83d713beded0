"""The queue between requests and the spool, and the thread that empties it."""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from threading import Event, Lock, Thread

import numpy as np
from numpy.typing import NDArray

from pipelines.adapters.spool.ids import IdSource, PredictionIds
from pipelines.adapters.spool.records import Encoder, Entry, Layout
from pipelines.adapters.spool.segments import OpenSegment, Stream, make_room
from pipelines.errors import ProcessError
from pipelines.settings import Settings
from serving.prediction_log.counts import Counts, LogCollector
from serving.versions import LoadedVersion

_BYTES_PER_TEXT = 64  # a guess, for the queue's bound
_BYTES_PER_ENTRY = 400
_BYTES_PER_WRITE = 256 * 2**10
_ENTRIES_PER_WRITE = 256
_SEGMENT_BYTES = 32 * 2**20
_RETRY_SECONDS = 1.0
_NO_TEXTS: Mapping[str, Sequence[str | None]] = {}

log = logging.getLogger(__name__)


class PredictionLog:
    """Takes answers from requests and writes them to the spool.

    Args:
        folder: Of this replica's part of the spool.
        flush_seconds: Time that an answer may wait in memory: what is lost with the process.
        fsync_seconds: Time that an answer may wait in the page cache: what is lost with the machine.
        queue_bytes: Bound of what waits in memory. Beyond it answers are counted, not logged.
        spool_bytes: Bound of what waits on the disk. Beyond it the oldest segments are removed.
        segment_seconds: Age at which a segment is closed, so that it may be shipped.
        enabled: False: ids are given, nothing is written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        flush_seconds: float,
        fsync_seconds: float,
        queue_bytes: int,
        spool_bytes: int,
        segment_seconds: float,
        enabled: bool = True,
    ) -> None:
        self.folder = folder
        self.counts = Counts()
        self._flush_seconds = flush_seconds
        self._fsync_seconds = fsync_seconds
        self._queue_bytes = queue_bytes
        self._spool_bytes = spool_bytes
        self._segment_seconds = segment_seconds
        self._ids = IdSource()
        self._layouts: dict[tuple[str, str, str, str, str], Layout] = {}
        self._queue: deque[tuple[int, Entry]] = deque()
        self._queued = 0
        self._lock = Lock()
        self._accepts = False
        self._enabled = enabled
        self._wake = Event()
        self._stopping = False
        self._stream: Stream | None = None
        self._segment: OpenSegment | None = None
        self._encoder = Encoder()
        self._synced_at = 0.0
        self._thread = Thread(target=self._run, name="prediction-log", daemon=True)

    @classmethod
    def of(cls, settings: Settings) -> PredictionLog:
        return cls(
            settings.prediction_spool / settings.replica,
            flush_seconds=settings.prediction_log_flush_seconds,
            fsync_seconds=settings.prediction_log_fsync_seconds,
            queue_bytes=settings.prediction_log_queue_bytes,
            spool_bytes=settings.prediction_log_spool_bytes,
            segment_seconds=settings.prediction_log_segment_seconds,
            enabled=settings.prediction_log,
        )

    @property
    def queued_bytes(self) -> int:
        """What waits for the disk, about."""
        return self._queued

    def metrics(self) -> LogCollector:
        """For Prometheus."""
        return LogCollector(self)

    def start(self) -> None:
        """Begin to write.

        Raises:
            ProcessError: the spool's folder cannot be written.
        """
        if not self._enabled:
            return
        try:
            self._stream = Stream(self.folder)
        except OSError as error:
            raise ProcessError(
                f"cannot write the prediction log to {self.folder}: {error.strerror}. Make the folder writable, "
                "set HEADRACE_PREDICTION_LOG_FOLDER to another, or HEADRACE_PREDICTION_LOG=false to serve without a log"
            ) from error
        self._accepts = True
        self._thread.start()

    def stop(self) -> None:
        """Write what waits, close the segment, and take no more."""
        if self._stream is None:
            return
        with self._lock:
            self._accepts = False
        self._stopping = True
        self._wake.set()
        self._thread.join()
        self._stream.release()

    def ids(self, count: int = 1) -> PredictionIds:
        """Ids for the rows of an answer, larger than all before."""
        return self._ids.take(count)

    def record(
        self,
        version: LoadedVersion,
        alias: str,
        ids: PredictionIds,
        features: NDArray[np.float64] | bytes,
        outputs: Mapping[str, NDArray],
        *,
        seconds: float,
        transport: str,
        entities: Sequence[str] | None = None,
        at: datetime | None = None,
        texts: Mapping[str, Sequence[str | None]] = _NO_TEXTS,
        request_id: str = "",
    ) -> None:
        """Log one answer. Neither waits for the disk nor fails for it; safe from any thread.

        What is given is read later: it must not change any more. The arguments are those of
        :class:`~pipelines.adapters.spool.records.Entry`.
        """
        manifest_sha256 = version.manifest_sha256
        layout = self._layouts.get((version.name, version.version, manifest_sha256, alias, transport))
        if layout is None:
            layout = self._make_layout(version, alias, transport)
        rows = len(ids)
        size = _BYTES_PER_ENTRY + rows * layout.row_bytes
        if entities is not None or layout.text_inputs:
            size += rows * _BYTES_PER_TEXT * (1 + len(layout.text_inputs))
        entry = Entry(layout, ids, features, outputs, seconds, entities, at, texts, request_id)
        with self._lock:
            if not self._accepts:
                return
            if self._queued + size > self._queue_bytes:
                self.counts.dropped_queue += rows
                return
            self._queued += size
            self._queue.append((size, entry))
        if not self._wake.is_set():
            self._wake.set()

    def _make_layout(self, version: LoadedVersion, alias: str, transport: str) -> Layout:
        manifest = version.predictor.manifest
        layout = Layout(
            model=version.name,
            version=version.version,
            alias=alias,
            transport=transport,
            inputs=tuple((field.name, field.type) for field in manifest.inputs),
            outputs=tuple((field.name, field.type) for field in manifest.outputs),
        )
        key = (version.name, version.version, version.manifest_sha256, alias, transport)
        return self._layouts.setdefault(key, layout)

    # The writer's thread

    def _run(self) -> None:
        self._synced_at = time.monotonic()
        while not self._stopping:
            self._wake.wait(self._seconds_to_next_duty())
            if not self._stopping:
                # Gathers what comes meanwhile: one write for many answers.
                time.sleep(self._flush_seconds if self._wake.is_set() else 0)
            self._wake.clear()
            if not self._work():
                self._wake.set()
                time.sleep(_RETRY_SECONDS)
        if not self._work(closing=True):
            lost = sum(len(entry.ids) for _, entry in self._queue)
            self.counts.dropped_queue += lost
            log.error(
                "%d answers of the prediction log are lost: the disk did not take them to the end", lost
            )

    def _work(self, *, closing: bool = False) -> bool:
        """Write what waits, and do what is due. False: the disk did not take it."""
        try:
            while self._queue:
                self._write_some()
            self._sync_or_close(closing)
        except OSError as error:
            self._failed(error)
            return False
        except Exception:
            # The thread must outlive what nobody thought of: without it nothing is logged.
            log.exception("the prediction log stumbled; it goes on")
            self._abandon()
            return False
        return True

    def _write_some(self) -> None:
        """Write the oldest entries; they stay in the queue where the disk does not take them."""
        segment = self._segment or self._open_segment()
        frames: list[bytes] = []
        taken = size = rows = total = invalid = 0
        with self._lock:  # a deque may not grow while it is read
            waiting = list(itertools.islice(self._queue, _ENTRIES_PER_WRITE))
        for counted, entry in waiting:
            if size > _BYTES_PER_WRITE:
                break
            taken += 1
            total += counted
            try:
                frame = self._encoder.encode(entry)
            except (ValueError, KeyError, TypeError):
                invalid += len(entry.ids)
                log.exception("an answer of %s does not fit its layout and is not logged", entry.layout.model)
                continue
            frames.append(frame)
            size += len(frame)
            rows += len(entry.ids)
        segment.write(b"".join(frames), rows)
        self.counts.written += rows
        self.counts.dropped_invalid += invalid
        with self._lock:
            self._queued -= total
            for _ in range(taken):
                self._queue.popleft()
        if segment.size >= _SEGMENT_BYTES:
            self._close_segment()

    def _open_segment(self) -> OpenSegment:
        assert self._stream is not None
        self._encoder = Encoder()
        self._segment = self._stream.open_segment()
        return self._segment

    def _close_segment(self) -> None:
        segment, self._segment = self._segment, None
        if segment is None:
            return
        segment.close()
        self._synced_at = time.monotonic()
        if lost := make_room(self.folder, self._spool_bytes):
            self.counts.dropped_spool += lost
            log.error(
                "the spool %s is full: %d answers were removed before they were shipped. Does predictions run in Airflow?",
                self.folder,
                lost,
            )

    def _sync_or_close(self, closing: bool) -> None:
        segment, now = self._segment, time.monotonic()
        if segment is None:
            return
        if closing or now - segment.begun >= self._segment_seconds:
            self._close_segment()
        elif not segment.synced and now - self._synced_at >= self._fsync_seconds:
            segment.sync()
            self._synced_at = time.monotonic()

    def _seconds_to_next_duty(self) -> float | None:
        segment, now = self._segment, time.monotonic()
        if segment is None:
            return None
        due = segment.begun + self._segment_seconds
        if not segment.synced:
            due = min(due, self._synced_at + self._fsync_seconds)
        return max(0.0, due - now)

    def _failed(self, error: OSError) -> None:
        self.counts.write_errors += 1
        log.error("cannot write the prediction log to %s, it is tried again: %s", self.folder, error)
        self._abandon()

    def _abandon(self) -> None:
        segment, self._segment = self._segment, None
        if segment is not None:
            with contextlib.suppress(OSError):
                segment.abandon()
