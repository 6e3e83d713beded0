"""Who may ask the server what: API keys for predictions, a token or a port of its own for those who run it."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr

from pipelines.settings.addresses import LOOPBACK
from pipelines.settings.machine import AbsolutePath, MachineSettings


class AccessSettings(MachineSettings):
    serving_keys: Literal["auto", "required", "off"] = Field(
        "auto",
        description="Whether callers of the server need an API key. auto: unless it listens on loopback only.",
    )
    serving_keys_file: AbsolutePath | None = Field(
        None, description="Hashes of the API keys. Default: $HEADRACE_HOME/secrets/serving_keys.json."
    )
    serving_api_key: SecretStr | None = Field(
        None, description="The key that `headrace status` and `headrace predict` show to the server."
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
