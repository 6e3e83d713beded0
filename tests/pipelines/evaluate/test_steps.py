"""The gate fails closed, and lets through what is really better."""

import numpy as np
import pytest

from models.base import Observations
from models.manifest import FieldType, InputField
from models.specs import Thresholds
from pipelines.evaluate import steps
from pipelines.evaluate.checks import Check, CheckKind, Verdict
from pipelines.evaluate.steps import Scores
from pipelines.references import Outcome

THRESHOLDS = Thresholds(min_recall=0.3, min_average_precision=0.3, max_calibration_error=0.2)


def holdout(seed=1, rows=6000, machines=40, share=0.05):
    random = np.random.default_rng(seed)
    label = (random.uniform(size=rows) < share).astype(np.int8)
    entity = np.array([f"m{number}" for number in random.integers(0, machines, rows)], dtype=object)
    return Observations({}, label, np.ones(rows), entity)


def scores(part, noise, seed=2, name="model"):
    """Nearly calibrated scores that rank better with less noise."""
    random = np.random.default_rng(seed)
    logit = 6.0 * part.label - 4.5 + noise * random.normal(size=len(part))
    return Scores(name, 1 / (1 + np.exp(-logit)))


def prior(part):
    return Scores("share of positives", np.full(len(part), 0.05))


def outcomes(verdict, kind):
    return [check.outcome for check in verdict.checks if check.kind is kind]


def test_a_good_first_model_passes():
    part = holdout()
    verdict = steps.evaluate(part, scores(part, 1.0), (prior(part),), None, THRESHOLDS, seed=0)
    assert verdict.outcome is Outcome.PASS, verdict.reasons
    assert {check.kind for check in verdict.checks} == {
        CheckKind.EVIDENCE,
        CheckKind.THRESHOLD,
        CheckKind.BASELINE,
    }


def test_a_model_that_answers_at_random_fails_and_says_why():
    part = holdout()
    chance = Scores("model", np.random.default_rng(3).uniform(size=len(part)))
    verdict = steps.evaluate(part, chance, (prior(part),), None, THRESHOLDS, seed=0)
    assert verdict.outcome is Outcome.FAIL
    assert any("average precision" in reason and "at least 0.3" in reason for reason in verdict.reasons)
    assert outcomes(verdict, CheckKind.BASELINE) == [Outcome.FAIL]


def test_too_few_outcomes_are_insufficient_evidence_not_a_pass():
    part = holdout(rows=200)
    verdict = steps.evaluate(part, scores(part, 0.1), (prior(part),), None, THRESHOLDS, seed=0)
    assert verdict.outcome is Outcome.INSUFFICIENT
    assert "positives in the holdout" in verdict.reasons[0]


def test_a_figure_that_is_not_a_number_is_no_pass():
    part = holdout()
    broken = Scores("model", np.full(len(part), np.nan))
    assert steps.evaluate(part, broken, (prior(part),), None, THRESHOLDS, seed=0).outcome is not Outcome.PASS


def test_a_verdict_without_checks_is_no_pass():
    assert Verdict(checks=()).outcome is Outcome.INSUFFICIENT


@pytest.mark.parametrize(
    ("candidate_noise", "champion_noise", "expected"), [(1.0, 2.5, Outcome.PASS), (2.5, 1.0, Outcome.FAIL)]
)
def test_the_champion_is_judged_on_the_same_rows(candidate_noise, champion_noise, expected):
    part = holdout()
    verdict = steps.evaluate(
        part,
        scores(part, candidate_noise),
        (prior(part),),
        scores(part, champion_noise, seed=5, name="version 3"),
        THRESHOLDS,
        seed=0,
    )
    assert outcomes(verdict, CheckKind.CHAMPION) == [expected]
    champion = next(check for check in verdict.checks if check.kind is CheckKind.CHAMPION)
    assert "version 3" in champion.name
    assert champion.interval[0] < champion.figure < champion.interval[1]


def test_the_same_evidence_gives_the_same_verdict():
    part = holdout()
    first, second = (
        steps.evaluate(part, scores(part, 1.5), (prior(part),), scores(part, 1.6, seed=9), THRESHOLDS, seed=4)
        for _ in range(2)
    )
    assert first == second


def test_the_single_feature_baseline_is_chosen_on_the_training_part():
    random = np.random.default_rng(0)
    label = (random.uniform(size=4000) < 0.1).astype(np.int8)
    train = Observations(
        {
            "noise": random.normal(size=4000),
            "falling": -label + 0.3 * random.normal(size=4000),
            "zone": np.array(["a"] * 4000, dtype=object),
        },
        label,
        np.ones(4000),
        np.array(["m"] * 4000, dtype=object),
    )
    inputs = (
        InputField(name="noise", type=FieldType.DOUBLE),
        InputField(name="falling", type=FieldType.DOUBLE),
        InputField(name="zone", type=FieldType.STRING),
    )
    _, single = steps.naive_baselines(train, train, inputs)
    assert single.name == "best single feature (falling, low)"
    assert steps.metrics(train, single, THRESHOLDS)["average_precision"] > 0.8


def test_clusters_are_drawn_whole():
    entity = np.array(["a", "b", "a", "c", "b"], dtype=object)
    weights = steps.cluster_weights(entity, resamples=50, seed=1)
    for number in range(50):
        drawn = weights(number)
        assert drawn[0] == drawn[2]
        assert drawn[1] == drawn[4]
        assert drawn[0] + drawn[1] + drawn[3] == 3


def test_a_sentence_names_figure_bound_and_n():
    check = Check(
        name="recall", kind=CheckKind.THRESHOLD, outcome=Outcome.FAIL, figure=0.2, wanted="at least 0.5", n=12
    )
    assert check.sentence() == "recall: fail: 0.2, wanted at least 0.5, n=12"
