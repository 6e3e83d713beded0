"""Secrets of the processes: generated once under ``$HEADRACE_HOME/secrets``, readable by the owner alone.

In production they are given, in that folder or in the one that ``HEADRACE_SECRETS_FOLDER`` names, and only read.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipelines.settings import Settings

AIRFLOW_USER = "admin"


@dataclass(frozen=True)
class AirflowCredentials:
    """What the parts of Airflow share with each other, and the login of its pages."""

    airflow_password: str
    airflow_password_file: Path  # in the form of Airflow's SimpleAuthManager: {"admin": "…"}
    airflow_jwt_secret: str
    airflow_fernet_key: str
    airflow_session_secret: str


@dataclass(frozen=True)
class Credentials(AirflowCredentials):
    """What all the local processes share."""

    mlflow_webhook_key: str


def credentials(settings: Settings) -> Credentials:
    """The secrets of this home; those that are missing are generated.

    Raises:
        SettingsError: in production a secret is missing: there they are given, never generated.
    """
    return Credentials(**vars(airflow_credentials(settings)), mlflow_webhook_key=mlflow_webhook_key(settings))


def airflow_credentials(settings: Settings) -> AirflowCredentials:
    """As :func:`credentials`, for Airflow alone."""
    return AirflowCredentials(
        airflow_password=airflow_password(settings),
        airflow_password_file=_writable(settings, settings.secrets / "airflow_passwords.json"),
        airflow_jwt_secret=_secret(settings, "airflow_jwt_secret", _token),
        airflow_fernet_key=_secret(settings, "airflow_fernet_key", _fernet_key),
        airflow_session_secret=_secret(settings, "airflow_session_secret", _token),
    )


def _writable(settings: Settings, path: Path) -> Path:
    """Airflow opens the file to write, if only to lock it, and mounted secrets can only be read: a copy in the home."""
    if settings.secrets_folder is None:
        return path
    copy = settings.home / "airflow" / path.name
    copy.parent.mkdir(parents=True, exist_ok=True)
    part = copy.with_name(f".{copy.name}.{os.getpid()}")
    part.touch(mode=0o600)
    part.write_bytes(path.read_bytes())
    part.replace(copy)
    return copy


def airflow_password(settings: Settings) -> str:
    """As :func:`credentials`, the login of Airflow's pages alone."""
    passwords: dict[str, str] = json.loads(_secret(settings, "airflow_passwords.json", _password_file))
    return passwords[AIRFLOW_USER]


def mlflow_webhook_key(settings: Settings) -> str:
    """As :func:`credentials`, for MLflow alone."""
    return _secret(settings, "mlflow_webhook_key", _fernet_key)


def _secret(settings: Settings, name: str, make: Callable[[], str]) -> str:
    folder = settings.secrets
    if settings.secrets_folder is None:  # another one is somebody else's, and perhaps mounted to be read only
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    return _read_or_make(folder / name, make if settings.environment == "development" else None)


def _read_or_make(path: Path, make: Callable[[], str] | None) -> str:
    if not path.exists():
        if make is None:
            raise SettingsError(
                f"{path} is missing, and HEADRACE_ENVIRONMENT=production refuses generated secrets: "
                "write the secret into that file, mode 0600 (docs/operations.md says what each one is)"
            )
        # Written aside and linked: two processes that start at once agree on the first one's.
        part = path.with_name(f".{path.name}.{os.getpid()}")
        part.touch(mode=0o600)
        part.write_text(make(), "utf-8")
        try:
            os.link(part, path)
        except FileExistsError:
            pass  # the other process was first, and its secret counts
        finally:
            part.unlink()
    return path.read_text("utf-8").strip()


def _password_file() -> str:
    # Letters and digits that cannot be mistaken for one another: people type it.
    alphabet = "abcdefghkmnpqrstuvwxyzABCDEFGHKMNPQRSTUVWXYZ23456789"
    return json.dumps({AIRFLOW_USER: "".join(secrets.choice(alphabet) for _ in range(16))})


def _token() -> str:
    return secrets.token_urlsafe(48)


def _fernet_key() -> str:
    return base64.urlsafe_b64encode(os.urandom(32)).decode()
