"""API keys: who may ask the server what.

A key is ``hr_<id>_<secret>``, where the secret is 32 random bytes. The file keeps its SHA-256 only. A
password hash (scrypt, Argon2) would add nothing: it slows down guessing at secrets that people chose, and
256 random bits cannot be guessed; but it would cost each request a thousand times what the
prediction does (decision 0020).

The file is read again when it changes, so that keys come and go without a restart.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import logging
import os
import re
import secrets
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from pydantic import AwareDatetime, Field, ValidationError

from feature_repo.datasets import Frozen
from pipelines.errors import SettingsError
from serving.errors import UnauthenticatedError

ANY = "*"

_SECRET_BYTES = 32
_FORM = re.compile(r"hr_([0-9a-f]{8})_([A-Za-z0-9_-]{43})")
_LOOK_SECONDS = 1.0

log = logging.getLogger(__name__)


class Scope(StrEnum):
    """What a key lets its holder do.

    ``predict``: predictions and metadata of its models. ``label``: say what came of predictions of its
    models. ``observe``: metrics, the overview, and why the server is not ready. ``admin``: load and
    unload, besides.
    """

    PREDICT = "predict"
    LABEL = "label"
    OBSERVE = "observe"
    ADMIN = "admin"


class Key(Frozen):
    """One key, without its secret.

    Attributes:
        number: Counts on from 1 and is never given twice.
        sha256: Of the whole key, in hexadecimal.
        models: Names in the registry, or ``*`` for all.
        requests_per_second: That it may send for long; None: as many as it likes.
        burst: Requests that it may send at once before that counts.
    """

    id: str = Field(pattern=r"^[0-9a-f]{8}$")
    number: int = Field(ge=1)
    name: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    models: tuple[str, ...] = (ANY,)
    scopes: tuple[Scope, ...] = (Scope.PREDICT,)
    requests_per_second: float | None = Field(None, gt=0)
    burst: int = Field(1, ge=1)
    created_at: AwareDatetime
    expires_at: AwareDatetime | None = None
    revoked_at: AwareDatetime | None = None

    def may(self, scope: Scope, model: str | None = None) -> bool:
        """Whether it may do this, of a model or of the server."""
        if scope not in self.scopes and Scope.ADMIN not in self.scopes:
            return False
        return model is None or ANY in self.models or model in self.models

    def dead(self, now: datetime) -> str | None:
        """Why it counts no more; None while it does."""
        if self.revoked_at is not None and self.revoked_at <= now:
            return f"was revoked at {self.revoked_at:%Y-%m-%d %H:%M} UTC"
        if self.expires_at is not None and self.expires_at <= now:
            return f"expired at {self.expires_at:%Y-%m-%d %H:%M} UTC"
        return None


class KeyFile(Frozen):
    """The content of the file of keys."""

    next_number: int = 1
    keys: tuple[Key, ...] = ()


class KeyRing:
    """The keys that count, as the file has them now. Safe to call from any thread.

    A file that cannot be read keeps the keys that were read last, and is said in the log: an editor's slip
    must not lock everybody out. A file that is gone leaves no key.

    Raises:
        SettingsError: the file cannot be read at the start.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = _stamp(path)
        self._keys = {key.id: key for key in read(path).keys}
        self._look_at = time.monotonic() + _LOOK_SECONDS

    def __len__(self) -> int:
        """Keys that count now."""
        now = datetime.now(UTC)
        return sum(key.dead(now) is None for key in self._keys.values())

    def find(self, text: str) -> Key:
        """The key of this text.

        Raises:
            UnauthenticatedError: it is none, or counts no more.
        """
        if time.monotonic() >= self._look_at:
            self._look()
        form = _FORM.fullmatch(text)
        if form is None:
            raise UnauthenticatedError("this is no API key; one is hr_, eight digits, _, and 43 characters")
        key = self._keys.get(form[1])
        digest = hashlib.sha256(text.encode()).hexdigest()
        # Compared in constant time, and also where no key has this id.
        known = hmac.compare_digest(digest, key.sha256 if key is not None else "0" * 64)
        if key is None or not known:
            raise UnauthenticatedError("this API key is not known here")
        if (key.expires_at or key.revoked_at) and (reason := key.dead(datetime.now(UTC))):
            raise UnauthenticatedError(f"the API key {key.id} ({key.name}) {reason}")
        return key

    def _look(self) -> None:
        """Read the file again where it changed. Of several threads that come at once, all may."""
        self._look_at = time.monotonic() + _LOOK_SECONDS
        stamp = _stamp(self._path)
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            self._keys = {key.id: key for key in read(self._path).keys}
        except SettingsError as error:
            log.error("the API keys that were read before go on to count: %s", error)
        else:
            log.info("%d API keys count, by %s", len(self), self._path)


def read(path: Path) -> KeyFile:
    """The file's content; without a file, no keys.

    Raises:
        SettingsError: it is broken, or others may write it.
    """
    try:
        content = path.read_bytes()
        mode = path.stat().st_mode
    except FileNotFoundError:
        return KeyFile()
    except OSError as error:
        raise SettingsError(f"cannot read the API keys in {path}: {error.strerror}") from error
    if mode & 0o022:
        raise SettingsError(f"{path} holds API keys, but others may write it: chmod 600 {path}")
    try:
        return KeyFile.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise SettingsError(
            f"{path} is no file of API keys: {place or 'content'}: {first['msg']}; `headrace keys new` writes one"
        ) from error


def new(
    path: Path,
    name: str,
    *,
    now: datetime,
    models: tuple[str, ...] = (ANY,),
    scopes: tuple[Scope, ...] = (Scope.PREDICT,),
    requests_per_second: float | None = None,
    burst: int | None = None,
    expires_at: datetime | None = None,
) -> tuple[Key, str]:
    """Make a key: what the file keeps of it, and its text, which is nowhere else.

    Args:
        burst: Default: what a second may bring.
    """
    with _changing(path) as (before, write):
        identity = secrets.token_hex(4)
        while any(key.id == identity for key in before.keys):
            identity = secrets.token_hex(4)
        text = f"hr_{identity}_{secrets.token_urlsafe(_SECRET_BYTES)}"
        key = Key(
            id=identity,
            number=before.next_number,
            name=name,
            sha256=hashlib.sha256(text.encode()).hexdigest(),
            models=models,
            scopes=scopes,
            requests_per_second=requests_per_second,
            burst=burst or max(1, round(requests_per_second or 1)),
            created_at=now,
            expires_at=expires_at,
        )
        write(KeyFile(next_number=before.next_number + 1, keys=(*before.keys, key)))
    return key, text


def revoke(path: Path, identity: str, now: datetime) -> Key:
    """Let a key count no more; servers know within a second. Revoking twice keeps the first time.

    Raises:
        SettingsError: there is no such key.
    """
    with _changing(path) as (before, write):
        found = next((key for key in before.keys if key.id == identity), None)
        if found is None:
            raise SettingsError(
                f"{path} has no API key {identity!r}; `headrace keys list` shows those that there are"
            )
        revoked = found if found.revoked_at else found.model_copy(update={"revoked_at": now})
        write(
            before.model_copy(update={"keys": tuple(revoked if key is found else key for key in before.keys)})
        )
    return revoked


@contextlib.contextmanager
def _changing(path: Path) -> Iterator[tuple[KeyFile, _Write]]:
    """The content, and how to replace it: whole or not at all, one process at a time."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield read(path), _Write(path)


class _Write:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, content: KeyFile) -> None:
        part = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(content.model_dump_json(indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        part.replace(self._path)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
