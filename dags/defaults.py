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

from dags.alerts import on_failure
from dags.notes import note_failure
from pipelines import errors
from pipelines.sources.profile import BUNDLED

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
    errors.ScoringError,
    errors.SettingsError,
    errors.SnapshotError,
    errors.SourceError,
    errors.TrainingError,
    errors.WindowError,
)
RETRIES = ExceptionRetryPolicy(
    rules=[RetryRule(exception=error, action=RetryAction.FAIL) for error in _FINAL]
)


#: Tasks that use the processor for minutes. `headrace up` makes the pool; in production: `airflow pools set`.
TRAINING_POOL = "training"
#: Of the trigger form: what nearly every run by hand is about stands together.
SECTION = "What it works on"
_RETRY_DELAY = timedelta(seconds=10)

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
    """A server that restarts at night wakes nobody: tries go on for five to ten minutes, ever more slowly."""
    return {
        "owner": owner,
        "retries": 5,
        "retry_delay": _RETRY_DELAY,
        "retry_exponential_backoff": 2.0,
        "max_retry_delay": timedelta(minutes=5),
        "retry_policy": RETRIES,
        "execution_timeout": timedelta(hours=2),
        "on_failure_callback": note_failure,
    }


def run_defaults(owner: str, within: timedelta, **tasks: Any) -> dict[str, Any]:
    """What every DAG is given: one run at a time, an end to it, and somebody who is told when it fails.

    Args:
        within: A run that takes longer has failed: it would keep back all that come after it.
        tasks: Default arguments of its tasks that differ from :func:`task_defaults`.
    """
    return {
        "catchup": False,
        "max_active_runs": 1,
        "dagrun_timeout": within,
        "default_args": task_defaults(owner) | tasks,
        "on_failure_callback": on_failure(),
    }


def window_form() -> dict[str, Param]:
    """The fields of the trigger form that :func:`window_params` reads."""
    date = {"type": ["null", "string"], "format": "date", "section": SECTION}
    return {
        "window_start": Param(None, title="From", description="First day (UTC).", **date),
        "window_end": Param(None, title="Until", description="Day after the last (UTC).", **date),
    }


def source_form() -> Param:
    """The field of the trigger form for another source than the configured one."""
    return Param(
        None,
        type=["null", "string"],
        title="Source",
        description="A bundled profile's name, or the path of a YAML profile. Empty: the configured one.",
        examples=sorted(path.stem for path in BUNDLED.glob("*.yaml")),
        section=SECTION,
    )


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
