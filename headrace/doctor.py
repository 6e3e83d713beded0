"""`headrace doctor`: looks at the machine, the ports, the versions, the addresses and the credentials, and says what to mend.

It changes nothing, starts nothing and generates nothing.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from functools import partial
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import psutil

from headrace.preflight import LEAST_FREE_BYTES, port_problems
from headrace.processes import programs
from headrace.supervision import Tree
from pipelines.adapters.serving_client import trusted
from pipelines.errors import HeadraceError

if TYPE_CHECKING:
    from pipelines.settings import Settings

_GIB = 2**30
LEAST_CORES = 2
LEAST_MEMORY_BYTES = (
    3 * _GIB
)  # of the machine: 1 GiB for the processes when idle, as much again for a training
GOOD_FREE_BYTES = 10 * _GIB
LEAST_OPEN_FILES = 1024
MOST_SKEW_SECONDS = 5.0
_SECONDS = 5.0
_EXTRAS = ("serving", "pipeline", "orchestration")
_SECRET_FILES = "secrets"


class State(StrEnum):
    FINE = "fine"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        found: What is there.
        mend: What to do; empty where it is fine.
    """

    area: str
    subject: str
    state: State
    found: str
    mend: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def examine(settings: Settings) -> list[Finding]:
    """Everything, one after the other. What cannot be looked at is a finding itself, never an error."""
    found: list[Finding] = []
    for area, look in _LOOKS:
        try:
            found += look(settings)
        except (HeadraceError, OSError) as error:
            found.append(Finding(area, area, State.FAIL, str(error), "mend what the text names"))
        except ImportError as error:  # beside the server alone, much is not installed
            told = f"{error.name} is not installed here"
            found.append(
                Finding(area, area, State.WARN, told, "look from an installation with headrace[pipeline]")
            )
    return found


def _machine(settings: Settings) -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield _least("cores", cores >= LEAST_CORES, f"{cores}", f"{LEAST_CORES} at least: trainings will be slow")
    memory = psutil.virtual_memory()
    yield _least(
        "memory",
        memory.total >= LEAST_MEMORY_BYTES,
        f"{memory.total / _GIB:.1f} GiB, {memory.available / _GIB:.1f} GiB of it free",
        f"{LEAST_MEMORY_BYTES / _GIB:.0f} GiB at least: the processes take 1 GiB when idle, a training as much again",
    )
    home = _existing(settings.home)
    free = shutil.disk_usage(home).free
    text = f"{free / _GIB:.1f} GiB free at {settings.home}"
    if free < LEAST_FREE_BYTES:
        remedy = (
            "free some space, or set HEADRACE_HOME to a folder on another disk; nothing starts below 2 GiB"
        )
        yield Finding("machine", "disk", State.FAIL, text, remedy)
    else:
        yield _least("disk", free >= GOOD_FREE_BYTES, text, "10 GiB last for some months of a small fleet")
    if not os.access(home, os.W_OK):
        remedy = f"give this user the right to write to {home}, or set HEADRACE_HOME"
        yield Finding("machine", "home", State.FAIL, f"{settings.home} cannot be written", remedy)
    yield from _open_files()


def _open_files() -> Iterator[Finding]:
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = soft == resource.RLIM_INFINITY or soft >= LEAST_OPEN_FILES
    text = "without limit" if soft == resource.RLIM_INFINITY else f"{soft}"
    yield _least(
        "open files", enough, text, f"ulimit -n {LEAST_OPEN_FILES}: each connection of the server is one"
    )


def _clock(settings: Settings) -> Iterator[Finding]:
    """Windows and schedules go by this clock; one that goes back makes rows of the future."""
    newest = max((path.stat().st_mtime for path in (settings.home / "logs").glob("*.log")), default=0.0)
    ahead = newest - time.time()
    text = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
    if ahead > MOST_SKEW_SECONDS:
        found = f"{text}, but a log of this home was written {ahead:.0f} s later: the clock went back"
        yield Finding("clock", "this machine", State.FAIL, found, "let NTP set the clock, then look again")
    else:
        yield Finding("clock", "this machine", State.FINE, text)
    for name, url in _elsewhere(settings).items():
        skew = _skew(url, settings)
        if skew is not None and abs(skew) > MOST_SKEW_SECONDS:
            found = f"{abs(skew):.0f} s {'behind' if skew < 0 else 'ahead of'} this machine"
            yield Finding("clock", name, State.WARN, found, "let NTP set both clocks")


def _ports(settings: Settings) -> Iterator[Finding]:
    tree = Tree(settings)
    running = {name for name, process in tree.processes().items() if process.alive}
    absent = [program for program in programs(settings) if program.name not in running]
    problems = port_problems(absent, settings.bind_host)
    for problem in problems:
        found, _, remedy = problem.partition(": ")
        yield Finding("ports", "taken", State.FAIL, found, remedy)
    free = [str(port.number) for program in absent for port in program.ports]
    held = [
        str(port.number)
        for program in programs(settings)
        if program.name in running
        for port in program.ports
    ]
    if held:
        yield Finding("ports", "held by this home", State.FINE, ", ".join(held))
    if free and not problems:
        yield Finding("ports", "free", State.FINE, ", ".join(free))


def _versions(settings: Settings) -> Iterator[Finding]:
    """Installed packages beside what this release was written for."""
    import sys

    python = ".".join(map(str, sys.version_info[:3]))
    yield Finding("versions", "Python", State.FINE, python)
    mended = "install from the lock file again: make -B .venv/.run, or infra/install.sh"
    for extra, wanted in _requirements().items():
        missing, wrong = [], []
        for name, specifier in wanted:
            try:
                there = version(name)
            except PackageNotFoundError:
                missing.append(name)
                continue
            if not specifier.contains(there, prereleases=True):
                wrong.append(f"{name} {there} (wanted {specifier})")
        if wrong:
            yield Finding("versions", extra, State.FAIL, "; ".join(wrong), mended)
        elif missing and len(missing) < len(wanted):
            found = f"missing: {', '.join(missing)}"
            yield Finding("versions", extra, State.WARN, found, f"pip install 'headrace[{extra}]'")
        elif missing:
            yield Finding("versions", extra, State.FINE, "is not installed here")
        else:
            yield Finding("versions", extra, State.FINE, f"{len(wanted)} packages as wanted")


def _requirements() -> dict[str, list[tuple[str, Any]]]:
    """Requirements of this distribution, by extra; those of every installation are under ``base``."""
    from packaging.requirements import Requirement

    found: dict[str, list[tuple[str, Any]]] = {name: [] for name in ("base", *_EXTRAS)}
    for text in requires("headrace") or ():
        wanted = Requirement(text)
        for extra, packages in found.items():
            here = wanted.marker is None or wanted.marker.evaluate({"extra": ""})
            chosen = here if extra == "base" else not here and wanted.marker.evaluate({"extra": extra})  # type: ignore[union-attr]
            if chosen:
                packages.append((wanted.name, wanted.specifier))
    return found


def _addresses(settings: Settings) -> Iterator[Finding]:
    """Whether what runs elsewhere answers; what `headrace up` starts here is a matter of `headrace status`."""
    paths = {"MLflow": "/health", "Airflow": "/api/v2/version", "the server": "/v2/health/live"}
    for name, url in _elsewhere(settings).items():
        yield _asked("addresses", name, url, partial(_get, url + paths[name], settings))
    stores: dict[str, tuple[str, Callable[[str], str]]] = {
        "Airflow's database": (settings.airflow_database_url, _sql),
        "MLflow's database": ("" if settings.tracking_url else settings.mlflow_database_url, _sql),
        "the online store": (settings.online_store_url, _store),
        "the feature registry": (settings.feature_registry_url, _sql),
        "the tuning storage": (settings.tuning_url if "://" in settings.tuning_url else "", _sql),
    }
    for name, (url, ask) in stores.items():
        if url and not url.startswith("sqlite"):
            yield _asked("addresses", name, _masked(url), partial(ask, url))
    if settings.s3_storage_options:
        yield _asked("addresses", "the lake", settings.lake, partial(_bucket, settings))


def _credentials(settings: Settings) -> Iterator[Finding]:
    folder = settings.secrets
    if not folder.is_dir():
        if settings.environment == "production":
            remedy = "write the secrets into it (docs/operations.md says what each one is)"
            yield Finding("credentials", _SECRET_FILES, State.FAIL, f"{folder} is missing", remedy)
        else:
            yield Finding("credentials", _SECRET_FILES, State.FINE, "the first `headrace up` makes them")
        return
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    loose = [path.name for path in files if path.stat().st_mode & 0o077 and path.suffix != ".pub"]
    unreadable = [path.name for path in files if not os.access(path, os.R_OK)]
    if unreadable:
        remedy = f"give this user the right to read them in {folder}"
        yield Finding(
            "credentials", _SECRET_FILES, State.FAIL, f"cannot be read: {', '.join(unreadable)}", remedy
        )
    elif loose and settings.secrets_folder is None:
        remedy = f"chmod 600 {folder}/*"
        found = f"others may read {', '.join(loose)}"
        yield Finding("credentials", _SECRET_FILES, State.WARN, found, remedy)
    else:
        yield Finding("credentials", _SECRET_FILES, State.FINE, f"{len(files)} files in {folder}")
    if not settings.airflow_url and (folder / "airflow_passwords.json").is_file():
        yield from _airflow_login(settings)
    if settings.serving_needs_keys and not settings.serving_key_file.is_file():
        found = f"callers need API keys, and {settings.serving_key_file} is missing"
        yield Finding("credentials", "API keys", State.FAIL, found, "make one: headrace keys new NAME")
    if settings.serving_tls_certificate is not None:
        yield _certificate(settings.serving_tls_certificate)


def _airflow_login(settings: Settings) -> Iterator[Finding]:
    from headrace.airflow_api import AirflowApi, AirflowRefusedError
    from headrace.credentials import AIRFLOW_USER, airflow_credentials
    from headrace.errors import NotRunningError

    password = airflow_credentials(settings).airflow_password
    try:
        with AirflowApi(settings.airflow, AIRFLOW_USER, password, timeout_seconds=_SECONDS) as api:
            api.dag_ids()
    except NotRunningError:
        return  # the addresses tell
    except AirflowRefusedError as error:
        remedy = "headrace down, then headrace up: Airflow reads its password file when it starts"
        yield Finding("credentials", "Airflow's login", State.FAIL, str(error), remedy)
    else:
        yield Finding("credentials", "Airflow's login", State.FINE, f"{AIRFLOW_USER} is let in")


def _certificate(path: Path) -> Finding:
    from cryptography.x509 import load_pem_x509_certificate

    try:
        end = load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
    except (OSError, ValueError) as error:
        return Finding("credentials", "TLS certificate", State.FAIL, f"{path}: {error}", "give a PEM file")
    days = (end - datetime.now(UTC)).days
    text = f"{path} ends {end:%Y-%m-%d}, in {days} days"
    if days < 0:
        return Finding("credentials", "TLS certificate", State.FAIL, text, "put a new one in its place")
    state = State.WARN if days < 21 else State.FINE
    return Finding("credentials", "TLS certificate", state, text, "renew it" if days < 21 else "")


def _elsewhere(settings: Settings) -> dict[str, str]:
    """Parts that do not run under `headrace up`, with their addresses."""
    parts = {
        "MLflow": (settings.tracking_url, settings.tracking),
        "Airflow": (settings.airflow_url, settings.airflow),
        "the server": (settings.serving_url, settings.serving),
    }
    return {name: url for name, (given, url) in parts.items() if given}


def _asked(area: str, name: str, url: str, ask: Callable[[], str]) -> Finding:
    try:
        return Finding(area, name, State.FINE, f"{url}: {ask()}")
    except Exception as error:  # noqa: BLE001 - each driver has errors of its own, and all mean the same here
        lines = str(error).strip().splitlines() or [type(error).__name__]
        remedy = "is it running, is the address right, and do its credentials count?"
        return Finding(area, name, State.FAIL, f"{url}: {lines[0][:200]}", remedy)


def _get(url: str, settings: Settings) -> str:
    with httpx.Client(timeout=_SECONDS, trust_env=False, verify=trusted(settings)) as http:
        http.get(url).raise_for_status()
    return "answers"


def _skew(url: str, settings: Settings) -> float | None:
    """Seconds by which a server's clock is ahead, to a second or two; None: it does not tell."""
    try:
        with httpx.Client(timeout=_SECONDS, trust_env=False, verify=trusted(settings)) as http:
            told = http.get(url).headers.get("date")
    except httpx.HTTPError:
        return None  # the addresses tell
    return (parsedate_to_datetime(told) - datetime.now(UTC)).total_seconds() if told else None


def _sql(url: str) -> str:
    from sqlalchemy import create_engine, text

    from pipelines.settings import with_driver

    arguments = {"connect_timeout": int(_SECONDS)} if url.startswith("postgresql") else {}
    engine = create_engine(with_driver(url), connect_args=arguments)
    try:
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
    finally:
        engine.dispose()
    return "answers"


def _store(url: str) -> str:
    if not url.startswith("redis"):
        return _sql(url)
    import redis

    client = redis.Redis.from_url(url, socket_connect_timeout=_SECONDS, socket_timeout=_SECONDS)
    try:
        client.ping()
    finally:
        client.close()
    return "answers"


def _bucket(settings: Settings) -> str:
    from pipelines.adapters.object_store import ObjectStore

    store = ObjectStore.from_storage_options(settings.s3_storage_options)
    return f"{len(store.folders(settings.lake))} folders"


def _masked(url: str) -> str:
    parts = urlsplit(url)
    return url.replace(f":{parts.password}@", ":***@") if parts.password else url


def _least(subject: str, enough: bool, found: str, mend: str) -> Finding:
    return Finding("machine", subject, State.FINE if enough else State.WARN, found, "" if enough else mend)


def _existing(path: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(each for each in (path, *path.parents) if each.exists())


_LOOKS: tuple[tuple[str, Callable[[Settings], Iterator[Finding]]], ...] = (
    ("machine", _machine),
    ("clock", _clock),
    ("ports", _ports),
    ("versions", _versions),
    ("addresses", _addresses),
    ("credentials", _credentials),
)
