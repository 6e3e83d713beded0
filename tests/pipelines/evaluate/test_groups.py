"""A gain on average is not paid for by some, and a group with too few rows is no evidence."""

import numpy as np
import pytest
from pydantic import ValidationError

from models.base import Observations
from models.specs import Gate, Parity, Slice
from pipelines.evaluate import steps
from pipelines.evaluate.checks import CheckKind
from pipelines.evaluate.comparison import Answered
from pipelines.evaluate.groups import masks, parity_checks, slice_checks
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
    prior,
    scored,
)

ZONES = Slice(input="zone", values=("a", "b"), margin=0.05)


def guarded(gate, *slices):
    return Gate.model_validate(gate.model_dump() | {"slices": slices})


def mixed(part, good, bad, mask):
    """Answers of one model on the masked rows, of another elsewhere."""
    return {name: np.where(mask, bad.answers[name], good.answers[name]) for name in good.answers}


def test_a_candidate_that_wins_overall_and_loses_a_slice_is_refused():
    part = events(rows=4000)
    zone_b = np.arange(4000) % 7 == 0
    part.columns["zone"][:] = np.where(zone_b, "b", "a")
    champion = scored(part, 2.6, seed=5, name="version 4")
    # Nearly perfect in zone a, and blind in zone b.
    blind = Answered("blind", {"probability": np.full(4000, 0.01), "alarm": np.zeros(4000, dtype=bool)})
    candidate = Answered("candidate", mixed(part, scored(part, 0.3), blind, zone_b))
    gate = guarded(EVENT_GATE, ZONES).model_copy(update={"decision_margin": 0.2})
    verdict = steps.evaluate(EVENTS, part, candidate, (prior(part),), champion, gate, BY_MACHINE)
    kinds = {kind: [check.outcome for check in verdict.checks if check.kind is kind] for kind in CheckKind}
    assert kinds[CheckKind.CHAMPION] == [Outcome.PASS, Outcome.PASS]
    assert kinds[CheckKind.SLICE] == [Outcome.PASS, Outcome.FAIL]
    assert verdict.outcome is Outcome.FAIL
    assert any(
        reason.startswith("gain in average precision where zone b: fail") for reason in verdict.reasons
    )


def test_slices_are_adjusted_for_asking_several():
    part = loads(1200)
    gate = guarded(LOAD_GATE, Slice(by="hour", edges=(6, 12, 18)))
    checks = slice_checks(
        LOADS, part, forecast(part, 1.0), forecast(part, 1.01, 9, "version 1"), gate, BY_TIME
    )
    assert [check.name.split("where ")[1] for check in checks] == [
        "hour below 6",
        "hour from 6 to below 12",
        "hour from 12 to below 18",
        "hour from 18 on",
    ]
    assert sorted(round(check.level, 4) for check in checks) == [0.95, 0.975, 0.9833, 0.9875]
    assert all("Holm over 4 slices" in check.method for check in checks)
    assert sum(check.n for check in checks) == len(part)


@pytest.mark.parametrize("required", [True, False])
def test_too_few_rows_of_a_slice_are_no_evidence_and_block_where_it_is_required(required):
    part = loads(1000)
    by = Slice(by="entity", values=("s", "nobody-*"), required=required)
    found, nobody = slice_checks(
        LOADS, part, forecast(part, 0.5), forecast(part, 1.0), guarded(LOAD_GATE, by), BY_TIME
    )
    assert found.outcome is Outcome.PASS
    assert nobody.outcome is Outcome.INSUFFICIENT
    assert nobody.blocking is required
    assert "0 rows, 100 are wanted" in nobody.sentence()
    gate = guarded(LOAD_GATE, by)
    naive = Answered("naive", {"forecast": part.columns["now"]})
    verdict = steps.evaluate(LOADS, part, forecast(part, 0.5), (naive,), None, gate, BY_TIME)
    assert verdict.outcome is (Outcome.INSUFFICIENT if required else Outcome.PASS), verdict.reasons


def test_few_outcomes_in_a_slice_are_no_evidence():
    part = events(rows=600, share=0.02)
    checks = slice_checks(
        EVENTS, part, scored(part, 0.5), prior(part), guarded(EVENT_GATE, ZONES), BY_MACHINE
    )
    assert all(check.outcome is Outcome.INSUFFICIENT for check in checks)
    assert "positives, 10 are wanted" in checks[0].detail


def test_without_a_champion_the_strongest_baseline_stands_in():
    part = loads(1000)
    weak = Answered("weak", {"forecast": np.zeros(len(part))})
    strong = Answered("strong", forecast(part, 0.5, 3).answers)
    gate = guarded(LOAD_GATE, Slice(by="weekday", edges=(5,)))
    verdict = steps.evaluate(LOADS, part, forecast(part, 0.4), (weak, strong), None, gate, BY_TIME)
    slices = [check for check in verdict.checks if check.kind is CheckKind.SLICE]
    assert len(slices) == 2
    assert all("of strong" in check.detail for check in slices)


def test_an_input_that_is_not_there_fails_with_its_name():
    part = loads(1000)
    gate = guarded(LOAD_GATE, Slice(input="zone", values=("a",)))
    naive = Answered("naive", {"forecast": part.columns["now"]})
    verdict = steps.evaluate(LOADS, part, forecast(part, 0.5), (naive,), None, gate, BY_TIME)
    assert verdict.outcome is Outcome.FAIL
    assert any("no input 'zone'" in reason for reason in verdict.reasons)


def test_weekdays_and_hours_are_those_of_the_calendar():
    part = loads(24 * 7)
    found = dict(masks(Slice(by="weekday", values=(0.0, 6.0)), part))
    assert list(np.flatnonzero(found["weekday Monday"])) == list(range(24))
    assert list(np.flatnonzero(found["weekday Sunday"])) == list(range(144, 168))
    assert dict(masks(Slice(by="hour", values=(3.0,)), part))["hour 3.0"].sum() == 7


def test_a_missing_value_is_in_no_bin():
    part = Observations(
        {"heat": np.array([1.0, np.nan, 5.0])}, {}, np.ones(3), np.array(["m"] * 3, dtype=object)
    )
    found = [mask for _, mask in masks(Slice(input="heat", edges=(2.0,)), part)]
    assert [list(mask) for mask in found] == [[True, False, False], [False, False, True]]


@pytest.mark.parametrize(("shouting", "outcome"), [(0.0, Outcome.PASS), (0.4, Outcome.FAIL)])
def test_groups_must_be_treated_about_alike(shouting, outcome):
    part = events(rows=4000)
    candidate = scored(part, 1.0)
    loud = np.random.default_rng(3).uniform(size=len(part)) < shouting
    alarm = candidate.answers["alarm"] | ((part.columns["zone"] == "b") & loud)
    parity = Parity(groups=ZONES, metric="alarm_false_positive_rate", maximum=0.1)
    gate = EVENT_GATE.model_copy(update={"parities": (parity,)})
    (check,) = parity_checks(
        EVENTS, part, Answered("candidate", candidate.answers | {"alarm": alarm}), gate, BY_MACHINE
    )
    assert check.outcome is outcome
    assert "where zone b" in check.detail
    assert check.interval[0] <= check.figure <= check.interval[1]


def test_a_group_that_is_hardly_there_is_no_evidence_of_parity():
    part = events(rows=1000)
    parity = Parity(groups=Slice(input="zone", values=("a", "z")), metric="alarm_recall", maximum=0.5)
    gate = EVENT_GATE.model_copy(update={"parities": (parity,)})
    (check,) = parity_checks(EVENTS, part, scored(part, 1.0), gate, BY_MACHINE)
    assert check.outcome is Outcome.INSUFFICIENT
    assert "'zone z': 0" in check.detail


def test_where_a_source_has_one_hour_a_day_there_is_no_other_to_differ_from():
    part = events(rows=4000)
    part = part.rows(part.time.astype("datetime64[h]").astype(int) % 24 == 6)
    parity = Parity(groups=Slice(by="hour", edges=(6, 18)), metric="alarm_false_positive_rate", maximum=0.1)
    gate = EVENT_GATE.model_copy(update={"parities": (parity,)})
    (check,) = parity_checks(EVENTS, part, scored(part, 1.0), gate, BY_MACHINE)
    assert check.outcome is Outcome.PASS
    assert "every row of the holdout is where hour from 6 to below 18" in check.detail


def test_a_group_of_an_input_that_vanished_is_no_evidence_of_parity():
    part = events(rows=1000)
    part = part.rows(part.columns["zone"] == "a")
    parity = Parity(groups=ZONES, metric="alarm_false_positive_rate", maximum=0.1)
    gate = EVENT_GATE.model_copy(update={"parities": (parity,)})
    (check,) = parity_checks(EVENTS, part, scored(part, 1.0), gate, BY_MACHINE)
    assert check.outcome is Outcome.INSUFFICIENT
    assert "'zone b': 0" in check.detail


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"input": "zone"}, "either values or edges"),
        ({"by": "hour", "input": "zone", "edges": (6,)}, "names the input"),
        ({"by": "entity", "edges": (6,)}, "shell patterns"),
        ({"by": "hour", "edges": (18, 6)}, "do not rise"),
    ],
)
def test_a_slice_that_cannot_be_meant_is_refused(wrong, why):
    with pytest.raises(ValidationError, match=why):
        Slice(**wrong)
