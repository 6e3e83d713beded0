"""A version is trained again from what is recorded of it: from telemetry to MLflow and back."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from headrace.cli import app
from pipelines.adapters.lake import Lake
from pipelines.errors import LineageError
from pipelines.features import job as features
from pipelines.lineage import record
from pipelines.lineage import reproduce as lineage
from pipelines.lineage.reproduce import Sameness
from pipelines.references import Window
from pipelines.snapshot import job as snapshot
from pipelines.train import job as train
from pipelines.tune import job as tune

pytestmark = pytest.mark.integration

START = datetime(2026, 1, 1, tzinfo=UTC)
DAYS, UNITS = 20, 16
WINDOW = Window(start=START, end=START + timedelta(days=DAYS))


def telemetry(days, seed=0):
    """Hot units fail more often. Rows of readings, log and units."""
    random = np.random.default_rng(seed)
    readings, log, units = [], [], []
    for unit in range(UNITS):
        name = f"u{unit:02}"
        units.append({"unit": name, "seen_at": START, "model": "ab"[unit % 2], "cores": 4 + unit % 3})
        hot = np.zeros(24 * days)
        for at in random.integers(24, 24 * days, days // 4):
            hot[at - 24 : at] += 40
            moment = START + timedelta(hours=int(at), minutes=7)
            log.append({"unit": name, "seen_at": moment, "kind": "failure"})
        heat = 40 + hot + random.normal(0, 4, 24 * days)
        readings += [
            {"unit": name, "seen_at": START + timedelta(hours=hour, minutes=30), "heat": float(heat[hour]), "resets": 0}
            for hour in range(24 * days)
        ]  # fmt: skip
    return {"readings": readings, "log": log, "units": units}


@pytest.fixture
def configured(settings, mlflow_server):
    return settings.model_copy(update={"tracking_url": mlflow_server})


@pytest.fixture
def trained(configured, small_source, put_clean):
    """A version of ``failure`` out of clean tables, and later telemetry that it never saw."""
    for dataset, rows in telemetry(DAYS).items():
        put_clean(configured, dataset, rows)
    built = features.run(small_source, WINDOW, configured, grids=["hourly"])
    reference = snapshot.run("failure", built, configured)
    candidate = train.run(reference, tune.run(reference, configured, trials=1), configured)
    later = {
        dataset: [row for row in rows if row["seen_at"] >= WINDOW.end]
        for dataset, rows in telemetry(DAYS + 2, seed=5).items()
    }
    for dataset, rows in later.items():
        put_clean(configured, dataset, rows)
    features.run(
        small_source, Window(start=START, end=WINDOW.end + timedelta(days=2)), configured, grids=["hourly"]
    )
    return candidate


def test_a_version_is_made_again_from_its_lineage(configured, trained, monkeypatch):
    name, version = trained.registered_name, trained.version
    lake = Lake.of(configured)
    kept = record.find(lake, name, version).training
    assert kept.snapshot == trained.snapshot
    assert set(kept.tables) >= {"clean/small/log"}
    assert train.run(trained.snapshot, _study(kept, trained), configured) == trained
    assert len([each for each in record.read(lake, name) if each.version == version]) == 1

    from_store = lineage.reproduce(name, version, configured)
    assert from_store.sameness is Sameness.IDENTICAL, from_store
    assert (from_store.snapshot, from_store.snapshot_identical) == ("stored", True)
    assert from_store.rows == trained.snapshot.rows["valid"] + trained.snapshot.rows["holdout"]
    assert from_store.other_files == ()
    assert from_store.code == from_store.environment == ()

    Path(trained.snapshot.url).unlink()
    rebuilt = lineage.reproduce(name, version, configured)
    assert rebuilt.sameness is Sameness.IDENTICAL, rebuilt
    assert (rebuilt.snapshot, rebuilt.snapshot_identical) == ("built again from the tables", True)

    _through_the_command(configured, trained, monkeypatch)

    # Another seed is another model, and the command's exit code says so.
    _pretend(monkeypatch, name, version, lake, seed=kept.seed + 1, params={**kept.params, "num_leaves": 3})
    other = lineage.reproduce(name, version, configured)
    assert other.sameness is Sameness.DIFFERENT
    assert any(each.differing for each in other.outputs)


def test_what_cannot_be_had_again_is_said(configured):
    with pytest.raises(LineageError, match="no lineage of version 404"):
        lineage.reproduce("failure", "404", configured)


def _study(training, candidate):
    from pipelines.references import StudyRef

    return StudyRef(
        model="failure",
        study=training.study,
        trials=1,
        best_value=0.0,
        best_params=training.params,
        run_id=candidate.run_id,
    )


def _pretend(monkeypatch, name, version, lake, **changes):
    """As if other things had been recorded of the training."""
    true = record.find(lake, name, version)
    false = true.model_copy(update={"training": true.training.model_copy(update=changes)})
    monkeypatch.setattr(record, "find", lambda *_: false)


def _through_the_command(configured, trained, monkeypatch):
    for setting in ("home", "tracking_url", "signing_key", "trusted_keys"):
        monkeypatch.setenv(f"HEADRACE_{setting.upper()}", str(getattr(configured, setting)))
    name, version = trained.registered_name, trained.version

    def said(*arguments):
        result = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    assert said("reproduce", name, version)["sameness"] == "identical"
    told = said("lineage", name, version)
    assert told["training"]["snapshot"]["sha256"] == trained.snapshot.sha256
    feature = next(feature for feature, view in told["training"]["features"].items() if view)
    assert {use["version"] for use in said("lineage", "--feature", feature)} == {version}
    table, number = next(iter(told["training"]["tables"].items()))
    assert {use["version"] for use in said("lineage", "--table", f"{table}@{number}")} == {version}
    shown = CliRunner().invoke(app, ["lineage", name, version], catch_exceptions=False)
    assert trained.run_id in shown.stdout
    assert CliRunner().invoke(app, ["lineage"]).exit_code == 2
