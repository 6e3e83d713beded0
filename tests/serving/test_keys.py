"""API keys: what the file keeps, who may pass, and that it all changes while the server runs."""

from __future__ import annotations

import os
import stat
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from pipelines.adapters.registry import Registry
from pipelines.errors import SettingsError
from pipelines.settings import Settings, load_settings
from serving import keys
from serving.access import Access
from serving.app import create_app
from serving.errors import ForbiddenError, RateLimitedError, UnauthenticatedError
from serving.keys import Key, KeyRing, Scope
from serving.limits import RateLimits

NOW = datetime.now(UTC)
NOBODY = "http://127.0.0.1:9"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "secrets" / "keys.json"


def test_the_file_has_no_key_and_is_for_its_owner_only(path: Path) -> None:
    key, text = keys.new(path, "billing", now=NOW)
    content = path.read_text("utf-8")
    assert text not in content
    assert text.split("_", 2)[2] not in content
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert KeyRing(path).find(text) == key


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: "",
        lambda text: text[:-1],
        lambda text: text[:-1] + ("A" if text[-1] != "A" else "B"),
        lambda text: "hr_00000000" + text[11:],
        lambda text: text + "\n",
        lambda text: text.upper(),
    ],
)
def test_any_other_text_is_refused(path: Path, spoil) -> None:  # type: ignore[no-untyped-def]
    _, text = keys.new(path, "billing", now=NOW)
    with pytest.raises(UnauthenticatedError):
        KeyRing(path).find(spoil(text))


def test_numbers_are_never_given_twice(path: Path) -> None:
    first, _ = keys.new(path, "a", now=NOW)
    keys.revoke(path, first.id, NOW)
    second, _ = keys.new(path, "a", now=NOW)
    assert (first.number, second.number) == (1, 2)


def test_expired_and_revoked_keys_say_since_when(path: Path) -> None:
    _, old = keys.new(path, "old", now=NOW, expires_at=NOW - timedelta(seconds=1))
    gone, text = keys.new(path, "gone", now=NOW)
    keys.revoke(path, gone.id, NOW)
    ring = KeyRing(path)
    with pytest.raises(UnauthenticatedError, match="expired at"):
        ring.find(old)
    with pytest.raises(UnauthenticatedError, match="was revoked at"):
        ring.find(text)
    assert len(ring) == 0


def test_keys_come_and_go_without_a_restart(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "_LOOK_SECONDS", 0.0)
    first, old = keys.new(path, "first", now=NOW)
    ring = KeyRing(path)
    _, fresh = keys.new(path, "second", now=NOW)
    assert ring.find(fresh).name == "second"
    keys.revoke(path, first.id, NOW)
    with pytest.raises(UnauthenticatedError, match="revoked"):
        ring.find(old)
    path.unlink()
    with pytest.raises(UnauthenticatedError):
        ring.find(fresh)


def test_a_file_that_is_broken_later_keeps_the_keys_and_says_so(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keys, "_LOOK_SECONDS", 0.0)
    _, text = keys.new(path, "first", now=NOW)
    ring = KeyRing(path)
    path.write_text('{"keys": [{]}', "utf-8")
    assert ring.find(text).name == "first"
    assert str(path) in caplog.text
    with pytest.raises(SettingsError, match="no file of API keys"):
        KeyRing(path)


def test_a_file_that_others_may_write_is_refused(path: Path) -> None:
    keys.new(path, "first", now=NOW)
    os.chmod(path, 0o666)
    with pytest.raises(SettingsError, match="chmod 600"):
        KeyRing(path)


def test_scopes_are_by_model_and_deed(path: Path) -> None:
    _, one = keys.new(path, "one", now=NOW, models=("failure",))
    _, seer = keys.new(path, "seer", now=NOW, scopes=(Scope.OBSERVE,))
    _, admin = keys.new(path, "admin", now=NOW, scopes=(Scope.ADMIN,))
    access = Access(KeyRing(path), RateLimits())
    access.predict(f"Bearer {one}", "failure")
    access.page("/v2/models/failure/ready", f"bearer {one}")
    access.page("/metrics", f"Bearer {seer}")
    for path_of_admin in ("/v2/repository/models/failure/load", "/metrics", "/", "/v2/models/x", "/v2"):
        access.page(path_of_admin, f"Bearer {admin}")
    for refused, by in (
        (lambda: access.predict(f"Bearer {one}", "cost"), ForbiddenError),
        (lambda: access.predict(f"Bearer {seer}", "failure"), ForbiddenError),
        (lambda: access.page("/v2/models/cost", f"Bearer {one}"), ForbiddenError),
        (lambda: access.page("/metrics", f"Bearer {one}"), ForbiddenError),
        (lambda: access.page("//metrics", f"Bearer {one}"), ForbiddenError),
        (lambda: access.page("/v2/repository/models/failure/load", f"Bearer {seer}"), ForbiddenError),
        (lambda: access.predict("", "failure"), UnauthenticatedError),
        (lambda: access.predict(one, "failure"), UnauthenticatedError),
        (lambda: access.predict(f"Basic {one}", "failure"), UnauthenticatedError),
    ):
        with pytest.raises(by):
            refused()


def test_a_rate_lets_a_burst_pass_and_then_its_own(path: Path) -> None:
    key, _ = keys.new(path, "busy", now=NOW, requests_per_second=10, burst=3)
    limits, passed, now = RateLimits(), 0, 1000.0
    for _ in range(3):
        limits.take(key, now)
    with pytest.raises(RateLimitedError) as refused:
        limits.take(key, now)
    assert refused.value.seconds == pytest.approx(0.1)
    for step in range(200):  # two seconds, a request each 10 ms
        try:
            limits.take(key, now + step / 100)
        except RateLimitedError:
            continue
        passed += 1
    assert passed == pytest.approx(20, abs=1)


def test_processes_share_one_bucket(path: Path) -> None:
    key, _ = keys.new(path, "busy", now=NOW, requests_per_second=0.01, burst=50)
    limits = RateLimits()
    taken = []
    for _ in range(3):
        child = os.fork()
        if not child:
            count = 0
            try:
                while True:
                    limits.take(key)
                    count += 1
            except RateLimitedError:
                os._exit(count)
        taken.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    assert taken == [50, 0, 0]


def test_a_key_without_a_rate_is_not_limited(path: Path) -> None:
    key, _ = keys.new(path, "free", now=NOW)
    limits = RateLimits()
    for _ in range(1000):
        limits.take(key, 0.0)


# The settings


@pytest.mark.parametrize(
    ("given", "needed"),
    [
        ({}, False),
        ({"bind_host": "::1"}, False),
        ({"bind_host": "0.0.0.0"}, True),
        ({"bind_host": "0.0.0.0", "serving_keys": "off"}, False),
        ({"serving_keys": "required"}, True),
        ({"serving_admin_port": 9, "serving_admin_host": "10.0.0.1"}, True),
    ],
)
def test_keys_are_needed_beyond_loopback(given: dict[str, object], needed: bool) -> None:
    assert load_settings({}, **given).serving_needs_keys is needed


def test_certificate_and_key_go_together_and_make_the_address_https() -> None:
    with pytest.raises(SettingsError, match="go together"):
        load_settings({}, serving_tls_key="k.pem")
    assert load_settings({}, serving_tls_key="k.pem", serving_tls_certificate="c.pem").serving.startswith(
        "https://"
    )


def test_no_server_beyond_loopback_without_a_key(settings: Settings) -> None:
    open_to_all = settings.model_copy(update={"bind_host": "0.0.0.0"})
    with pytest.raises(SettingsError, match="headrace keys new"):
        create_app(open_to_all, Registry(NOBODY))


# Through the server


@pytest.fixture
def guarded(
    settings: Settings,
    fill_cache,  # type: ignore[no-untyped-def]
    wait_until,  # type: ignore[no-untyped-def]
):
    """A server that wants keys, one that may ask ``tiny`` twice at once, and one of an administrator."""
    fill_cache(settings, {"production": "1"})
    wanting = settings.model_copy(update={"serving_keys": "required"})
    made: dict[str, tuple[Key, str]] = {
        "tiny": keys.new(
            wanting.serving_key_file, "tiny", now=NOW, models=("tiny",), requests_per_second=0.01, burst=2
        ),
        "other": keys.new(wanting.serving_key_file, "other", now=NOW, models=("other",)),
        "admin": keys.new(wanting.serving_key_file, "admin", now=NOW, scopes=(Scope.ADMIN,)),
    }
    with TestClient(create_app(wanting, Registry(NOBODY)), raise_server_exceptions=False) as client:
        wait_until(lambda: client.get("/v2/health/ready").status_code == 200)
        yield client, {name: {"Authorization": f"Bearer {text}"} for name, (_, text) in made.items()}, made


BODY = {"records": [{"cpu": 1, "cores": 1}]}


def test_the_doors_ask_for_keys(guarded) -> None:  # type: ignore[no-untyped-def]
    client, sent, made = guarded
    path = "/models/tiny/predict"
    nobody = client.post(path, json=BODY)
    assert (nobody.status_code, nobody.headers["www-authenticate"]) == (401, 'Bearer realm="headrace"')
    assert "Authorization: Bearer" in nobody.json()["error"]
    assert client.post(path, json=BODY, headers=sent["other"]).status_code == 403
    assert client.post(path, json=BODY, headers=sent["tiny"]).status_code == 200
    assert client.post("/v2/models/tiny/infer", json={}, headers=sent["tiny"]).status_code == 400
    spent = client.post(path, json=BODY, headers=sent["tiny"])
    assert spent.status_code == 429
    assert 90 <= int(spent.headers["retry-after"]) <= 100
    assert made["tiny"][1] not in spent.text

    text = client.get("/metrics", headers=sent["admin"]).text
    for kind, model in (
        ("unauthenticated", ""),
        ("forbidden", ""),
        ("rate_limited", ""),
        ("invalid_request", "tiny"),
    ):
        assert f'headrace_errors_total{{kind="{kind}",model="{model}",transport="rest"}} 1.0' in text
    assert 'code="429"' in text


def test_pages_show_to_each_what_is_theirs(guarded) -> None:  # type: ignore[no-untyped-def]
    client, sent, _ = guarded
    assert client.get("/v2/health/live").status_code == 200
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/v2/health/ready", headers=sent["tiny"]).json() == {"ready": True}
    assert "models" in client.get("/v2/health/ready", headers=sent["admin"]).json()
    for path in ("/metrics", "/", "/v2", "/v2/models/tiny"):
        assert client.get(path).status_code == 401, path
        assert client.get(path, headers=sent["admin"]).status_code == 200, path
    assert client.get("/v2/models/tiny", headers=sent["tiny"]).status_code == 200
    assert client.get("/v2/models/tiny", headers=sent["other"]).status_code == 403
    assert [row["name"] for row in client.post("/v2/repository/index", headers=sent["tiny"]).json()] == [
        "tiny"
    ]
    assert client.post("/v2/repository/index", headers=sent["other"]).json() == []
    unload = "/v2/repository/models/gone/unload"
    assert client.post(unload, headers=sent["tiny"]).status_code == 403
    assert client.post(unload, headers=sent["admin"]).status_code == 200
    # The description is for all, and MLflow signs what it sends.
    assert client.get("/docs").status_code == 200
    assert client.get("/openapi.json").status_code == 200
    assert client.post("/webhooks/mlflow", content=b"{}").status_code == 401


def test_a_revoked_key_is_out_within_a_second(guarded, settings: Settings) -> None:  # type: ignore[no-untyped-def]
    client, sent, made = guarded
    assert client.get("/v2", headers=sent["other"]).status_code == 200
    keys.revoke(settings.serving_key_file, made["other"][0].id, datetime.now(UTC))
    deadline = time.monotonic() + 2.0
    while client.get("/v2", headers=sent["other"]).status_code == 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)
