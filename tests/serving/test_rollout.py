"""A challenger with traffic: who answers whom, what is mirrored, and that no client pays for a challenger's fault.

The registry is down and the versions come from the cache, so what it would tell is told to
:class:`~serving.rollout.Rollouts` directly; with a real registry: ``test_rollout_mlflow.py``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from pipelines.adapters.exports import manifest_sha256
from pipelines.adapters.registry import Registry
from pipelines.adapters.signing import Trust
from pipelines.adapters.traffic import place_of
from pipelines.settings import Settings
from serving.app import Server, create_app
from serving.cache import Served, VersionCache
from serving.rollout.counts import TrialCounts
from serving.rollout.mirror import Mirror
from serving.rollout.rollouts import Tag
from serving.rollout.sticky import key_of
from tests.serving.conftest import NOBODY, wait_until
from tests.serving.failing_model import write_failing_model
from tests.serving.small_models import write_small_model

ROW = {"cpu": 60.0, "latency": 40.0, "cores": 16, "zone": "b"}
FATAL = ROW | {"cpu": 95.0}
PREDICT = "/models/tiny/predict"

Serving = tuple[TestClient, Server]


@contextmanager
def serving(settings: Settings, exports: dict[str, Path], traffic: str) -> Iterator[Serving]:
    """A server with two versions from its cache: production, and a challenger with this traffic."""
    folder = settings.home / "serving"
    served = [
        Served(name="tiny", alias=alias, version=export.name, manifest_sha256=manifest_sha256(export))
        for alias, export in exports.items()
    ]
    VersionCache(folder, Trust.of(settings)).note(served)
    app = create_app(settings, Registry(NOBODY))
    with TestClient(app, raise_server_exceptions=False) as client:
        wait_until(lambda: client.get("/v2/health/ready").status_code == 200)
        wait_until(lambda: app.plane.table.at("tiny", "challenger") is not None)
        app.plane.rollouts.assign({"tiny": Tag(exports["challenger"].name, traffic)})
        yield client, app


@pytest.fixture
def exports(settings: Settings, make_export: Callable[..., Path], signing_key: Path) -> dict[str, Path]:
    """Version 2 is sound; 3 answers otherwise; 4 fails on some rows; 5 wants other inputs."""
    folder = settings.home / "serving" / "tiny"
    found = {number: make_export(folder / number, slope=float(number)) for number in ("2", "3")}
    found["4"] = write_failing_model(folder / "4", signing_key)
    write_small_model("probability", folder / "5", signing_key)
    return found | {"5": folder / "5"}


def counted(client: TestClient, name: str, **labels: str) -> float:
    """Sum of a metric's samples that carry these labels."""
    from prometheus_client.parser import text_string_to_metric_families

    return sum(
        sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def asked(client: TestClient, role: str, how: str, outcome: str = "ok") -> float:
    return counted(client, "headrace_trial_requests_total", role=role, how=how, outcome=outcome)


def version_for(client: TestClient, key: str, row: dict[str, Any] = ROW) -> str:
    answer = client.post(PREDICT, json={"records": [row]}, headers={"X-Headrace-Sticky": key})
    assert answer.status_code == 200
    version: str = answer.json()["version"]
    return version


def test_in_the_shadow_the_champion_answers_and_the_challenger_is_asked_beside(
    settings: Settings, exports: dict[str, Path]
) -> None:
    with serving(settings, {"production": exports["2"], "challenger": exports["3"]}, "shadow") as (client, _):
        assert {version_for(client, str(n)) for n in range(30)} == {"2"}
        wait_until(lambda: asked(client, "challenger", "mirrored") == 30)
        assert asked(client, "champion", "answered") == 30
        assert counted(client, "headrace_trial_compared_rows_total", output="probability") == 30
        assert counted(client, "headrace_trial_differing_rows_total", output="probability") == 30
        assert counted(client, "headrace_trial_difference_total", output="probability") > 0
        state = client.get("/v2/health/ready").json()["models"]["tiny"]["challenger"]
        assert state["traffic"] == "shadow"
        # What is asked of a version by its number is nobody's trial.
        client.post("/models/tiny/versions/3/predict", json={"records": [ROW]})
        assert asked(client, "champion", "answered") == 30
        assert counted(client, "headrace_requests_total", version="3") == 1


def test_a_canary_keeps_to_its_share_and_each_key_to_its_version_also_after_a_restart(
    settings: Settings, exports: dict[str, Path]
) -> None:
    pair = {"production": exports["2"], "challenger": exports["3"]}
    keys = [f"m-{n:03d}" for n in range(200)]
    expected = {key: "3" if place_of("tiny", key.encode()) < 0.3 else "2" for key in keys}
    assert 30 < list(expected.values()).count("3") < 90
    for _ in range(2):
        with serving(settings, pair, "30") as (client, _):
            assert {key: version_for(client, key) for key in keys} == expected
            assert {key: version_for(client, key, ROW | {"cpu": 10.0}) for key in keys[:20]} == {
                key: expected[key] for key in keys[:20]
            }
            wait_until(
                lambda client=client: (
                    asked(client, "champion", "mirrored") + asked(client, "challenger", "mirrored") == 220
                )
            )
            assert asked(client, "champion", "mirrored") == asked(client, "challenger", "answered")


def test_no_client_sees_a_failure_that_is_only_the_challengers(
    settings: Settings, exports: dict[str, Path]
) -> None:
    with serving(settings, {"production": exports["2"], "challenger": exports["4"]}, "100") as (client, _):
        assert version_for(client, "a") == "4"
        assert [version_for(client, str(n), FATAL) for n in range(20)] == ["2"] * 20
        tensors = [
            {"name": name, "shape": [1], "datatype": kind, "data": [FATAL[name]]}
            for name, kind in (("cpu", "FP64"), ("latency", "FP64"), ("cores", "INT64"), ("zone", "BYTES"))
        ]
        told = client.post("/v2/models/tiny/infer", json={"inputs": tensors})
        assert (told.status_code, told.json()["model_version"]) == (200, "2")
        assert asked(client, "challenger", "answered", "error") == 21
        assert counted(client, "headrace_requests_total", code="500") == 0


def test_what_a_challenger_refuses_and_the_champion_takes_is_the_challengers_fault(
    settings: Settings, exports: dict[str, Path]
) -> None:
    with serving(settings, {"production": exports["2"], "challenger": exports["5"]}, "100") as (client, _):
        assert version_for(client, "a", {"cpu": 60.0, "cores": 4}) == "2"
        assert asked(client, "challenger", "answered", "error") == 1
        # What both refuse is the client's, and counts against neither.
        wrong = client.post(PREDICT, json={"records": [{"nonsense": 1}]})
        assert wrong.status_code == 422
        assert asked(client, "challenger", "answered", "error") == 1
    with serving(settings, {"production": exports["2"], "challenger": exports["5"]}, "shadow") as (client, _):
        assert version_for(client, "a", {"cpu": 60.0, "cores": 4}) == "2"
        wait_until(lambda: asked(client, "challenger", "mirrored", "error") == 1)


def test_a_tag_that_names_no_traffic_gives_none_and_is_told_of(
    settings: Settings, exports: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    with serving(settings, {"production": exports["2"], "challenger": exports["3"]}, "a lot") as (client, _):
        assert {version_for(client, str(n)) for n in range(20)} == {"2"}
        found = client.get("/v2/health/ready").json()
        assert found["ready"] is True
        assert any("'a lot'" in warning for warning in found["warnings"])
    assert "'a lot'" in caplog.text


def test_traffic_is_for_the_version_whose_tag_says_so(settings: Settings, exports: dict[str, Path]) -> None:
    pair = {"production": exports["2"], "challenger": exports["3"]}
    with serving(settings, pair, "100") as (client, app):
        assert version_for(client, "a") == "3"
        app.plane.rollouts.assign({"tiny": Tag("7", "100")})
        assert version_for(client, "a") == "2"
        app.plane.rollouts.assign({})
        assert version_for(client, "a") == "2"


def test_a_full_queue_drops_and_counts_and_holds_up_nobody() -> None:
    log = SimpleNamespace(record=lambda *_, **__: None)
    mirror, began, release = Mirror(log, queue_bytes=10_000), threading.Event(), threading.Event()  # type: ignore[arg-type]
    mirror.start()

    def slow() -> None:
        began.set()
        release.wait(10)

    assert mirror.offer(slow, 100)
    began.wait(10)
    taken = [mirror.offer(lambda: None, 1_000) for _ in range(5)]
    assert taken == [True, True, False, False, False]
    release.set()
    wait_until(lambda: mirror.offer(lambda: None, 7_000))
    mirror.stop()


def test_a_task_that_fails_does_not_end_the_mirror() -> None:
    mirror, done = Mirror(SimpleNamespace(), queue_bytes=10_000), threading.Event()  # type: ignore[arg-type]
    mirror.start()
    mirror.offer(lambda: 1 / 0, 1)  # type: ignore[arg-type, return-value]
    mirror.offer(done.set, 1)
    assert done.wait(5)
    mirror.stop()


def test_the_key_is_the_entity_where_one_is_named() -> None:
    assert key_of(b'{"entities": ["m-1"]}', {}) == b"m-1"
    assert key_of(b'{"entities": ["b", "a", "b"]}', {}) == key_of(
        b'{"entities": ["a", "b"], "given": [{}]}', {}
    )
    assert key_of(b'{"records": [{"server": "m-1", "cpu": 1}]}', {}, "server") == b"m-1"
    assert key_of(b'{"entities": ["m-1"]}', {b"x-headrace-sticky": b"me"}) == b"me"
    assert key_of(b'{"records": [{"cpu": 1}]}', {}) == key_of(b'{"records": [{"cpu": 1}]}', {})
    assert key_of(b'{"records": [{"cpu": 1}]}', {}) != key_of(b'{"records": [{"cpu": 2}]}', {})
    for odd in (
        b"",
        b"{",
        b"[]",
        b'{"entities": 3}',
        b'{"entities": [1]}',
        b'{"entities": []}',
        b"\xff" * 100_000,
    ):
        assert len(key_of(odd, {}, "server")) == 16


def test_differences_of_each_kind_of_output_are_counted() -> None:
    import numpy as np

    counts = TrialCounts()
    told = {"p": np.array([1.0, np.nan, 2.0]), "alarm": np.array([True, False, True]), "only": np.array([1])}
    other = {"p": np.array([1.0, np.nan, 2.5]), "alarm": np.array([True, True, True])}
    counts.compare(told, other)
    assert counts.compared == {"p": [3, 1, 0.5], "alarm": [3, 1, 0.0]}
