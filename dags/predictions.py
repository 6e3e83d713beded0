"""predictions: what the server logged goes from its spool to the lake."""

from __future__ import annotations

from typing import Any

from airflow.sdk import dag, task

from dags.defaults import schedule, task_defaults

MANUAL = """
Takes the answers that servers on this machine wrote to their spool (`HEADRACE_PREDICTION_LOG_FOLDER`) to the tables
`predictions/<model>` of the lake, each once, and removes them from the spool. Run it as often as you like; a run that
fails or is killed leaves nothing half done, and the next one takes the rest.

The return value counts: `rows` added; `torn_bytes`, which crashes cut off; `damaged` records, whose files stay in the
spool as `*.damaged` for you to look at. If it fails for long, the spool fills, and the server removes the oldest
(`HEADRACE_PREDICTION_LOG_SPOOL_BYTES`; metric `headrace_prediction_log_dropped_rows_total`).
"""


@dag(
    dag_id="predictions",
    description="The prediction log, from the servers' spool to the lake.",
    schedule=schedule("*/5 * * * *"),
    catchup=False,
    max_active_runs=1,
    default_args=task_defaults("platform"),
    doc_md=MANUAL,
    tags=["predictions"],
)
def _predictions() -> None:
    @task
    def ship() -> dict[str, Any]:
        from pipelines.predictions import job
        from pipelines.settings import load_settings

        return job.run(load_settings()).to_xcom()

    ship()


predictions = _predictions()
