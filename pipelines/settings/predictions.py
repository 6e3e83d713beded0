"""What the server writes down on its own disk, until it is shipped to the lake: its answers, and callers' labels."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from pydantic import Field

from pipelines.settings.machine import AbsolutePath, MachineSettings


class PredictionSettings(MachineSettings):
    prediction_log: bool = Field(
        True, description="Whether the server logs its answers, for trace and monitor."
    )
    prediction_log_folder: AbsolutePath | None = Field(
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
    prediction_log_ship_seconds: float = Field(
        60.0, gt=0, le=3600, description="Time between shipments by `headrace run spool-shipper`."
    )
    label_spool_folder: AbsolutePath | None = Field(
        None,
        description="Labels that callers sent, on a local disk until they are shipped. Default: "
        "$HEADRACE_HOME/label_spool.",
    )
    label_spool_bytes: int = Field(
        256 * 2**20,
        ge=2**16,
        description="Of labels that wait to be shipped, by replica; beyond it they are refused (503).",
    )

    @cached_property
    def prediction_spool(self) -> Path:
        return self.prediction_log_folder or self.home / "prediction_spool"

    @cached_property
    def label_spool(self) -> Path:
        return self.label_spool_folder or self.home / "label_spool"
