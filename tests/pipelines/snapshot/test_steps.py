"""Observations, labels and parts: nothing of the future in a row, nothing shared between parts."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from models.specs import Split
from pipelines.errors import SnapshotError
from pipelines.snapshot import steps

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
THINNED = Split(negatives_kept=0.2)


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
    labelled = hourly(machines=50).with_columns(
        target__event=(pl.int_range(pl.len()) % 100 == 0).cast(pl.Float64)
    )
    thinned = steps.thin(labelled, "machine_id", THINNED, seed=5)
    assert thinned[steps.EVENT].sum() == labelled[steps.EVENT].sum()
    assert thinned.height < 0.25 * labelled.height
    assert thinned["weight"].sum() == pytest.approx(labelled.height, rel=0.05)
    half = labelled.filter(pl.col("event_time") < START + 10 * DAY)
    kept_of_half = steps.thin(half, "machine_id", THINNED, seed=5)
    assert kept_of_half.equals(thinned.filter(pl.col("event_time") < START + 10 * DAY)), (
        "a row is kept for its own sake"
    )


def test_a_part_without_outcomes_stops():
    rows = pl.DataFrame({"part": ["train", "train", "valid", "holdout"], steps.EVENT: [0, 1, 0, 0]})
    with pytest.raises(SnapshotError, match="part valid has 1 rows, 0 of them positive"):
        steps.counts(rows)


def test_rows_kept_samples_all_alike_and_weighs_nothing():
    observations = hourly(machines=50)
    thinned = steps.thin(observations, "machine_id", Split(rows_kept=0.1), seed=5)
    assert thinned.height == pytest.approx(0.1 * observations.height, rel=0.1)
    assert thinned["weight"].unique().to_list() == [1.0]


def test_a_duration_is_censored_where_its_part_ends():
    cuts = steps.Cuts(valid_from=START + 10 * HOUR, holdout_from=START + 20 * HOUR)
    parted = pl.DataFrame(
        {
            "event_time": [START, START + 8 * HOUR, START + 15 * HOUR, START + 21 * HOUR],
            "part": ["train", "train", "valid", "holdout"],
            steps.HOURS: [3.0, 5.0, 9.0, 50.0],
            steps.OBSERVED: [1.0, 1.0, 0.0, 1.0],
        },
        schema_overrides={"event_time": pl.Datetime("us", "UTC")},
    )
    known = steps.as_known(parted, cuts)
    assert known[steps.HOURS].to_list() == [3.0, 2.0, 5.0, 50.0]
    assert known[steps.OBSERVED].to_list() == [1.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize("age", range(1, 20))
def test_after_a_change_every_part_has_of_what_is_new_or_the_cuts_stay(age):
    observations, split = hourly(machines=2, days=20), Split(valid_share=0.15, holdout_share=0.25)
    usual, end = steps.cut_times(observations, split), START + 20 * DAY
    cuts = steps.cut_times(observations, split, end - age * DAY, DAY)
    assert cuts.valid_from >= usual.valid_from
    assert cuts.holdout_from >= usual.holdout_from
    if cuts == usual:
        # Too young to be parted, or old enough for the usual cuts to leave train its share of it.
        assert age <= 3 or usual.valid_from >= end - age * DAY + 0.4 * age * DAY
        return
    parted = steps.assign_parts(observations, "machine_id", split, cuts, DAY, seed=3)
    new = parted.filter(pl.col("event_time") > end - age * DAY)
    assert set(new["part"]) == set(steps.PARTS)


def test_seven_horizons_after_a_change_each_part_has_most_of_a_horizon_of_it():
    observations, end = hourly(machines=1, days=42), START + 42 * DAY
    known = observations.filter(pl.col("event_time") <= end - DAY)  # labels of the last day have not come
    cuts = steps.cut_times(known, Split(), end - steps.HORIZONS_TO_LEARN * DAY, DAY)
    parted = steps.assign_parts(known, "machine_id", Split(), cuts, DAY, seed=3)
    new = parted.filter(pl.col("event_time") > end - steps.HORIZONS_TO_LEARN * DAY)
    assert min(dict(new.group_by("part").len().iter_rows()).values()) >= 0.75 * 24
