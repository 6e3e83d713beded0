"""A challenger with traffic, asked over gRPC: the same share, keys and forgiveness as over REST."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import tritonclient.grpc as triton

from pipelines.adapters.traffic import place_of
from serving.rollout.rollouts import Tag
from tests.serving.conftest import wait_until
from tests.serving.grpc.asking import TINY, Serving, tensor

pytestmark = pytest.mark.integration  # two models, and a server on a port

CHAMPION, CHALLENGER = "2", "3"


@contextmanager
def trial(serving: Serving, traffic: str) -> Iterator[None]:
    """What the registry would tell: the challenger of ``tiny`` gets this traffic."""
    serving.plane.rollouts.assign({"tiny": Tag(CHALLENGER, traffic)})
    try:
        yield
    finally:
        serving.plane.rollouts.assign({})


def inputs(**changed: Any) -> list[triton.InferInput]:
    return [tensor(name, kind, [changed.get(name, value)]) for name, (kind, value) in TINY.items()]


def version_for(client: triton.InferenceServerClient, key: str, **changed: Any) -> str:
    answer = client.infer("tiny", inputs(**changed), headers={"x-headrace-sticky": key})
    version: str = answer.get_response().model_version
    return version


def counted(serving: Serving, role: str, how: str, outcome: str = "ok") -> float:
    from prometheus_client.parser import text_string_to_metric_families

    labels = {"role": role, "how": how, "outcome": outcome}
    return sum(
        sample.value
        for family in text_string_to_metric_families(serving.http.get("/metrics").text)
        for sample in family.samples
        if sample.name == "headrace_trial_requests_total" and labels.items() <= sample.labels.items()
    )


def test_a_canary_keeps_to_its_share_and_each_key_to_its_version(
    serving: Serving, client: triton.InferenceServerClient
) -> None:
    keys = [f"m-{n:03d}" for n in range(100)]
    expected = {key: CHALLENGER if place_of("tiny", key.encode()) < 0.3 else CHAMPION for key in keys}
    assert 15 < list(expected.values()).count(CHALLENGER) < 45
    with trial(serving, "30"):
        assert {key: version_for(client, key) for key in keys} == expected
        assert {key: version_for(client, key, cpu=10.0) for key in keys} == expected
        # REST sends the same key to the same version.
        for key in keys[:10]:
            record = {"cpu": 50, "latency": 10, "cores": 8, "zone": "a"}
            rest = serving.http.post(
                "/models/tiny/predict", json={"records": [record]}, headers={"X-Headrace-Sticky": key}
            )
            assert rest.json()["version"] == expected[key]
    assert version_for(client, keys[0]) == CHAMPION


def test_in_the_shadow_the_champion_answers_and_the_challenger_is_asked_beside(
    serving: Serving, client: triton.InferenceServerClient
) -> None:
    with trial(serving, "shadow"):
        assert {version_for(client, str(n)) for n in range(20)} == {CHAMPION}
        wait_until(lambda: counted(serving, "challenger", "mirrored") == 20)
        assert counted(serving, "champion", "answered") == 20
        # What is asked of a version by its number is nobody's trial.
        answer = client.infer("tiny", inputs(), CHALLENGER)
        assert answer.get_response().model_version == CHALLENGER
        assert counted(serving, "challenger", "answered") == 0


def test_the_champion_answers_what_its_challenger_fails_on(
    serving: Serving, client: triton.InferenceServerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    challenger = serving.plane.find("tiny", CHALLENGER)

    def fails(rows: object) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(challenger.predictor, "predict_rows", fails)
    with trial(serving, "50"):
        assert {version_for(client, str(n)) for n in range(40)} == {CHAMPION}
        failed = counted(serving, "challenger", "answered", "error")
        assert 0 < failed < 40
        assert failed == sum(place_of("tiny", str(n).encode()) < 0.5 for n in range(40))


def test_a_refusal_of_both_is_the_clients(serving: Serving, client: triton.InferenceServerClient) -> None:
    with trial(serving, "50"), pytest.raises(triton.InferenceServerException, match="'cpu'"):
        client.infer("tiny", inputs(cpu=400.0))
