"""Callers against the real server with a small real model."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from headrace.demo_traffic import Callers, records
from headrace.serving_api import ServingApi
from pipelines.adapters.exports import manifest_sha256
from pipelines.adapters.registry import Registry
from pipelines.adapters.signing import Trust
from pipelines.settings import Settings
from serving.app import create_app
from serving.cache import Served, VersionCache
from tests.serving.conftest import NOBODY, wait_until
from tests.serving.running import running

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
FEATURES = ("cpu", "latency", "cores", "zone")


@pytest.fixture
def url(settings: Settings, make_export: Callable[..., Path]) -> Iterator[str]:
    """A server that answers for ``tiny`` with version 2."""
    folder = settings.home / "serving"
    digest = manifest_sha256(make_export(folder / "tiny" / "2"))
    served = [Served(name="tiny", alias="production", version="2", manifest_sha256=digest)]
    VersionCache(folder, Trust.of(settings)).note(served)
    with running(create_app(settings, Registry(NOBODY)), settings) as url:
        yield url


@pytest.fixture
def server(settings: Settings, url: str) -> ServingApi:
    api = ServingApi(settings.model_copy(update={"serving_url": url}))
    wait_until(lambda: api.version("tiny") == "2")
    return api


@pytest.fixture
def hours() -> pl.DataFrame:
    """Two machines at two hours, not in order; one latency is missing."""
    return pl.DataFrame(
        {
            "machine_id": ["m2", "m1", "m1", "m2"],
            "event_time": [NOON, NOON, NOON + timedelta(hours=1), NOON + timedelta(hours=1)],
            "cpu": [95.0, 5.0, 95.0, 5.0],
            "latency": [10.0, None, 10.0, math.nan],
            "cores": [4, 8, 8, 4],
            "zone": ["a", "b", "b", "a"],
        }
    )


def test_what_is_missing_is_left_out(hours: pl.DataFrame) -> None:
    first, second, _, last = records(hours, FEATURES)

    assert first == {"cpu": 95.0, "latency": 10.0, "cores": 4, "zone": "a"}
    assert second == {"cpu": 5.0, "cores": 8, "zone": "b"}
    assert "latency" not in last


def test_each_hour_is_one_request_and_each_machine_has_its_own_answer(
    server: ServingApi, hours: pl.DataFrame
) -> None:
    callers = Callers(server, "tiny")
    callers.ask(hours, "machine_id", FEATURES)

    assert (callers.requests, callers.failures, callers.answered) == (2, [], {"2": 2})
    assert [(each.entity, each.at) for each in callers.told] == [
        ("m1", NOON),
        ("m2", NOON),
        ("m1", NOON + timedelta(hours=1)),
        ("m2", NOON + timedelta(hours=1)),
    ]
    assert [each.alarm for each in callers.told] == [False, True, True, False]
    assert {each.version for each in callers.told} == {"2"}
    assert len({each.prediction_id for each in callers.told}) == 4


def test_the_steady_caller_asks_until_it_is_told_to_stop(server: ServingApi, hours: pl.DataFrame) -> None:
    callers = Callers(server, "tiny")
    with callers.steadily(records(hours, FEATURES)):
        wait_until(lambda: callers.requests >= 5)
    stopped = callers.requests
    time.sleep(0.3)

    assert callers.requests == stopped
    assert callers.failures == []
    assert callers.told == [], "its answers are of no hour"


def test_a_request_that_is_refused_or_reaches_nobody_is_counted_with_its_reason(
    server: ServingApi, settings: Settings, hours: pl.DataFrame
) -> None:
    refused = Callers(server, "tiny")
    refused.ask(hours.with_columns(cpu=pl.lit("high")), "machine_id", FEATURES)
    lost = Callers(ServingApi(settings.model_copy(update={"serving_url": NOBODY})), "tiny")
    lost.ask(hours, "machine_id", FEATURES)

    for callers in (refused, lost):
        assert (callers.requests, len(callers.failures)) == (2, 2)
        assert (callers.told, callers.answered) == ([], {})
    assert "cpu" in refused.failures[0]
    assert "no answer from the server" in lost.failures[0]
