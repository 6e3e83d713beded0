"""The variables that programs get by the settings: those of Airflow, MLflow and boto3 among them."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.credentials import airflow_credentials, mlflow_webhook_key
from pipelines.errors import ProcessError
from pipelines.settings import PREFIX

if TYPE_CHECKING:
    from headrace.credentials import AirflowCredentials, Credentials
    from pipelines.settings import Settings

MARKER = "_HEADRACE_TREE"  # its value is the home; not a setting, hence the underscore
PATH_SETTINGS = ("lake_url", "mlflow_artifacts_url", "tuning_url", "shared_data")


def environment(settings: Settings, secrets: Credentials) -> dict[str, str]:
    """Variables that the processes get beyond those of the shell that starts them."""
    return (
        _shared(settings)
        | _mlflow_variables(settings, secrets.mlflow_webhook_key)
        | _airflow_variables(settings, secrets)
        | {MARKER: str(settings.home)}
    )


def environment_of(settings: Settings, name: str) -> dict[str, str]:
    """As :func:`environment`, for one program alone, with the secrets that it needs and no others.

    Raises:
        SettingsError: in production one of these secrets is missing.
    """
    variables = _shared(settings)
    if name.startswith("mlflow"):
        variables |= _mlflow_variables(settings, mlflow_webhook_key(settings))
    if name.startswith("airflow"):
        variables |= _airflow_variables(settings, airflow_credentials(settings))
    return variables


def _shared(settings: Settings) -> dict[str, str]:
    variables = {
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
    }
    return variables | _object_store(settings) | _settings(settings)


def _mlflow_variables(settings: Settings, webhook_key: str) -> dict[str, str]:
    return {
        "MLFLOW_BACKEND_STORE_URI": settings.mlflow_database,
        "MLFLOW_ARTIFACTS_DESTINATION": settings.mlflow_artifacts,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": webhook_key,
    }


def _airflow_variables(settings: Settings, secrets: AirflowCredentials) -> dict[str, str]:
    home = settings.home
    local = settings.airflow_executor == "LocalExecutor"
    variables = {
        "AIRFLOW_HOME": str(home / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags_folder()),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(dags_folder() / "plugins"),
        "AIRFLOW__CORE__EXECUTOR": settings.airflow_executor,
        "AIRFLOW__CORE__PARALLELISM": str(settings.airflow_parallelism if local else settings.airflow_tasks),
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
        # A file that changed is parsed at once; the default reads unchanged ones again every 30 s, for nothing.
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "120",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs" / "tasks"),
        "AIRFLOW__LOGGING__DAG_PROCESSOR_CHILD_PROCESS_LOG_DIRECTORY": str(home / "logs" / "dag-files"),
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(settings.airflow_log_port or 8793),
        # Without a log server (see the scheduler) each look at a running task's log would write a
        # traceback of the refused connection here, though the log is read from the disk.
        "AIRFLOW__LOGGING__NAMESPACE_LEVELS": ""
        if settings.airflow_log_port
        else "airflow.utils.log.file_task_handler=CRITICAL",
    }
    return variables | _celery(settings)


def _celery(settings: Settings) -> dict[str, str]:
    """Broker, and the database of results, which is Airflow's own."""
    values = {}
    if settings.airflow_database.startswith("postgresql"):
        # Airflow's API also asks by asyncpg, which calls TLS another name than libpq does.
        address = settings.airflow_database.split("://", 1)[1].replace("sslmode=", "ssl=")
        values["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC"] = f"postgresql+asyncpg://{address}"
    if settings.airflow_broker_url:
        values |= {
            "AIRFLOW__CELERY__BROKER_URL": settings.airflow_broker_url,
            "AIRFLOW__CELERY__RESULT_BACKEND": f"db+{settings.airflow_database}",
            "AIRFLOW__CELERY__WORKER_CONCURRENCY": str(settings.airflow_parallelism),
            # To hand a task to the broker: the default of a second is too short for a busy machine.
            "AIRFLOW__CELERY__OPERATION_TIMEOUT": "15.0",
            # A worker takes what it runs and no more, so that another one is not idle beside a queue.
            "AIRFLOW__CELERY__WORKER_PREFETCH_MULTIPLIER": "1",
        }
    return values


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
