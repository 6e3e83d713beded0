"""Pages of drift reports, and metrics for Prometheus."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from pydantic import Field

from pipelines.settings.addresses import reachable
from pipelines.settings.machine import MachineSettings


class MonitoringSettings(MachineSettings):
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

    @cached_property
    def evidently(self) -> str:
        """Pages of drift reports; empty where there are none."""
        if self.evidently_url or not self.evidently_port:
            return self.evidently_url.rstrip("/")
        return f"http://{reachable(self.bind_host)}:{self.evidently_port}"

    @cached_property
    def evidently_workspace(self) -> Path:
        return self.home / "evidently"
