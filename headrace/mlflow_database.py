"""Bring MLflow's database to the installed version: ``python -m headrace.mlflow_database``.

The address comes from ``MLFLOW_BACKEND_STORE_URI``, where no ``ps`` shows its password. Where many
start at once on PostgreSQL, one works and the others wait.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

_LOCK = 0x48EAD5AC3  # any number that no other program takes for its advisory lock


def main() -> None:
    """Make the tables of an empty database, or upgrade those that are there."""
    from mlflow.db import upgrade
    from sqlalchemy import create_engine

    url = os.environ["MLFLOW_BACKEND_STORE_URI"]
    with _alone(create_engine(url)):
        upgrade.callback(url)


@contextmanager
def _alone(engine: Engine) -> Iterator[None]:
    from sqlalchemy import text

    if engine.dialect.name != "postgresql":
        yield
        return
    with engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _LOCK})
        yield  # the end of the connection is that of the lock


if __name__ == "__main__":
    main()
