from __future__ import annotations

from datetime import UTC, datetime, timedelta

from headrace.airflow_api import TaskInstance, _log_lines
from headrace.demo import STAGES, _stages
from headrace.local import heart_beats

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def instance(
    task: str,
    state: str | None,
    index: int = -1,
    begin: float | None = None,
    end: float | None = None,
    tries: int = 1,
) -> TaskInstance:
    at = [None if seconds is None else NOON + timedelta(seconds=seconds) for seconds in (begin, end)]
    return TaskInstance(task, index, state, tries, at[0], at[1])


def test_a_mapped_task_is_one_stage_from_its_first_start_to_its_last_end() -> None:
    tasks = [instance("ingest", "success", 0, 0, 10), instance("ingest", "success", 1, 5, 20)]

    assert _stages(tasks) == {"ingest": ("success", "2 of 2", 20.0)}


def test_a_stage_is_as_far_as_its_hindmost_task() -> None:
    done = instance("ingest", "success", 0, 0, 10)

    assert _stages([done, instance("ingest", "running", 1, 5)])["ingest"] == ("running", "1 of 2", None)
    assert _stages([done, instance("ingest", None, 1)])["ingest"] == ("running", "1 of 2", None)
    assert _stages([done, instance("ingest", "failed", 1, 5, 9)])["ingest"][0] == "failed"


def test_tries_are_shown_from_the_second_on() -> None:
    assert _stages([instance("tune", "running", begin=0, tries=2)])["tune"] == ("running", "try 2", None)


def test_what_waits_has_no_time_and_what_is_held_back_says_so() -> None:
    assert _stages([instance("train", None, tries=0)])["train"] == ("waiting", "", None)
    assert _stages([instance("train", "upstream_failed", begin=1, end=1)])["train"] == ("not run", "", None)


def test_a_task_that_was_cleared_waits_and_has_no_time_of_its_last_try() -> None:
    assert _stages([instance("train", None, begin=0, end=9, tries=2)])["train"] == ("waiting", "", None)
    assert _stages([instance("train", "queued", begin=0, end=9, tries=2)])["train"] == (
        "queued",
        "try 2",
        None,
    )


def test_stages_come_in_the_order_of_the_chain_and_unknown_ones_last() -> None:
    tasks = [instance(name, None) for name in ("extra", *reversed(STAGES))]

    assert list(_stages(tasks)) == [*STAGES, "extra"]


def test_a_log_entry_gives_its_message_and_the_text_of_its_error() -> None:
    entry = {
        "event": "Task failed",
        "error_detail": [{"exc_type": "WindowError", "exc_value": "start is not\nbefore end", "frames": []}],
    }

    assert _log_lines(entry) == ["Task failed", "WindowError: start is not", "before end"]
    assert _log_lines({"event": "::group::Pre Execute"}) == []
    assert _log_lines("plain") == ["plain"]


def test_a_heartbeat_from_before_the_start_does_not_count() -> None:
    health = {"scheduler": {"status": "healthy", "latest_scheduler_heartbeat": NOON.isoformat()}}

    assert heart_beats(health, "scheduler", NOON.timestamp() - 1)
    assert not heart_beats(health, "scheduler", NOON.timestamp() + 1)
    assert not heart_beats(
        {"scheduler": {"status": None, "latest_scheduler_heartbeat": None}}, "scheduler", 0
    )
