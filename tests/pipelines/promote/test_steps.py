"""What a verdict, a person's word and the history together allow; and what a crash left behind means."""

from datetime import UTC, datetime, timedelta

import pytest

from pipelines.errors import PromotionError
from pipelines.promote import steps
from pipelines.promote.records import Action, ApprovalRef, LedgerLine, State, story
from pipelines.references import CandidateRef, Outcome, SnapshotRef, VerdictRef

START = datetime(2026, 1, 1, tzinfo=UTC)


def line(number, start, end, action=Action.PROMOTE, state=State.MOVED, **more):
    return LedgerLine(
        **{
            "at": START + timedelta(hours=number),
            "registered_name": "failure",
            "sequence": number,
            "state": state,
            "action": action,
            "actor": "ada",
            "from_version": start,
            "to_version": end,
            "reason": "it pages at night",
        }
        | more
    )


def told(*lines):
    return story(lines, "production")


def verdict(outcome=Outcome.PASS, version="3", champion="1", sha256="b" * 64):
    snapshot = SnapshotRef(
        model="failure", source="simulated", sha256=sha256, url="", rows={"train": 1}, positives={}
    )
    candidate = CandidateRef(
        model="failure", registered_name="failure", version=version, run_id="r", snapshot=snapshot
    )
    return VerdictRef(
        candidate=candidate, champion=champion, outcome=outcome, reasons=("12 rows are too few",)
    )


@pytest.mark.parametrize("outcome", [Outcome.FAIL, Outcome.INSUFFICIENT])
def test_what_is_no_pass_moves_nothing_and_the_reason_is_told(outcome):
    decision = steps.decide(verdict(outcome), "1", None)
    assert not decision.promote
    assert "12 rows are too few" in decision.reason


def test_a_pass_moves_from_the_champion_it_beat():
    assert steps.decide(verdict(), "1", None).promote
    assert steps.decide(verdict(), "3", None).promote, "a rerun after the move is no stale verdict"


def test_a_pass_over_another_champion_than_the_one_serving_is_stale():
    with pytest.raises(PromotionError, match="evaluate again"):
        steps.decide(verdict(), "2", None)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, "nobody was asked"),
        (ApprovalRef(approved=False, by="ada", at=START), "refused by ada"),
        (ApprovalRef(approved=False, by=None, at=START), "counts as a refusal"),
    ],
)
def test_without_the_approval_that_a_model_asks_for_nothing_moves(answer, said):
    decision = steps.decide(verdict(), "1", None, approval_needed=True, approval=answer)
    assert not decision.promote
    assert said in decision.reason


def test_an_approval_moves_and_is_told():
    answer = ApprovalRef(approved=True, by="ada", at=START)
    decision = steps.decide(verdict(), "1", None, approval_needed=True, approval=answer)
    assert decision.promote
    assert "approved by ada" in decision.reason


@pytest.mark.parametrize("outcome", [Outcome.FAIL, Outcome.INSUFFICIENT])
def test_an_approval_is_no_override(outcome):
    answer = ApprovalRef(approved=True, by="ada", at=START)
    assert not steps.decide(verdict(outcome), "1", None, approval_needed=True, approval=answer).promote


ROLLED_BACK = told(line(1, None, "1"), line(2, "1", "2"), line(3, "2", "1", Action.ROLLBACK))


def test_what_was_rolled_back_is_not_promoted_again():
    reason = steps.rolled_back_evidence("2", "a" * 64, ROLLED_BACK, {})
    assert reason is not None
    assert "it pages at night" in reason


def test_a_new_number_for_the_same_rows_is_no_new_evidence():
    reason = steps.rolled_back_evidence("3", "b" * 64, ROLLED_BACK, {"1": "a" * 64, "2": "b" * 64})
    assert reason is not None
    assert "same snapshot" in reason
    assert not steps.decide(verdict(), "1", reason).promote


def test_newer_rows_are_new_evidence():
    assert steps.rolled_back_evidence("3", "c" * 64, ROLLED_BACK, {"1": "a" * 64, "2": "b" * 64}) is None


def test_a_person_who_puts_it_back_ends_the_block():
    back = told(*ROLLED_BACK.moves, line(4, "1", "2", Action.PROMOTE_BY_HAND))
    assert steps.rolled_back_evidence("2", "b" * 64, back, {"2": "b" * 64}) is None


def test_a_rollback_in_the_mlflow_page_blocks_as_the_command_does():
    moves = told(line(1, None, "1"), line(2, "1", "2"))
    outside = steps.settle(moves, "1", START).outside
    assert outside is not None
    assert outside.action is Action.ROLLED_BACK_OUTSIDE
    assert steps.rolled_back_evidence("2", "b" * 64, told(*moves.moves, outside), {}) is not None


def test_one_step_back_is_never_to_what_was_itself_rolled_back():
    assert steps.one_step_back(told(line(1, None, "1"), line(2, "1", "2")), "2", "1") == "1"
    three = told(line(1, None, "1"), line(2, "1", "2"), line(3, "2", "3"), line(4, "3", "2", Action.ROLLBACK))
    assert steps.one_step_back(three, "2", "3") == "1"
    assert steps.one_step_back(ROLLED_BACK, "1", "2") is None
    assert steps.one_step_back(told(), "2", "1") == "1", "an alias set before there was a ledger counts"


INTENDED = line(3, "2", "3", state=State.INTENDED)
BASE = (line(1, None, "1"), line(2, "1", "2"))


@pytest.mark.parametrize(
    ("lines", "truth", "ended", "outside"),
    [
        ((), None, None, None),
        (BASE, "2", None, None),
        ((), "1", None, (None, "1", Action.MOVED_OUTSIDE)),
        (BASE, "3", None, ("2", "3", Action.MOVED_OUTSIDE)),
        (BASE, "1", None, ("2", "1", Action.ROLLED_BACK_OUTSIDE)),
        (BASE, None, None, ("2", None, Action.MOVED_OUTSIDE)),
        ((*BASE, INTENDED), "2", State.ABANDONED, None),
        ((*BASE, INTENDED), "3", State.MOVED, None),
        ((*BASE, INTENDED), "9", State.ABANDONED, ("2", "9", Action.MOVED_OUTSIDE)),
        ((*BASE, INTENDED), None, State.ABANDONED, ("2", None, Action.MOVED_OUTSIDE)),
    ],
)
def test_the_registry_says_how_an_intention_ended_and_what_nobody_told(lines, truth, ended, outside):
    found = steps.settle(told(*lines), truth, START + timedelta(days=1))
    assert (found.of_intention and found.of_intention.state) == ended
    moved = found.outside and (found.outside.from_version, found.outside.to_version, found.outside.action)
    assert moved == outside
    after = told(*lines, *(each for each in (found.of_intention, found.outside) if each is not None))
    assert after.current == truth
    assert after.intention is None
