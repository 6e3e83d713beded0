from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from headrace.demo_drift import regimes, told_of, what_went_wrong, when_it_changes
from headrace.demo_ending import Ending, Score
from headrace.demo_traffic import Callers
from headrace.serving_api import ServingApi
from pipelines.errors import ProcessError
from pipelines.references import CandidateRef, Outcome, PromotionRef, SnapshotRef, VerdictRef
from pipelines.settings import Settings
from pipelines.sources.base import home_regimes
from pipelines.sources.simulated.regimes import append_regime, parse_regime

MIDNIGHT = datetime(2026, 1, 2, tzinfo=UTC)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)


def test_the_world_changes_when_what_the_champion_knows_ends(settings: Settings) -> None:
    assert when_it_changes(settings, MIDNIGHT, None) == MIDNIGHT
    assert when_it_changes(settings, MIDNIGHT, MIDNIGHT) == MIDNIGHT


def test_what_was_ingested_since_is_of_the_old_world(settings: Settings) -> None:
    assert when_it_changes(settings, MIDNIGHT, MIDNIGHT + 5 * HOUR) == MIDNIGHT + DAY


def test_a_demo_that_was_interrupted_goes_on_with_its_change(settings: Settings) -> None:
    for regime in regimes(MIDNIGHT):
        append_regime(home_regimes(settings), regime)

    assert when_it_changes(settings, MIDNIGHT, MIDNIGHT + 4 * DAY) == MIDNIGHT


def test_a_change_that_the_champion_has_learned_cannot_be_shown_again(settings: Settings) -> None:
    for regime in regimes(MIDNIGHT):
        append_regime(home_regimes(settings), regime)

    with pytest.raises(ProcessError, match="has changed before"):
        when_it_changes(settings, MIDNIGHT + 10 * DAY, None)


def test_a_change_of_ones_own_is_left_alone(settings: Settings) -> None:
    script = home_regimes(settings)
    append_regime(script, parse_regime({"kind": "load_scale", "from": MIDNIGHT.isoformat(), "factor": 2}))

    with pytest.raises(ProcessError, match="has changed before"):
        when_it_changes(settings, MIDNIGHT, None)
    assert "load_scale" in script.read_text("utf-8")


def score(average_precision: float) -> Score:
    return Score(None, "1", 100, 10, average_precision, 0.5)


def end(after: float | None) -> Ending:
    stayed = None if after is None else score(0.3)
    return Ending((), (), score(0.8), score(0.3), None if after is None else score(after), stayed)


def verdict(outcome: Outcome, *reasons: str) -> VerdictRef:
    snapshot = SnapshotRef(model="failure", source="simulated", sha256="0", url="", rows={}, positives={})
    candidate = CandidateRef(
        model="failure", registered_name="failure", version="2", run_id="r", snapshot=snapshot
    )
    return VerdictRef(candidate=candidate, champion="1", outcome=outcome, reasons=reasons)


@pytest.fixture
def callers(settings: Settings) -> Callers:
    return Callers(ServingApi(settings), "failure")


PROMOTED = PromotionRef(registered_name="failure", production="2", previous="1", moved=True, reason="passed")


def test_a_story_that_ends_well_has_nothing_to_complain_of(callers: Callers) -> None:
    assert what_went_wrong(end(0.7), callers, verdict(Outcome.PASS, "all"), PROMOTED) == []


def test_a_champion_that_stays_is_said_with_the_gates_reasons(callers: Callers) -> None:
    [said] = what_went_wrong(end(None), callers, verdict(Outcome.FAIL, "it is no better"), None)

    assert "champion stays" in said
    assert "it is no better" in said


def test_a_request_that_failed_and_a_quality_that_stayed_away_are_said(callers: Callers) -> None:
    callers.requests, callers.failures = 9, ["12:00:00Z: no answer"]
    failed, lost = what_went_wrong(end(0.2), callers, verdict(Outcome.PASS, "all"), PROMOTED)

    assert failed.startswith("1 of 9 requests")
    assert "no answer" in failed
    assert "did not come back" in lost


def test_of_a_passed_gate_the_comparison_with_the_champion_is_told() -> None:
    passed = verdict(
        Outcome.PASS, "rows in the holdout: pass", "gain in average precision over champion version 1: pass"
    )

    assert told_of(passed) == "All 2 checks. gain in average precision over champion version 1: pass"
    assert told_of(verdict(Outcome.FAIL, "too few rows")) == "too few rows"
