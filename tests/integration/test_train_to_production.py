"""From a snapshot to the alias ``production``, against a real MLflow server; and again after each stage."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from models.catalogue import find
from models.manifest import FieldType, InputField
from pipelines.adapters.lake import Lake
from pipelines.adapters.registry import Registry
from pipelines.errors import PromotionError
from pipelines.evaluate import job as evaluate
from pipelines.promote import job as promote
from pipelines.references import Outcome, Window
from pipelines.snapshot import job as snapshot
from pipelines.train import job as train
from pipelines.tune import job as tune

pytestmark = [pytest.mark.integration, pytest.mark.services]

START = datetime(2026, 1, 1, tzinfo=UTC)
INPUTS = (
    InputField(name="heat", type=FieldType.DOUBLE, required=False),
    InputField(name="wear", type=FieldType.DOUBLE, required=False),
    InputField(name="zone", type=FieldType.STRING, required=False, categories=("a", "b")),
)


def store_snapshot(settings, seed=1, signal=3.0):
    """A small training set whose outcome hangs on two of three features."""
    random = np.random.default_rng(seed)
    size = 6000
    wear, heat = random.normal(size=size), random.normal(size=size)
    zone = random.choice(["a", "b"], size)
    event = (signal * wear + heat + (zone == "b") + random.normal(size=size) > signal * 1.3 + 1).astype(
        np.float64
    )
    part = np.repeat(["train", "valid", "holdout"], [3000, 1000, 2000])
    rows = pl.DataFrame(
        {
            "machine_id": [f"m{number % 30}" for number in range(size)],
            # A day between the parts, as snapshots have it: no label reaches over a cut.
            "event_time": [
                START + timedelta(hours=number + 24 * ((number >= 3000) + (number >= 4000)))
                for number in range(size)
            ],
            "target__event": event,
            "part": part,
            "weight": 1.0,
            "heat": np.where(random.uniform(size=size) < 0.05, np.nan, heat),
            "wear": wear,
            "zone": zone,
        }
    ).with_columns(pl.col("heat").fill_nan(None))
    spec = find("failure")
    return snapshot.store(
        rows,
        snapshot.SnapshotManifest(
            model="failure",
            source="simulated",
            window=Window(start=START, end=START + timedelta(days=250)),
            spec=spec,
            seed=settings.random_seed,
            tables={},
            entity="machine_id",
            inputs=INPUTS,
        ),
        Lake.of(settings),
    )


@pytest.fixture
def configured(settings, mlflow_server):
    return settings.model_copy(update={"tracking_url": mlflow_server})


def first_trials(settings, study):
    """Parameters of the first two trials of a study."""
    import optuna

    loaded = optuna.load_study(study_name=study.study, storage=tune.open_storage(settings.tuning))
    return [trial.params for trial in loaded.trials[:2]]


def drawn_on(run_id, settings):
    """Paths of the pictures of a run."""
    from mlflow import MlflowClient

    client = MlflowClient(settings.tracking)
    return {file.path for folder in ("plots", "gate") for file in client.list_artifacts(run_id, folder)}


def chain(settings, reference):
    study = tune.run(reference, settings, trials=3)
    candidate = train.run(reference, study, settings)
    verdict = evaluate.run(candidate, settings)
    return study, candidate, verdict


def test_a_proved_candidate_is_promoted_once_and_can_be_taken_back(configured):
    registry = Registry(configured.tracking)
    reference = store_snapshot(configured)
    study, candidate, verdict = chain(configured, reference)
    assert verdict.outcome is Outcome.PASS, verdict.reasons
    first = promote.run(verdict, "test", configured)
    assert (first.production, first.previous, first.moved) == (candidate.version, None, True)

    # The same work again is the same run, version and ledger line.
    assert chain(configured, reference)[:2] == (study, candidate)
    assert promote.run(verdict, "test", configured).moved is False
    assert len(registry.versions("failure")) == 1
    assert len(promote.history("failure", configured)) == 1

    run = registry.run(study.run_id)
    assert run is not None
    assert {"holdout_average_precision", "valid_average_precision"} <= set(run.metrics)
    assert {
        "plots/data_profile.png",
        "plots/explanation_booster.png",
        "plots/importance.png",
        "plots/probability_over_time.png",
        "plots/tuning_history.png",
        "gate/intervals.png",
    } <= drawn_on(study.run_id, configured)
    trials = registry.search_runs("failure", f"tags.`mlflow.parentRunId` = '{study.run_id}'")
    assert len(trials) == study.trials
    version = registry.version("failure", candidate.version)
    assert version is not None
    assert version.tags["headrace.verdict"] == "pass"
    assert "| check |" in version.description

    # New data, a new candidate, judged against the one that serves.
    second_study, second, second_verdict = chain(configured, store_snapshot(configured, seed=2))
    assert study.best_params in first_trials(configured, second_study), "the champion's parameters come first"
    assert second_verdict.champion == candidate.version
    assert any("champion version" in reason for reason in second_verdict.reasons)
    moved = promote.promote_by_hand("failure", second.version, "ada", "a test of the doors", configured)
    assert (moved.production, moved.previous) == (second.version, candidate.version)
    back = promote.rollback("failure", None, "ada", "it pages at night", configured)
    assert back.production == candidate.version

    # What a person took back is not promoted again by the next scheduled run.
    refused = promote.run(second_verdict.model_copy(update={"outcome": Outcome.PASS}), "test", configured)
    assert not refused.moved
    assert "it pages at night" in refused.reason
    by_hand = "promote by hand" if second_verdict.outcome is Outcome.PASS else "override"
    assert [line.action.value for line in promote.history("failure", configured)] == [
        "promote",
        by_hand,
        "rollback",
    ]

    # MLflow's own loader takes the version too.
    import mlflow
    import pandas as pd

    mlflow.set_tracking_uri(configured.tracking)
    answers = mlflow.pyfunc.load_model("models:/failure@production").predict(
        pd.DataFrame({"heat": [0.1, None], "wear": [3.0, -1.0], "zone": ["b", "c"]})
    )
    assert answers["probability"][0] > answers["probability"][1]


def test_a_candidate_without_signal_is_not_promoted(configured):
    reference = store_snapshot(configured, seed=7, signal=0.0)
    _, candidate, verdict = chain(configured, reference)
    assert verdict.outcome is Outcome.FAIL
    before = Registry(configured.tracking).alias_version("failure", "production")
    promotion = promote.run(verdict, "test", configured)
    assert not promotion.moved
    assert promotion.production == (before.version if before else None)
    assert promotion.production != candidate.version


def test_a_verdict_against_another_champion_than_the_one_serving_is_stale(configured):
    _, _, verdict = chain(configured, store_snapshot(configured, seed=11))
    stale = verdict.model_copy(update={"outcome": Outcome.PASS, "champion": "999"})
    with pytest.raises(PromotionError, match="evaluate again"):
        promote.run(stale, "test", configured)


def test_a_move_by_hand_needs_a_name_and_a_reason(configured):
    with pytest.raises(PromotionError, match="name and a reason"):
        promote.promote_by_hand("failure", "1", "ada", " ", configured)


def test_there_must_be_something_to_go_back_to(configured):
    with pytest.raises(PromotionError, match="--to VERSION"):
        promote.rollback("nothing-here", None, "ada", "why not", configured)
