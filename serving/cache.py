"""Verified exports on this machine's disk, and a note of what served last.

With these the server starts again while MLflow is down. The note names each manifest's digest, so
a file that was changed in the cache is found out as one that was changed on the wire.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from pydantic import ValidationError

from feature_repo.datasets import Frozen
from pipelines.adapters.exports import Export, open_export
from pipelines.adapters.signing import Trust
from pipelines.errors import ArtifactError

_STATE_FILE = "state.json"
_INCOMING = ".incoming-"
_NUMBER = re.compile(r"[0-9]+")

log = logging.getLogger(__name__)


class Served(Frozen):
    """One alias of one model, and the version that answered for it."""

    name: str
    alias: str
    version: str
    manifest_sha256: str


class _State(Frozen):
    served: tuple[Served, ...] = ()


class VersionCache:
    """Exports under ``<folder>/<model>/<version>/``.

    Args:
        trust: Whose signatures count, on the wire as in the cache.
    """

    def __init__(self, folder: Path, trust: Trust) -> None:
        self._folder = folder
        self._trust = trust

    def open(self, export: Path, manifest_sha256: str) -> Export:
        """Verify and load a downloaded export.

        Raises:
            ArtifactError: the signature is missing or not by a trusted key, a file was changed, or the
                sample is not reproduced.
        """
        return open_export(export, manifest_sha256, self._trust)

    def load(self, name: str, version: str, manifest_sha256: str) -> Export | None:
        """The cached version, verified; None where it is not here.

        One that fails verification is removed, so that it is downloaded afresh.
        """
        folder = self._of(name, version)
        if not folder.is_dir():
            return None
        try:
            return self.open(folder, manifest_sha256)
        except ArtifactError as error:
            log.warning("the cached version %s of %s is refused and removed: %s", version, name, error)
            shutil.rmtree(folder, ignore_errors=True)
            return None

    @contextmanager
    def incoming(self) -> Iterator[Path]:
        """An empty folder for a download, on the same file system; it is gone afterwards."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{_INCOMING}{os.getpid()}-", dir=self._folder) as folder:
            yield Path(folder)

    def keep(self, export: Path, name: str, version: str) -> None:
        """Move a verified export into the cache. A reader sees the whole folder or none."""
        target = self._of(name, version)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            export.rename(target)
        except OSError:
            if not target.is_dir():
                raise
            # Another process of this machine kept the same version first.

    def prune(self, keep: Iterable[tuple[str, str]]) -> None:
        """Remove all versions but these.

        Args:
            keep: Pairs of model and version.
        """
        kept = {self._of(name, version) for name, version in keep}
        if not self._folder.is_dir():
            return
        for model in self._folder.iterdir():
            if not model.is_dir() or model.name.startswith("."):
                continue
            for version in model.iterdir():
                if version not in kept:
                    shutil.rmtree(version, ignore_errors=True)

    def remove_interrupted(self) -> None:
        """Remove downloads of processes that are gone. Call it before the first download."""
        for path in self._folder.glob(f"{_INCOMING}*"):
            process = path.name.removeprefix(_INCOMING).partition("-")[0]
            # In a container a restarted server has the number of the one that was killed.
            if process == str(os.getpid()) or not _runs(process):
                shutil.rmtree(path, ignore_errors=True)

    def last_served(self) -> tuple[Served, ...]:
        """What answered when the server last ran; nothing where the note is missing or broken."""
        path = self._folder / _STATE_FILE
        try:
            return _State.model_validate_json(path.read_bytes()).served
        except FileNotFoundError:
            return ()
        except (OSError, ValidationError) as error:
            log.warning("cannot read %s, which says what served last: %s", path, error)
            return ()

    def note(self, served: Iterable[Served]) -> None:
        """Remember what answers now; a crash leaves the old note or the new one."""
        self._folder.mkdir(parents=True, exist_ok=True)
        part = self._folder / f".{_STATE_FILE}.{os.getpid()}"
        with part.open("w", encoding="utf-8") as file:
            file.write(_State(served=tuple(served)).model_dump_json(indent=1))
            file.flush()
            os.fsync(file.fileno())
        part.replace(self._folder / _STATE_FILE)

    def _of(self, name: str, version: str) -> Path:
        if not _NUMBER.fullmatch(version):
            raise ArtifactError(f"version {version!r} of {name!r} is not a number")
        # A name could be "..": dots are escaped too.
        return self._folder / quote(name, safe="").replace(".", "%2E") / version


def _runs(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return True
