"""The lake: where its tables lie, in how many parts they are filled, how long their rows are kept."""

from __future__ import annotations

from functools import cached_property
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, model_validator

from pipelines.settings.machine import MachineSettings


class LakeSettings(MachineSettings):
    lake_url: str = Field("", description="Folder or s3://bucket/prefix. Default: $HEADRACE_HOME/lake.")

    s3_endpoint_url: str | None = Field(None, description="S3 endpoint, for example http://127.0.0.1:9000.")
    s3_region: str = "us-east-1"
    s3_access_key_id: str | None = None
    s3_secret_access_key: SecretStr | None = None

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

    @model_validator(mode="after")
    def _s3_keys_go_together(self) -> Self:
        if (self.s3_access_key_id is None) != (self.s3_secret_access_key is None):
            raise ValueError("S3_ACCESS_KEY_ID and S3_SECRET_ACCESS_KEY go together: set both or neither")
        return self

    @cached_property
    def lake(self) -> str:
        return self.lake_url or str(self.home / "lake")

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

    @cached_property
    def retention_days(self) -> dict[str, int]:
        """Days that rows are kept, by layer."""
        pairs = (part.split("=") for part in self.retention.split(",") if part.strip())
        return {layer.strip(): int(days) for layer, days in pairs}
