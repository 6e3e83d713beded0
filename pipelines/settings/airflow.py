"""Airflow: its pages and its database, where its tasks run, whom it tells when a run has failed."""

from __future__ import annotations

from functools import cached_property
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator

from pipelines.settings.addresses import reachable, with_driver
from pipelines.settings.machine import AbsolutePath, MachineSettings


class AirflowSettings(MachineSettings):
    airflow_url: str = Field(
        "", description="Airflow's API server. Default: the one that `headrace up` starts."
    )
    airflow_port: int = Field(8080, ge=1, le=65535)
    airflow_database_url: str = Field(
        "", description="SQLAlchemy URL. Default: SQLite under $HEADRACE_HOME/airflow."
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
    airflow_pod_templates: AbsolutePath | None = Field(
        None,
        description="Folder of pod templates, one per stage (tune.yaml), for the KubernetesExecutor; a stage without "
        "one takes Airflow's own.",
    )

    airflow_log_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="Port on which a Celery worker shows its tasks' logs to Airflow's pages, on all interfaces, to who "
        "shows the pages' secret. 0: none; the pages read them from a disk that all share.",
    )
    task_logs_days: int = Field(30, ge=1, description="Age at which logs of Airflow's tasks are removed.")

    alert_email: str = Field(
        "",
        description="Whom Airflow writes to when a run has failed, by comma; through its connection `smtp_default`.",
    )
    alert_webhook_url: SecretStr | None = Field(
        None, description="Web hook that is told of failed runs: Slack's, Mattermost's, or one of your own."
    )

    @model_validator(mode="after")
    def _celery_has_what_it_needs(self) -> Self:
        if self.airflow_executor == "CeleryExecutor" and not self.airflow_broker_url:
            raise ValueError(
                "AIRFLOW_EXECUTOR=CeleryExecutor needs AIRFLOW_BROKER_URL: redis://… or amqp://…"
            )
        if self.airflow_executor != "LocalExecutor" and self.airflow_database.startswith("sqlite:"):
            raise ValueError(
                f"AIRFLOW_EXECUTOR={self.airflow_executor} needs AIRFLOW_DATABASE_URL: its workers cannot share SQLite"
            )
        return self

    @cached_property
    def airflow(self) -> str:
        return (self.airflow_url or f"http://{reachable(self.bind_host)}:{self.airflow_port}").rstrip("/")

    @cached_property
    def airflow_database(self) -> str:
        return with_driver(self.airflow_database_url) or f"sqlite:///{self.home / 'airflow' / 'airflow.db'}"
