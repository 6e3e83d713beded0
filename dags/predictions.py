"""predictions: what the server logged goes from its spool to the lake."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import dag, task

from dags.defaults import run_defaults, schedule

MANUAL = """
Takes the answers that servers on this machine wrote to their spool (`HEADRACE_PREDICTION_LOG_FOLDER`) to the tables
`predictions/<model>` of the lake, each once, and removes them from the spool. Run it as often as you like; a run that
fails or is killed leaves nothing half done, and the next one takes the rest.

The return value counts: `rows` added; `torn_bytes`, which crashes cut off; `damaged` records, whose files stay in the
spool as `*.damaged` for you to look at. If it fails for long, the spool fills, and the server removes the oldest
(`HEADRACE_PREDICTION_LOG_SPOOL_BYTES`; metric `headrace_prediction_log_dropped_rows_total`).

*ship_labels* does the same with the labels that callers sent (`HEADRACE_LABEL_SPOOL_FOLDER`, tables `labels/<model>`); where
that spool is full, the server refuses labels with 503.
"""


@dag(
    dag_id="predictions",
    dag_display_name="Prediction log",
    description="The prediction log, from the servers' spool to the lake.",
    schedule=schedule("*/5 * * * *"),
    **run_defaults("platform", timedelta(hours=1)),
    doc_md=MANUAL,
    tags=["predictions"],
)
def _predictions() -> None:
    @task
    def ship() -> dict[str, Any]:
        from pipelines.predictions import job
        from pipelines.settings import load_settings

        return job.run(load_settings()).to_xcom()

    @task
    def ship_labels() -> dict[str, Any]:
        """What callers said of predictions, from the servers' other spool to the tables ``labels/<model>``."""
        from pipelines.monitor import label_door
        from pipelines.settings import load_settings

        return label_door.ship(load_settings()).to_xcom()

    ship()
    ship_labels()


predictions = _predictions()
