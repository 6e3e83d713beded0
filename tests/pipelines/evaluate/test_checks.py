"""A verdict passes on evidence alone, and a crash is none."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.evaluate.checks import Check, CheckKind, Verdict, by_interval, held
from pipelines.references import Outcome


def check(outcome, *, blocking=True, kind=CheckKind.THRESHOLD):
    return Check(
        name="figure", kind=kind, outcome=outcome, figure=1.0, wanted="enough", n=5, blocking=blocking
    )


any_check = st.builds(check, st.sampled_from(Outcome), blocking=st.booleans())


@given(st.lists(any_check, max_size=6))
def test_a_verdict_never_passes_without_evidence(checks):
    verdict = Verdict(checks=tuple(checks))
    deciding = [item.outcome for item in checks if item.blocking]
    assert (verdict.outcome is Outcome.PASS) == (bool(deciding) and set(deciding) == {Outcome.PASS})
    assert (verdict.outcome is Outcome.FAIL) == (Outcome.FAIL in deciding)
    if checks:
        assert verdict.reasons


@given(st.lists(any_check, max_size=4), any_check)
def test_further_checks_never_turn_a_refusal_into_a_pass(checks, further):
    before = Verdict(checks=tuple(checks))
    after = before.extended([further])
    if checks and any(item.blocking for item in checks) and before.outcome is not Outcome.PASS:
        assert after.outcome is not Outcome.PASS


@given(st.floats(allow_nan=True), st.floats(allow_nan=True), st.floats(allow_nan=True), st.floats(-1, 1))
def test_an_interval_passes_only_beyond_the_bound(figure, low, high, bound):
    outcome = by_interval(figure, (low, high), bound)
    assert (outcome is Outcome.PASS) == (low > bound and figure > bound)
    if math.isnan(figure):
        assert outcome is Outcome.INSUFFICIENT
    mirrored = by_interval(-figure, (-high, -low), -bound, "lower")
    assert (mirrored is Outcome.PASS) == (low > bound and figure > bound)


def test_looking_better_is_not_being_better():
    assert by_interval(0.1, (-0.1, 0.3), 0.0) is Outcome.INSUFFICIENT
    assert by_interval(-0.1, (-0.3, 0.1), 0.0) is Outcome.FAIL
    assert by_interval(0.0, (0.0, 0.0), 0.0) is Outcome.FAIL, "an equal candidate is no better"


def test_a_check_that_crashed_fails_with_the_reason(caplog):
    def crash():
        raise ValueError("no column 'zone'")

    (found,) = held(CheckKind.SLICE, "guarded slices", 12, crash)
    assert found.outcome is Outcome.FAIL
    assert "guarded slices: fail" in found.sentence()
    assert "the check crashed: ValueError: no column 'zone'" in found.sentence()
    assert "Traceback" in caplog.text


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_a_stop_goes_through(stop):
    def crash():
        raise stop

    with pytest.raises(stop):
        held(CheckKind.SLICE, "guarded slices", 12, crash)


def test_verdicts_that_were_stored_earlier_can_be_read():
    stored = (
        '{"checks": [{"name": "recall", "kind": "threshold", "outcome": "pass", "figure": 0.5, '
        '"wanted": "at least 0.4", "n": 100, "interval": [0.4, 0.6], "detail": ""}]}'
    )
    verdict = Verdict.model_validate_json(stored)
    assert verdict.outcome is Outcome.PASS
    assert Verdict.model_validate_json(verdict.model_dump_json()) == verdict


def test_a_sentence_tells_level_and_remedy():
    found = check(Outcome.INSUFFICIENT).model_copy(
        update={"interval": (0.5, 1.25), "level": 0.99, "remedy": "Wait", "detail": "why"}
    )
    assert found.sentence() == (
        "figure: insufficient evidence: 1 (99 %: 0.5 to 1.25), wanted enough, n=5; why. Wait"
    )
