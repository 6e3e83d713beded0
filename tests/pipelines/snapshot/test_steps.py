"""Observations, labels and parts: nothing of the future in a row, nothing shared between parts."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.specs import Split
from pipelines.errors import SnapshotError
from pipelines.snapshot import steps

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def frame(rows, *names):
    return pl.DataFrame(
        rows,
        schema={name: pl.String if name == "machine_id" else pl.Datetime("us", "UTC") for name in names},
        orient="row",
    )


def hourly(machines=4, days=20):
    lives = frame(
        [(f"m{i}", START, START + days * DAY) for i in range(machines)], "machine_id", "first", "last"
    )
    return steps.observation_times(lives, "machine_id", HOUR)


def test_observations_stand_at_whole_multiples_within_a_life():
    lives = frame(
        [("a", START + timedelta(minutes=7), START + 3 * HOUR), ("b", START, START)],
        "machine_id",
        "first",
        "last",
    )
    times = steps.observation_times(lives, "machine_id", HOUR)
    assert times.rows() == [("a", START + n * HOUR) for n in (1, 2, 3)] + [("b", START)]


moments = st.integers(0, 72).map(lambda hours: START + hours * HOUR)


@given(observed=st.lists(moments, min_size=1, max_size=20), failed=st.lists(moments, max_size=5))
@settings(max_examples=150, deadline=None)
def test_a_label_is_an_outcome_after_the_observation_within_the_horizon(observed, failed):
    observations = frame([("a", at) for at in sorted(set(observed))], "machine_id", "event_time")
    outcomes = frame([("a", at) for at in failed] + [("b", START)], "machine_id", "event_time")
    known_until = START + 60 * HOUR
    labelled = steps.label(observations, outcomes, "machine_id", DAY, known_until)
    expected = [
        ("a", at, int(any(at < failure <= at + DAY for failure in failed)))
        for at in sorted(set(observed))
        if at + DAY <= known_until
    ]
    assert labelled.rows() == expected


@pytest.mark.parametrize("by", ["time", "entity_and_time"])
def test_no_part_reaches_into_the_next(by):
    split = Split(by=by, valid_share=0.2, holdout_share=0.3)
    observations = hourly(machines=40)
    cuts = steps.cut_times(observations, split)
    parted = steps.assign_parts(observations, "machine_id", split, cuts, DAY, seed=3)
    last = dict(parted.group_by("part").agg(pl.col("event_time").max()).iter_rows())
    first = dict(parted.group_by("part").agg(pl.col("event_time").min()).iter_rows())
    assert last["train"] + DAY <= first["valid"]
    assert last["valid"] + DAY <= first["holdout"]
    machines = {part: set(parted.filter(pl.col("part") == part)["machine_id"]) for part in steps.PARTS}
    if by == "entity_and_time":
        assert not machines["holdout"] & (machines["train"] | machines["valid"])
        assert machines["holdout"] | machines["train"] == set(observations["machine_id"])


def test_split_by_entity_gives_each_machine_whole_to_one_part():
    split = Split(by="entity", valid_share=0.2, holdout_entities_share=0.3)
    observations = hourly(machines=200)
    parted = steps.assign_parts(
        observations, "machine_id", split, steps.cut_times(observations, split), DAY, seed=3
    )
    assert parted.drop("part").equals(observations)
    assert parted.group_by("machine_id").agg(pl.col("part").n_unique())["part"].max() == 1
    machines = dict(parted.group_by("part").agg(pl.col("machine_id").n_unique()).iter_rows())
    assert machines["holdout"] == pytest.approx(60, abs=20)
    assert machines["valid"] == pytest.approx(40, abs=20)


def test_thinning_keeps_positives_and_the_weighted_count():
    labelled = hourly(machines=50).with_columns(label=(pl.int_range(pl.len()) % 100 == 0).cast(pl.Int8))
    thinned = steps.thin_negatives(labelled, "machine_id", 0.2, seed=5)
    assert thinned["label"].sum() == labelled["label"].sum()
    assert thinned.height < 0.25 * labelled.height
    assert thinned["weight"].sum() == pytest.approx(labelled.height, rel=0.05)
    half = labelled.filter(pl.col("event_time") < START + 10 * DAY)
    kept_of_half = steps.thin_negatives(half, "machine_id", 0.2, seed=5)
    assert kept_of_half.equals(thinned.filter(pl.col("event_time") < START + 10 * DAY)), (
        "a row is kept for its own sake"
    )


def test_a_part_without_outcomes_stops():
    rows = pl.DataFrame({"part": ["train", "train", "valid", "holdout"], "label": [0, 1, 0, 0]})
    with pytest.raises(SnapshotError, match="part valid has 1 rows, 0 of them positive"):
        steps.counts(rows)
