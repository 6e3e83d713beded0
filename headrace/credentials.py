"""Secrets of the local processes: generated once under ``$HEADRACE_HOME/secrets``, readable by the owner alone."""

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
class Credentials:
    """What the local processes share with each other, and the login of Airflow's pages."""

    airflow_password: str
    airflow_password_file: Path  # in the form of Airflow's SimpleAuthManager: {"admin": "…"}
    airflow_jwt_secret: str
    airflow_fernet_key: str
    airflow_session_secret: str
    mlflow_webhook_key: str


def credentials(settings: Settings) -> Credentials:
    """The secrets of this home; those that are missing are generated.

    Raises:
        SettingsError: in production a secret is missing: there they are given, never generated.
    """
    folder = settings.home / "secrets"
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    generate = settings.environment == "development"

    def secret(name: str, make: Callable[[], str]) -> str:
        return _read_or_make(folder / name, make if generate else None)

    passwords = json.loads(secret("airflow_passwords.json", _password_file))
    return Credentials(
        airflow_password=passwords[AIRFLOW_USER],
        airflow_password_file=folder / "airflow_passwords.json",
        airflow_jwt_secret=secret("airflow_jwt_secret", _token),
        airflow_fernet_key=secret("airflow_fernet_key", _fernet_key),
        airflow_session_secret=secret("airflow_session_secret", _token),
        mlflow_webhook_key=secret("mlflow_webhook_key", _fernet_key),
    )


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
