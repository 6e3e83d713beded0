"""When a request is taken, by whom, and by whose clock."""

from datetime import UTC, datetime, timedelta

import pytest

from pipelines.adapters.lake import Lake
from pipelines.monitor import requests, retrain
from pipelines.monitor.records import Trigger

NOW = datetime(2026, 3, 10, 2, 45, tzinfo=UTC)
MIDNIGHT = datetime(2026, 3, 10, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def lake(settings):
    return Lake.of(settings)


def ask(lake, changed_at=None, at=MIDNIGHT, work="check:1", model="failure"):
    return requests.ask(
        lake, model, work=work, triggers=(Trigger.DRIFT_SCORE,), reason="it drifted", evidence="", at=at,
        changed_at=changed_at,
    )  # fmt: skip


def take(settings, run="a", at=NOW, model="failure", **how):
    how = {"by_event": True, "by_hand": False} | how
    return retrain.take(model, "simulated", run, at=at, settings=settings, **how)


def test_an_event_waits_until_what_changed_can_be_learned(settings, lake):
    ask(lake, changed_at=MIDNIGHT - 2 * DAY)
    early = take(settings)
    assert early.number is None
    assert "waits until 2026-03-15 00:00Z" in early.reason
    assert requests.open_one(lake, "failure").state == "pending"
    ripe = take(settings, at=NOW + 5 * DAY)
    assert (ripe.number, ripe.changed_at) == (1, MIDNIGHT - 2 * DAY)


@pytest.mark.parametrize("how", [{"by_hand": True}, {}])
def test_a_person_and_the_schedule_do_not_wait(settings, lake, how):
    ask(lake, changed_at=MIDNIGHT - 2 * DAY)
    assert take(settings, by_event=False, **how).number == 1


def test_where_labels_take_a_month_nobody_waits_for_them(settings, lake):
    ask(lake, changed_at=MIDNIGHT - 2 * DAY, model="cost")
    assert take(settings, model="cost").number == 1


def test_quick_labels_hardly_wait(settings, lake):
    ask(lake, changed_at=MIDNIGHT - 2 * DAY, model="bandwidth")
    assert take(settings, model="bandwidth").number == 1


def test_the_clock_is_that_of_the_evidence_where_it_lies_ahead(settings, lake):
    ahead = MIDNIGHT + 20 * DAY
    ask(lake, at=ahead)
    taken = take(settings)
    assert taken.newest == ahead
    assert taken.now(NOW + timedelta(minutes=2)) == ahead + timedelta(minutes=2)
    retrain.close(taken, "a", None, False, NOW + timedelta(minutes=2), settings)
    [request] = requests.read(lake, "failure")
    assert request.taken.at == ahead
    assert request.closed.seconds == 120.0


def test_in_ordinary_times_the_clock_is_this_machines(settings, lake):
    ask(lake)
    taken = take(settings)
    assert (taken.newest, taken.ahead) == (None, 0.0)
    assert requests.read(lake, "failure")[0].taken.at == NOW


def test_the_same_run_again_keeps_its_clock(settings, lake):
    ask(lake, at=MIDNIGHT + 20 * DAY)
    assert take(settings) == take(settings)


def test_a_window_that_ends_before_the_evidence_leaves_the_request_open(settings, lake):
    ask(lake)
    taken = take(settings, by_event=False, by_hand=True, until=MIDNIGHT - DAY)
    assert taken.number is None
    assert "stays open" in taken.reason
    assert take(settings, by_event=False, by_hand=True, until=MIDNIGHT).number == 1


def test_a_request_that_another_run_holds_is_not_taken_where_that_may_be_alive(settings, lake):
    ask(lake)
    take(settings, run="airflow")
    other = take(settings, run="terminal", by_event=False, by_hand=True, alone=False)
    assert other.number is None
    assert "airflow" in other.reason
