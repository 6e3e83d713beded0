"""Runs in MLflow: one parent run per piece of training work, found again by its key after a crash."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.references import SnapshotRef

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from pipelines.settings import Settings

RUN_KEY = "headrace.run_key"
_NOTE = "mlflow.note.content"  # MLflow's own tag for a description


@lru_cache(maxsize=1)
def code_version() -> str:
    """Version of the package, with the commit where the code runs from a checkout."""
    commit = subprocess.run(
        ["git", "-C", str(Path(__file__).parents[2]), "rev-parse", "--short=12", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return f"{version('headrace')}+{commit}" if commit else version("headrace")


def run_key(snapshot: SnapshotRef, trials: int, seed: int) -> str:
    """Names the work: the same snapshot, code, budget and seed are one run, however often repeated."""
    text = f"{snapshot.model}|{snapshot.source}|{snapshot.sha256}|{trials}|{seed}|{code_version()}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def client(settings: Settings) -> MlflowClient:
    """MLflow's client for the configured server; also sets it for the fluent functions."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # Two lines for each run of a study would drown the progress that people watch.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow

    mlflow.set_tracking_uri(settings.tracking)
    return mlflow.MlflowClient(settings.tracking)


def find_or_create_run(settings: Settings, experiment: str, key: str, tags: dict[str, str]) -> str:
    """The run that stands for this work; its id."""
    mlflow_client = client(settings)
    found = mlflow_client.get_experiment_by_name(experiment)
    experiment_id = found.experiment_id if found else mlflow_client.create_experiment(experiment)
    runs = mlflow_client.search_runs(
        [experiment_id], filter_string=f"tags.`{RUN_KEY}` = '{key}'", max_results=1
    )
    if runs:
        return str(runs[0].info.run_id)
    run = mlflow_client.create_run(
        experiment_id, run_name=f"{experiment} {key[:8]}", tags={**tags, RUN_KEY: key}
    )
    return str(run.info.run_id)


@contextmanager
def resumed(settings: Settings, run_id: str) -> Iterator[None]:
    """Log to a run with the fluent functions; it stays open for the next stage."""
    import mlflow

    client(settings)
    with mlflow.start_run(run_id=run_id, log_system_metrics=False):
        yield


def describe(
    settings: Settings, run_id: str, description: str, tags: dict[str, str], *, experiment: str
) -> None:
    """What MLflow's page of a run says in words, with tags to search by.

    Args:
        description, experiment: Markdown, of the run and of its experiment.
    """
    mlflow_client = client(settings)
    for name, text in {**tags, _NOTE: description}.items():
        mlflow_client.set_tag(run_id, name, text)
    mlflow_client.set_experiment_tag(mlflow_client.get_run(run_id).info.experiment_id, _NOTE, experiment)
