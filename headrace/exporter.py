"""``python -m headrace.exporter``: what no server knows by itself, for Prometheus, read from the lake and Airflow.

Checks, moves of pointers and requests to train are rows of the lake, written by tasks that end before anything
could scrape them and that run on whatever worker. The figures are read anew at most once in a while,
between which scrapes see the last ones.
"""

from __future__ import annotations

import logging
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from threading import Event, Lock
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families

from pipelines.errors import HeadraceError

if TYPE_CHECKING:
    from pipelines.adapters.lake import Lake
    from pipelines.settings import Settings

_FRESH_SECONDS = 15.0

log = logging.getLogger(__name__)

Part = Callable[[], Iterator[Metric]]


class Exporter:
    """A collector of Prometheus' client.

    Args:
        fresh_seconds: For so long figures are shown again without being read anew.
    """

    def __init__(self, settings: Settings, fresh_seconds: float = _FRESH_SECONDS) -> None:
        from pipelines.adapters.lake import Lake

        lake = Lake.of(settings)
        self._parts: dict[str, Part] = {
            "monitor": lambda: _checks(lake),
            "ledger": lambda: _moves(lake),
            "requests": lambda: _requests(lake),
        }
        if (settings.secrets / "airflow_passwords.json").is_file():
            self._parts["airflow"] = lambda: _pools(settings)
        self._fresh_seconds = fresh_seconds
        self._lock = Lock()
        self._held: list[Metric] = []
        self._read_at = -float("inf")

    def describe(self) -> Iterator[Metric]:
        """Nothing: which models there are is not known before."""
        yield from ()

    def collect(self) -> Iterator[Metric]:
        """A part that cannot be read is left out, and its ``headrace_exporter_up`` is 0."""
        with self._lock:
            if time.monotonic() - self._read_at >= self._fresh_seconds:
                self._held = list(self._read())
                self._read_at = time.monotonic()
            yield from self._held

    def _read(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("headrace_exporter_up", "1: the part could be read.", labels=("part",))
        for name, part in self._parts.items():
            try:
                found = list(part())
            except (HeadraceError, OSError) as error:
                log.warning("%s could not be read: %s", name, error)
                up.add_metric((name,), 0.0)
            else:
                up.add_metric((name,), 1.0)
                yield from found
        yield up


def _checks(lake: Lake) -> Iterator[Metric]:
    """The newest check of each model, with the gauges that monitor itself sets."""
    from pipelines.monitor import checks, gauges

    newest = {check.registered_name: check for check in checks.read(lake)}
    families: dict[str, Metric] = {}
    for check in newest.values():
        for family in text_string_to_metric_families(gauges.text(check)):
            kept = families.setdefault(family.name, family)
            if kept is not family:
                kept.samples.extend(family.samples)
    yield from families.values()


def _moves(lake: Lake) -> Iterator[Metric]:
    from pipelines.promote import ledger
    from pipelines.promote.records import State

    moves = CounterMetricFamily(
        "headrace_pointer_moves", "Moves of an alias in the ledger.", labels=("model", "alias", "action")
    )
    last = GaugeMetricFamily(
        "headrace_pointer_moved_timestamp_seconds", "The last of them, Unix time.", labels=("model", "alias")
    )
    moved = [line for line in ledger.rows(lake) if line.state is State.MOVED]
    counts = Counter((line.registered_name, line.alias, line.action.value) for line in moved)
    newest = {(line.registered_name, line.alias): line.at for line in moved}
    for labels, count in counts.items():
        moves.add_metric(labels, count)
    for names, at in newest.items():
        last.add_metric(names, at.timestamp())
    yield from (moves, last)


def _requests(lake: Lake) -> Iterator[Metric]:
    from pipelines.monitor import requests

    waiting = GaugeMetricFamily(
        "headrace_retrain_request_asked_timestamp_seconds",
        "When the open request to train was made, Unix time; no sample: none is open.",
        labels=("model", "state"),
    )
    for request in requests.read(lake):
        if request.closed is None:
            labels = (request.asked.registered_name, request.state)
            waiting.add_metric(labels, request.asked.at.timestamp())
    yield waiting


def _pools(settings: Settings) -> Iterator[Metric]:
    """Airflow's pools: their queued slots are the tasks that wait for a worker."""
    from headrace.airflow_api import AirflowApi
    from headrace.credentials import AIRFLOW_USER, airflow_password

    slots = GaugeMetricFamily(
        "headrace_airflow_pool_slots", "Slots of Airflow's pools by state.", labels=("pool", "state")
    )
    with AirflowApi(settings.airflow, AIRFLOW_USER, airflow_password(settings)) as api:
        for pool in api.pools():
            for state in ("open", "running", "queued", "scheduled", "deferred"):
                slots.add_metric((pool["name"], state), float(pool[f"{state}_slots"]))
    yield slots


def main() -> None:
    """Answer on the port until SIGTERM or SIGINT."""
    from prometheus_client import CollectorRegistry, start_http_server

    from pipelines.settings import load_settings

    settings = load_settings()
    logging.basicConfig(
        level=settings.log_level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)
    registry = CollectorRegistry()
    registry.register(Exporter(settings))
    server, thread = start_http_server(settings.exporter_port, settings.bind_host, registry)
    stopped = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    stopped.wait()
    server.shutdown()
    thread.join()


if __name__ == "__main__":
    try:
        main()
    except HeadraceError as error:
        sys.exit(f"headrace: {error}")
