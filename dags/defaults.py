"""What all DAGs share. Only light imports: the scheduler reads this at every parse."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import CronTriggerTimetable, ExceptionRetryPolicy, RetryAction, RetryRule

from pipelines import errors

# Errors that a second try cannot mend stop the run at once; anything else (a server that restarts,
# a disk that is full for a moment) is tried again.
_FINAL = (
    errors.ArtifactError,
    errors.DataValidationError,
    errors.EvaluationError,
    errors.FeatureError,
    errors.PromotionError,
    errors.SettingsError,
    errors.SnapshotError,
    errors.SourceError,
    errors.TrainingError,
    errors.WindowError,
)
RETRIES = ExceptionRetryPolicy(
    rules=[RetryRule(exception=error, action=RetryAction.FAIL) for error in _FINAL]
)


def schedule(cron: str | None) -> CronTriggerTimetable | None:
    """From now on, at each tick of the cron expression (UTC).

    Without a start date and with no time to look back, a DAG that is new or was paused does not
    run for a tick that has passed.
    """
    return CronTriggerTimetable(cron, timezone="UTC", run_immediately=timedelta(0)) if cron else None


def task_defaults(owner: str) -> dict[str, Any]:
    return {
        "owner": owner,
        "retries": 3,
        "retry_delay": timedelta(seconds=10),
        "retry_policy": RETRIES,
        "execution_timeout": timedelta(hours=2),
    }


def window_params(params: dict[str, Any], run_after: datetime, length: timedelta) -> dict[str, str]:
    """The window that a run is told: its parameters, or the whole UTC days before it was due.

    Returns:
        ``{"start", "end"}``, ISO 8601.
    """
    end = params.get("window_end") or run_after.astimezone(UTC).strftime("%Y-%m-%d")
    last = datetime.fromisoformat(end)
    last = last.replace(tzinfo=UTC) if last.tzinfo is None else last.astimezone(UTC)
    start = params.get("window_start")
    first = datetime.fromisoformat(start) if start else last - length
    first = first.replace(tzinfo=UTC) if first.tzinfo is None else first.astimezone(UTC)
    return {"start": first.isoformat(), "end": last.isoformat()}
