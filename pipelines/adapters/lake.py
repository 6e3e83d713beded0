"""The lake: Delta tables in a local folder or an S3 bucket, with exactly-once appends.

Each append names the work that it stands for (a *transaction identifier*, Delta protocol, action
``txn``). Rows and identifiers enter the table in one atomic commit, so work that is done again
after a crash finds its own identifier and adds nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pipelines.errors import LakeConflictError, LakeError
from pipelines.references import TableRef

if TYPE_CHECKING:
    import polars as pl
    from deltalake import CommitProperties, DeltaTable, WriterProperties

    from pipelines.adapters.object_store import ObjectStore
    from pipelines.settings import Settings

_CONFLICT_RETRIES = 8
# A version is read as long as its files are kept, however old its log entries are; the default would
# drop those after 30 days, with the versions that registered models were trained on.
LOG_KEPT = {"delta.enableExpiredLogCleanup": "false"}

BUCKETS = "headrace.entityBuckets"


class StoredObject(NamedTuple):
    """An object of the lake: path below it, when it was written (UTC), bytes."""

    path: str
    modified: datetime
    size: int


class Lake:
    """Tables below one address. Table names are paths: ``raw/simulated/telemetry``."""

    def __init__(self, url: str, storage_options: Mapping[str, str] | None = None) -> None:
        self.url = url.rstrip("/")
        self._options = dict(storage_options or {})

    @classmethod
    def of(cls, settings: Settings) -> Lake:
        return cls(settings.lake, settings.s3_storage_options)

    def address(self, table: str) -> str:
        return f"{self.url}/{table}"

    def exists(self, table: str) -> bool:
        from deltalake import DeltaTable

        return bool(DeltaTable.is_deltatable(self.address(table), self._options))

    def version(self, table: str) -> int:
        """Newest version of the table.

        Raises:
            LakeError: there is no such table.
        """
        return int(self.open(table).version())

    def done(self, table: str, work: Iterable[str], version: int | None = None) -> set[str]:
        """Which of these pieces of work the table already holds, or held at a version."""
        if not self.exists(table):
            return set()
        handle = self.open(table, version)
        return {name for name in work if handle.transaction_version(name) is not None}

    def append(
        self,
        table: str,
        rows: pl.DataFrame,
        *,
        work: Iterable[str],
        partition_by: str | Sequence[str] | None = None,
    ) -> TableRef:
        """Add rows once for the named work.

        Args:
            table: Path of the table; it is made with the schema of ``rows`` where it is missing.
            rows: The rows; their schema must be the table's, new columns are added to the table.
            work: What these rows stand for, e.g. ``["ingest:2026-01-01T00:00Z"]``. All of it is
                recorded with the rows in one commit.
            partition_by: Column, or columns, by which files are apart; on creation.

        Returns:
            The version that holds the rows, with ``rows_added=0`` where all of the work was there.

        Raises:
            LakeError: a part of the work was already there and another was not, so that the rows
                cannot be added without doubling some; or the table cannot be written.
        """
        names = list(work)
        if not names:
            raise LakeError(f"an append to {table} must name its work, or a rerun would double it")
        self.create(table, rows, partition_by=partition_by)
        from deltalake import write_deltalake
        from deltalake.exceptions import CommitFailedError

        for _ in range(_CONFLICT_RETRIES):
            handle = self.open(table)
            if self._is_done(handle, table, names):
                return TableRef(table=table, version=handle.version())
            try:
                # The handle pins the version that was looked at: a second writer of the same
                # work fails at the commit instead of adding its rows.
                write_deltalake(
                    handle, rows, mode="append", schema_mode="merge", commit_properties=_named(names)
                )
            except CommitFailedError:
                continue
            return TableRef(table=table, version=handle.version(), rows_added=rows.height)
        raise LakeConflictError(
            f"{table}: {_CONFLICT_RETRIES} commits in a row met another writer; try again later"
        )

    def replace(
        self,
        table: str,
        rows: pl.DataFrame,
        *,
        where: str,
        work: Iterable[str] = (),
        version: int | None = None,
        partition_by: str | Sequence[str] | None = None,
        plain_numbers: bool = False,
    ) -> TableRef:
        """Put ``rows`` in the place of those that match ``where``, in one commit.

        Args:
            where: SQL predicate over partition columns, e.g. ``day >= '2026-01-01'``. Each of
                ``rows`` must match it.
            work: What these rows stand for, recorded in the same commit as by :meth:`append`.
            version: Version of the table that was the newest before ``rows`` were computed; so no
                writer puts rows of older input over rows of newer input. None: the rows are right
                whatever others have written.
            plain_numbers: Rows are wide and nearly all numbers that do not repeat: dictionaries
                and statistics of columns would cost more than they save.

        Returns:
            The version that holds the rows, with ``rows_added=0`` where all of the work was there.

        Raises:
            LakeConflictError: since ``version``, another writer changed rows that match.
            LakeError: a part of the work was already there and another was not.
        """
        from deltalake import write_deltalake
        from deltalake.exceptions import CommitFailedError

        names = list(work)
        self.create(table, rows, partition_by=partition_by)
        for _ in range(_CONFLICT_RETRIES if version is None else 1):
            handle = self.open(table, version)
            if names and self._is_done(handle, table, names):
                return TableRef(table=table, version=handle.version())
            try:
                write_deltalake(
                    handle,
                    rows,
                    mode="overwrite",
                    predicate=where,
                    schema_mode="merge",
                    commit_properties=_named(names),
                    writer_properties=_plain() if plain_numbers else None,
                )
            except CommitFailedError:
                continue
            return TableRef(table=table, version=handle.version(), rows_added=rows.height)
        raise LakeConflictError(f"{table}: another writer changed rows with {where}; compute them anew")

    def scan(self, table: str, version: int | None = None) -> pl.LazyFrame:
        """Lazy frame over one version of a table; ``None`` is the newest.

        Raises:
            LakeError: there is no such table or version.
        """
        import polars as pl

        return pl.scan_delta(self.open(table, version))

    def write_object(self, path: str, content: bytes) -> str:
        """Store an immutable object under a path of its own hash or name; returns its address."""
        import fsspec

        if self.url.startswith("s3://"):
            return self._objects().write(self.address(path), content)
        target = self.address(path)
        with fsspec.open(
            f"{target}.{hashlib.sha256(content).hexdigest()[:8]}.part", "wb", auto_mkdir=True
        ) as part:
            part.write(content)
        # A rename is atomic: a reader sees the whole object or none.
        fsspec.filesystem("file").mv(part.name, target)
        return target

    def read_object(self, url: str) -> bytes:
        """Bytes of an object that :meth:`write_object` stored.

        Raises:
            LakeError: there is no such object.
        """
        if url.startswith("s3://"):
            return self._objects().read(url)
        try:
            with open(url, "rb") as file:
                return file.read()
        except FileNotFoundError as error:
            raise LakeError(f"no object at {url}") from error

    def buckets(self, table: str, otherwise: int = 1) -> int:
        """In how many buckets of entities a table is kept; ``otherwise``: where there is no table yet."""
        if not self.exists(table):
            return otherwise
        return int(self.open(table).metadata().configuration.get(BUCKETS, 1))

    def create(
        self,
        table: str,
        rows: pl.DataFrame,
        *,
        partition_by: str | Sequence[str] | None = None,
        buckets: int = 1,
    ) -> None:
        """Make an empty table with the schema of ``rows``, where there is none of that name."""
        if self.exists(table):
            return
        from deltalake import DeltaTable
        from deltalake.exceptions import CommitFailedError

        try:
            DeltaTable.create(
                self.address(table),
                schema=rows.head(0).to_arrow().schema,
                mode="ignore",
                partition_by=partition_by
                if partition_by is None or isinstance(partition_by, str)
                else [*partition_by],
                configuration=LOG_KEPT | ({BUCKETS: str(buckets)} if buckets > 1 else {}),
                raise_if_key_not_exists=False,
                storage_options=self._options or None,
            )
        except CommitFailedError:
            if not self.exists(table):  # else another writer made it just now
                raise

    def _is_done(self, handle: DeltaTable, table: str, names: list[str]) -> bool:
        present = {name for name in names if handle.transaction_version(name) is not None}
        if present and len(present) < len(names):
            raise LakeError(f"{table} holds {sorted(present)} but not all of {names}: write them apart")
        return bool(present)

    def open(self, table: str, version: int | None = None) -> DeltaTable:
        """One version of a table; ``None`` is the newest.

        Raises:
            LakeError: there is no such table or version.
        """
        from deltalake.exceptions import DeltaError, TableNotFoundError

        from feature_repo.delta import ReadableDeltaTable

        options = self._options or None
        try:
            return ReadableDeltaTable(self.address(table), version=version, storage_options=options)
        except TableNotFoundError as error:
            raise LakeError(f"no table {table} in {self.url}: has its stage run?") from error
        except DeltaError as error:
            if version is None:
                raise LakeError(f"cannot open {table} in {self.url}: {error}") from error
            newest = self.version(table)
            if version > newest:
                raise LakeError(
                    f"{table} has no version {version}: its newest is {newest}; name one of 0 to {newest}"
                ) from error
            raise LakeError(
                f"version {version} of {table} is not kept any more (the newest is {newest}): housekeeping removed it, "
                f"or its log is damaged: {error}"
            ) from error

    def tables(self, below: str = "") -> list[str]:
        """Paths of all tables below a path, in order."""
        found: list[str] = []
        folders = self._folders(below)
        if "_delta_log" in folders:
            return [below]
        for name in folders:
            found += self.tables(f"{below}/{name}" if below else name)
        return found

    def objects(self, below: str) -> list[StoredObject]:
        """Objects below a path that is no table, in order of their paths."""
        if self.url.startswith("s3://"):
            found = self._objects().list(self.address(below))
            return [
                StoredObject(url[len(self.url) + 1 :], modified, size)
                for url, modified, size in sorted(found)
            ]
        root = Path(self.url)
        files = sorted(path for path in (root / below).rglob("*") if path.is_file())
        return [
            StoredObject(
                path.relative_to(root).as_posix(),
                datetime.fromtimestamp(path.stat().st_mtime, UTC),
                path.stat().st_size,
            )
            for path in files
        ]

    def delete_object(self, path: str) -> None:
        """Remove an object; no error where there is none."""
        if self.url.startswith("s3://"):
            self._objects().delete(self.address(path))
            return
        target = Path(self.address(path))
        target.unlink(missing_ok=True)
        # Folders are no objects: one that became empty goes as well.
        with contextlib.suppress(OSError):
            target.parent.rmdir()

    def _folders(self, below: str) -> list[str]:
        if self.url.startswith("s3://"):
            return list(self._objects().folders(self.address(below)))
        folder = Path(self.url) / below
        return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []

    def _objects(self) -> ObjectStore:
        from pipelines.adapters.object_store import ObjectStore

        return ObjectStore.from_storage_options(self._options)


def _named(work: list[str]) -> CommitProperties:
    from deltalake import CommitProperties, Transaction

    return CommitProperties(app_transactions=[Transaction(name, 1) for name in work])


def _plain() -> WriterProperties:
    from deltalake import ColumnProperties, WriterProperties

    columns = ColumnProperties(dictionary_enabled=False, statistics_enabled="NONE")
    return WriterProperties(compression="LZ4_RAW", default_column_properties=columns)
