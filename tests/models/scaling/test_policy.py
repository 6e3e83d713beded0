"""The policy: what it promises always, and what it does in plain cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from models.scaling.policy import Action, Decisions, Outlook, ScalingPolicy, Situation, decide

load = st.floats(0, 1e7)
missing_or = lambda values: st.one_of(st.just(math.nan), values)  # noqa: E731 - a name for a strategy


@st.composite
def policies(draw: st.DrawFn) -> ScalingPolicy:
    low, high = sorted((draw(st.integers(0, 50)), draw(st.integers(1, 200))))
    return ScalingPolicy(
        capacity_per_replica=draw(st.floats(0.5, 1e4)),
        min_replicas=low,
        max_replicas=max(1, high),
        target_utilisation=draw(st.floats(0.1, 1)),
        headroom=draw(st.floats(0, 3)),
        hysteresis=draw(st.floats(0, 0.5)),
        cooldown_out_minutes=draw(st.floats(0, 30)),
        cooldown_in_minutes=draw(st.floats(0, 60)),
        overload_utilisation=draw(st.one_of(st.none(), st.floats(0.5, 2))),
        largest_scale_in=draw(st.floats(0.05, 1)),
        fast_share=draw(st.floats(0.05, 1)),
    )


@st.composite
def outlooks(draw: st.DrawFn) -> Outlook:
    lower, forecast, upper = sorted(draw(st.tuples(load, load, load)))
    return seen(draw(load), forecast, lower, upper)


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    return situation(
        replicas=draw(missing_or(st.integers(0, 300).map(float))),
        minutes=draw(missing_or(st.floats(0, 120))),
        capacity=draw(missing_or(st.floats(0.1, 1e4))),
        least=draw(missing_or(st.integers(0, 60).map(float))),
        most=draw(missing_or(st.integers(0, 250).map(float))),
    )


def seen(now: float, forecast: float, lower: float | None = None, upper: float | None = None) -> Outlook:
    low, high = (forecast if end is None else end for end in (lower, upper))
    return Outlook(np.array([now]), np.array([forecast]), np.array([low]), np.array([high]), coverage=0.8)


def situation(
    replicas: float = math.nan,
    minutes: float = math.nan,
    capacity: float = math.nan,
    least: float = math.nan,
    most: float = math.nan,
) -> Situation:
    return Situation(*(np.array([value]) for value in (replicas, minutes, capacity, least, most)))


def bounds(policy: ScalingPolicy, said: Situation) -> tuple[float, float]:
    most = said.max_replicas[0] if np.isfinite(said.max_replicas[0]) else policy.max_replicas
    least = said.min_replicas[0] if np.isfinite(said.min_replicas[0]) else policy.min_replicas
    return min(least, most), most


def one(decisions: Decisions) -> tuple[str, int, float]:
    return decisions.action[0], int(decisions.desired_replicas[0]), float(decisions.confidence[0])


@given(policies(), outlooks(), situations())
def test_desired_replicas_are_never_out_of_bounds_and_confidence_is_a_probability(
    policy: ScalingPolicy, outlook: Outlook, said: Situation
) -> None:
    _, desired, confidence = one(decide(policy, outlook, said))
    least, most = bounds(policy, said)
    assert least <= desired <= most
    assert 0 <= confidence <= 1


@given(policies(), outlooks(), situations())
def test_the_action_says_what_happens_to_the_replicas(
    policy: ScalingPolicy, outlook: Outlook, said: Situation
) -> None:
    action, desired, _ = one(decide(policy, outlook, said))
    assert action in set(Action)
    if np.isfinite(said.replicas[0]):
        change = desired - said.replicas[0]
        named = {"scale_out_fast": 1, "scale_out": 1, "hold": 0, "scale_in": -1, "scale_in_fast": -1}[action]
        assert np.sign(change) == named
        fast = abs(change) > policy.fast_share * max(said.replicas[0], 1)
        assert action.endswith("_fast") == (fast and change != 0)


@given(policies(), outlooks(), situations(), st.integers(0, 300))
def test_nothing_moves_within_the_cooldown_unless_overloaded_or_out_of_bounds(
    policy: ScalingPolicy, outlook: Outlook, said: Situation, replicas: int
) -> None:
    least, most = bounds(policy, said)
    just_now = situation(
        replicas, 0.0, said.capacity_per_replica[0], said.min_replicas[0], said.max_replicas[0]
    )
    _, desired, _ = one(decide(policy, outlook, just_now))
    capacity = said.capacity_per_replica[0]
    bears = replicas * (capacity if np.isfinite(capacity) else policy.capacity_per_replica)
    if policy.cooldown_in_minutes > 0 and replicas <= most:
        assert desired >= replicas
    overloaded = (
        policy.overload_utilisation is not None and outlook.now[0] > bears * policy.overload_utilisation
    )
    if policy.cooldown_out_minutes > 0 and replicas >= least and not overloaded:
        assert desired <= replicas


@given(policies(), outlooks(), situations(), st.floats(1, 100))
def test_more_load_never_asks_for_fewer_replicas(
    policy: ScalingPolicy, outlook: Outlook, said: Situation, factor: float
) -> None:
    said = Situation(
        np.where(np.isnan(said.replicas), 5.0, said.replicas),
        said.minutes_since_action,
        said.capacity_per_replica,
        said.min_replicas,
        said.max_replicas,
    )
    more = Outlook(
        outlook.now * factor, outlook.forecast * factor, outlook.lower * factor, outlook.upper * factor, 0.8
    )
    assert one(decide(policy, more, said))[1] >= one(decide(policy, outlook, said))[1]


POLICY = ScalingPolicy(
    capacity_per_replica=100, max_replicas=50, target_utilisation=0.8, hysteresis=0.1, cooldown_in_minutes=10
)


@pytest.mark.parametrize(
    ("outlook", "said", "action", "desired"),
    [
        (seen(320, 400), situation(4), "scale_out", 5),
        (seen(320, 800), situation(4), "scale_out_fast", 10),
        (seen(320, 320), situation(4), "hold", 4),
        # 300 would fit into 4 replicas, 330 would not: a load that sways is not chased.
        (seen(300, 300), situation(5), "hold", 5),
        (seen(280, 280), situation(5), "scale_in", 4),
        (seen(80, 80), situation(8), "scale_in_fast", 4),
        # The load that is there counts, whatever is forecast.
        (seen(800, 100), situation(5), "scale_out_fast", 10),
        # Planned for is the upper end of the interval.
        (seen(320, 320, 300, 480), situation(4), "scale_out_fast", 6),
    ],
)
def test_plain_cases(outlook: Outlook, said: Situation, action: str, desired: int) -> None:
    assert one(decide(POLICY, outlook, said))[:2] == (action, desired)


def test_a_load_of_whole_replicas_needs_no_more() -> None:
    policy = ScalingPolicy(capacity_per_replica=0.1, target_utilisation=1.0)
    assert one(decide(policy, seen(0.3, 0.1 + 0.2), situation(3)))[:2] == ("hold", 3)


def test_scaling_in_waits_for_the_cooldown_and_scaling_out_does_not() -> None:
    assert one(decide(POLICY, seen(80, 80), situation(8, minutes=9)))[1] == 8
    assert one(decide(POLICY, seen(80, 80), situation(8, minutes=10)))[1] == 4
    assert one(decide(POLICY, seen(800, 800), situation(8, minutes=0)))[1] == 10


def test_an_overload_breaks_the_cooldown_of_scaling_out() -> None:
    patient = POLICY.model_copy(update={"cooldown_out_minutes": 10.0})
    assert one(decide(patient, seen(320, 800), situation(4, minutes=1)))[1] == 4
    assert one(decide(patient, seen(401, 800), situation(4, minutes=1)))[1] == 10


def test_confidence_is_the_probability_that_the_load_bears_the_action_out() -> None:
    def confidence(upper: float, replicas: int) -> float:
        return one(decide(POLICY, seen(300, 340, 320, upper), situation(replicas)))[2]

    # Even odds that more than 4 replicas' 320 comes would be a forecast of 320.
    assert one(decide(POLICY, seen(300, 320, 300, 340), situation(4)))[2] == pytest.approx(0.5)
    # The lower end of an 80 % interval is exceeded nine times out of ten.
    assert confidence(360, 4) == pytest.approx(0.9)
    assert confidence(400, 5) == pytest.approx(0.9)


def test_without_a_word_on_the_replicas_the_present_load_stands_for_them() -> None:
    assert one(decide(POLICY, seen(320, 320), situation()))[:2] == ("hold", 4)
    assert one(decide(POLICY, seen(320, 400), situation()))[:2] == ("scale_out", 5)


def test_bounds_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValidationError, match="min_replicas 9 exceeds max_replicas 3"):
        ScalingPolicy(capacity_per_replica=1, min_replicas=9, max_replicas=3)
