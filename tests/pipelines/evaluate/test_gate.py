"""The whole gate: each of its questions can refuse by itself, and says why."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.manifest import FieldType, OutputField
from pipelines.evaluate import stability
from pipelines.evaluate.checks import CheckKind
from pipelines.evaluate.comparison import Answered
from pipelines.evaluate.stability import Asked
from pipelines.evaluate.steps import Case, Older, evaluate, judge
from pipelines.references import Outcome
from tests.pipelines.evaluate.test_contract import signature
from tests.pipelines.evaluate.worlds import (
    BY_MACHINE,
    EVENT_GATE,
    EVENTS,
    INPUTS,
    events,
    parts,
    prior,
    scored,
)

MANIFEST = SimpleNamespace(inputs=INPUTS, outputs=(OutputField(name="alarm", type=FieldType.BOOLEAN),))


def predict(columns):
    return {"alarm": np.nan_to_num(columns["heat"]) > 3}


def case(**changes):
    made = parts()
    usual = Case(
        task=EVENTS,
        gate=EVENT_GATE,
        plan=BY_MACHINE,
        parts=made,
        inputs=INPUTS,
        candidate=scored(made.holdout, 0.8),
        baselines=(prior(made.holdout),),
        champion=scored(made.holdout, 2.5, seed=7, name="version 1"),
        asked=Asked(predict, INPUTS, frozenset(), {"zone": 1.0}),
        manifest=MANIFEST,
        signature=signature((("heat", "double"), ("zone", "string"))),
    )
    return replace(usual, **changes)


def refusal(verdict, kind):
    """The one sentence that refuses, which is of this kind."""
    deciding = [check for check in verdict.checks if check.blocking and check.outcome is not Outcome.PASS]
    assert [check.kind for check in deciding] == [kind], verdict.reasons
    return deciding[0].sentence()


def test_a_better_candidate_passes_every_question():
    verdict = judge(case())
    assert verdict.outcome is Outcome.PASS, verdict.reasons
    assert {check.kind for check in verdict.checks} == {
        CheckKind.EVIDENCE,
        CheckKind.THRESHOLD,
        CheckKind.BASELINE,
        CheckKind.CHAMPION,
        CheckKind.CONTRACT,
        CheckKind.LEAKAGE,
        CheckKind.STABILITY,
    }
    assert all(check.question for check in verdict.checks)


def test_a_vanished_signature_refuses():
    assert "MLflow holds no signature of it" in refusal(judge(case(signature=None)), CheckKind.CONTRACT)


def test_a_check_that_crashes_refuses_and_the_others_are_still_told():
    def broken(columns):
        raise RuntimeError("the estimator's file is cut short")

    verdict = judge(case(asked=Asked(broken, INPUTS)))
    assert "stability: fail" in refusal(verdict, CheckKind.STABILITY)
    assert "the estimator's file is cut short" in verdict.reasons[0]
    assert any(check.kind is CheckKind.CHAMPION for check in verdict.checks)


def test_a_stop_ends_the_gate():
    def stopped(columns):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        judge(case(asked=Asked(stopped, INPUTS)))


def test_labels_over_the_cut_refuse():
    assert "rows whose label reaches over a cut: fail" in refusal(
        judge(case(parts=parts(gap=0))), CheckKind.LEAKAGE
    )


def test_a_loss_on_the_older_holdout_refuses():
    old = events(40)
    older = Older(old, scored(old, 3.0), scored(old, 0.5, seed=8, name="version 1"), learned=12)
    sentence = refusal(judge(case(older=older)), CheckKind.OLDER)
    assert "gain in average precision on the champion's own holdout: fail" in sentence
    assert "trained on 12 of these 3000 rows" in sentence


def test_without_baselines_nothing_was_beaten():
    assert "the task gave no baseline" in refusal(
        judge(case(baselines=(), champion=None)), CheckKind.BASELINE
    )


def test_the_same_case_gives_the_same_verdict():
    assert judge(case()) == judge(case())


@settings(max_examples=40)
@given(st.integers(0, 199), st.integers(0, 1000))
def test_too_few_rows_never_pass_however_good_the_candidate(rows, seed):
    part = events(seed, rows)
    perfect = Answered(
        "candidate", {"probability": part.targets["event"], "alarm": part.targets["event"] > 0}
    )
    verdict = evaluate(EVENTS, part, perfect, (prior(part),), None, EVENT_GATE, BY_MACHINE)
    assert verdict.outcome is Outcome.INSUFFICIENT
    assert any("rows in the holdout" in reason for reason in verdict.reasons)


@settings(max_examples=8)
@given(st.integers(0, 1000))
def test_chance_never_passes(seed):
    part = events(seed, 600)
    random = np.random.default_rng(seed).uniform(size=600)
    chance = Answered("candidate", {"probability": random, "alarm": random > 0.99})
    verdict = evaluate(EVENTS, part, chance, (prior(part),), None, EVENT_GATE, BY_MACHINE)
    assert verdict.outcome is not Outcome.PASS


def test_stability_looks_at_no_more_rows_than_it_needs():
    part = events(1, 5000)
    asked = []

    def watching(columns):
        asked.append(len(columns["heat"]))
        return predict(columns)

    judge(
        case(
            asked=Asked(watching, INPUTS),
            parts=replace(parts(), holdout=part),
            candidate=scored(part, 0.8),
            champion=None,
            baselines=(prior(part),),
        )
    )
    assert set(asked) == {stability.SAMPLE_ROWS}
