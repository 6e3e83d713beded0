"""This machine: where its state lies and what it listens on, from which other settings take their defaults."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "HEADRACE_"


def absolute(path: Path) -> Path:
    """The local processes have another working directory than the shell that names the file."""
    return path.expanduser().resolve()


AbsolutePath = Annotated[Path, AfterValidator(absolute)]


class MachineSettings(BaseSettings):
    """What each other concern builds on."""

    # Built when it is first used: of all these classes, only Settings ever is.
    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="forbid", frozen=True, env_ignore_empty=True, defer_build=True
    )

    environment: Literal["development", "production"] = Field(
        "development", description="In production, generated and default secrets are refused."
    )
    home: AbsolutePath = Field(Path(".headrace"), description="Folder of all state on this machine.")
    secrets_folder: AbsolutePath | None = Field(
        None,
        description="Folder of secrets, as Docker and Kubernetes mount them: a file named as a setting in small letters, "
        "headrace_s3_secret_access_key, is its value. Default: $HEADRACE_HOME/secrets.",
    )
    source: str = Field(
        "simulated",
        description="Where telemetry comes from by default: a bundled profile's name, or the path of a YAML profile.",
    )
    bind_host: str = Field("127.0.0.1", description="Address that the pages and the server listen on.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["text", "json"] = Field(
        "text", description="Of the server's log; json: one object a line."
    )
    shared_data: Path | None = Field(
        None, description="Folder of real telemetry for tests and benchmarks; never needed."
    )

    @field_validator("source")
    @classmethod
    def _source_is_found_from_anywhere(cls, source: str) -> str:
        """As :func:`pipelines.sources.profile.located`, which costs an import."""
        return str(absolute(Path(source))) if source.endswith((".yaml", ".yml")) else source

    @cached_property
    def secrets(self) -> Path:
        return self.secrets_folder or self.home / "secrets"
