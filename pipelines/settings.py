"""Every setting, in one class: prefix ``HEADRACE_``, unknown keys refused, units in the names.

Settings come from the environment, and from ``$HEADRACE_HOME/settings.env`` for what should
outlive a shell, and from files of secrets, one a setting. The environment wins, then the secrets.
"""

from __future__ import annotations

import difflib
import os
import re
import socket
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from pipelines.errors import SettingsError

PREFIX = "HEADRACE_"
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class Settings(BaseSettings):
    """All settings. Build with :func:`load_settings`, which also refuses unknown names."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True, env_ignore_empty=True)

    environment: Literal["development", "production"] = Field(
        "development", description="In production, generated and default secrets are refused."
    )
    home: Path = Field(Path(".headrace"), description="Folder of all state on this machine.")
    secrets_folder: Path | None = Field(
        None,
        description="Folder of secrets, as Docker and Kubernetes mount them: a file named as a setting in small letters, "
        "headrace_s3_secret_access_key, is its value. Default: $HEADRACE_HOME/secrets.",
    )
    source: str = Field(
        "simulated",
        description="Where telemetry comes from by default: a bundled profile's name, or the path of a YAML profile.",
    )

    # One switch each: lake, tracking server, Airflow's database, online store.
    lake_url: str = Field("", description="Folder or s3://bucket/prefix. Default: $HEADRACE_HOME/lake.")
    tracking_url: str = Field("", description="MLflow server. Default: the one that `headrace up` starts.")
    airflow_database_url: str = Field(
        "", description="SQLAlchemy URL. Default: SQLite under $HEADRACE_HOME/airflow."
    )
    online_store_url: str = Field(
        "", description="redis://host:port/db, or sqlite:///path. Default: SQLite under $HEADRACE_HOME."
    )

    airflow_url: str = Field(
        "", description="Airflow's API server. Default: the one that `headrace up` starts."
    )
    airflow_executor: Literal["LocalExecutor", "CeleryExecutor", "KubernetesExecutor"] = "LocalExecutor"
    airflow_parallelism: int = Field(
        2, ge=1, description="Tasks that may run at once on this machine; with Celery, in each worker."
    )
    airflow_broker_url: str = Field(
        "",
        pattern=r"^(rediss?|amqps?)://.+|^$",
        description="Celery's broker: redis://host:port/db or amqp://user:password@host:port/vhost.",
    )
    airflow_workers: int = Field(
        1, ge=0, le=64, description="Celery workers that `headrace up` starts here; 0: all run elsewhere."
    )
    airflow_tasks: int = Field(
        64,
        ge=1,
        description="Tasks that one scheduler may have under way in Celery or Kubernetes, over all workers.",
    )
    airflow_training_slots: int = Field(
        1,
        ge=1,
        description="Slots of Airflow's pool `training`: snapshots, tuning, training and gates that may run at once.",
    )
    alert_email: str = Field(
        "",
        description="Whom Airflow writes to when a run has failed, by comma; through its connection `smtp_default`.",
    )
    alert_webhook_url: SecretStr | None = Field(
        None, description="Web hook that is told of failed runs: Slack's, Mattermost's, or one of your own."
    )
    airflow_log_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="Port on which a Celery worker shows its tasks' logs to Airflow's pages, on all interfaces, to who "
        "shows the pages' secret. 0: none; the pages read them from a disk that all share.",
    )
    airflow_pod_templates: Path | None = Field(
        None,
        description="Folder of pod templates, one per stage (tune.yaml), for the KubernetesExecutor; a stage without "
        "one takes Airflow's own.",
    )
    mlflow_database_url: str = Field(
        "", description="Backend of the MLflow server that `headrace up` starts."
    )
    mlflow_artifacts_url: str = Field(
        "", description="Where that server keeps artifacts: a folder or s3://…."
    )
    mlflow_hosts: str = Field(
        "",
        description="Names, by comma, by which MLflow is reached besides this machine's own: a service's, a proxy's. "
        "To any other it answers 403.",
    )
    mlflow_workers: int = Field(1, ge=1, le=64, description="Processes of the MLflow server.")
    feature_registry_url: str = Field("", description="SQLAlchemy URL of Feast's registry.")
    tuning_url: str = Field(
        "",
        description="Optuna storage: SQLAlchemy URL, or a path for a journal file. Default: a journal file.",
    )

    tuning_workers: int = Field(
        1,
        ge=1,
        le=256,
        description="Tasks of Airflow that run the trials of one study at once. More than one: which parameters are "
        "tried depends on which is quicker.",
    )

    s3_endpoint_url: str | None = Field(None, description="S3 endpoint, for example http://127.0.0.1:9000.")
    s3_region: str = "us-east-1"
    s3_access_key_id: str | None = None
    s3_secret_access_key: SecretStr | None = None

    bind_host: str = Field("127.0.0.1", description="Address that the pages and the server listen on.")
    airflow_port: int = Field(8080, ge=1, le=65535)
    mlflow_port: int = Field(5000, ge=1, le=65535)
    serving_port: int = Field(8000, ge=1, le=65535)
    serving_url: str = Field("", description="The server. Default: the one that `headrace up` starts.")

    evidently_port: int = Field(
        8090, ge=0, le=65535, description="Pages of drift reports; 0: none are served here."
    )
    evidently_url: str = Field("", description="These pages. Default: those that `headrace up` serves.")

    exporter_port: int = Field(
        9108,
        ge=1,
        le=65535,
        description="Port of `headrace run exporter`: metrics of checks, pointers and Airflow's pools for Prometheus.",
    )

    serving_models: str = Field(
        "", description="Registered models to serve, by comma. Default: all with an alias."
    )
    serving_poll_seconds: float = Field(1.0, gt=0, le=60, description="Time between looks at the aliases.")
    serving_max_body_bytes: int = Field(16 * 2**20, gt=0)
    serving_max_held_bytes: int = Field(
        256 * 2**20, gt=0, description="Of all bodies above 64 KiB that are being read or answered."
    )
    serving_max_rows: int = Field(10_000, gt=0, description="Largest batch in one request.")
    serving_client_seconds: float = Field(
        20.0,
        gt=0,
        le=3600,
        description="A client's time for its headers, for its body, and to take its answer.",
    )
    serving_max_connections: int = Field(
        2_000, gt=0, description="Beyond it, requests are answered with 503."
    )
    serving_admin_token: SecretStr | None = Field(
        None, description="For load and unload. Default: callers from the server's own machine may."
    )
    serving_admin_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="Port on serving_admin_host where alone metrics, webhooks, load and unload are answered. "
        "0: on the port of the predictions.",
    )
    serving_admin_host: str = Field("127.0.0.1", description="Address of that port.")
    serving_workers: int = Field(1, ge=1, le=64, description="Processes of the server.")

    serving_keys: Literal["auto", "required", "off"] = Field(
        "auto",
        description="Whether callers of the server need an API key. auto: unless it listens on loopback only.",
    )
    serving_keys_file: Path | None = Field(
        None, description="Hashes of the API keys. Default: $HEADRACE_HOME/secrets/serving_keys.json."
    )
    serving_api_key: SecretStr | None = Field(
        None, description="The key that `headrace status` and `headrace predict` show to the server."
    )
    serving_tls_certificate: Path | None = Field(
        None, description="Certificate chain (PEM) of the server, REST and gRPC."
    )
    serving_tls_key: Path | None = Field(None, description="Its private key (PEM, no passphrase).")
    serving_tls_authority: Path | None = Field(
        None,
        description="Certificates (PEM) by which `headrace` knows the server. Default: the system's authorities.",
    )

    serving_access_log: bool = Field(False, description="Whether each request is a line of the log.")
    serving_traces_url: str = Field(
        "",
        pattern=r"^https?://.+|^$",
        description="Where traces go by OTLP over HTTP, as http://collector:4318/v1/traces. Needs headrace[otel].",
    )
    serving_traces_ratio: float = Field(
        0.1, ge=0, le=1, description="Share of requests that are traced, where the caller does not say."
    )

    serving_mirror_queue_bytes: int = Field(
        64 * 2**20,
        ge=2**16,
        description="Of requests that wait to be mirrored to a challenger; those that find it full are not.",
    )

    rollout_servers: str = Field(
        "",
        description="Addresses of all replicas of the server, by comma, whose metrics decide on rollouts; "
        "dns+http://name:8000 is all that the name resolves to. Default: the server.",
    )

    signing_key: Path | None = Field(
        None, description="Private key (PEM) that signs versions. Default: one is made in this home."
    )
    trusted_keys: str = Field(
        "",
        description="Public keys (PEM files, by comma) whose signatures promotion and the server accept. "
        "Default: that of this home's own key.",
    )
    webhook_secret: SecretStr | None = Field(
        None, description="What MLflow's webhooks are signed with. Default: one is made in this home."
    )
    approval_models: str = Field(
        "",
        description="Models, by comma, that a person must approve in Airflow before promotion, besides those whose "
        "spec asks for it; '*' is all.",
    )

    serving_replica: str = Field(
        "",
        pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$|^$",
        description="Name of this replica of the server. Default: the host's name.",
    )
    serving_grpc_port: int = Field(8001, ge=0, le=65535, description="0: no gRPC.")

    prediction_log: bool = Field(
        True, description="Whether the server logs its answers, for trace and monitor."
    )
    prediction_log_folder: Path | None = Field(
        None, description="Spool of the log, on a local disk. Default: $HEADRACE_HOME/prediction_spool."
    )
    prediction_log_flush_seconds: float = Field(
        0.05, ge=0.001, le=60, description="What a kill -9 of the server may lose of the log, at most."
    )
    prediction_log_fsync_seconds: float = Field(
        1.0, ge=0, le=3600, description="What a power failure may lose of the log, at most."
    )
    prediction_log_queue_bytes: int = Field(
        64 * 2**20,
        ge=2**20,
        description="Of answers that wait for the disk; those that find it full are not logged.",
    )
    prediction_log_spool_bytes: int = Field(
        4 * 2**30,
        ge=2**20,
        description="Of answers on the disk that wait to be shipped, by replica; beyond it the oldest are removed.",
    )
    prediction_log_segment_seconds: float = Field(
        300.0, gt=0, le=3600, description="Time after which a file of the log may be shipped to the lake."
    )
    label_spool_folder: Path | None = Field(
        None,
        description="Labels that callers sent, on a local disk until they are shipped. Default: "
        "$HEADRACE_HOME/label_spool.",
    )
    label_spool_bytes: int = Field(
        256 * 2**20,
        ge=2**16,
        description="Of labels that wait to be shipped, by replica; beyond it they are refused (503).",
    )

    entity_buckets: int = Field(
        1,
        ge=1,
        le=256,
        description="Parts, by entity, in which Airflow's tasks ingest, validate and compute features; results are the "
        "same for any number. Over several workers, or for tables beyond one machine's memory.",
    )

    retention: str = Field(
        "",
        pattern=r"^$|^\s*(raw|clean|quarantine|features|predictions|scores)\s*=\s*[1-9][0-9]*"
        r"(\s*,\s*(raw|clean|quarantine|features|predictions|scores)\s*=\s*[1-9][0-9]*)*\s*$",
        description="Days that rows are kept, by layer and comma: raw=90,predictions=365 (of raw, clean, quarantine, "
        "features, predictions, scores). What is not named is kept for ever.",
    )
    vacuum_after_days: int = Field(
        7,
        ge=1,
        description="Files that only older versions of a table need are removed after this; those of versions in use stay.",
    )
    unused_after_days: int = Field(
        30,
        ge=1,
        description="Runs, logged models and snapshots to which no registered version refers are removed at this age.",
    )
    task_logs_days: int = Field(30, ge=1, description="Age at which logs of Airflow's tasks are removed.")
    prediction_log_ship_seconds: float = Field(
        60.0, gt=0, le=3600, description="Time between shipments by `headrace run spool-shipper`."
    )

    random_seed: int = Field(
        20260101, ge=0, description="Seed of splits, tuning and training; recorded with each run."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["text", "json"] = Field(
        "text", description="Of the server's log; json: one object a line."
    )
    shared_data: Path | None = Field(
        None, description="Folder of real telemetry for tests and benchmarks; never needed."
    )

    @field_validator("home")
    @classmethod
    def _home_is_absolute(cls, home: Path) -> Path:
        return home.expanduser().resolve()

    @field_validator(
        "secrets_folder",
        "airflow_pod_templates",
        "signing_key",
        "prediction_log_folder",
        "label_spool_folder",
        "serving_keys_file",
        "serving_tls_certificate",
        "serving_tls_key",
        "serving_tls_authority",
    )
    @classmethod
    def _paths_are_absolute(cls, path: Path | None) -> Path | None:
        return path and path.expanduser().resolve()

    @field_validator("source")
    @classmethod
    def _source_is_found_from_anywhere(cls, source: str) -> str:
        """As :func:`pipelines.sources.profile.located`, which costs an import."""
        return str(Path(source).expanduser().resolve()) if source.endswith((".yaml", ".yml")) else source

    @field_validator("trusted_keys")
    @classmethod
    def _trusted_keys_are_absolute(cls, names: str) -> str:
        """The local processes have another working directory than the shell that names the files."""
        return ",".join(
            str(Path(name.strip()).expanduser().resolve()) for name in names.split(",") if name.strip()
        )

    @model_validator(mode="after")
    def _s3_keys_go_together(self) -> Settings:
        if (self.s3_access_key_id is None) != (self.s3_secret_access_key is None):
            raise ValueError("S3_ACCESS_KEY_ID and S3_SECRET_ACCESS_KEY go together: set both or neither")
        return self

    @model_validator(mode="after")
    def _celery_has_what_it_needs(self) -> Settings:
        if self.airflow_executor == "CeleryExecutor" and not self.airflow_broker_url:
            raise ValueError(
                "AIRFLOW_EXECUTOR=CeleryExecutor needs AIRFLOW_BROKER_URL: redis://… or amqp://…"
            )
        if self.airflow_executor != "LocalExecutor" and self.airflow_database.startswith("sqlite:"):
            raise ValueError(
                f"AIRFLOW_EXECUTOR={self.airflow_executor} needs AIRFLOW_DATABASE_URL: its workers cannot share SQLite"
            )
        return self

    @model_validator(mode="after")
    def _tls_files_go_together(self) -> Settings:
        if (self.serving_tls_certificate is None) != (self.serving_tls_key is None):
            raise ValueError("SERVING_TLS_CERTIFICATE and SERVING_TLS_KEY go together: set both or neither")
        return self

    @cached_property
    def retention_days(self) -> dict[str, int]:
        """Days that rows are kept, by layer."""
        pairs = (part.split("=") for part in self.retention.split(",") if part.strip())
        return {layer.strip(): int(days) for layer, days in pairs}

    @cached_property
    def secrets(self) -> Path:
        return self.secrets_folder or self.home / "secrets"

    @cached_property
    def lake(self) -> str:
        return self.lake_url or str(self.home / "lake")

    @cached_property
    def tracking(self) -> str:
        return (self.tracking_url or f"http://{reachable(self.bind_host)}:{self.mlflow_port}").rstrip("/")

    @cached_property
    def airflow(self) -> str:
        return (self.airflow_url or f"http://{reachable(self.bind_host)}:{self.airflow_port}").rstrip("/")

    @cached_property
    def evidently(self) -> str:
        """Pages of drift reports; empty where there are none."""
        if self.evidently_url or not self.evidently_port:
            return self.evidently_url.rstrip("/")
        return f"http://{reachable(self.bind_host)}:{self.evidently_port}"

    @cached_property
    def evidently_workspace(self) -> Path:
        return self.home / "evidently"

    @cached_property
    def serving(self) -> str:
        scheme = "http" if self.serving_tls_certificate is None else "https"
        return (self.serving_url or f"{scheme}://{reachable(self.bind_host)}:{self.serving_port}").rstrip("/")

    @cached_property
    def serving_grpc(self) -> str:
        """Host and port as gRPC clients take them; empty where there is none."""
        host = urlsplit(self.serving).hostname or ""
        address = f"[{host}]" if ":" in host else host
        return f"{address}:{self.serving_grpc_port}" if self.serving_grpc_port else ""

    @cached_property
    def airflow_database(self) -> str:
        return with_driver(self.airflow_database_url) or f"sqlite:///{self.home / 'airflow' / 'airflow.db'}"

    @cached_property
    def mlflow_database(self) -> str:
        return with_driver(self.mlflow_database_url) or f"sqlite:///{self.home / 'mlflow' / 'mlflow.db'}"

    @cached_property
    def mlflow_artifacts(self) -> str:
        return self.mlflow_artifacts_url or str(self.home / "mlflow" / "artifacts")

    @cached_property
    def online_store(self) -> str:
        return self.online_store_url or f"sqlite:///{self.home / 'features' / 'online.db'}"

    @cached_property
    def feature_registry(self) -> str:
        return with_driver(self.feature_registry_url) or f"sqlite:///{self.home / 'features' / 'registry.db'}"

    @cached_property
    def tuning(self) -> str:
        return with_driver(self.tuning_url) or str(self.home / "tuning" / "journal.log")

    @cached_property
    def prediction_spool(self) -> Path:
        return self.prediction_log_folder or self.home / "prediction_spool"

    @cached_property
    def label_spool(self) -> Path:
        return self.label_spool_folder or self.home / "label_spool"

    @cached_property
    def replica(self) -> str:
        return self.serving_replica or socket.gethostname()

    @cached_property
    def serving_key_file(self) -> Path:
        return self.serving_keys_file or self.secrets / "serving_keys.json"

    @cached_property
    def serving_needs_keys(self) -> bool:
        """Whether callers of the server must show an API key."""
        loopback = self.bind_host in LOOPBACK and (
            self.serving_admin_port == 0 or self.serving_admin_host in LOOPBACK
        )
        return self.serving_keys == "required" or (self.serving_keys == "auto" and not loopback)

    @cached_property
    def s3_storage_options(self) -> dict[str, str]:
        """Options for ``deltalake`` and Polars; empty for a local lake."""
        if not self.lake.startswith("s3://"):
            return {}
        options = {"AWS_REGION": self.s3_region}
        if self.s3_endpoint_url:
            options["AWS_ENDPOINT_URL"] = self.s3_endpoint_url
            # A plain-http endpoint is somebody's own MinIO on a private network, not AWS.
            options["AWS_ALLOW_HTTP"] = str(urlsplit(self.s3_endpoint_url).scheme == "http").lower()
        if self.s3_access_key_id and self.s3_secret_access_key:
            options["AWS_ACCESS_KEY_ID"] = self.s3_access_key_id
            options["AWS_SECRET_ACCESS_KEY"] = self.s3_secret_access_key.get_secret_value()
        return options


def with_driver(url: str) -> str:
    """A database's URL with the driver that is installed; SQLAlchemy 2.1 would take psycopg 3 for PostgreSQL."""
    for scheme in ("postgresql://", "postgres://"):
        if url.startswith(scheme):
            return f"postgresql+psycopg2://{url.removeprefix(scheme)}"
    return url


def reachable(host: str) -> str:
    """The address by which this machine reaches a server bound to ``host``."""
    return "127.0.0.1" if host in {"0.0.0.0", "::", "localhost"} else host


def load_settings(environ: Mapping[str, str] | None = None, **overrides: object) -> Settings:
    """Settings of this process.

    Args:
        environ: Variables to read instead of the process's own; for tests.
        overrides: Fields that win over everything.

    Raises:
        SettingsError: a name is unknown, or a value is refused. The text names each of them.
    """
    variables = dict(os.environ if environ is None else environ)
    home = Path(str(overrides.get("home") or variables.get(f"{PREFIX}HOME") or ".headrace")).expanduser()
    given = {name.upper(): value for name, value in variables.items() if name.upper().startswith(PREFIX)}
    merged = _read_env_file(home / "settings.env") | given
    secrets = overrides.get("secrets_folder") or merged.get(f"{PREFIX}SECRETS_FOLDER")
    merged = merged | _read_secrets(Path(str(secrets)) if secrets else home / "secrets") | given
    _refuse_unknown(merged)
    values: dict[str, object] = {
        name.removeprefix(PREFIX).lower(): value for name, value in merged.items() if value != ""
    }
    try:
        return Settings(**(values | overrides))  # type: ignore[arg-type]
    except ValidationError as error:
        lines = [
            f"{PREFIX}{'_'.join(str(part) for part in item['loc']).upper()}={_without_password(item['input'])!r}: "
            f"{item['msg']}"
            if item["loc"]
            else item["msg"]
            for item in error.errors(include_url=False)
        ]
        raise SettingsError("refused settings:\n  " + "\n  ".join(lines)) from error


def _without_password(value: object) -> object:
    return re.sub(r"://([^:/@]*):[^@]*@", r"://\1:***@", value) if isinstance(value, str) else value


def _refuse_unknown(variables: Mapping[str, str]) -> None:
    known = {f"{PREFIX}{field.upper()}" for field in Settings.model_fields}
    unknown = []
    for name in sorted(set(variables) - known):
        close = difflib.get_close_matches(name, known, n=1)
        unknown.append(f"{name} (did you mean {close[0]}?)" if close else name)
    if unknown:
        raise SettingsError(
            "unknown settings: " + ", ".join(unknown) + "; `headrace settings` lists them all"
        )


def _read_secrets(folder: Path) -> dict[str, str]:
    """Values of settings that stand in files of their own; other files there are other parts' secrets."""
    if not folder.expanduser().is_dir():
        return {}
    files = [path for path in folder.expanduser().glob(f"{PREFIX.lower()}*") if path.is_file()]
    try:
        return {path.name.upper(): path.read_text("utf-8").strip() for path in files}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"a secret in {folder} cannot be read: {error}") from error


def _read_env_file(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    values = {}
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        name, separator, value = text.partition("=")
        if not separator or not name.strip().startswith(PREFIX):
            raise SettingsError(f"{path}:{number}: {text!r} is not of the form {PREFIX}NAME=value")
        values[name.strip()] = value.strip().strip("'\"")
    return values
