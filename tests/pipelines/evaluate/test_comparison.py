"""Only what is better replaces what serves, by the test that fits the kind of model."""

from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from models.base import Observations
from models.catalogue import CATALOGUE
from models.specs import Bound, Gate
from pipelines.evaluate.comparison import (
    Answered,
    Plan,
    champion_checks,
    compare,
    older_check,
    plan_of,
)
from pipelines.references import Outcome
from tests.pipelines.evaluate.worlds import (
    BY_MACHINE,
    BY_TIME,
    EVENT_GATE,
    EVENTS,
    LOAD_GATE,
    LOADS,
    events,
    forecast,
    loads,
    scored,
)

NO_WORSE = Gate(
    bounds={"wape": Bound(maximum=1)},
    champion_rule="not_inferior",
    benefit="half the size",
    champion_margin=0.01,
)


def promotes(checks):
    return all(check.outcome is Outcome.PASS for check in checks)


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.floats(0.2, 3.0), st.floats(0.2, 3.0))
def test_swapping_forecasts_never_promotes_both(seed, ours, theirs):
    part = loads(200, seed)
    first, second = forecast(part, ours, seed + 1), forecast(part, theirs, seed + 2, "version 1")
    one = champion_checks(LOADS, part, first, second, LOAD_GATE, BY_TIME)
    other = champion_checks(LOADS, part, second, first, LOAD_GATE, BY_TIME)
    assert not (promotes(one) and promotes(other))


@settings(max_examples=10)
@given(st.integers(0, 10_000), st.floats(0.5, 3.0), st.floats(0.5, 3.0))
def test_swapping_detectors_never_promotes_both(seed, ours, theirs):
    part = events(seed, rows=600)
    first, second = scored(part, ours, seed + 1), scored(part, theirs, seed + 2, "version 1")
    plan = Plan("entity", resamples=200)
    one = champion_checks(EVENTS, part, first, second, EVENT_GATE, plan)
    other = champion_checks(EVENTS, part, second, first, EVENT_GATE, plan)
    assert not (promotes(one) and promotes(other))


def test_the_same_model_again_does_not_replace_itself():
    part = loads()
    (check,) = champion_checks(LOADS, part, forecast(part, 1.0), forecast(part, 1.0), LOAD_GATE, BY_TIME)
    assert (check.outcome, check.figure) == (Outcome.FAIL, 0.0)
    part = events()
    ranked, decided = champion_checks(
        EVENTS, part, scored(part, 1.0), scored(part, 1.0), EVENT_GATE, BY_MACHINE
    )
    assert ranked.outcome is Outcome.FAIL
    assert decided.outcome is Outcome.PASS


def test_a_better_forecast_is_told_by_its_method_and_its_levels():
    part = loads()
    (check,) = champion_checks(LOADS, part, forecast(part, 0.5), forecast(part, 1.0), LOAD_GATE, BY_TIME)
    assert check.outcome is Outcome.PASS
    assert check.method.startswith("Diebold-Mariano over 1000 moments, long-run variance of 8 cosines")
    assert "moving-block bootstrap" in check.detail
    assert check.p_value < 0.025
    assert check.units == 1000


def test_the_gain_is_that_of_the_objective():
    part = loads()
    ours, theirs = forecast(part, 0.5).answers, forecast(part, 1.0).answers
    gain, levels = compare(LOADS, part, ours, theirs, BY_TIME)
    ones = np.ones(len(part))
    assert levels[0] == pytest.approx(LOADS.statistic(part, ours)(ones))
    assert gain.figure == pytest.approx(levels[0] - levels[1])
    clustered, _ = compare(LOADS, part, ours, theirs, Plan("entity", timedelta(days=1)))
    assert clustered.figure == pytest.approx(gain.figure)


def test_no_worse_is_enough_only_where_the_spec_says_what_it_brings():
    part = loads()
    almost = forecast(part, 1.0, seed=8)
    (check,) = champion_checks(LOADS, part, almost, forecast(part, 1.0), NO_WORSE, BY_TIME)
    assert check.outcome is Outcome.PASS
    assert "half the size" in check.question
    assert (check.bound, check.margin) == (-0.01, 0.01)
    (strict,) = champion_checks(LOADS, part, almost, forecast(part, 1.0), LOAD_GATE, BY_TIME)
    assert strict.outcome is not Outcome.PASS
    with pytest.raises(ValidationError, match="say what a candidate that is no better brings"):
        Gate(bounds=NO_WORSE.bounds, champion_rule="not_inferior")


def test_a_better_ranking_with_worse_alarms_is_refused():
    part = events()
    candidate, champion = scored(part, 0.8), scored(part, 2.0, seed=7, name="version 1")
    shouting = Answered("candidate", candidate.answers | {"alarm": candidate.answers["probability"] > 0.01})
    ranked, decided = champion_checks(EVENTS, part, shouting, champion, EVENT_GATE, BY_MACHINE)
    assert ranked.outcome is Outcome.PASS
    assert decided.outcome is Outcome.FAIL
    assert "the champion alone in" in decided.sentence()


def test_decisions_are_compared_by_day():
    rows = 20 * 24
    part = loads(rows)
    (check,) = champion_checks(LOADS, part, forecast(part, 0.5), forecast(part, 1.0), LOAD_GATE, Plan("day"))
    assert (check.units, check.outcome) == (20, Outcome.PASS)
    assert "20 days" in check.method


def test_what_the_champion_proved_itself_on_must_not_be_lost():
    part = loads()
    lost = older_check(LOADS, part, forecast(part, 5.0), forecast(part, 1.0), 300, LOAD_GATE, BY_TIME)
    assert lost.outcome is Outcome.FAIL
    kept = older_check(LOADS, part, forecast(part, 1.0, seed=9), forecast(part, 1.0), 300, LOAD_GATE, BY_TIME)
    assert kept.outcome is Outcome.PASS
    assert "trained on 300 of these 1000 rows" in kept.detail


def test_overlapping_horizons_are_known_to_the_plan():
    part = loads()
    assert Plan("time", horizon=timedelta(hours=30)).memory(part) == 30
    assert Plan("time", horizon=timedelta(minutes=15)).memory(part) == 25.0
    assert Plan("day", horizon=timedelta(days=7)).memory(part) == 7


@pytest.mark.parametrize(
    ("model", "over"),
    [
        ("scaling", "time"),
        ("cost", "entity"),
        ("failure", "entity"),
        ("placement", "day"),
        ("rightsizing", "entity"),
    ],
)
def test_the_plan_fits_the_kind_of_model(model, over):
    spec = CATALOGUE[model]
    assert plan_of(spec, 0).over == over
    assert plan_of(spec, 0).horizon == spec.target.horizon


def test_unknown_labels_are_left_out_of_decisions():
    part = events()
    known = part.targets["event"].copy()
    known[:100] = np.nan
    part = Observations(part.columns, {"event": known}, part.weight, part.entity, part.time)
    _, decided = champion_checks(
        EVENTS, part, scored(events(), 1.0), scored(events(), 1.0, 3), EVENT_GATE, BY_MACHINE
    )
    assert decided.n == len(part) - 100
