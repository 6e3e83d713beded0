"""MLflow, which tracks runs and says which version serves; and whose word on a version is believed."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from pydantic import Field, SecretStr, field_validator

from pipelines.settings.addresses import reachable, with_driver
from pipelines.settings.machine import AbsolutePath, MachineSettings, absolute


class RegistrySettings(MachineSettings):
    tracking_url: str = Field("", description="MLflow server. Default: the one that `headrace up` starts.")
    mlflow_database_url: str = Field(
        "", description="Backend of the MLflow server that `headrace up` starts."
    )
    mlflow_artifacts_url: str = Field(
        "", description="Where that server keeps artifacts: a folder or s3://…."
    )
    mlflow_port: int = Field(5000, ge=1, le=65535)
    mlflow_hosts: str = Field(
        "",
        description="Names, by comma, by which MLflow is reached besides this machine's own: a service's, a proxy's. "
        "To any other it answers 403.",
    )
    mlflow_workers: int = Field(1, ge=1, le=64, description="Processes of the MLflow server.")

    signing_key: AbsolutePath | None = Field(
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

    @field_validator("trusted_keys")
    @classmethod
    def _trusted_keys_are_absolute(cls, names: str) -> str:
        return ",".join(str(absolute(Path(name.strip()))) for name in names.split(",") if name.strip())

    @cached_property
    def tracking(self) -> str:
        return (self.tracking_url or f"http://{reachable(self.bind_host)}:{self.mlflow_port}").rstrip("/")

    @cached_property
    def mlflow_database(self) -> str:
        return with_driver(self.mlflow_database_url) or f"sqlite:///{self.home / 'mlflow' / 'mlflow.db'}"

    @cached_property
    def mlflow_artifacts(self) -> str:
        return self.mlflow_artifacts_url or str(self.home / "mlflow" / "artifacts")
