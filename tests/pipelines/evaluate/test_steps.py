"""The gate fails closed, and lets through what is really better."""

from datetime import timedelta

import numpy as np
import pytest

from models.base import Observations
from models.manifest import FieldType, InputField
from models.specs import Bound, Classification, Forecast, Gate
from models.tasks.classification import ClassificationTask
from models.tasks.forecast import ForecastTask
from pipelines.evaluate import steps
from pipelines.evaluate.checks import Check, CheckKind, Verdict
from pipelines.evaluate.comparison import Answered, Plan
from pipelines.references import Outcome

TASK = ClassificationTask(Classification(max_false_positive_rate=0.01), "event")
GATE = Gate(
    bounds={
        "recall": Bound(minimum=0.3),
        "average_precision": Bound(minimum=0.3),
        "calibration_error": Bound(maximum=0.2),
    }
)


def holdout(seed=1, rows=4000, machines=40, share=0.05):
    random = np.random.default_rng(seed)
    label = (random.uniform(size=rows) < share).astype(np.float64)
    entity = np.array([f"m{number}" for number in random.integers(0, machines, rows)], dtype=object)
    return Observations({}, {"event": label}, np.ones(rows), entity)


def model(probability, name="model"):
    return Answered(name, {"probability": probability, "alarm": probability >= 0.5})


def scores(part, noise, seed=2, name="model"):
    """Nearly calibrated scores that rank better with less noise."""
    random = np.random.default_rng(seed)
    logit = 6.0 * part.targets["event"] - 4.5 + noise * random.normal(size=len(part))
    return model(1 / (1 + np.exp(-logit)), name)


def prior(part):
    return Answered("share of positives", {"probability": np.full(len(part), 0.05)})


def evaluate(part, candidate, champion=None, gate=GATE, seed=0):
    return steps.evaluate(TASK, part, candidate, (prior(part),), champion, gate, Plan("entity", seed=seed))


def outcomes(verdict, kind):
    return [check.outcome for check in verdict.checks if check.kind is kind]


def test_a_good_first_model_passes():
    part = holdout()
    verdict = evaluate(part, scores(part, 1.0))
    assert verdict.outcome is Outcome.PASS, verdict.reasons
    assert {check.kind for check in verdict.checks} == {
        CheckKind.EVIDENCE,
        CheckKind.THRESHOLD,
        CheckKind.CALIBRATION,
        CheckKind.BASELINE,
    }
    assert "no champion" in verdict.notes[0]


def test_a_model_that_answers_at_random_fails_and_says_why():
    part = holdout()
    chance = model(np.random.default_rng(3).uniform(size=len(part)))
    verdict = evaluate(part, chance)
    assert verdict.outcome is Outcome.FAIL
    assert any("average precision" in reason and "at least 0.3" in reason for reason in verdict.reasons)
    assert outcomes(verdict, CheckKind.BASELINE)[0] is not Outcome.PASS


def test_too_few_outcomes_are_insufficient_evidence_not_a_pass():
    part = holdout(rows=200)
    verdict = evaluate(part, scores(part, 0.1))
    assert verdict.outcome is Outcome.INSUFFICIENT
    assert "positives in the holdout" in verdict.reasons[0]


def test_a_figure_that_is_not_a_number_is_no_pass():
    part = holdout()
    broken = model(np.full(len(part), np.nan))
    assert evaluate(part, broken).outcome is not Outcome.PASS


def test_a_verdict_without_checks_is_no_pass():
    assert Verdict(checks=()).outcome is Outcome.INSUFFICIENT


@pytest.mark.parametrize(
    ("candidate_noise", "champion_noise", "expected"), [(1.0, 2.5, Outcome.PASS), (2.5, 1.0, Outcome.FAIL)]
)
def test_the_champion_is_judged_on_the_same_rows(candidate_noise, champion_noise, expected):
    part = holdout()
    champion = scores(part, champion_noise, seed=5, name="version 3")
    verdict = evaluate(part, scores(part, candidate_noise), champion)
    assert outcomes(verdict, CheckKind.CHAMPION) == [expected, expected]
    champion = next(check for check in verdict.checks if check.kind is CheckKind.CHAMPION)
    assert "version 3" in champion.name
    assert champion.interval[0] < champion.figure < champion.interval[1]


def test_the_same_evidence_gives_the_same_verdict():
    part = holdout()
    first, second = (evaluate(part, scores(part, 1.5), scores(part, 1.6, seed=9), seed=4) for _ in range(2))
    assert first == second


def test_the_single_feature_baseline_is_chosen_on_the_training_part():
    random = np.random.default_rng(0)
    label = (random.uniform(size=4000) < 0.1).astype(np.float64)
    train = Observations(
        {
            "noise": random.normal(size=4000),
            "falling": -label + 0.3 * random.normal(size=4000),
            "zone": np.array(["a"] * 4000, dtype=object),
        },
        {"event": label},
        np.ones(4000),
        np.array(["m"] * 4000, dtype=object),
    )
    inputs = (
        InputField(name="noise", type=FieldType.DOUBLE),
        InputField(name="falling", type=FieldType.DOUBLE),
        InputField(name="zone", type=FieldType.STRING),
    )
    baselines = TASK.baselines(train, train, inputs)
    single = baselines["best single feature (falling, low)"]
    assert TASK.metrics(train, single)["average_precision"] > 0.8


def test_a_metric_that_nobody_measured_is_insufficient_evidence():
    part = holdout()
    gate = GATE.model_copy(update={"bounds": {"event_recall": Bound(minimum=0.1)}})
    verdict = evaluate(part, scores(part, 1.0), gate=gate)
    assert verdict.outcome is Outcome.INSUFFICIENT
    assert verdict.reasons == (
        "event recall: insufficient evidence: no figure, wanted at least 0.1, n=4000; "
        "the task has no such figure here: were there labels?",
    )


def forecasts(rows=2000, seed=4):
    """One series, an hour between rows."""
    random = np.random.default_rng(seed)
    load = 50 + 10 * np.sin(np.arange(rows) / 24) + random.normal(size=rows)
    time = np.datetime64("2026-01-01", "us") + np.arange(rows) * np.timedelta64(1, "h")
    entity = np.full(rows, "service", dtype=object)
    return Observations({"now": np.roll(load, 6)}, {"load": load}, np.ones(rows), entity, time)


@pytest.mark.parametrize(("error", "expected"), [(0.5, Outcome.PASS), (12.0, Outcome.FAIL)])
def test_one_series_is_judged_by_blocks_of_time(error, expected):
    part = forecasts()
    task = ForecastTask(Forecast(target="load", naive="now"))
    gate = Gate(bounds={"wape": Bound(maximum=0.5)}, block=timedelta(days=2))
    forecast = part.targets["load"] + np.random.default_rng(5).normal(size=len(part)) * error
    candidate = Answered("model", {"forecast": forecast, "lower": forecast - 2, "upper": forecast + 2})
    naive = tuple(Answered(name, answers) for name, answers in task.baselines(part, part, ()).items())
    verdict = steps.evaluate(task, part, candidate, naive, None, gate, Plan("time", gate.block))
    assert outcomes(verdict, CheckKind.BASELINE) == [expected]
    whole = steps.evaluate(task, part, candidate, naive, None, Gate(bounds=gate.bounds), Plan("time"))
    assert whole.outcome is Outcome.INSUFFICIENT, "one series without blocks is one cluster"


def test_clusters_are_drawn_whole():
    entity = np.array(["a", "b", "a", "c", "b"], dtype=object)
    part = Observations({}, {}, np.ones(5), entity)
    weights = steps.cluster_weights(steps.clusters(part, None), resamples=50, seed=1)
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
