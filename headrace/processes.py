"""Which local processes there are, how each is started, and how one sees that it is ready."""

from __future__ import annotations

import hashlib
import re
import socket
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.errors import ProcessError
from pipelines.settings import LOOPBACK, PREFIX, reachable

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipelines.settings import Settings

WORKER = "airflow-worker"
TRAINING_POOL = "training"  # as dags/defaults.py has it, which is Airflow's side
TRAINING_POOL_IS = "Tasks that use the processor for minutes."


@dataclass(frozen=True)
class Port:
    """A port that a program listens on, and the setting that changes it."""

    number: int
    setting: str


@dataclass(frozen=True)
class Program:
    """One local process.

    Attributes:
        name: In supervisor, and of its log file.
        title: For people.
        after: Names of programs that must be ready first.
        ports: What it listens on.
        ready_url: Answers 200 when the program is ready; None: it is once it runs.
        heartbeat: Component in Airflow's ``/api/v2/monitor/health`` that must have beaten since the start.
        one_shot: Runs to its end once, and is ready when that was a success.
        stamp: File and text that are written once the program was ready, by which later starts know
            that a database has this version's tables.
        page: Where people look at it.
        check: Command that succeeds while the program is well, where no address tells.
    """

    name: str
    title: str
    command: tuple[str, ...]
    after: tuple[str, ...] = ()
    ports: tuple[Port, ...] = ()
    ready_url: str | None = None
    heartbeat: str | None = None
    one_shot: bool = False
    stamp: tuple[Path, str] | None = None
    page: str = ""
    check: tuple[str, ...] = ()


def program(settings: Settings, name: str) -> Program:
    """One program alone, wherever the others run: for a container, or another machine of the same fleet.

    Raises:
        ProcessError: there is none of this name; the text lists all.
    """
    alone: dict[str, Callable[[], Program]] = {
        "airflow-pool": lambda: _airflow_pool(settings),
        "buckets": lambda: Program("buckets", "Buckets", _module("headrace.buckets"), one_shot=True),
        "evidently": lambda: _evidently(settings),
        "exporter": lambda: _exporter(settings),
        "mlflow": lambda: _mlflow(settings, after=()),
        "mlflow-database": _mlflow_database,
        "rollout-watcher": _rollout_watcher,
        "serving": lambda: _serving(settings, after=()),
        "spool-shipper": _spool_shipper,
    }
    if name in alone:
        return alone[name]()
    if re.fullmatch(rf"{WORKER}(-[1-9][0-9]*)?", name):
        return _worker(name, settings, after=())
    # Of these, a database that is done already is not left out: another home cannot know.
    airflow = [_airflow_database(settings), *_airflow(settings)] if name.startswith("airflow") else []
    for each in airflow:
        if each.name == name:
            return each
    known = {*alone, WORKER, "airflow-database", "airflow-api", "airflow-dag-processor", "airflow-scheduler"}
    raise ProcessError(f"no program {name!r}; there are {', '.join(sorted(known))}")


def programs(settings: Settings) -> list[Program]:
    """Programs that run on this machine by these settings: a part whose URL is set runs elsewhere.

    One-shot programs whose stamp says that they are done are left out.
    """
    found: list[Program] = []
    if not settings.tracking_url:
        upgrade = _database_upgrade(settings)
        found += [*upgrade, _mlflow(settings, after=tuple(program.name for program in upgrade))]
    if not settings.airflow_url:
        found += _airflow(settings)
    if not settings.serving_url:
        found.append(_serving(settings, after=() if settings.tracking_url else ("mlflow",)))
        found.append(_rollout_watcher())
    # Beside the server alone, as a slim machine has it, nobody draws reports.
    if settings.evidently and not settings.evidently_url and find_spec("evidently") is not None:
        found.append(_evidently(settings))
    return found


def _mlflow(settings: Settings, after: tuple[str, ...]) -> Program:
    # One worker and no job runner: 2 processes instead of 15 (the database and the artifacts'
    # address come through the environment, where no `ps` shows a password).
    command = ["server", "--host", settings.bind_host, "--port", str(settings.mlflow_port)]
    command += ["--workers", str(settings.mlflow_workers)]
    if settings.bind_host not in LOOPBACK:
        # MLflow answers 403 to a Host header that it does not know, and blocks edits from such pages.
        hosts = _own_names(settings.bind_host, settings.mlflow_hosts)
        command += ["--allowed-hosts", ",".join([*hosts, *(f"{host}:*" for host in hosts)])]
        origins = [f"http://{host}:{settings.mlflow_port}" for host in hosts]
        origins += [f"https://{name}" for name in _listed(settings.mlflow_hosts)]  # a proxy's
        command += ["--cors-allowed-origins", ",".join(origins)]
    return Program(
        name="mlflow",
        title="MLflow",
        command=_module("mlflow", *command),
        after=after,
        ports=(Port(settings.mlflow_port, f"{PREFIX}MLFLOW_PORT"),),
        ready_url=f"{settings.tracking}/health",
        page=settings.tracking,
        stamp=_mlflow_stamp(settings),
    )


def _database_upgrade(settings: Settings) -> list[Program]:
    """MLflow makes a missing database itself, but refuses one of an older version."""
    on_disk = settings.mlflow_database.removeprefix("sqlite:///")
    if on_disk != settings.mlflow_database and not Path(on_disk).exists():
        return []
    return [] if _done(_mlflow_stamp(settings)) else [_mlflow_database()]


def _mlflow_database() -> Program:
    return Program(
        name="mlflow-database",
        title="MLflow's database",
        command=_module("headrace.mlflow_database"),
        one_shot=True,
    )


def _mlflow_stamp(settings: Settings) -> tuple[Path, str]:
    text = installed("mlflow")
    if settings.mlflow_database_url:  # another database has tables of its own
        text = f"{text} {hashlib.sha256(settings.mlflow_database.encode()).hexdigest()}"
    return settings.home / "mlflow" / "schema", text


def _airflow_database(settings: Settings) -> Program:
    address = hashlib.sha256(settings.airflow_database.encode()).hexdigest()
    return Program(
        name="airflow-database",
        title="Airflow's database",
        command=_module("airflow", "db", "migrate"),
        one_shot=True,
        stamp=(settings.home / "airflow" / "schema", f"{installed('apache-airflow-core')} {address}"),
    )


def _airflow(settings: Settings) -> list[Program]:
    database = _airflow_database(settings)
    on_disk = settings.airflow_database.removeprefix("sqlite:///")
    migrated = (
        database.stamp is not None
        and _done(database.stamp)
        and (on_disk == settings.airflow_database or Path(on_disk).exists())
    )
    health = f"{settings.airflow}/api/v2/monitor/health"
    api = Program(
        name="airflow-api",
        title="Airflow pages and API",
        command=_module("airflow", "api-server"),
        after=() if migrated else (database.name,),
        ports=(Port(settings.airflow_port, f"{PREFIX}AIRFLOW_PORT"),),
        ready_url=f"{settings.airflow}/api/v2/version",
        page=settings.airflow,
    )
    dag_processor = Program(
        name="airflow-dag-processor",
        title="Airflow DAG processor",
        command=_module("airflow", "dag-processor"),
        after=(api.name,),
        ready_url=health,
        heartbeat="dag_processor",
    )
    scheduler = Program(
        name="airflow-scheduler",
        title="Airflow scheduler",
        # Its log server would listen on all interfaces, whatever is configured. It is for logs of
        # other machines; those of the tasks here are read from the disk.
        command=_module(
            "dags.scheduler" if settings.airflow_executor == "LocalExecutor" else "airflow",
            *("scheduler", "--skip-serve-logs"),
        ),
        # A scheduler that starts before the API server fails the runs that are due at once.
        after=(api.name,),
        ready_url=health,
        heartbeat="scheduler",
    )
    workers = []
    if settings.airflow_executor == "CeleryExecutor":
        names = [WORKER, *(f"{WORKER}-{number + 1}" for number in range(1, settings.airflow_workers))]
        workers = [_worker(name, settings, after=(api.name,)) for name in names[: settings.airflow_workers]]
    return [*([] if migrated else [database]), api, dag_processor, scheduler, *workers]


def training_slots(settings: Settings) -> int:
    """Slots of the pool for training: workers of one study are to work at once."""
    return max(settings.airflow_training_slots, settings.tuning_workers)


def _airflow_pool(settings: Settings) -> Program:
    """For containers: `headrace up` asks the API for it."""
    slots = str(training_slots(settings))
    return Program(
        name="airflow-pool",
        title="Airflow's pool",
        command=_module("airflow", "pools", "set", TRAINING_POOL, slots, TRAINING_POOL_IS),
        one_shot=True,
    )


def _worker(name: str, settings: Settings, after: tuple[str, ...]) -> Program:
    """A Celery worker. Two of one host need two names: the second would be taken for the first.

    The first of a home shows the logs of all of its workers, where a port is set for that.
    """
    serves_logs = bool(settings.airflow_log_port) and name == WORKER
    address = f"{name}@{socket.gethostname()}"
    app = "airflow.providers.celery.executors.celery_executor.app"
    return Program(
        name=name,
        title=f"Airflow {name.removeprefix('airflow-').replace('-', ' ')}",
        command=_module("airflow", "celery", "worker", "--celery-hostname", address)
        + (() if serves_logs else ("--skip-serve-logs",)),
        after=after,
        ports=(Port(settings.airflow_log_port, f"{PREFIX}AIRFLOW_LOG_PORT"),) if serves_logs else (),
        check=_module("celery", "--app", app, "inspect", "ping", "--timeout", "5", "--destination", address),
    )


def _serving(settings: Settings, after: tuple[str, ...]) -> Program:
    ports = [Port(settings.serving_port, f"{PREFIX}SERVING_PORT")]
    if settings.serving_grpc_port:
        ports.append(Port(settings.serving_grpc_port, f"{PREFIX}SERVING_GRPC_PORT"))
    if settings.serving_admin_port:
        ports.append(Port(settings.serving_admin_port, f"{PREFIX}SERVING_ADMIN_PORT"))
    return Program(
        name="serving",
        title="Server",
        command=_module("serving"),
        after=after,
        ports=tuple(ports),
        # Live, not ready: before the first promotion there is nothing to answer with.
        ready_url=f"{settings.serving}/v2/health/live",
        page=settings.serving,
    )


def _rollout_watcher() -> Program:
    """Rolls a new champion back whose errors jump: beside the server, wherever Airflow is."""
    return Program(
        name="rollout-watcher",
        title="Rollout watcher",
        command=_module("pipelines.rollout.watcher"),
        after=("serving",),
    )


def _exporter(settings: Settings) -> Program:
    """For Prometheus, where the server's own metrics are not enough: see headrace/exporter.py."""
    address = f"http://{reachable(settings.bind_host)}:{settings.exporter_port}"
    return Program(
        name="exporter",
        title="Exporter",
        command=_module("headrace.exporter"),
        ports=(Port(settings.exporter_port, f"{PREFIX}EXPORTER_PORT"),),
        ready_url=f"{address}/metrics",
        page=address,
    )


def _spool_shipper() -> Program:
    """For a server in a container: on one machine the DAG `predictions` ships."""
    return Program(
        name="spool-shipper", title="Spool shipper", command=_module("pipelines.predictions.shipper")
    )


def _evidently(settings: Settings) -> Program:
    # A link in reports leads from Airflow and MLflow here; the program itself keeps no state but the workspace.
    command = ("ui", "--workspace", str(settings.evidently_workspace), "--host", settings.bind_host)
    return Program(
        name="evidently",
        title="Evidently",
        command=_module("evidently.cli", *command, "--port", str(settings.evidently_port)),
        ports=(Port(settings.evidently_port, f"{PREFIX}EVIDENTLY_PORT"),),
        ready_url=f"{settings.evidently}/api/version",
        page=settings.evidently,
    )


def installed(distribution: str) -> str:
    """Version of an installed distribution.

    Raises:
        ProcessError: it is missing; the text says which extra brings it.
    """
    try:
        return version(distribution)
    except PackageNotFoundError as error:
        raise ProcessError(
            f"{distribution} is not installed, and a process here needs it: "
            "pip install 'headrace[pipeline,serving,orchestration]', or set the URL of one that runs elsewhere"
        ) from error


def _module(name: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", name, *arguments)


def _done(stamp: tuple[Path, str]) -> bool:
    path, text = stamp
    return path.is_file() and path.read_text("utf-8").strip() == text


def _listed(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


def _own_names(bind_host: str, given: str) -> list[str]:
    """Names and addresses by which browsers and clients reach this machine, the given ones among them."""
    import psutil

    names = {"localhost", "127.0.0.1", socket.gethostname(), bind_host, *_listed(given)}
    for addresses in psutil.net_if_addrs().values():
        names |= {item.address for item in addresses if item.family == socket.AF_INET}
    return sorted(names - {"0.0.0.0", "::"})
