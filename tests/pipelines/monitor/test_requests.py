"""One request is open at a time, taken by one run and closed once: doubled, simultaneous and killed at every line."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from pipelines.adapters.lake import Lake
from pipelines.monitor import requests
from pipelines.monitor.records import Event, Outcome, Trigger
from tests.killing import killed_at_commit

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def lake(tmp_path):
    return Lake(str(tmp_path / "lake"))


def ask(lake, work="check:1", trigger=Trigger.DRIFT_SCORE, at=NOW):
    return requests.ask(
        lake, "failure", work=work, triggers=(trigger,), reason="it drifted", evidence="http://report", at=at
    )


def events(lake):
    return [row.event for request in requests.read(lake, "failure") for row in request.rows]


def test_the_same_evidence_asks_once(lake):
    assert ask(lake).number == ask(lake).number == 1
    assert events(lake) == [Event.ASKED]


def test_later_evidence_joins_the_open_request(lake):
    ask(lake)
    joined = ask(lake, work="check:2", trigger=Trigger.QUALITY)
    assert joined.number == 1
    [request] = requests.read(lake, "failure")
    assert request.state == "pending"
    assert set(request.triggers) == {Trigger.DRIFT_SCORE, Trigger.QUALITY}


def test_two_models_have_requests_of_their_own(lake):
    ask(lake)
    other = requests.ask(
        lake, "cost", work="check:1", triggers=(Trigger.QUALITY,), reason="", evidence="", at=NOW
    )
    assert other.number == 1
    assert requests.take(lake, "failure", run="a", at=NOW).asked.registered_name == "failure"
    assert requests.open_one(lake, "cost").state == "pending"


def test_a_doubled_event_finds_nothing_to_train(lake):
    ask(lake)
    assert requests.take(lake, "failure", run="first", at=NOW, alone=True).number == 1
    assert requests.close(lake, "failure", run="first", outcome=Outcome.PROMOTED, reason="better", at=NOW)
    assert requests.take(lake, "failure", run="second", at=NOW, alone=True) is None
    assert not requests.close(lake, "failure", run="first", outcome=Outcome.KEPT, reason="again", at=NOW)
    [request] = requests.read(lake, "failure")
    assert request.closed.outcome is Outcome.PROMOTED


def test_a_run_that_is_started_again_holds_its_own_request(lake):
    ask(lake)
    requests.take(lake, "failure", run="a", at=NOW)
    assert requests.take(lake, "failure", run="a", at=NOW).taken.attempt == 1


def test_another_run_does_not_take_what_is_held_until_its_holder_is_given_up_for_dead(lake):
    ask(lake)
    requests.take(lake, "failure", run="a", at=NOW)
    assert requests.take(lake, "failure", run="b", at=NOW + timedelta(hours=1)) is None
    assert requests.take(lake, "failure", run="b", at=NOW + requests.LEASE).taken.run == "b"
    # The one that came back from the dead does not hold it any more, and cannot end it.
    assert not requests.close(lake, "failure", run="a", outcome=Outcome.KEPT, reason="late", at=NOW)


def test_a_run_that_knows_it_is_alone_takes_over_at_once(lake):
    ask(lake)
    requests.take(lake, "failure", run="a", at=NOW)
    assert requests.take(lake, "failure", run="b", at=NOW, alone=True).taken.attempt == 2


def test_what_is_asked_after_the_end_is_a_new_request(lake):
    ask(lake)
    requests.take(lake, "failure", run="a", at=NOW)
    requests.close(
        lake, "failure", run="a", outcome=Outcome.KEPT, reason="no better", at=NOW + timedelta(hours=1)
    )
    assert ask(lake, work="check:9").number == 2
    assert [each.state for each in requests.read(lake, "failure")] == ["closed", "pending"]
    assert requests.read(lake, "failure")[0].closed.seconds == 3600


@pytest.mark.integration
def test_many_at_once_ask_take_and_close_once(lake):
    def whole(number):
        ask(lake, work=f"check:{number % 3}")
        taken = requests.take(lake, "failure", run=f"run-{number}", at=NOW)
        return taken is not None

    with ThreadPoolExecutor(6) as pool:
        held = list(pool.map(whole, range(6)))
    assert held.count(True) == 1
    rows = events(lake)
    assert rows.count(Event.ASKED) == 1
    assert rows.count(Event.TAKEN) == 1


def ask_take_and_close(lake_url):
    """The whole life of a request, in a process that is killed somewhere within."""
    lake = Lake(lake_url)
    if not requests.read(lake, "failure"):
        ask(lake)
    requests.take(lake, "failure", run="a", at=NOW)
    requests.close(lake, "failure", run="a", outcome=Outcome.PROMOTED, reason="better", at=NOW)


@pytest.mark.integration
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_every_commit_and_run_again_it_is_one_request(lake, when):
    n = 1
    while killed_at_commit(n, ask_take_and_close, lake.url, when=when):
        n += 1
        assert n < 8
    assert events(lake) == [Event.ASKED, Event.TAKEN, Event.CLOSED]
