"""What code runs, and on what: enough to tell later whether it is the same, and where it differs."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from collections.abc import Iterable
from functools import lru_cache
from importlib.metadata import distributions, version
from pathlib import Path

from pydantic import Field

from feature_repo.datasets import Frozen

_ROOT = Path(__file__).parents[2]
# What decides a prediction. DAGs and the command line only call it.
_PACKAGES = ("feature_repo", "models", "pipelines")
_SUFFIXES = frozenset({".py", ".yaml"})


class Code(Frozen):
    """The code of one training."""

    version: str = Field(description="Of the installed package.")
    commit: str | None = Field(description="Git's, in full; None: the code runs from no checkout.")
    dirty: bool | None = Field(description="Whether the checkout had changes that no commit holds.")
    source_sha256: str = Field(
        description="Of the sources of feature_repo, models and pipelines, as they lay on disk: it tells "
        "uncommitted changes apart, and stands for the commit where there is none."
    )
    locks: dict[str, str] = Field(
        description="SHA-256 of each requirements*.lock of the checkout, by its name."
    )

    def named(self) -> str:
        """For people: version, and commit or hash of the sources."""
        if self.commit is None:
            return f"{self.version}, sources {self.source_sha256[:12]}"
        changes = f" with uncommitted changes, sources {self.source_sha256[:12]}" if self.dirty else ""
        return f"{self.version}, commit {self.commit[:12]}{changes}"


class Environment(Frozen):
    """The machine and the libraries of one training."""

    python: str
    system: str
    machine: str
    cpus: int
    threads: dict[str, str] = Field(description="OMP_NUM_THREADS and its like, where they were set.")
    packages: dict[str, str] = Field(description="Version of each installed distribution.")


@lru_cache(maxsize=1)
def code() -> Code:
    """The code of this process, as its files are on disk."""
    commit = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=normal", "--", *_PACKAGES) if commit else None
    return Code(
        version=version("headrace"),
        commit=commit or None,
        dirty=None if changed is None else bool(changed),
        source_sha256=digest_of(_sources()),
        locks={path.name: _sha256(path) for path in sorted(_ROOT.glob("requirements*.lock"))},
    )


@lru_cache(maxsize=1)
def environment() -> Environment:
    """The environment of this process."""
    return Environment(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()}",
        machine=platform.machine(),
        cpus=os.cpu_count() or 1,
        threads={name: value for name, value in sorted(os.environ.items()) if name.endswith("_NUM_THREADS")},
        packages={each.name.lower().replace("_", "-"): each.version for each in distributions() if each.name},
    )


def digest_of(paths: Iterable[Path], root: Path = _ROOT) -> str:
    """SHA-256 over files, by their paths below ``root`` and their bytes; their order does not matter."""
    digest = hashlib.sha256()
    for path in sorted(paths, key=lambda path: path.relative_to(root).as_posix()):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + _sha256(path).encode() + b"\n")
    return digest.hexdigest()


def code_differences(then: Code, now: Code) -> tuple[str, ...]:
    """What is not the same, one sentence each; empty where the same code runs."""
    told = []
    if then.source_sha256 != now.source_sha256:
        told.append(f"code: {then.named()} then, {now.named()} now")
    for name in sorted({*then.locks, *now.locks}):
        was, is_now = then.locks.get(name, "none"), now.locks.get(name, "none")
        if was != is_now:
            told.append(f"{name}: {was[:12]} then, {is_now[:12]} now")
    return tuple(told)


def environment_differences(then: Environment, now: Environment, shown: int = 12) -> tuple[str, ...]:
    """What is not the same, one sentence each; of packages the first few, and how many more."""
    told = [
        f"{what}: {was} then, {is_now} now"
        for what, was, is_now in (
            ("Python", then.python, now.python),
            ("system", then.system, now.system),
            ("machine", then.machine, now.machine),
            ("CPUs", then.cpus, now.cpus),
            ("threads", then.threads or "not set", now.threads or "not set"),
        )
        if was != is_now
    ]
    moved = [
        f"package {name}: {then.packages.get(name, 'not installed')} then, {now.packages.get(name, 'not installed')} now"
        for name in sorted({*then.packages, *now.packages})
        if then.packages.get(name) != now.packages.get(name)
    ]
    told += moved[:shown]
    if len(moved) > shown:
        told.append(f"and {len(moved) - shown} more packages")
    return tuple(told)


def _sources() -> list[Path]:
    return [
        path
        for package in _PACKAGES
        for path in (_ROOT / package).rglob("*")
        if path.suffix in _SUFFIXES and path.is_file()
    ]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _git(*arguments: str) -> str | None:
    """What git says of the checkout; None where there is no git, or no checkout."""
    try:
        said = subprocess.run(
            ["git", "-C", str(_ROOT), *arguments], capture_output=True, text=True, check=False, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return said.stdout.strip() if said.returncode == 0 else None
