"""All processes of a server: one, or a parent that keeps several.

The parent imports the server once and forks: what the processes have in common is in memory once, and a new
one is there in milliseconds. It answers nothing itself, but holds the ports. Each process listens on
them for itself (SO_REUSEPORT), so that the kernel spreads connections evenly (of one socket for all, whichever
process wakes first takes every connection of a burst). Of those that start together only the first listens
at once, so that those that probe the server see it live, and starting; all others, and one that takes another's
place, listen when they have loaded what they should and the first has too: whoever is told that the server is
ready meets no process that is not.
"""

from __future__ import annotations

import gc
import logging
import os
import select
import shutil
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from pipelines.errors import HeadraceError, ProcessError
from pipelines.settings import PREFIX, Settings
from serving import libraries, logs, process, tls
from serving.access import Access
from serving.app import Shared
from serving.limits import RateLimits
from serving.shards import Shards

_STOPPING = frozenset({signal.SIGTERM, signal.SIGINT})
_WATCHED = _STOPPING | {signal.SIGCHLD, signal.SIGUSR1}
_LOOK_SECONDS = 1.0
# Uvicorn's own grace, then gRPC's, and a little for what is written at the end.
_GRACE_SECONDS = 2 * process.GRACE_SECONDS + 5.0
_HUNG_SECONDS = 60.0
_SOUND_SECONDS = 10.0
_SHORTEST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.5, 30.0
_REFUSED = 78  # EX_CONFIG of sysexits.h

log = logging.getLogger(__name__)


def run(settings: Settings) -> None:
    """Serve by the settings until SIGTERM or SIGINT.

    Raises:
        HeadraceError: it cannot start; the text says why.
    """
    logs.set_up(settings.log_level, settings.log_format)
    listeners = process.listen(settings)
    libraries.import_for(settings.home / "serving")
    if settings.serving_workers == 1:
        process.run(settings, listeners)
        return
    # Alone it was ours: of one that is shared from the start nobody could tell who else has it.
    listeners.pop(0).close()
    # What is wrong with these is better said once, by the parent.
    Access.of(settings, RateLimits())
    tls.certificate(settings)
    held = [_hold(settings, settings.serving_port, "SERVING_PORT")]
    if settings.serving_grpc_port:
        held.append(_hold(settings, settings.serving_grpc_port, "SERVING_GRPC_PORT"))
    # Of the port, which nobody else has: what a parent left behind that was killed is taken away.
    folder = settings.home / "run" / f"serving-{settings.serving_port}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        Parent(settings, listeners, folder).keep()  # only that of the administration is left
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for each in held:
            each.close()


@dataclass
class _Worker:
    """A process, or the place of one that is to be started.

    Attributes:
        number: Of the place, from 0.
        failures: Ends in a row soon after the start.
        start_at: When to start it, on the monotonic clock.
    """

    number: int
    pid: int = 0
    shards: Shards | None = None
    began: float = 0.0
    failures: int = 0
    start_at: float = 0.0


@dataclass
class Parent:
    """Keeps as many processes as the settings want.

    Attributes:
        admin: Sockets that all of them share.
        folder: For their figures.
    """

    settings: Settings
    admin: list[socket.socket]
    folder: Path
    _limits: RateLimits = field(default_factory=RateLimits)
    _ends: dict[str, int] = field(default_factory=dict)
    _started: int = 0

    def keep(self) -> None:
        """Start them, start them again where they end, and stop them at SIGTERM or SIGINT.

        Raises:
            ProcessError: they refuse to start.
        """
        gc.collect()
        gc.freeze()  # collecting would write to pages that the children share
        signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        # A child that is told before it listens must not end by it.
        signal.signal(signal.SIGUSR1, lambda *_: None)
        self._began = time.monotonic()
        self._own = Shards(self.folder, "parent")
        self._alive, self._parents_end = os.pipe()
        self._first_loaded, self._first_loads = os.pipe()
        self._workers = [_Worker(number) for number in range(self.settings.serving_workers)]
        try:
            while True:
                self._start_due()
                self._publish()
                came = signal.sigtimedwait(_WATCHED, _LOOK_SECONDS)
                self._reap()
                if came is None:
                    self._end_hung()
                elif came.si_signo == signal.SIGUSR1:
                    self._tell_all(signal.SIGUSR1)
                elif came.si_signo in _STOPPING:
                    return
        finally:
            self._stop()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)

    def _start_due(self) -> None:
        now = time.monotonic()
        for worker in self._workers:
            if not worker.pid and worker.start_at <= now:
                self._start(worker)

    def _start(self, worker: _Worker) -> None:
        self._started += 1
        worker.shards = Shards(self.folder, f"worker-{self._started}")
        worker.began = time.monotonic()
        sys.stdout.flush()
        sys.stderr.flush()
        worker.pid = os.fork()
        if not worker.pid:
            self._child(worker.shards)
        if self._started == 1:
            os.close(self._first_loads)  # only the first process has it now: at its end it is closed too
        log.info("worker %d is process %d", worker.number, worker.pid)

    def _child(self, shards: Shards) -> NoReturn:
        code = 1
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
            os.close(self._parents_end)
            _end_with_parent(self._alive)
            parent = os.getppid()
            shared = Shared(
                self._limits,
                shards,
                wake=lambda: os.kill(parent, signal.SIGUSR1),
                loaded=lambda: os.close(self._first_loads),
                admitted=self._wait_for_first if self._started > 1 else None,
            )
            process.run(self.settings, self.admin, shared)
            code = 0
        except HeadraceError as error:
            log.error("%s", error)
            code = _REFUSED
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            log.exception("a worker failed")
        finally:
            logging.shutdown()
            sys.stderr.flush()
            os._exit(code)  # what the parent would do at its end is not the child's

    def _wait_for_first(self) -> None:
        """Wait until the first process has loaded what it should, or is gone; for so long at most."""
        select.select([self._first_loaded], [], [], process.LOAD_SECONDS)

    def _reap(self) -> None:
        """Note who ended, and when to start another."""
        for worker in self._workers:
            if not worker.pid:
                continue
            pid, status = os.waitpid(worker.pid, os.WNOHANG)
            if pid:
                self._ended(worker, os.waitstatus_to_exitcode(status))

    def _ended(self, worker: _Worker, code: int) -> None:
        lived = time.monotonic() - worker.began
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"code {code}"
        self._ends[how] = self._ends.get(how, 0) + 1
        if worker.shards is not None:
            worker.shards.bury()
        pid, worker.pid = worker.pid, 0
        if code == _REFUSED and time.monotonic() - self._began < _SOUND_SECONDS:
            # Later it may pass, as a full disk does; at the start a person looks on.
            raise ProcessError("the workers of the server do not start; the log says why")
        worker.failures = 0 if lived >= _SOUND_SECONDS else worker.failures + 1
        wait = (
            min(_SHORTEST_WAIT_SECONDS * 2 ** (worker.failures - 2), _LONGEST_WAIT_SECONDS)
            if worker.failures > 1
            else 0.0
        )
        worker.start_at = time.monotonic() + wait
        log.error(
            "worker %d (process %d) ended after %.1f s with %s; another starts in %.1f s",
            *(worker.number, pid, lived, how, wait),
        )

    def _end_hung(self) -> None:
        """Kill those whose event loop has not turned for long: nobody else would."""
        for worker in self._workers:
            if worker.pid and worker.shards is not None and time.monotonic() - worker.began > _HUNG_SECONDS:
                try:
                    silent = time.time() - worker.shards.path.stat().st_mtime
                except FileNotFoundError:
                    silent = time.monotonic() - worker.began
                if silent > _HUNG_SECONDS:
                    log.error(
                        "worker %d (process %d) is silent for %.0f s", worker.number, worker.pid, silent
                    )
                    os.kill(worker.pid, signal.SIGKILL)

    def _tell_all(self, number: signal.Signals) -> None:
        for worker in self._workers:
            if worker.pid:
                os.kill(worker.pid, number)

    def _stop(self) -> None:
        """Let all finish what is under way; those that do not are killed."""
        self._tell_all(signal.SIGTERM)
        ends = time.monotonic() + _GRACE_SECONDS
        while any(worker.pid for worker in self._workers):
            if time.monotonic() > ends:
                log.error("workers that did not stop within %.0f s are killed", _GRACE_SECONDS)
                self._tell_all(signal.SIGKILL)
            signal.sigtimedwait({signal.SIGCHLD}, 0.1)
            for worker in self._workers:
                if worker.pid and os.waitpid(worker.pid, os.WNOHANG)[0]:
                    worker.pid = 0

    def _publish(self) -> None:
        running = GaugeMetricFamily(
            "headrace_workers",
            "Processes of the server that run.",
            value=sum(worker.pid > 0 for worker in self._workers),
        )
        ends = CounterMetricFamily(
            "headrace_worker_ends", "Processes that ended and were started again.", labels=("how",)
        )
        for how, count in self._ends.items():
            ends.add_metric((how,), count)
        try:
            self._own.write((running, ends))
        except OSError as error:
            log.error("cannot write the server's figures to %s: %s", self.folder, error.strerror)


def _end_with_parent(alive: int) -> None:
    """End as by SIGTERM when the parent is gone, even killed: then the pipe's other end is closed."""

    def wait() -> None:
        os.read(alive, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="parent", daemon=True).start()


def _hold(settings: Settings, port: int, setting: str) -> socket.socket:
    """Take a port without listening, so that only processes of this server may.

    Raises:
        ProcessError: it is taken.
    """
    family = socket.AF_INET6 if ":" in settings.bind_host else socket.AF_INET
    held = socket.socket(family)
    try:
        with socket.socket(family) as alone:  # one that others share with us would not be noticed
            alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            alone.bind((settings.bind_host, port))
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind((settings.bind_host, port))
    except OSError as error:
        held.close()
        raise ProcessError(
            f"cannot listen on {settings.bind_host} port {port}: {error.strerror}. Stop what listens there, "
            f"or set {PREFIX}{setting} to another port"
        ) from error
    return held
