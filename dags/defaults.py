"""What all DAGs share. Only light imports: the scheduler reads this at every parse."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import (
    Asset,
    AssetOrTimeSchedule,
    CronTriggerTimetable,
    ExceptionRetryPolicy,
    Param,
    RetryAction,
    RetryRule,
)

from pipelines import errors

# Errors that a second try cannot mend stop the run at once; anything else (a server that restarts,
# a disk that is full for a moment) is tried again.
_FINAL = (
    errors.ArtifactError,
    errors.BrokenDataError,
    errors.DataValidationError,
    errors.EvaluationError,
    errors.FeatureError,
    errors.MonitorError,
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


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
# A scheduled run looks back over this many slices: those that are done cost nothing, and what a
# night of outage left out comes in by itself.
LOOK_BACK_SLICES = 24


def schedule(cron: str | None) -> CronTriggerTimetable | None:
    """From now on, at each tick of the cron expression (UTC).

    Without a start date and with no time to look back, a DAG that is new or was paused does not
    run for a tick that has passed.
    """
    return CronTriggerTimetable(cron, timezone="UTC", run_immediately=timedelta(0)) if cron else None


def retrain_asset(model: str) -> Asset:
    """Its event says: look whether a request to train this model is open. It carries nothing else."""
    return Asset(f"retrain_{model}", uri=f"headrace://retrain/{model}")


def cron_or_asset(cron: str | None, asset: Asset) -> AssetOrTimeSchedule | list[Asset]:
    """At each tick of the cron expression as :func:`schedule` has it, and at each event of the asset."""
    timetable = schedule(cron)
    return [asset] if timetable is None else AssetOrTimeSchedule(timetable=timetable, assets=[asset])


def task_defaults(owner: str) -> dict[str, Any]:
    return {
        "owner": owner,
        "retries": 3,
        "retry_delay": timedelta(seconds=10),
        "retry_policy": RETRIES,
        "execution_timeout": timedelta(hours=2),
    }


def window_form() -> dict[str, Param]:
    """The fields of the trigger form that :func:`window_params` reads."""
    date = {"type": ["null", "string"], "format": "date"}
    return {
        "window_start": Param(None, description="First day (UTC).", **date),
        "window_end": Param(None, description="Day after the last (UTC).", **date),
    }


def window_params(
    params: dict[str, Any], run_after: datetime, length: timedelta, border: timedelta
) -> dict[str, str]:
    """The window that a run is told: its parameters, or whole slices before it was due.

    Args:
        length: Of the window, where its start is not given.
        border: Windows end at whole multiples of this since the Unix epoch, where it is not given.

    Returns:
        ``{"start", "end"}``, ISO 8601.
    """
    end = _moment(params.get("window_end")) or run_after - (run_after - _EPOCH) % border
    start = _moment(params.get("window_start")) or end - length
    return {"start": start.isoformat(), "end": end.isoformat()}


def _moment(text: str | None) -> datetime | None:
    if not text:
        return None
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
