"""Dump a database while it is used, and load it into an empty one: SQLite and PostgreSQL."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipelines.errors import BackupError

_SQLITE = "sqlite:///"


def is_file(url: str) -> bool:
    """Whether the database is a file of this machine: else another server's."""
    return url.startswith(_SQLITE)


def dump(url: str, folder: Path, name: str) -> Path | None:
    """Write a copy, consistent in itself; None where there is no such database yet.

    Raises:
        BackupError: it cannot be read, or the tool for it is missing.
    """
    if is_file(url):
        source = Path(url.removeprefix(_SQLITE))
        return _copy(source, folder / f"{name}.db") if source.exists() else None
    target = folder / f"{name}.pgdump"
    _postgres("pg_dump", url, "--format=custom", "--no-owner", "--no-privileges", f"--file={target}")
    return target


def load(url: str, path: Path) -> None:
    """Fill an empty database.

    Raises:
        BackupError: the database is not empty, is of another kind than the copy, or cannot be written.
    """
    kind = ".db" if is_file(url) else ".pgdump"
    if path.suffix != kind:
        raise BackupError(
            f"{path.name} is of another kind of database than {_shown(url)}: set what was set when it was saved"
        )
    if is_file(url):
        target = Path(url.removeprefix(_SQLITE))
        if target.exists():
            raise BackupError(f"{target} is there already: restore into an empty home")
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy(path, target)
        return
    if tables := _tables(url):
        raise BackupError(f"{_shown(url)} has {tables} tables already: restore into an empty database")
    _postgres(
        "pg_restore",
        url,
        "--no-owner",
        "--no-privileges",
        "--exit-on-error",
        "--single-transaction",
        str(path),
    )


def _copy(source: Path, target: Path) -> Path:
    """By SQLite's own online backup: a copy of the file would miss what its log holds."""
    try:
        with (
            sqlite3.connect(f"file:{source}?mode=ro", uri=True, timeout=60) as reader,
            sqlite3.connect(target) as writer,
        ):
            reader.backup(writer)
    except sqlite3.Error as error:
        raise BackupError(f"{source} cannot be copied to {target}: {error}") from error
    return target


def _tables(url: str) -> int:
    import psycopg2

    try:
        connection = psycopg2.connect(_plain(url))
    except psycopg2.OperationalError as error:
        raise BackupError(f"{_shown(url)} cannot be reached: {str(error).strip()}") from error
    try:
        cursor = connection.cursor()
        cursor.execute("SELECT count(*) FROM pg_tables WHERE schemaname = ANY (current_schemas(false))")
        return int(cursor.fetchone()[0])
    finally:
        connection.close()


def _postgres(tool: str, url: str, *arguments: str) -> None:
    program = shutil.which(tool)
    if program is None:
        raise BackupError(
            f"{tool} is not installed, and {_shown(url)} needs it: apt-get install postgresql-client"
        )
    parts = urlsplit(_plain(url))
    # By variables: arguments show in `ps`.
    connection = {
        "PGHOST": parts.hostname or "",
        "PGPORT": str(parts.port or 5432),
        "PGUSER": unquote(parts.username or ""),
        "PGPASSWORD": unquote(parts.password or ""),
        "PGDATABASE": parts.path.strip("/"),
    }
    target = () if tool == "pg_dump" else ("--dbname", connection["PGDATABASE"])
    done = subprocess.run(
        [program, *target, *arguments],
        env=os.environ | {name: value for name, value in connection.items() if value},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BackupError(f"{tool} of {_shown(url)} failed: {done.stderr.strip()}")


def _plain(url: str) -> str:
    """Without SQLAlchemy's name of the driver."""
    scheme, _, rest = url.partition("://")
    return f"{scheme.partition('+')[0]}://{rest}"


def _shown(url: str) -> str:
    parts = urlsplit(_plain(url))
    return f"{parts.hostname}:{parts.port or 5432}{parts.path}" if parts.hostname else url
