"""maintenance: tables are compacted, what nobody needs goes; what a version in the registry depends on stays."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import Param, dag, get_current_context, task

from dags import notes
from dags.defaults import run_defaults, schedule
from pipelines.settings import load_settings

MANUAL = """
Once a night: joins the small files of the lake's tables; removes rows beyond `HEADRACE_RETENTION`, files that only old
versions of tables need (`HEADRACE_VACUUM_AFTER_DAYS`), and runs, logged models and snapshots to which no registered
version refers (`HEADRACE_UNUSED_AFTER_DAYS`); then `mlflow gc`, and old logs of tasks (`HEADRACE_TASK_LOGS_DAYS`).

What a version in the registry depends on is not touched. If that cannot be told, because MLflow does not answer or a
version has no lineage, nothing is touched, and the run fails and says why. A part that fails does not keep the others
from their turn. Run it as often as you like; `dry_run` (or `headrace maintain --dry-run`) tells what it would do.
"""


@dag(
    dag_id="maintenance",
    dag_display_name="Maintenance",
    description="Compaction, retention and removal of what nobody needs.",
    schedule=schedule("40 2 * * *"),
    params={
        "dry_run": Param(
            False, type="boolean", title="Dry run", description="Tell what would be done, and do nothing."
        )
    },
    doc_md=MANUAL,
    tags=["maintenance"],
    **run_defaults("platform", timedelta(hours=6), retries=1),
)
def _maintenance() -> None:
    @task
    def maintain() -> dict[str, Any]:
        from datetime import UTC, datetime

        from pipelines.maintain import job

        dry_run = get_current_context()["params"]["dry_run"]
        found = job.run(load_settings(), datetime.now(UTC), dry_run=dry_run)
        told = "\n".join(f"- {deed.name}: {deed.action}, {deed.count:,}" for deed in found.deeds)
        notes.note(
            f"{'Would be done' if dry_run else 'Done'}:\n{told}" if told else "Nothing to do.", on_run=True
        )
        return found.to_xcom()

    maintain()


maintenance = _maintenance()
