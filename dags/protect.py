"""protect: runs that a version in use needs are brought back when somebody deletes them, before `mlflow gc` takes them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import dag, task

from dags.defaults import run_defaults, schedule
from pipelines.errors import RegistryError
from pipelines.settings import load_settings

MANUAL = """
A version is in use while an alias names it, or while it waits for its promotion. Its run may be deleted in the MLflow
UI all the same, and `mlflow gc` then takes the artifacts. This DAG restores such runs once an hour; what is gone for
good fails the task, and its log says which version needs what: train it again, or promote another one.
"""


@dag(
    dag_id="protect",
    dag_display_name="Protect versions in use",
    description="What versions in use need is not deleted.",
    schedule=schedule("17 * * * *"),
    **run_defaults("platform", timedelta(minutes=30), retries=0, execution_timeout=timedelta(minutes=10)),
    doc_md=MANUAL,
    tags=["promote"],
)
def protect() -> None:
    @task
    def restore() -> list[dict[str, Any]]:
        from pipelines.lineage.in_use import protect as job

        found = job(load_settings())
        if lost := [each for each in found if not each.restored]:
            raise RegistryError(
                "; ".join(f"version {each.version} of {each.registered_name}: {each.what}" for each in lost)
            )
        return [each.model_dump(mode="json") for each in found]

    restore()


protect = protect()
