"""Alarm precision, retrain yield and time to a new champion; and the gauges of a check."""

from datetime import UTC, datetime, timedelta

import pytest

from pipelines.monitor.gauges import text
from pipelines.monitor.looks import scored
from pipelines.monitor.records import Cause, Check, Event, Figures, Outcome, RequestRow, Trigger, requests
from pipelines.monitor.worth import Off, off, worth
from pipelines.references import Window

NOW = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
GOOD = Figures(values={"wape": 0.2}, rows=200)
BAD = Figures(values={"wape": 0.9}, rows=200, below=("wape 0.9 > 0.5",))


def check(day, cause=Cause.NOTHING, realised=None, **what):
    end = NOW + day * DAY
    return Check(
        registered_name="m", model="m", version="3", window=Window(start=end - DAY, end=end), at=end,
        cause=cause, drift_score=0.25, alarm=cause is not Cause.NOTHING, realised=realised or Figures(), **what,
    )  # fmt: skip


def request(number, outcome, asked, ended):
    row = RequestRow(
        at=NOW + asked * DAY, registered_name="m", number=number, event=Event.ASKED, work=f"w{number}", reason="r",
        triggers=(Trigger.DRIFT_SCORE,), changed_at=NOW + (asked - 1) * DAY,
    )  # fmt: skip
    closed = {"event": Event.CLOSED, "at": NOW + ended * DAY, "outcome": outcome, "seconds": 1800.0}
    return [row, row.model_copy(update=closed)]


def test_an_alarm_is_right_where_a_loss_was_measured_before_the_next_one():
    found = worth(
        [
            check(1, Cause.DRIFT, GOOD),  # one episode over two checks, the loss comes with later labels
            check(2, Cause.DRIFT, GOOD),
            check(3, realised=BAD),
            check(4, realised=GOOD),
            check(5, Cause.DRIFT, GOOD),  # never confirmed
            check(6, realised=GOOD),
            check(7, Cause.BROKEN_DATA),  # no alarm about the model
            check(8, Cause.DRIFT),  # nobody can say yet
        ],
        [],
    )
    assert (found.alarms, found.judged, found.confirmed) == (3, 2, 1)
    assert found.alarm_precision == 0.5


def test_yield_counts_trainings_and_time_counts_from_the_change():
    rows = [
        *request(1, Outcome.PROMOTED, 2, 3),
        *request(2, Outcome.KEPT, 5, 6),
        *request(3, Outcome.WITHDRAWN, 7, 8),
    ]
    found = worth([], requests(rows))
    assert found.retrain_yield == 0.5
    assert found.to_champion == 2 * DAY
    assert found.training_hours == 1.0


def test_without_alarms_and_trainings_nothing_is_claimed():
    found = worth([check(1)], [])
    assert (found.alarm_precision, found.retrain_yield, found.to_champion) == (None, None, None)


def test_gauges_are_in_prometheus_own_format():
    parser = pytest.importorskip("prometheus_client.parser")
    shown = text(check(1, Cause.DRIFT, BAD).model_copy(update={"registered_name": 'a "quoted" name'}))
    families = {family.name: family for family in parser.text_string_to_metric_families(shown)}
    [score] = families["headrace_monitor_drift_score"].samples
    assert (score.value, score.labels) == (0.25, {"model": 'a "quoted" name', "version": "3"})
    causes = {each.labels["cause"]: each.value for each in families["headrace_monitor_cause"].samples}
    assert causes["drift"] == 1
    assert sum(causes.values()) == 1
    assert families["headrace_monitor_quality"].samples[0].labels["kind"] == "realised"


def test_an_estimate_is_scored_by_what_came_of_the_same_window_and_no_other():
    estimated = Figures(values={"wape": 0.3, "mae": 4.0}, errors={"wape": 0.02}, rows=900)
    earlier = [check(1, estimated=estimated), check(2, estimated=Figures(values={"wape": 0.9}))]
    realised = Figures(values={"wape": 0.25, "coverage": 0.8}, rows=880)
    [found] = scored(realised, earlier, NOW + DAY)
    assert (found.metric, found.estimated, found.realised, found.error) == ("wape", 0.3, 0.25, 0.02)
    assert found.window_end == NOW + DAY
    assert scored(realised, earlier, NOW + 3 * DAY) == ()  # nobody looked that day
    assert scored(Figures(rows=3), earlier, NOW + DAY) == ()  # too few labels to say

    later = check(5, realised=realised, scored=(found,))
    both = off([*earlier, later, check(6, scored=(found.model_copy(update={"realised": 0.4}),))])
    assert both == {"wape": Off(2, pytest.approx(-0.025), pytest.approx(0.075))}
    assert 'headrace_monitor_estimate_error{model="m",version="3",metric="wape"} 0.04999' in text(later)
    assert off(earlier) == {}
