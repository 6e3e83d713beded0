"""Labels on their way to the lake: what callers sent, on a local disk until it is shipped.

One file per request, ``<spool>/<replica>/<UUID>.labels``: written beside its place, flushed to the disk and
renamed, so that what was acknowledged is whole and outlives the process and the machine's power. A
label is never dropped for want of room: the request that brings it is refused, and its caller knows.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import orjson

from pipelines.adapters.spool.segments import sync_folder

if TYPE_CHECKING:
    from pipelines.settings import Settings

_SUFFIX, _PART, DAMAGED = ".labels", ".part", ".damaged"
_LOOK_SECONDS = 1.0
#: A part that is older belongs to a process that died while it wrote it.
_ABANDONED_SECONDS = 3600.0
#: Files that may wait, whatever their size: each is a request, and a folder is read whole.
MOST_FILES = 20_000

log = logging.getLogger(__name__)


class SpoolFullError(Exception):
    """No room is left; it is made by shipping."""


@dataclass(frozen=True)
class Sent:
    """Labels of one request.

    Attributes:
        rows: As the request had them, with ``value`` and a key each.
    """

    path: Path
    model: str
    arrived_at: datetime
    rows: list[dict[str, Any]]

    @property
    def work(self) -> str:
        """What shipping it is called in the lake; never used again."""
        return f"labels:{self.path.parent.name}/{self.path.stem}"


class LabelSpool:
    """Keeps labels of one server. Safe to call from several threads.

    Args:
        folder: Of this replica.
        max_bytes: Of all its files together.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self._max_bytes = max_bytes
        self._lock = Lock()
        self._looked_at = 0.0
        self._files = self._bytes = 0

    @classmethod
    def of(cls, settings: Settings) -> LabelSpool:
        return cls(settings.label_spool / settings.replica, settings.label_spool_bytes)

    def keep(self, model: str, rows: Sequence[dict[str, Any]], name: str, arrived_at: datetime) -> None:
        """Keep the labels of one request; they are on the disk when this returns.

        Args:
            name: Of the request, never used twice.

        Raises:
            SpoolFullError: too much waits to be shipped.
            OSError: the disk does not take them.
        """
        content = orjson.dumps({"model": model, "arrived_at": arrived_at.isoformat(), "labels": list(rows)})
        self._make_room_for(len(content))
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{name}{_SUFFIX}"
        part = path.with_suffix(_PART)
        try:
            with part.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise
        sync_folder(self.folder)

    def size(self) -> tuple[int, int]:
        """Files that wait, and their bytes."""
        files = total = 0
        with contextlib.suppress(FileNotFoundError), os.scandir(self.folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # shipped meanwhile
                    total += entry.stat().st_size
                    files += entry.name.endswith(_SUFFIX)
        return files, total

    def _make_room_for(self, count: int) -> None:
        with self._lock:
            if time.monotonic() - self._looked_at >= _LOOK_SECONDS:
                self._files, self._bytes = self.size()
                self._looked_at = time.monotonic()
            if self._bytes + count > self._max_bytes or self._files >= MOST_FILES:
                raise SpoolFullError(
                    f"{self._files} requests with labels, {self._bytes} bytes, wait in {self.folder} to be shipped; at most "
                    f"{MOST_FILES} and {self._max_bytes} bytes may. Does the DAG predictions run?"
                )
            self._files += 1
            self._bytes += count


def waiting(spool: Path) -> Iterator[Sent]:
    """What waits to be shipped, of all replicas; what cannot be read is renamed ``*.damaged``, and said in the log."""
    for path in sorted(spool.glob(f"*/*{_SUFFIX}")):
        try:
            told = orjson.loads(path.read_bytes())
            yield Sent(path, told["model"], datetime.fromisoformat(told["arrived_at"]), told["labels"])
        except FileNotFoundError:
            continue  # another shipper was quicker
        except (ValueError, KeyError, TypeError) as error:
            path.replace(path.with_suffix(DAMAGED))
            log.error("labels in %s cannot be read, it is set aside as *%s: %s", path, DAMAGED, error)
    for part in spool.glob(f"*/*{_PART}"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - part.stat().st_mtime > _ABANDONED_SECONDS:
                part.unlink()
