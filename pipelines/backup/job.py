"""backup: one folder from which an empty home, and empty databases, become what they were.

What is far larger than all the rest, and is kept safe where it is, goes by reference: a lake and artifacts in
S3, with the versions of the tables. On a disk they are copied. The order is that of references: databases
before the artifacts that they name, logs of tables before the files that they list; so what is copied
later has everything that was named before, though all is in use meanwhile.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, ValidationError

from pipelines.backup import databases
from pipelines.errors import BackupError
from pipelines.references import Reference

if TYPE_CHECKING:
    from pipelines.settings import Settings

FORMAT = 1
MANIFEST = "backup.json"

# Of the home: what no database holds and what cannot be made anew.
_KEPT = (
    "tuning",
    "labels",
    "reports",
    "data_docs",
    "evidently",
    "prediction_spool",
    "label_spool",
    "regimes",
)
_PUBLIC = ("signing_key.pub",)

Told = Callable[[str], None]


class Backup(Reference):
    """What a backup holds, as its manifest says.

    Attributes:
        files: SHA-256 of each file, by its path in the folder.
        lake: Where it was; ``copied`` tells whether it lies in the folder too.
        tables: Version of each table of the lake.
        secrets: Whether the private keys and passwords are in it.
    """

    format: int = FORMAT
    at: datetime
    headrace: str
    lake: str
    lake_copied: bool
    artifacts: str
    artifacts_copied: bool
    tables: dict[str, int]
    secrets: bool
    files: dict[str, str] = Field(default_factory=dict)


def save(
    folder: Path, settings: Settings, at: datetime, *, with_secrets: bool = False, told: Told = lambda _: None
) -> Backup:
    """Write a backup into a new folder; all may go on running.

    Args:
        at: The time now, UTC.
        with_secrets: Also the private keys and passwords: whoever has the folder then has everything.

    Raises:
        BackupError: the folder is there already, or something cannot be read.
    """
    from pipelines.adapters.tracking import code_version

    if folder.exists():
        raise BackupError(f"{folder} is there already: name a new folder, so that no older backup is lost")
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
    part.mkdir(parents=True, mode=0o700)
    for name, url in _databases(settings).items():
        told(f"database {name}")
        databases.dump(url, part, name)
    told("tables of the lake")
    tables = _versions(settings)
    lake_copied, artifacts_copied = _is_local(settings.lake), _is_local(settings.mlflow_artifacts)
    if lake_copied:
        _copy_lake(Path(settings.lake), part / "lake")
    if artifacts_copied:
        told("artifacts")
        _copy_tree(Path(settings.mlflow_artifacts), part / "artifacts")
    told("home")
    for name in _KEPT:
        _copy_tree(settings.home / name, part / "home" / name)
    for name in _secret_names(settings) if with_secrets else _PUBLIC:
        _copy_file(settings.secrets / name, part / "home" / "secrets" / name)
    _copy_file(settings.home / "settings.env", part / "home" / "settings.env")
    backup = Backup(
        at=at,
        headrace=code_version(),
        lake=settings.lake,
        lake_copied=lake_copied,
        artifacts=settings.mlflow_artifacts,
        artifacts_copied=artifacts_copied,
        tables=tables,
        secrets=with_secrets,
        files={str(path.relative_to(part)): _sha256(path) for path in _files(part)},
    )
    (part / MANIFEST).write_text(backup.model_dump_json(indent=2), "utf-8")
    part.rename(folder)  # whole, or not there
    return backup


def restore(folder: Path, settings: Settings, told: Told = lambda _: None) -> Backup:
    """Fill an empty home, and empty databases, from a backup. Nothing of the home may run.

    Raises:
        BackupError: the backup is not whole, the home or a database is not empty, or the lake that the backup
            refers to does not have its tables.
    """
    backup = read(folder)
    told("checksums")
    for name, wanted in backup.files.items():
        if not (folder / name).is_file() or _sha256(folder / name) != wanted:
            raise BackupError(f"{folder / name} is missing or was changed: this backup cannot be trusted")
    occupied = sorted(
        path.name for path in settings.home.glob("*") if path.name not in {"secrets", "settings.env"}
    )
    if occupied:
        raise BackupError(
            f"{settings.home} is not empty ({', '.join(occupied[:5])} …): name another HEADRACE_HOME"
        )
    _same_places(backup, settings)
    found = {
        name: folder / f"{name}{kind}"
        for name in _databases(settings)
        for kind in (".db", ".pgdump")
        if (folder / f"{name}{kind}").exists()
    }
    for name, path in found.items():
        told(f"database {name}")
        databases.load(_databases(settings)[name], path)
    if backup.lake_copied:
        told("tables of the lake")
        _copy_tree(folder / "lake", Path(settings.lake))
    if backup.artifacts_copied:
        told("artifacts")
        _copy_tree(folder / "artifacts", Path(settings.mlflow_artifacts))
    told("home")
    _copy_tree(folder / "home", settings.home)
    (settings.home / "secrets").mkdir(exist_ok=True)
    (settings.home / "secrets").chmod(0o700)
    return _checked(backup, settings)


def read(folder: Path) -> Backup:
    """The manifest.

    Raises:
        BackupError: there is none, or it is another version's.
    """
    try:
        content = json.loads((folder / MANIFEST).read_text("utf-8"))
        if content.get("format") != FORMAT:
            raise BackupError(
                f"{folder} is of format {content.get('format')}, and this version reads {FORMAT}"
            )
        return Backup.model_validate(content)
    except (OSError, ValueError, ValidationError) as error:
        raise BackupError(f"{folder} is no backup: {error}") from error


def _databases(settings: Settings) -> Mapping[str, str]:
    """By name; an online store in Redis is made anew from the lake, and a journal of tuning is a file of the home.

    A part whose address is set runs elsewhere, and its database is not ours unless it is named too.
    """
    here = (
        settings.airflow_database_url or not settings.airflow_url,
        settings.mlflow_database_url or not settings.tracking_url,
    )
    found = {
        "airflow": settings.airflow_database if here[0] else "",
        "mlflow": settings.mlflow_database if here[1] else "",
        "features": settings.feature_registry,
        "online": settings.online_store,
        "tuning": settings.tuning,
    }
    return {name: url for name, url in found.items() if url.startswith(("sqlite:", "postgresql"))}


def _versions(settings: Settings) -> dict[str, int]:
    from pipelines.adapters.lake import Lake

    lake = Lake.of(settings)
    return {table: lake.version(table) for table in _tables(settings)}


def _tables(settings: Settings) -> list[str]:
    """Paths of the lake's tables: folders with a log."""
    mark = "_delta_log"
    if _is_local(settings.lake):
        root = Path(settings.lake)
        return sorted(str(path.parent.relative_to(root)) for path in root.rglob(mark))
    from urllib.parse import urlsplit

    from pipelines.adapters.object_store import ObjectStore

    prefix = urlsplit(settings.lake).path.strip("/")
    keys = ObjectStore.from_storage_options(settings.s3_storage_options).keys(settings.lake)
    return sorted(
        {key.removeprefix(f"{prefix}/").partition(f"/{mark}/")[0] for key in keys if f"/{mark}/" in key}
    )


def _same_places(backup: Backup, settings: Settings) -> None:
    """What is not in the folder must be where it was."""
    for what, copied, there, here in (
        ("lake", backup.lake_copied, backup.lake, settings.lake),
        ("artifacts", backup.artifacts_copied, backup.artifacts, settings.mlflow_artifacts),
    ):
        if copied != _is_local(here):
            raise BackupError(
                f"the backup's {what} was {there}, and the settings say {here}: set what was set then"
            )
        if copied and Path(here).exists() and any(Path(here).iterdir()):
            raise BackupError(f"{here} is not empty: restore into an empty home")
        if not copied and there != here:
            raise BackupError(f"the backup refers to the {what} {there}, and the settings say {here}")


def _checked(backup: Backup, settings: Settings) -> Backup:
    from pipelines.adapters.lake import Lake
    from pipelines.errors import LakeError

    lake = Lake.of(settings)
    for table, version in backup.tables.items():
        try:
            lake.scan(table, version).limit(1).collect()
        except (LakeError, OSError) as error:
            raise BackupError(
                f"{table} version {version}, which the backup refers to, cannot be read: {error}"
            ) from error
    return backup


def _is_local(address: str) -> bool:
    return "://" not in address


def _secret_names(settings: Settings) -> Iterator[str]:
    yield from (path.name for path in sorted(settings.secrets.glob("[!.]*")) if path.is_file())


def _copy_lake(source: Path, target: Path) -> None:
    """The logs first: each file that they list is there when its turn comes, for nothing that is in use is removed."""
    if not source.is_dir():
        return
    for log in sorted(source.rglob("_delta_log")):
        _copy_tree(log, target / log.relative_to(source))
    for path in _files(source):
        if "_delta_log" not in path.parts and not path.name.endswith(".part"):
            _copy_file(path, target / path.relative_to(source))


def _copy_tree(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(
            source,
            target,
            symlinks=True,
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns("*.lock", "*.part"),
        )


def _copy_file(source: Path, target: Path) -> None:
    if source.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)


def _files(folder: Path) -> Iterator[Path]:
    yield from (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
