"""A challenger advances on what is shown, is withdrawn for what is shown, and waits in between."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.specs import Rollout
from pipelines.adapters.traffic import parse_traffic, place_of
from pipelines.errors import InvalidRequestError
from pipelines.rollout.outcomes import Outcome, compare
from pipelines.rollout.records import Evidence, Side, Standing, Step
from pipelines.rollout.sequential import Interval
from pipelines.rollout.steps import decide

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
PLAN = Rollout(hold=timedelta(minutes=10), min_requests=100, within=timedelta(days=1))
LATENCY = timedelta(milliseconds=100)
GOOD = Evidence(Side(1000, 0, 0), Side(1000, 0, 0), servers=1)


def standing(traffic="shadow", **changes):
    since = AT - timedelta(minutes=11)
    return replace(Standing("2", "1", traffic, since=since, begun=since), **changes)


def decided(now, seen, plan=PLAN, at=AT):
    return decide(plan, LATENCY, now, seen, at)


@pytest.mark.parametrize(
    ("traffic", "step", "following"),
    [
        ("shadow", Step.ADVANCE, "10"),
        ("10", Step.ADVANCE, "50"),
        ("20", Step.ADVANCE, "50"),
        ("50", Step.PROMOTE, ""),
        ("100", Step.PROMOTE, ""),
    ],
)
def test_steps_follow_each_other(traffic, step, following):
    found = decided(standing(traffic), GOOD)
    assert (found.step, found.traffic) == (step, following)


@pytest.mark.parametrize(
    ("now", "seen", "said"),
    [
        (standing(since=AT - timedelta(minutes=9)), GOOD, "0:09:00"),
        (standing(since=None), GOOD, "0:00:00"),
        (standing(), replace(GOOD, challenger=Side(99, 0, 0)), "99 requests"),
        (standing(), replace(GOOD, challenger=Side(1000, 15, 0)), "15 of 1000 are errors"),
        (standing(), replace(GOOD, challenger=Side(1000, 0, 15)), "15 of 1000 are slow"),
        (standing(), Evidence(unreachable="http://a: refused"), "http://a: refused"),
        (standing(traffic="", problem="the tag is wrong"), GOOD, "the tag is wrong"),
    ],
)
def test_what_is_not_shown_waits(now, seen, said):
    found = decided(now, seen)
    assert found.step is Step.WAIT
    assert said in found.reason


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (replace(GOOD, challenger=Side(100, 20, 0)), "failed on 20 of 100"),
        (replace(GOOD, challenger=Side(100, 0, 30)), "longer than 100 ms for 30 of 100"),
        (replace(GOOD, quality=Interval(0.1, 0.03, 0.2, 500)), "at least +0.0300"),
    ],
)
def test_what_is_shown_against_it_withdraws_at_once(seen, said):
    found = decided(standing(since=AT, begun=AT), seen)
    assert found.step is Step.WITHDRAW
    assert said in found.reason


def test_errors_that_the_champion_makes_as_well_are_not_held_against_it():
    both = Evidence(Side(1000, 200, 0), Side(1000, 200, 0), servers=1)
    assert decided(standing(), both).step is Step.ADVANCE
    assert decided(standing(), replace(both, champion=Side(1000, 0, 0))).step is Step.WITHDRAW


def test_outcomes_are_waited_for_where_the_plan_says_so():
    plan = PLAN.model_copy(update={"min_outcomes": 300})
    assert "of 0 of its answers" in decided(standing(), GOOD, plan).reason
    unsure = replace(GOOD, quality=Interval(0.0, -0.05, 0.05, 400))
    assert decided(standing(), unsure, plan).step is Step.WAIT
    assert decided(standing(), unsure).step is Step.ADVANCE
    sure = replace(GOOD, quality=Interval(0.0, -0.01, 0.01, 400))
    assert decided(standing(), sure, plan).step is Step.ADVANCE


def test_a_rollout_that_comes_to_no_end_is_withdrawn():
    found = decided(standing(begun=AT - timedelta(days=2), since=AT), GOOD)
    assert found.step is Step.WITHDRAW
    assert "not through after 1 day" in found.reason


@pytest.mark.parametrize(
    ("now", "step"),
    [
        (Standing(None, "1"), Step.NOTHING),
        (Standing("2", None, "10"), Step.NOTHING),
        (Standing("2", "2", "10"), Step.FINISH),
    ],
)
def test_without_two_versions_there_is_nothing_to_decide(now, step):
    assert decided(now, GOOD).step is step


@given(st.integers(0, 2000), st.integers(0, 2000), st.integers(0, 2000))
def test_more_errors_never_help(requests, fewer, more):
    fewer, more = sorted((min(fewer, requests), min(more, requests)))
    order = [Step.WITHDRAW, Step.WAIT, Step.ADVANCE]
    steps = [decided(standing(), replace(GOOD, challenger=Side(requests, n, 0))).step for n in (more, fewer)]
    assert order.index(steps[0]) <= order.index(steps[1])


@pytest.mark.parametrize(
    ("tag", "text", "percent"),
    [
        ("shadow", "shadow", 0),
        ("Shadow ", "shadow", 0),
        ("10", "10", 10),
        ("10 %", "10", 10),
        ("2.5", "2.5", 2.5),
    ],
)
def test_tags_that_name_traffic(tag, text, percent):
    assert parse_traffic(tag) == (text, percent)


@pytest.mark.parametrize("tag", [None, "", "0", "101", "-1", "ten", "1e1", "50 percent", "nan"])
def test_tags_that_name_none(tag):
    with pytest.raises(InvalidRequestError, match=r"headrace\.traffic"):
        parse_traffic(tag)


def test_who_is_among_ten_percent_stays_among_fifty_and_shares_are_what_they_say():
    places = [place_of("failure", f"m-{n:05d}".encode()) for n in range(20_000)]
    assert sum(place < 0.1 for place in places) / len(places) == pytest.approx(0.1, abs=0.01)
    assert sum(place < 0.5 for place in places) / len(places) == pytest.approx(0.5, abs=0.015)
    assert place_of("failure", b"m-00001") == pytest.approx(0.97379226, abs=1e-8)
    others = [place_of("cost", f"m-{n:05d}".encode()) for n in range(2000)]
    assert others != places[:2000]


def outcomes(of, versions, paired=True):
    """Outcomes of 600 predictions about 300 entities; ``of`` tells the loss of a version."""
    found = []
    for n in range(600):
        unit = f"m{n % 300}"
        for place, version in enumerate(versions):
            answers = (n % 300) % 2 == place
            if paired or answers:
                at = AT + timedelta(seconds=n)
                found.append(Outcome(f"id{n}", version, unit, at, of(version, n), answers))
    return found


def test_versions_are_compared_on_the_same_predictions_where_both_answered():
    found = compare(outcomes(lambda version, n: 0.2 + 0.3 * (version == "2"), "12"), "1", "2", 0.05)
    assert found.count == 600
    assert found.mean == pytest.approx(0.3)
    assert 0.2 < found.lower < 0.3 < found.upper < 0.4


def test_without_pairs_each_entity_counts_once():
    found = compare(outcomes(lambda version, n: 0.6 * (version == "2"), "12", paired=False), "1", "2", 0.05)
    assert found.count == 150
    assert 0 < found.lower < 0.6 < found.upper


def test_one_version_alone_is_no_comparison():
    assert compare(outcomes(lambda version, n: 0.5, "1"), "1", "2", 0.05) is None
    assert compare([], "1", "2", 0.05) is None
