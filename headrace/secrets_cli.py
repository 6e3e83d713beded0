"""`headrace secrets`: the secrets of a whole set-up, made once, one a file, as Docker and Kubernetes mount them."""

from __future__ import annotations

import os
import secrets as random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

COMPONENTS = ("pipeline", "mlflow", "serving", "exporter", "backup")
"""Who has a user of its own in the object store, with the rights of ``headrace/buckets.py``."""

_DATABASES = {
    "airflow": "headrace_airflow_database_url",
    "mlflow": "headrace_mlflow_database_url",
    "features": "headrace_feature_registry_url",
    "tuning": "headrace_tuning_url",
}


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("secrets")(secrets)


def secrets(
    folder: Annotated[Path, typer.Argument(help="Where they go; what is there already is left as it is.")],
    postgres: Annotated[str, typer.Option(help="Host and port of PostgreSQL.")] = "postgres:5432",
    redis: Annotated[str, typer.Option(help="Host and port of Redis.")] = "redis:6379",
    owner: Annotated[
        int | None, typer.Option(help="User id that the processes run as; the files become this user's.")
    ] = None,
) -> None:
    """Make all passwords and keys of a set-up with PostgreSQL, Redis and S3 (docs/production.md)."""
    from headrace.display import messages

    made = make(folder, postgres, redis)
    if owner is not None:
        for path in (folder, *folder.iterdir()):
            os.chown(path, owner, owner)
    kept = len(list(folder.glob("[!.]*"))) - made
    messages().print(
        f"{made} files made in {folder}, {kept} left as they were. Keep a copy where the backups are not."
    )


def make(folder: Path, postgres: str, redis: str) -> int:
    """Write what is missing; returns how many files that were."""
    from datetime import UTC, datetime

    from headrace.credentials import credentials
    from pipelines.adapters.signing import Signer
    from pipelines.settings import load_settings
    from serving import keys

    folder = folder.expanduser().resolve()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    before = len(list(folder.glob("[!.]*")))
    with tempfile.TemporaryDirectory(prefix="headrace-") as home:
        settings = load_settings({}, home=home, secrets_folder=folder, environment="development")
        credentials(settings)
        Signer.of(settings)
    _once(folder / "headrace_webhook_secret", _password)
    _once(folder / "postgres_password", _password)
    for name, setting in _DATABASES.items():
        word = _once(folder / f"postgres_{name}_password", _password)
        _once(folder / setting, _constant(f"postgresql://headrace_{name}:{word}@{postgres}/headrace_{name}"))
    word = _once(folder / "redis_password", _password)
    # Memory that is full loses nothing of the queue: writes are refused instead.
    _once(
        folder / "redis.conf", _constant(f"requirepass {word}\nappendonly yes\nmaxmemory-policy noeviction")
    )
    _once(folder / "headrace_online_store_url", _constant(f"redis://:{word}@{redis}/0"))
    _once(folder / "headrace_airflow_broker_url", _constant(f"redis://:{word}@{redis}/1"))
    for name in ("root", *COMPONENTS):
        _once(folder / f"s3_{name}_access_key_id", _constant(f"headrace-{name}"))
        _once(folder / f"s3_{name}_secret_access_key", _password)
    _once(folder / "grafana_admin_password", _password)
    ring = folder / "serving_keys.json"
    for name, file, scopes in (
        ("prometheus", "serving_observe_key", (keys.Scope.OBSERVE,)),
        ("headrace", "headrace_serving_api_key", (keys.Scope.PREDICT, keys.Scope.OBSERVE, keys.Scope.ADMIN)),
    ):
        if not (folder / file).exists():
            _once(folder / file, _constant(keys.new(ring, name, now=datetime.now(UTC), scopes=scopes)[1]))
    return len(list(folder.glob("[!.]*"))) - before


def _once(path: Path, text: Callable[[], str]) -> str:
    if not path.exists():
        part = path.with_name(f".{path.name}.{os.getpid()}")
        part.touch(mode=0o600)
        part.write_text(f"{text()}\n", "utf-8")
        part.replace(path)
    return path.read_text("utf-8").strip()


def _password() -> str:
    return random.token_urlsafe(24)


def _constant(text: str) -> Callable[[], str]:
    return lambda: text
