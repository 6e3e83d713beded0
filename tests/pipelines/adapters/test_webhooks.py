"""Only what MLflow itself has signed is believed, and it only ever hurries a look at the registry."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import stat
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from pipelines.adapters import webhooks
from pipelines.errors import InvalidRequestError, SettingsError
from pipelines.settings import Settings, load_settings
from serving.webhook import router

KEY = "a secret"
BODY = json.dumps(
    {
        "entity": "model_version_alias",
        "action": "created",
        "timestamp": "2026-01-01T12:00:00+00:00",
        "data": {"name": "failure", "alias": "production", "version": "3"},
    }
).encode()


def signed(body: bytes, key: str = KEY, delivery: str = "d1", sent: int | None = None) -> dict[str, str]:
    moment = str(int(time.time()) if sent is None else sent)
    digest = hmac.new(key.encode(), f"{delivery}.{moment}.".encode() + body, hashlib.sha256).digest()
    return {
        "x-mlflow-delivery-id": delivery,
        "x-mlflow-timestamp": moment,
        "x-mlflow-signature": "v1," + base64.b64encode(digest).decode(),
    }


def test_a_signed_event_is_read() -> None:
    event = webhooks.verified(signed(BODY), BODY, KEY)
    assert event is not None
    assert (event.name, event.alias, event.version) == ("failure", "production", "3")
    assert event.at == datetime(2026, 1, 1, 12, tzinfo=UTC)


def test_events_of_other_things_are_none_of_ours() -> None:
    body = json.dumps(
        {"entity": "registered_model", "action": "created", "timestamp": "", "data": {}}
    ).encode()
    assert webhooks.verified(signed(body), body, KEY) is None


@pytest.mark.parametrize(
    ("headers", "body", "said"),
    [
        (signed(BODY, key="another"), BODY, "not by the secret"),
        (signed(BODY), BODY.replace(b'"3"', b'"4"'), "not by the secret"),
        ({}, BODY, "not by the secret"),
        (signed(BODY, sent=1_000_000_000), BODY, "five minutes old"),
        (signed(b"[]"), b"[]", "not an event"),
        (signed(b"{}"), b"{}", "not an event"),
    ],
)
def test_what_is_not_of_mlflow_is_refused(headers: dict[str, str], body: bytes, said: str) -> None:
    with pytest.raises(InvalidRequestError, match=said):
        webhooks.verified(headers, body, KEY)


def test_a_delivery_that_comes_twice_is_kept_once(settings: Settings) -> None:
    event = webhooks.verified(signed(BODY), BODY, KEY)
    assert event is not None
    for _ in range(2):
        webhooks.keep(settings, event)
    ((path, kept),) = webhooks.kept(settings).items()
    assert kept == event
    path.unlink()
    assert webhooks.kept(settings) == {}


def test_the_secret_is_made_once_for_the_owner_alone(settings: Settings, tmp_path: Path) -> None:
    made = webhooks.secret(settings)
    assert webhooks.secret(settings) == made
    path = settings.home / "secrets" / "mlflow_webhook_secret"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(SettingsError, match="HEADRACE_WEBHOOK_SECRET"):
        webhooks.secret(load_settings({}, home=tmp_path / "p", environment="production"))


def test_the_door_wakes_for_mlflow_alone(settings: Settings) -> None:
    woken: list[int] = []
    app = FastAPI()
    app.include_router(router(settings, lambda: woken.append(1)))
    client = TestClient(app)
    key = webhooks.secret(settings)
    assert client.post(webhooks.PATH, content=BODY, headers=signed(BODY, "wrong")).status_code == 401
    assert client.post(webhooks.PATH, content=b"x" * 70_000).status_code == 413
    assert not woken
    assert client.post(webhooks.PATH, content=BODY, headers=signed(BODY, key)).status_code == 204
    assert woken
    assert len(webhooks.kept(settings)) == 1
