"""What MLflow's registry tells at once when an alias is moved: whether it is true, and where it is kept.

A webhook is a hint and never the truth: deliveries are lost, doubled and late. The server that
receives one looks at the registry at once, and keeps it for the job that reconciles the ledger, which
learns from it *when* an alias was moved in the MLflow UI. Format and signature are MLflow 3.17's.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import os
import secrets
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from feature_repo.datasets import Frozen
from pipelines.errors import InvalidRequestError, SettingsError

if TYPE_CHECKING:
    from pipelines.settings import Settings

PATH = "/webhooks/mlflow"
NAME = "headrace"
EVENTS = ("created", "deleted")  # of an alias; moving one is 'created' alone

ENTITY = "model_version_alias"
_OLDEST_SECONDS = 300.0  # against replays, as the Standard Webhooks specification has it
_KEPT = 1000


class AliasEvent(Frozen):
    """An alias was moved, or removed (``version`` is None)."""

    name: str
    alias: str
    version: str | None
    at: datetime
    delivery: str


def secret(settings: Settings) -> str:
    """What MLflow signs with, and the server verifies by.

    Raises:
        SettingsError: in production it is not set, where it is never generated.
    """
    if settings.webhook_secret is not None:
        return settings.webhook_secret.get_secret_value()
    path = settings.secrets / "mlflow_webhook_secret"
    if not path.exists():
        if settings.environment == "production":
            raise SettingsError("HEADRACE_WEBHOOK_SECRET is not set; in production it is not generated")
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = path.with_name(f".{path.name}.{os.getpid()}")
        part.touch(mode=0o600)
        part.write_text(secrets.token_urlsafe(48), "utf-8")
        with contextlib.suppress(FileExistsError):  # another process was first, and its secret counts
            os.link(part, path)
        part.unlink()
    return path.read_text("utf-8").strip()


def verified(
    headers: Mapping[str, str], body: bytes, key: str, now: float | None = None
) -> AliasEvent | None:
    """The event of a delivery; None where it is of another kind.

    Args:
        headers: Of the request, names in lower case.
        now: Unix time; None: the clock's.

    Raises:
        InvalidRequestError: it is not signed with the key, is too old, or is no event.
    """
    delivery, sent = headers.get("x-mlflow-delivery-id", ""), headers.get("x-mlflow-timestamp", "")
    content = b".".join((delivery.encode(), sent.encode(), body))
    digest = hmac.new(key.encode(), content, hashlib.sha256).digest()
    expected = "v1," + base64.b64encode(digest).decode()
    if not hmac.compare_digest(headers.get("x-mlflow-signature", "").encode(), expected.encode()):
        raise InvalidRequestError("the signature is not by the secret that this server knows", "signature")
    if not sent.isdecimal() or abs((time.time() if now is None else now) - int(sent)) > _OLDEST_SECONDS:
        raise InvalidRequestError(f"the delivery is of {sent!r}, and more than five minutes old", "timestamp")
    try:
        told: dict[str, Any] = json.loads(body)
        if told["entity"] != ENTITY:
            return None
        moved = told["data"]
        version = moved["version"] if told["action"] == "created" else None
        at = datetime.fromisoformat(told["timestamp"]).astimezone(UTC)
        return AliasEvent(name=moved["name"], alias=moved["alias"], version=version, at=at, delivery=delivery)
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidRequestError(f"not an event of MLflow: {type(error).__name__}: {error}") from error


def keep(settings: Settings, event: AliasEvent) -> None:
    """Put an event where the reconciling job of this home finds it; a repeated delivery is one event."""
    folder = _folder(settings)
    folder.mkdir(parents=True, exist_ok=True)
    if sum(1 for _ in folder.iterdir()) >= _KEPT:
        return  # nobody reconciles here; the events would fill the disk
    path = folder / f"{hashlib.sha256(event.delivery.encode()).hexdigest()[:32]}.json"
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(event.model_dump_json(), "utf-8")
    part.replace(path)


def kept(settings: Settings) -> dict[Path, AliasEvent]:
    """Events that were kept, by their file, oldest first. Remove the files once they were used."""
    found = {}
    for path in _folder(settings).glob("*.json"):
        with contextlib.suppress(ValidationError, OSError):
            found[path] = AliasEvent.model_validate_json(path.read_bytes())
    return dict(sorted(found.items(), key=lambda item: item[1].at))


def _folder(settings: Settings) -> Path:
    return settings.home / "alias_events"
