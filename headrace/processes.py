"""Which local processes there are, how each is started, and how one sees that it is ready."""

from __future__ import annotations

import hashlib
import os
import socket
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.errors import ProcessError
from pipelines.settings import LOOPBACK, PREFIX

if TYPE_CHECKING:
    from headrace.credentials import Credentials
    from pipelines.settings import Settings

MARKER = "_HEADRACE_TREE"  # its value is the home; not a setting, hence the underscore
PATH_SETTINGS = ("lake_url", "mlflow_artifacts_url", "tuning_url", "shared_data")


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
    command = ["server", "--host", settings.bind_host, "--port", str(settings.mlflow_port), "--workers", "1"]
    if settings.bind_host not in LOOPBACK:
        # MLflow answers 403 to a Host header that it does not know, and blocks edits from such pages.
        hosts = _own_names(settings.bind_host)
        command += ["--allowed-hosts", ",".join([*hosts, *(f"{host}:*" for host in hosts)])]
        origins = [f"http://{host}:{settings.mlflow_port}" for host in hosts]
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
    if settings.mlflow_database_url or not Path(settings.mlflow_database.removeprefix("sqlite:///")).exists():
        return []
    if _done(_mlflow_stamp(settings)):
        return []
    return [
        Program(
            name="mlflow-database",
            title="MLflow's database",
            command=_module("mlflow", "db", "upgrade", settings.mlflow_database),
            one_shot=True,
        )
    ]


def _mlflow_stamp(settings: Settings) -> tuple[Path, str]:
    return settings.home / "mlflow" / "schema", installed("mlflow")


def _airflow(settings: Settings) -> list[Program]:
    address = hashlib.sha256(settings.airflow_database.encode()).hexdigest()
    stamp = (settings.home / "airflow" / "schema", f"{installed('apache-airflow-core')} {address}")
    on_disk = settings.airflow_database.removeprefix("sqlite:///")
    migrated = _done(stamp) and (on_disk == settings.airflow_database or Path(on_disk).exists())
    health = f"{settings.airflow}/api/v2/monitor/health"
    database = Program(
        name="airflow-database",
        title="Airflow's database",
        command=_module("airflow", "db", "migrate"),
        one_shot=True,
        stamp=stamp,
    )
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
        command=_module("airflow", "scheduler", "--skip-serve-logs"),
        # A scheduler that starts before the API server fails the runs that are due at once.
        after=(api.name,),
        ready_url=health,
        heartbeat="scheduler",
    )
    return [*([] if migrated else [database]), api, dag_processor, scheduler]


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


def environment(settings: Settings, secrets: Credentials) -> dict[str, str]:
    """Variables that the processes get beyond those of the shell that starts them."""
    home = settings.home
    variables = {
        MARKER: str(home),
        # setproctitle would overwrite the environment that `ps e` and the sweep read.
        "SPT_NOENV": "1",
        # Nothing calls home.
        "DO_NOT_TRACK": "true",
        "ITERATIVE_DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "GX_ANALYTICS_ENABLED": "false",
        "PYTHONUNBUFFERED": "1",
        # The home is the working directory, and has folders named as packages are.
        "PYTHONSAFEPATH": "1",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "MLFLOW_TRACKING_URI": settings.tracking,
        "MLFLOW_BACKEND_STORE_URI": settings.mlflow_database,
        "MLFLOW_ARTIFACTS_DESTINATION": settings.mlflow_artifacts,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": secrets.mlflow_webhook_key,
        "AIRFLOW_HOME": str(home / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags_folder()),
        "AIRFLOW__CORE__EXECUTOR": settings.airflow_executor,
        "AIRFLOW__CORE__PARALLELISM": str(settings.airflow_parallelism),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{settings.airflow}/execution/",
        "AIRFLOW__CORE__FERNET_KEY": secrets.airflow_fernet_key,
        # The default asks the name server, which an offline machine waits for.
        "AIRFLOW__CORE__HOSTNAME_CALLABLE": "socket.gethostname",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(secrets.airflow_password_file),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": settings.airflow_database,
        "AIRFLOW__API__HOST": settings.bind_host,
        "AIRFLOW__API__PORT": str(settings.airflow_port),
        "AIRFLOW__API__BASE_URL": settings.airflow,
        "AIRFLOW__API__SECRET_KEY": secrets.airflow_session_secret,
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.airflow_jwt_secret,
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "10",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs" / "tasks"),
        "AIRFLOW__LOGGING__DAG_PROCESSOR_CHILD_PROCESS_LOG_DIRECTORY": str(home / "logs" / "dag-files"),
        # Without a log server (see the scheduler) each look at a running task's log would write a
        # traceback of the refused connection here, though the log is read from the disk.
        "AIRFLOW__LOGGING__NAMESPACE_LEVELS": "airflow.utils.log.file_task_handler=CRITICAL",
    }
    return variables | _object_store(settings) | _settings(settings)


def _settings(settings: Settings) -> dict[str, str]:
    """All settings that differ from their defaults, with paths that hold in any working directory."""
    values: dict[str, str] = {f"{PREFIX}HOME": str(settings.home)}
    for field in sorted(settings.model_fields_set - {"home"}):
        value = getattr(settings, field)
        if value is None or value == "":
            continue
        text = value.get_secret_value() if hasattr(value, "get_secret_value") else str(value)
        is_path = field in PATH_SETTINGS or (field == "source" and text.endswith((".yaml", ".yml")))
        if is_path and "://" not in text:
            text = str(Path(text).expanduser().resolve())
        values[f"{PREFIX}{field.upper()}"] = text
    return values


def _object_store(settings: Settings) -> dict[str, str]:
    """What MLflow's server, through boto3, needs to reach the object store."""
    values: dict[str, str] = {}
    if settings.s3_endpoint_url:
        values["MLFLOW_S3_ENDPOINT_URL"] = settings.s3_endpoint_url
    if settings.s3_access_key_id and settings.s3_secret_access_key:
        values["AWS_ACCESS_KEY_ID"] = settings.s3_access_key_id
        values["AWS_SECRET_ACCESS_KEY"] = settings.s3_secret_access_key.get_secret_value()
        values["AWS_DEFAULT_REGION"] = settings.s3_region
    return values


def dags_folder() -> Path:
    """The folder of the installed ``dags`` package, found without importing it."""
    spec = find_spec("dags")
    if spec is None or spec.origin is None:
        raise ProcessError(
            "the package 'dags' is not installed beside 'headrace': install the distribution anew"
        )
    return Path(spec.origin).parent


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


def _own_names(bind_host: str) -> list[str]:
    """Names and addresses by which browsers reach this machine."""
    import psutil

    names = {"localhost", "127.0.0.1", socket.gethostname(), bind_host}
    for addresses in psutil.net_if_addrs().values():
        names |= {item.address for item in addresses if item.family == socket.AF_INET}
    return sorted(names - {"0.0.0.0", "::"})
