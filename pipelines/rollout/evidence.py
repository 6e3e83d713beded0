"""What the servers have seen of a challenger, from their metrics."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import httpx

from pipelines.adapters.serving_client import client
from pipelines.rollout.records import Evidence, Side, Standing

if TYPE_CHECKING:
    from prometheus_client.samples import Sample

    from pipelines.settings import Settings

_TIMEOUT_SECONDS = 5.0
_BY_NAME = "dns+"


class Scrape(NamedTuple):
    """The figures of all servers, and why one could not be asked."""

    servers: tuple[tuple[Sample, ...], ...]
    unreachable: str


class Servers:
    """The servers whose figures count: those that the settings name, or else the one at its usual address.

    Behind a load balancer each replica must be named (``HEADRACE_ROLLOUT_SERVERS``): the balancer would hand out
    the figures of one or another. ``dns+http://name:port`` names all that the name resolves to at the time
    of each look, as a headless service of Kubernetes has it.
    """

    def __init__(self, settings: Settings) -> None:
        self._http = client(settings, _TIMEOUT_SECONDS, admin=True)
        named = [url.strip().rstrip("/") for url in settings.rollout_servers.split(",") if url.strip()]
        self.urls = named or [str(self._http.base_url).rstrip("/")]

    def close(self) -> None:
        self._http.close()

    def scrape(self) -> Scrape:
        """Ask each server; one that does not answer is named, and the others count."""
        from prometheus_client.parser import text_string_to_metric_families

        found: list[tuple[Sample, ...]] = []
        urls, problems = _resolved(self.urls)
        for url in urls:
            try:
                answer = self._http.get(f"{url}/metrics")
                answer.raise_for_status()
                families = text_string_to_metric_families(answer.text)
                found.append(tuple(sample for family in families for sample in family.samples))
            except (httpx.HTTPError, ValueError) as error:
                problems.append(f"{url}: {type(error).__name__}: {error}")
        return Scrape(tuple(found), "; ".join(problems))


def _resolved(urls: Sequence[str]) -> tuple[list[str], list[str]]:
    """Addresses to ask, and what could not be resolved."""
    found: list[str] = []
    problems: list[str] = []
    for url in urls:
        if not url.startswith(_BY_NAME):
            found.append(url)
            continue
        parts = urlsplit(url.removeprefix(_BY_NAME))
        try:
            answers = socket.getaddrinfo(parts.hostname, parts.port, type=socket.SOCK_STREAM)
        except OSError as error:
            problems.append(f"{url}: {error}")
            continue
        hosts = sorted({str(answer[4][0]) for answer in answers})
        found += [f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{parts.port}" for host in hosts]
    return found, problems


def of_trial(scrape: Scrape, name: str, standing: Standing, latency: timedelta) -> Evidence:
    """What was seen of both versions with this traffic, over all servers.

    Args:
        latency: Beyond which an answer is slow; the next bound of the servers' histograms counts.
    """
    labels = {
        "model": name,
        "champion": standing.production,
        "challenger": standing.challenger,
        "traffic": standing.traffic,
    }
    mine = [
        sample
        for server in scrape.servers
        for sample in server
        if sample.name.startswith("headrace_trial_")
        and all(sample.labels.get(key) == value for key, value in labels.items())
    ]
    dropped = sum(sample.value for sample in mine if sample.name == "headrace_trial_mirrors_dropped_total")
    return Evidence(
        champion=_side(mine, "champion", latency.total_seconds()),
        challenger=_side(mine, "challenger", latency.total_seconds()),
        dropped=int(dropped),
        servers=len(scrape.servers),
        unreachable=scrape.unreachable,
    )


def _side(samples: Sequence[Sample], role: str, latency_seconds: float) -> Side:
    mine = [sample for sample in samples if sample.labels.get("role") == role]
    by_outcome = {
        outcome: _sum(
            sample
            for sample in mine
            if sample.name == "headrace_trial_requests_total" and sample.labels["outcome"] == outcome
        )
        for outcome in ("ok", "error")
    }
    buckets = [sample for sample in mine if sample.name == "headrace_trial_seconds_bucket"]
    bounds = {float(sample.labels["le"]) for sample in buckets}
    bound = min((bound for bound in bounds if bound >= latency_seconds), default=float("inf"))
    quick = _sum(sample for sample in buckets if float(sample.labels["le"]) == bound)
    return Side(
        by_outcome["ok"] + by_outcome["error"],
        by_outcome["error"],
        by_outcome["ok"] - quick if buckets else 0,
    )


def _sum(samples: Iterable[Sample]) -> int:
    return int(sum(sample.value for sample in samples))
