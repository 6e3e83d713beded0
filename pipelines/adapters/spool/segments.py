"""Where segments lie: ``<spool>/<replica>/<stream>/<number>.open`` or ``<number>-<rows>.closed``.

A *stream* is the folder of one server process, held by a file lock for as long as it lives, so
that whoever comes later can tell what a killed process left behind. Segments only grow, and are
renamed when they are full; then they belong to the shipper.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from pipelines.adapters.spool.records import MAGIC

_LOCK = "lock"
_STARTING = ".starting-"
_CLOSED = re.compile(r"(\d{8})-(\d+)\.closed")
DAMAGED = "damaged"
_OPEN = re.compile(r"(\d{8})\.open")


class Segment(NamedTuple):
    """A file of records.

    Attributes:
        stream: ``<replica>/<stream>``.
        rows: Of a closed one; None where that is not known.
    """

    path: Path
    stream: str
    number: int
    rows: int | None

    @property
    def replica(self) -> str:
        return self.stream.partition("/")[0]

    @property
    def work(self) -> str:
        """What shipping it is called in the lake; never used again."""
        return f"predictions:{self.stream}/{self.number:08d}"


class Stream:
    """The folder of this process. Not safe to call from several threads."""

    def __init__(self, replica: Path) -> None:
        """Make the folder and hold it.

        Raises:
            OSError: the disk does not take it.
        """
        replica.mkdir(parents=True, exist_ok=True)
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{os.getpid()}-{secrets.token_hex(4)}"
        starting = replica / f"{_STARTING}{name}"
        starting.mkdir()
        self._lock = os.open(starting / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        # Held before it can be seen: nobody finds a folder that looks like a dead process's.
        self.folder = replica / name
        starting.rename(self.folder)
        self._number = 0

    def open_segment(self) -> OpenSegment:
        self._number += 1
        return OpenSegment(self.folder, self._number)

    def release(self) -> None:
        """Let the shipper have the folder."""
        os.close(self._lock)


class OpenSegment:
    """A segment that grows. A failed write leaves it as it was before."""

    def __init__(self, folder: Path, number: int) -> None:
        self._folder = folder
        self._number = number
        self._path = folder / f"{number:08d}.open"
        self._file = os.open(
            self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o640
        )
        self.size = 0
        self.rows = 0
        self.begun = time.monotonic()
        self.synced = True
        try:
            self.write(MAGIC, 0)
        except OSError:
            self.abandon()
            raise

    def write(self, content: bytes, rows: int) -> None:
        """Append frames.

        Raises:
            OSError: the disk does not take them; none of them is in the file then.
        """
        view = memoryview(content)
        try:
            while view:
                view = view[os.write(self._file, view) :]
        except OSError:
            os.ftruncate(self._file, self.size)
            raise
        self.size += len(content)
        self.rows += rows
        self.synced = False

    def sync(self) -> None:
        """Have the disk hold all that was written."""
        os.fdatasync(self._file)
        self.synced = True

    def close(self) -> None:
        """Hand the segment to the shipper."""
        self.sync()
        os.close(self._file)
        self._path.rename(self._folder / f"{self._number:08d}-{self.rows}.closed")
        sync_folder(self._folder)

    def abandon(self) -> None:
        """Give up after a failed write. What is in the file stays for the shipper; an empty file goes."""
        os.close(self._file)
        if self.rows:
            self._path.rename(self._folder / f"{self._number:08d}-{self.rows}.closed")
        else:
            self._path.unlink()


def sync_folder(folder: Path) -> None:
    """Have the disk hold the names in a folder."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@dataclass(frozen=True)
class Found:
    """Segments of one stream.

    Attributes:
        alive: Whether its process still writes; its open segment is not to be taken then.
        segments: By number, oldest first.
    """

    folder: Path
    alive: bool
    segments: tuple[Segment, ...]


def streams(spool: Path) -> Iterator[Found]:
    """All streams of all replicas, the folders in order of their names."""
    for replica in sorted(_folders(spool)):
        for folder in sorted(_folders(replica)):
            if folder.name.startswith(_STARTING):
                _remove_if_dead(folder)
                continue
            # Asked before listing: a process that dies in between has its open segment taken next time.
            alive = _is_held(folder)
            yield Found(folder, alive, tuple(_segments(folder, f"{replica.name}/{folder.name}")))


def remove_stream(found: Found) -> None:
    """Remove the folder of a dead process, if it is empty."""
    if not found.alive and not any(path.name != _LOCK for path in found.folder.iterdir()):
        shutil.rmtree(found.folder, ignore_errors=True)


def set_aside(segment: Segment) -> None:
    """Keep a damaged segment for people; nobody ships it again."""
    segment.path.rename(segment.path.with_suffix(f".{DAMAGED}"))


def make_room(replica: Path, limit: int) -> int:
    """Remove the oldest closed and damaged segments of a replica until the rest is within the limit.

    Args:
        limit: Bytes, open segments included; those are never removed.

    Returns:
        Rows that were in closed segments, and so never reach the lake.
    """
    files = _stats(replica)
    excess = sum(stat.st_size for _, stat in files) - limit
    lost = 0
    for path, stat in sorted(files, key=lambda file: (file[1].st_mtime_ns, file[0].name)):
        if excess <= 0:
            break
        closed = _CLOSED.fullmatch(path.name)
        if closed is None and path.suffix != f".{DAMAGED}":
            continue
        path.unlink(missing_ok=True)
        excess -= stat.st_size
        lost += int(closed[2]) if closed else 0
    return lost


def spool_size(replica: Path) -> tuple[int, int]:
    """Bytes and number of a replica's segments, damaged ones included."""
    sizes = [stat.st_size for _, stat in _stats(replica)]
    return sum(sizes), len(sizes)


def _segments(folder: Path, stream: str) -> list[Segment]:
    found = []
    for path in _files(folder):
        if match := _CLOSED.fullmatch(path.name):
            found.append(Segment(path, stream, int(match[1]), int(match[2])))
        elif match := _OPEN.fullmatch(path.name):
            found.append(Segment(path, stream, int(match[1]), None))
    return sorted(found, key=lambda segment: segment.number)


def _is_held(folder: Path) -> bool:
    try:
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _remove_if_dead(starting: Path) -> None:
    # A process takes its lock within microseconds of making the folder; a minute is beyond doubt.
    if not _is_held(starting) and time.time() - starting.stat().st_mtime > 60:
        shutil.rmtree(starting, ignore_errors=True)


def _folders(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.is_dir()]
    except FileNotFoundError:
        return []


def _files(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.name != _LOCK]
    except FileNotFoundError:
        return []


def _stats(replica: Path) -> list[tuple[Path, os.stat_result]]:
    found = []
    for folder in _folders(replica):
        for path in _files(folder):
            with contextlib.suppress(FileNotFoundError):  # shipped meanwhile
                found.append((path, path.stat()))
    return found
