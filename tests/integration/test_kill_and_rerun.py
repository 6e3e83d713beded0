"""Each stage is killed with SIGKILL at each of its writes and run again: nothing is lost, nothing doubled."""

from pathlib import Path

import pytest
import yaml

from pipelines.adapters.lake import Lake
from pipelines.adapters.registry import Registry
from pipelines.evaluate import job as evaluate
from pipelines.features import job as features
from pipelines.ingest import job as ingest
from pipelines.promote import job as promote
from pipelines.references import Outcome, Window
from pipelines.settings import load_settings
from pipelines.snapshot import job as snapshot
from pipelines.sources.profile import BUNDLED
from pipelines.train import job as train
from pipelines.tune import job as tune
from pipelines.validate import job as validate
from tests.killing import COMMITS, killed_at_call

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

WINDOW = Window.parse("2026-03-02", "2026-03-30")
DATASETS = ("telemetry", "events", "machines")
OBJECTS = ("pipelines.adapters.lake:Lake.write_object",)
GRIDS = (None,)  # that of the model, as the chain asks for it
TRIALS = ("models.failure.build:FailureBuilder.fit", "mlflow:MlflowClient.set_terminated")
MODEL = (
    "mlflow.pyfunc:log_model",
    "pipelines.adapters.registry:Registry.create_version",
)
EVIDENCE = ("pipelines.adapters.registry:Registry.set_version_tag",)
POINTERS = ("pipelines.adapters.registry:Registry.set_alias", *COMMITS)


class Home:
    """One lake and one registered model, for a small fleet."""

    def __init__(self, folder, name, tracking_url):
        self.profile = folder / "fleet.yaml"
        fleet = yaml.safe_load((BUNDLED / "simulated.yaml").read_text("utf-8"))
        fleet |= {"name": name, "origin": {"kind": "simulated", "machines": 30, "seed": 3}}
        fleet["models"] = {"failure": {"split": {"valid_share": 0.3, "holdout_share": 0.3}}}
        self.profile.write_text(yaml.safe_dump(fleet))
        self.name = name
        self.source = str(self.profile)
        self.settings = load_settings({}, home=folder / "home", tracking_url=tracking_url)

    @property
    def registered(self):
        return f"failure-{self.name}"

    def counts(self):
        lake = Lake.of(self.settings)
        tables = [
            f"{layer}/{self.name}/{dataset}"
            for layer in ("raw", "clean", "quarantine")
            for dataset in DATASETS
        ]
        tables += [
            f"features/{self.name}/{path.name}"
            for path in (Path(self.settings.lake) / "features" / self.name).iterdir()
        ]
        return {
            table.replace(self.name, "*"): lake.scan(table).select("machine_id").collect().height
            for table in tables
        }

    def versions(self):
        return [version.version for version in Registry(self.settings.tracking).versions(self.registered)]


def in_turn(home, step):
    """The chain, each stage's job called through ``step(targets, job, *arguments)``."""
    settings = home.settings
    for dataset in DATASETS:
        ingested = step(COMMITS, ingest.run, home.source, dataset, WINDOW, settings)
        step(COMMITS, validate.run, ingested, settings)
    built = step(COMMITS, features.run, home.source, WINDOW, settings, GRIDS)
    training_set = step(OBJECTS, snapshot.run, "failure", built, settings)
    study = step(TRIALS, tune.run, training_set, settings, 2)
    candidate = step(MODEL, train.run, training_set, study, settings)
    verdict = step(EVIDENCE, evaluate.run, candidate, settings)
    # So small a fleet proves nothing; what is tested here is the move, not the gate.
    passed = verdict.model_copy(update={"outcome": Outcome.PASS})
    return training_set, step(POINTERS, promote.run, passed, "test", settings)


def undisturbed(targets, job, *arguments):
    return job(*arguments)


def killed_everywhere(targets, job, *arguments):
    """Killed after the first write, before the second, after the third, …, until the job gets through."""
    call, kills = 1, 0
    while killed_at_call(call, targets, job, *arguments, when="after" if call % 2 else "before"):
        # After a kill behind the n-th write the rerun finds it done: the next kill is at the same number.
        call += 1
        kills += 1
        assert kills < 30, f"{job.__module__} never gets through"
    assert kills, f"{job.__module__} was not killed once"
    return job(*arguments)


def test_a_chain_that_was_killed_in_every_stage_is_as_one_that_was_not(tmp_path, mlflow_server):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    calm = Home(tmp_path / "a", "calm", mlflow_server)
    killed = Home(tmp_path / "b", "killed", mlflow_server)
    calm_set, _ = in_turn(calm, undisturbed)
    killed_set, promotion = in_turn(killed, killed_everywhere)

    assert killed.counts() == calm.counts()
    counts = killed.counts()
    for dataset in DATASETS:
        assert counts[f"raw/*/{dataset}"] == counts[f"clean/*/{dataset}"] + counts[f"quarantine/*/{dataset}"]
    assert killed_set.sha256 == calm_set.sha256, "the same rows are the same snapshot"
    assert killed.versions() == calm.versions() == ["1"], "one version, not two"
    assert (promotion.production, promotion.previous) == ("1", None)
    assert len(promote.history(killed.registered, killed.settings)) == 1
