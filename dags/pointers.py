"""pointers: what people moved in the MLflow UI enters the ledger, and a move that a crash cut short is ended."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import dag, task

from dags.defaults import run_defaults, schedule
from pipelines.settings import load_settings

MANUAL = """
Compares the aliases `production` and `challenger` of each registered model with the last line of the ledger, and
writes down what nobody told it: *moved outside*, or *rolled back outside*, at the time it was noticed. MLflow keeps
no record of who. It moves no alias but `previous`, which must name the version that served before.

Run it as often as you like; most of the time it finds nothing. `headrace history MODEL` shows the ledger.
"""


@dag(
    dag_id="pointers",
    dag_display_name="Pointers",
    description="Moves in the MLflow UI enter the ledger.",
    schedule=schedule("*/5 * * * *"),
    **run_defaults("platform", timedelta(minutes=15), retries=0, execution_timeout=timedelta(minutes=5)),
    doc_md=MANUAL,
    tags=["promote"],
)
def pointers() -> None:
    @task
    def reconcile() -> dict[str, Any]:
        from pipelines.promote import reconcile as job

        return job.run(load_settings()).to_xcom()

    reconcile()


pointers = pointers()
