"""The server: where it answers, what it loads, what it lets one client cost, and the rollouts that it takes part in."""

from __future__ import annotations

import socket
from functools import cached_property
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from pipelines.settings.addresses import reachable
from pipelines.settings.machine import AbsolutePath, MachineSettings


class ServingSettings(MachineSettings):
    serving_url: str = Field("", description="The server. Default: the one that `headrace up` starts.")
    serving_port: int = Field(8000, ge=1, le=65535)
    serving_grpc_port: int = Field(8001, ge=0, le=65535, description="0: no gRPC.")
    serving_tls_certificate: AbsolutePath | None = Field(
        None, description="Certificate chain (PEM) of the server, REST and gRPC."
    )
    serving_tls_key: AbsolutePath | None = Field(None, description="Its private key (PEM, no passphrase).")
    serving_tls_authority: AbsolutePath | None = Field(
        None,
        description="Certificates (PEM) by which `headrace` knows the server. Default: the system's authorities.",
    )

    serving_workers: int = Field(1, ge=1, le=64, description="Processes of the server.")
    serving_replica: str = Field(
        "",
        pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$|^$",
        description="Name of this replica of the server. Default: the host's name.",
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

    @model_validator(mode="after")
    def _tls_files_go_together(self) -> Self:
        if (self.serving_tls_certificate is None) != (self.serving_tls_key is None):
            raise ValueError("SERVING_TLS_CERTIFICATE and SERVING_TLS_KEY go together: set both or neither")
        return self

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
    def replica(self) -> str:
        return self.serving_replica or socket.gethostname()
