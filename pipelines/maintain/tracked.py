"""Runs and logged models of MLflow to which no registered version refers.

They are deleted as the UI deletes them, and taken for good by ``mlflow gc`` after a day of grace, in which
``mlflow`` can bring a run back.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pipelines.adapters import tracking
from pipelines.maintain.records import Deed
from pipelines.maintain.steps import RunFacts, unneeded_runs

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from pipelines.lineage.in_use import InUse
    from pipelines.settings import Settings

_PARENT = "mlflow.parentRunId"
_PAGE = 1000
GRACE = "1d"


def care(settings: Settings, registered: InUse, before: datetime, *, dry_run: bool) -> Iterator[Deed]:
    """Delete what no registered version refers to and what began before a moment.

    Args:
        registered: Every version of the registry.
    """
    client = tracking.client(settings)
    sources = {each.source for each in registered.versions}
    for experiment in client.search_experiments(max_results=_PAGE):
        runs = list(_runs(client, experiment.experiment_id))
        if not any(run.ours for run in runs):
            continue  # somebody else's
        gone = unneeded_runs(runs, registered.runs, before)
        ours = {run.run_id for run in runs}
        models = [
            model.model_id
            for model in _models(client, experiment.experiment_id)
            if f"models:/{model.model_id}" not in sources
            and model.source_run_id not in registered.runs
            and (model.source_run_id in gone or model.source_run_id not in ours)
            and _moment(model.creation_timestamp) < before
        ]
        if not dry_run:
            for model_id in models:
                client.delete_logged_model(model_id)
            for run_id in gone:
                client.delete_run(run_id)
        for part, found in (("logged models", models), ("runs", gone)):
            if found:
                yield Deed(part=part, name=experiment.name, action="delete", count=len(found))
    if not dry_run:
        yield collect_garbage(settings)


def collect_garbage(settings: Settings, older_than: str = GRACE) -> Deed:
    """Take for good what was deleted some time ago, by whom ever.

    Args:
        older_than: As ``mlflow gc`` takes it.
    """
    if settings.tracking_url and not settings.mlflow_database_url:
        return Deed(
            part="runs",
            name="mlflow gc",
            action="left",
            note=f"the server at {settings.tracking} is not run from here: run `mlflow gc --older-than {older_than}` beside it",
        )
    # The database's address goes through the environment, where no `ps` shows a password: what is not
    # given as --backend-store-uri is read there. --tracking-uri then says by whom artifacts are removed.
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": settings.mlflow_database,
        "MLFLOW_ARTIFACTS_DESTINATION": settings.mlflow_artifacts,
    }
    command = ["gc", "--older-than", older_than, "--tracking-uri", settings.tracking]
    done = subprocess.run(
        [sys.executable, "-m", "mlflow", *command],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        return Deed(part="runs", name="mlflow gc", action="failed", failed=True, note=" ".join(last))
    taken = sum("permanently deleted" in line for line in done.stdout.splitlines())
    return Deed(part="runs", name="mlflow gc", action="remove for good", count=taken)


def _runs(client: MlflowClient, experiment_id: str) -> Iterator[RunFacts]:
    token = None
    while True:
        page = client.search_runs([experiment_id], max_results=_PAGE, page_token=token)
        for run in page:
            tags = run.data.tags
            yield RunFacts(
                run.info.run_id,
                tags.get(_PARENT),
                _moment(run.info.start_time),
                tracking.RUN_KEY in tags,
            )
        token = page.token
        if not token:
            return


def _models(client: MlflowClient, experiment_id: str) -> Iterator:
    token = None
    while True:
        page = client.search_logged_models([experiment_id], max_results=_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
