"""The champion's own holdout is found by its lineage, or the evidence is missing."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from models.catalogue import find as spec_of
from models.manifest import FieldType, InputField
from models.targets import EventWithin
from pipelines.adapters.lake import Lake
from pipelines.adapters.registry import ModelVersion
from pipelines.evaluate import older
from pipelines.evaluate.checks import Check
from pipelines.evaluate.steps import Older
from pipelines.references import Outcome, Window
from pipelines.snapshot import job as snapshot
from pipelines.snapshot.parts import observations

START = datetime(2026, 1, 1, tzinfo=UTC)
HEAT = InputField(name="heat", type=FieldType.DOUBLE, required=False)
WEAR = InputField(name="wear", type=FieldType.DOUBLE, required=False)
SPEC = spec_of("failure")


def stored(settings, first_hour=0, inputs=(HEAT,), spec=SPEC):
    """A snapshot of 60 hours of 4 machines, half of it holdout; its reference and manifest."""
    hours = np.repeat(np.arange(60), 4)
    rows = pl.DataFrame(
        {
            "machine_id": [f"m{number % 4}" for number in range(240)],
            "event_time": [START + timedelta(hours=first_hour + int(hour)) for hour in hours],
            "target__event": (np.arange(240) % 3 == 0).astype(float),
            "part": np.repeat(["train", "valid", "holdout"], [80, 40, 120]),
            "weight": 1.0,
            **{field.name: np.arange(240.0) for field in inputs},
        }
    )
    window = Window(start=START, end=START + timedelta(days=30))
    manifest = snapshot.SnapshotManifest(
        model="failure",
        source="simulated",
        window=window,
        spec=spec,
        seed=1,
        tables={},
        entity="machine_id",
        inputs=inputs,
    )
    return snapshot.store(rows, manifest, Lake.of(settings)), manifest


def version(sha256):
    tags = {"headrace.source": "simulated"} | ({"headrace.snapshot_sha256": sha256} if sha256 else {})
    return ModelVersion(
        name="failure",
        version="7",
        source="",
        run_id=None,
        status="READY",
        description="",
        tags=tags,
        aliases=(),
        created_at=START,
    )


def predictor(*inputs):
    return SimpleNamespace(
        manifest=SimpleNamespace(inputs=inputs), predict=lambda columns: {"probability": columns["heat"]}
    )


def find(settings, champion_sha, candidate, predictors=None):
    reference, manifest = candidate
    rows, _ = snapshot.load(reference, settings)
    learned = tuple(observations(rows, part, "machine_id", manifest.inputs) for part in ("train", "valid"))
    both = predictors or (predictor(HEAT), predictor(HEAT))
    return older.find(version(champion_sha), both, manifest, reference.sha256, learned, settings)


def test_the_older_holdout_is_answered_by_both_and_what_was_learned_of_it_is_counted(settings):
    before, _ = stored(settings)
    # Ten hours later: training has reached hours 30 to 39 of the older holdout, which began at hour 30.
    found, notes = find(settings, before.sha256, stored(settings, first_hour=10))
    assert isinstance(found, Older)
    assert (len(found.part), found.learned, notes) == (120, 40, ())
    assert found.champion.name == "version 7"
    assert (found.candidate.answers["probability"] == found.part.columns["heat"]).all()


def test_the_same_snapshot_has_no_older_holdout(settings):
    before = stored(settings)
    found, notes = find(settings, before[0].sha256, before)
    assert found is None
    assert "same snapshot" in notes[0]


def refused(found):
    check, notes = found
    assert isinstance(check, Check)
    assert check.outcome is Outcome.INSUFFICIENT
    assert notes == ()
    return check


def test_a_champion_without_lineage_is_missing_evidence_and_that_blocks(settings):
    check = refused(find(settings, None, stored(settings)))
    assert check.blocking
    assert "no tag headrace.snapshot_sha256" in check.sentence()


@pytest.mark.parametrize("harm", ["gone", "changed"])
def test_a_snapshot_that_is_gone_or_changed_blocks(settings, harm):
    before, _ = stored(settings)
    rows = Path(before.url)
    if harm == "gone":
        rows.unlink()
    else:
        rows.write_bytes(rows.read_bytes()[:-1] + b"!")
    check = refused(find(settings, before.sha256, stored(settings, first_hour=10)))
    assert check.blocking
    assert "headrace promote MODEL VERSION --reason" in check.sentence()


def test_a_new_input_cannot_be_asked_of_an_older_snapshot_and_does_not_block(settings):
    before, _ = stored(settings)
    now = stored(settings, first_hour=10, inputs=(HEAT, WEAR))
    check = refused(find(settings, before.sha256, now, (predictor(HEAT, WEAR), predictor(HEAT))))
    assert not check.blocking
    assert "['wear']" in check.detail


def test_another_target_does_not_block(settings):
    before, _ = stored(settings)
    other = SPEC.model_copy(update={"target": EventWithin(dataset="events", horizon=timedelta(hours=6))})
    check = refused(find(settings, before.sha256, stored(settings, first_hour=10, spec=other)))
    assert not check.blocking
    assert "its target is another one" in check.detail
