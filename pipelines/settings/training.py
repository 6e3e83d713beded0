"""Training: seeds, and how a study's trials are shared out."""

from __future__ import annotations

from functools import cached_property

from pydantic import Field

from pipelines.settings.addresses import with_driver
from pipelines.settings.machine import MachineSettings


class TrainingSettings(MachineSettings):
    random_seed: int = Field(
        20260101, ge=0, description="Seed of splits, tuning and training; recorded with each run."
    )
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
    train_cluster: str = Field(
        "",
        pattern=r"^(tcp|tls)://.+:[0-9]+$|^$",
        description="Dask scheduler, tcp://host:port, whose workers grow the boosters of `failure` and `placement` together. "
        "Needs headrace[train-cluster]. Default: each is grown in one process.",
    )

    @cached_property
    def tuning(self) -> str:
        return with_driver(self.tuning_url) or str(self.home / "tuning" / "journal.log")
