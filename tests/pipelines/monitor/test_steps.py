"""Routing by cause: broken data stop, quality asks, drift persists or is a diagnosis; a "no" has its reason."""

from datetime import UTC, datetime, timedelta

import pytest

from models.specs import Monitor, Retrain
from pipelines.monitor.records import (
    Cause,
    Check,
    ColumnFinding,
    Event,
    Figures,
    Late,
    Outcome,
    RequestRow,
    Trigger,
    requests,
)
from pipelines.monitor.steps import decide
from pipelines.references import Window

NOW = datetime(2026, 3, 10, tzinfo=UTC)
DAY = timedelta(days=1)
HEAT = ColumnFinding(
    column="heat",
    aspect="location",
    detail="higher by 1.20 standard deviations",
    effect=1.2,
    adjusted=0.001,
    importance=0.5,
)
LOSS = Figures(values={"wape": 0.9}, rows=500, below=("wape 0.9 > 0.5",))


def check(days_ago=0, **what):
    end = NOW - days_ago * DAY
    given = {"drift_score": 0.0, "rows": 1000, "tested": 10} | what
    return Check(
        registered_name="m", model="m", version="3", window=Window(start=end - DAY, end=end), at=end,
        cause=Cause.NOTHING, **given,
    )  # fmt: skip


def drifting(days_ago=0, score=0.5, important=1):
    return check(days_ago, drift_score=score, important=important, drifted=(HEAT,))


def closed(at):
    asked = RequestRow(at=at - DAY, registered_name="m", number=1, event=Event.ASKED, work="w", reason="r")
    ended = asked.model_copy(update={"at": at, "event": Event.CLOSED, "outcome": Outcome.KEPT})
    return requests([asked, ended])


def test_nothing_changed_is_said_so():
    decision = decide(check(), [], [], Monitor())
    assert (decision.cause, decision.alarm, decision.triggers) == (Cause.NOTHING, False, ())
    assert "nothing has changed" in decision.reason


def test_without_data_nothing_is_claimed():
    decision = decide(check(drift_score=None, tested=0, rows=0), [], [], Monitor())
    assert decision.cause is Cause.NOT_ENOUGH_DATA
    assert not decision.alarm


def test_broken_data_page_and_are_never_trained_on_whatever_else_is_so():
    broken = drifting(0).model_copy(update={"broken": ("heat: a sensor is stuck",), "realised": LOSS})
    decision = decide(broken, [drifting(2), drifting(1)], [], Monitor())
    assert (decision.cause, decision.alarm, decision.triggers) == (Cause.BROKEN_DATA, True, ())
    assert "a sensor is stuck" in decision.reason


def test_drift_once_is_no_alarm_and_the_reason_says_what_is_missing():
    decision = decide(drifting(), [check(1)], [], Monitor())
    assert not decision.alarm
    assert "1 of the last 2 checks, 2 are needed" in decision.reason


@pytest.mark.parametrize(
    ("score", "important", "triggers"),
    [
        (0.5, 1, (Trigger.DRIFT_SCORE,)),
        (0.1, 3, (Trigger.IMPORTANT_COLUMNS,)),
        (0.5, 4, (Trigger.DRIFT_SCORE, Trigger.IMPORTANT_COLUMNS)),
        (0.3, 2, ()),
    ],
)
def test_drift_that_persists_asks_by_its_size(score, important, triggers):
    now = drifting(0, score, important)
    decision = decide(now, [drifting(1, score, important)], [], Monitor())
    assert decision.alarm
    assert decision.triggers == triggers
    assert decision.changed_at == NOW - 2 * DAY
    if not triggers:
        assert "drift alone is a diagnosis" in decision.reason


def test_drift_may_be_asked_to_wait_for_a_loss():
    monitor = Monitor(retrain=Retrain(drift_needs_loss=True))
    assert decide(drifting(), [drifting(1)], [], monitor).triggers == ()
    losing = drifting().model_copy(update={"estimated": LOSS})
    assert Trigger.DRIFT_SCORE in decide(losing, [drifting(1)], [], monitor).triggers


def test_the_latest_check_decides_what_older_ones_saw():
    assert not decide(check(), [drifting(2), drifting(1)], [], Monitor()).alarm


def test_quality_below_its_floor_for_a_day_asks():
    losing = check(0, realised=LOSS)
    assert decide(losing, [check(1)], [], Monitor()).triggers == ()
    decision = decide(losing, [check(1, realised=LOSS)], [], Monitor())
    assert (decision.cause, decision.triggers) == (Cause.QUALITY_LOSS, (Trigger.QUALITY,))


def test_a_loss_that_labels_told_late_asks_too():
    late = Late(figures=LOSS, at=NOW - DAY, seen=4)
    decision = decide(check(0, late=late), [check(1, late=late)], [], Monitor())
    assert (decision.cause, decision.triggers) == (Cause.QUALITY_LOSS, (Trigger.QUALITY,))
    assert "labels came late" in decision.reason


def test_each_trigger_can_be_switched_off():
    off = Monitor(retrain=Retrain(drift_score=None, important_columns=None, quality_below_floor=None))
    now = drifting(0, 0.9, 9).model_copy(update={"realised": LOSS})
    decision = decide(now, [now.model_copy(update={"window": drifting(1).window})], [], off)
    assert decision.alarm
    assert decision.triggers == ()


def test_after_a_training_it_waits_and_says_until_when():
    cooling = decide(drifting(), [drifting(1)], closed(NOW - DAY), Monitor())
    assert cooling.alarm
    assert cooling.triggers == ()
    assert "cooldown until 2026-03-12" in cooling.reason
    assert decide(drifting(), [drifting(1)], closed(NOW - 4 * DAY), Monitor()).triggers


def test_features_served_otherwise_are_told_and_not_trained_away():
    skewed = {"skewed": ("heat: 40% of 2000 served rows differ from the offline store",)}
    lost = Figures(values={"wape": 0.9}, rows=500, below=("wape 0.9 > 0.5",), of="served")
    once = decide(check(**skewed), [], [], Monitor())
    assert (once.cause, once.alarm) == (Cause.SKEW, False)
    twice = decide(check(**skewed), [check(1, **skewed)], [], Monitor())
    assert (twice.cause, twice.alarm, twice.triggers) == (Cause.SKEW, True, ())
    assert "heat: 40%" in twice.reason
    assert "mend the online store" in twice.reason
    worse = decide(
        check(realised=lost, **skewed), [check(ago, realised=lost, **skewed) for ago in (2, 1)], [], Monitor()
    )
    assert (worse.cause, worse.alarm, worse.triggers) == (Cause.QUALITY_LOSS, True, ())


def test_a_loss_on_the_grid_is_no_matter_of_serving():
    earlier = [check(ago, realised=LOSS) for ago in (2, 1)]
    assert Trigger.QUALITY in decide(check(realised=LOSS, skewed=("x: 9%",)), earlier, [], Monitor()).triggers


def test_a_fall_out_of_its_own_band_is_an_alarm_and_asks_for_nothing():
    fell = {
        "realised": Figures(
            values={"wape": 0.4}, rows=500, fallen=("wape 0.4 ± 0.01, on its holdout 0.3 ± 0.01",)
        )
    }
    found = decide(check(**fell), [check(1, **fell)], [], Monitor())
    assert (found.cause, found.alarm, found.triggers) == (Cause.QUALITY_LOSS, True, ())
    assert "realised quality fell: wape 0.4" in found.reason
    assert "not its floor" in found.reason


def test_drift_that_waits_for_a_loss_takes_a_fall_for_one():
    fell = Figures(values={"wape": 0.4}, rows=500, fallen=("wape",))
    waits = Monitor(retrain=Retrain(drift_needs_loss=True))
    assert decide(drifting().model_copy(update={"realised": fell}), [drifting(1)], [], waits).triggers
    assert not decide(drifting(), [drifting(1)], [], waits).triggers
