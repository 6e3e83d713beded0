"""``python -m pipelines.rollout.watcher``: looks at the servers each second, and rolls a failing champion back.

A process of its own beside the server: the server follows the registry, and must not move what it
follows; a job in Airflow starts too late to undo a switch within seconds. It keeps nothing on the
disk. Two of them do no harm: the second finds the rollback done, or under way.
"""

from __future__ import annotations

import logging
import signal
import sys
import time
from collections import Counter, defaultdict
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from threading import Event
from typing import TYPE_CHECKING

from pipelines.adapters.lake import Lake
from pipelines.errors import HeadraceError, PointerBusyError
from pipelines.promote import job as promotion
from pipelines.promote import ledger
from pipelines.promote.records import PRODUCTION
from pipelines.rollout.evidence import Scrape, Servers
from pipelines.rollout.watch import BLAMED, Alarm, Count, Figures, Limits, Watch

if TYPE_CHECKING:
    from pipelines.settings import Settings

WHO = "rollout watcher"

_ROLLBACKS_AT_ONCE = 4
_AGAIN_SECONDS = 5.0

log = logging.getLogger(__name__)


class Watcher:
    """One look after another.

    Args:
        every_seconds: Time between looks.
    """

    def __init__(self, settings: Settings, limits: Limits | None = None, every_seconds: float = 1.0) -> None:
        self._settings = settings
        self._limits = limits or Limits()
        self._every_seconds = every_seconds
        self._watch = Watch(self._limits)
        self._rollbacks: dict[str, Future[None]] = {}
        self._not_before: dict[str, float] = {}
        self._unreachable = ""
        self._threads = ThreadPoolExecutor(_ROLLBACKS_AT_ONCE, thread_name_prefix="rollback")

    def run(self, stopped: Event) -> None:
        """Look until ``stopped`` is set."""
        servers = Servers(self._settings)
        log.info("watching %s", ", ".join(servers.urls))
        try:
            while not stopped.is_set():
                began = time.monotonic()
                try:
                    self.look(servers.scrape(), datetime.now(UTC))
                except Exception:
                    # It must outlive what nobody thought of: without it nothing is rolled back.
                    log.exception("a look at the servers failed; the next one follows")
                stopped.wait(max(0.0, self._every_seconds - (time.monotonic() - began)))
        finally:
            servers.close()
            self._threads.shutdown(wait=True)

    def look(self, scrape: Scrape, at: datetime) -> None:
        """Take in one scrape, and roll back what must be.

        Args:
            at: Its time, UTC.
        """
        if scrape.unreachable != self._unreachable:
            self._unreachable = scrape.unreachable
            log.warning("%s", scrape.unreachable or "all servers answer again")
        for name, figures in figures_of(scrape).items():
            if not self._watch.knows(name) and figures.production is not None:
                self._resume(name, figures.production, at)
            alarm = self._watch.look(name, figures, at)
            if alarm is not None:
                self._raise(alarm)

    def _resume(self, name: str, version: str, at: datetime) -> None:
        """Watch on after a restart: the ledger says when the champion came, and after whom."""
        moves = ledger.read(Lake.of(self._settings), name, PRODUCTION)
        if not moves or moves[-1].to_version != version or moves[-1].from_version is None:
            return
        if at - moves[-1].at < self._limits.watched_for:
            self._watch.resume(name, version, moves[-1].from_version, moves[-1].at)

    def _raise(self, alarm: Alarm) -> None:
        running = self._rollbacks.get(alarm.name)
        if (running is not None and not running.done()) or time.monotonic() < self._not_before.get(
            alarm.name, 0.0
        ):
            return
        self._not_before[alarm.name] = time.monotonic() + _AGAIN_SECONDS
        log.error("%s: %s; version %s is put back", alarm.name, alarm.reason, alarm.to)
        self._rollbacks[alarm.name] = self._threads.submit(self._roll_back, alarm)

    def _roll_back(self, alarm: Alarm) -> None:
        try:
            done = promotion.rollback(alarm.name, alarm.to, WHO, alarm.reason, self._settings)
        except PointerBusyError as error:
            log.warning("%s", error)
        except HeadraceError as error:
            log.error("%s: version %s could not be put back: %s", alarm.name, alarm.to, error)
        except Exception:
            log.exception("%s: version %s could not be put back", alarm.name, alarm.to)
        else:
            log.warning(
                "%s: version %s is in production. %s", alarm.name, done.production, done.proof or done.reason
            )


def figures_of(scrape: Scrape) -> dict[str, Figures]:
    """By model: the version that most servers have in production, and the requests of each version."""
    production: dict[str, Counter[str]] = defaultdict(Counter)
    counts: dict[str, dict[str, Count]] = defaultdict(dict)
    for server in scrape.servers:
        for sample in server:
            labels = sample.labels
            if sample.name == "headrace_model_info" and labels["alias"] == PRODUCTION:
                production[labels["model"]][labels["version"]] += 1
            elif sample.name == "headrace_requests_total" and labels["version"]:
                versions = counts[labels["model"]]
                before = versions.get(labels["version"], Count())
                requests = int(sample.value)
                errors = requests if labels["code"] in BLAMED else 0
                versions[labels["version"]] = Count(before.requests + requests, before.errors + errors)
    return {name: Figures(_most(production[name]), counts.get(name, {})) for name in {*production, *counts}}


def _most(versions: Counter[str]) -> str | None:
    return versions.most_common(1)[0][0] if versions else None


def main() -> None:
    """Watch until SIGTERM or SIGINT."""
    from pipelines.settings import load_settings

    settings = load_settings()
    logging.basicConfig(
        level=settings.log_level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)
    import deltalake  # noqa: F401 - seconds, which a rollback has not
    import polars  # noqa: F401

    stopped = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    Watcher(settings).run(stopped)


if __name__ == "__main__":
    try:
        main()
    except HeadraceError as error:
        sys.exit(f"headrace: {error}")
