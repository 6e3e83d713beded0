"""What was really answered: joined to its truth from both doors, and held against the offline store."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from models.catalogue import find
from pipelines.adapters.feature_store import FeatureStore
from pipelines.adapters.lake import Lake
from pipelines.adapters.registry import ModelVersion
from pipelines.features import job as features
from pipelines.monitor import label_door, looks, served
from pipelines.monitor.champion import Champion
from pipelines.monitor.records import Cause, Check, Late
from pipelines.references import Window
from pipelines.sources.profile import load_profile
from pipelines.times import TIME

pytestmark = pytest.mark.integration  # Feast

START = datetime(2026, 1, 5, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
UNITS, DAYS = 4, 4


@pytest.fixture(scope="module")
def home(tmp_path_factory, small_source, put_clean):
    """Four days of telemetry of four units with their features; ``u00`` fails at noon of the third day."""
    from pipelines.settings import load_settings

    settings = load_settings({}, home=tmp_path_factory.mktemp("served"), source=small_source)
    random = np.random.default_rng(1)
    readings = [
        {"unit": f"u{unit:02}", "seen_at": START + hour * HOUR + timedelta(minutes=30), "heat": float(random.normal(40, 5)),
         "resets": hour}
        for unit in range(UNITS)
        for hour in range(24 * DAYS)
    ]  # fmt: skip
    put_clean(settings, "readings", readings)
    put_clean(settings, "log", [{"unit": "u00", "seen_at": START + 60 * HOUR, "kind": "failure"}])
    units = [
        {"unit": f"u{unit:02}", "seen_at": START, "model": "ab"[unit % 2], "cores": None}
        for unit in range(UNITS)
    ]
    put_clean(settings, "units", units)
    features.run(small_source, Window(start=START, end=START + DAYS * DAY), settings)
    return settings


@pytest.fixture
def about(small_source):
    profile = load_profile(small_source)
    return profile.spec_of(find("failure")), profile


def answers(settings, profile, at, units=range(UNITS), probability=0.5):
    """Rows of the prediction log as a server with the right features writes them, one per unit and time."""
    keys = pl.DataFrame(
        {
            "unit": [f"u{unit:02}" for _ in at for unit in units],
            "event_time": [moment for moment in at for _ in units],
        },
        schema_overrides={"event_time": TIME},
    )
    known = FeatureStore(profile, settings).historical(keys)
    told = known.select(
        pl.col("unit").alias("entity"),
        "event_time",
        *(pl.col(name).alias(f"feature__{name}") for name in known.columns[2:]),
    )
    return told.with_columns(
        prediction_id=pl.format("p{}", pl.int_range(pl.len())),
        answered_at=pl.col("event_time") + timedelta(seconds=3),
        output__probability=pl.lit(probability),
        output__alarm=pl.lit(value=False),
    )


NOON = [START + 2 * DAY + hour * HOUR for hour in range(15)]


def skew(rows, about, settings):
    spec, profile = about
    return served.skew(rows, spec, profile, "unit", settings)


def test_what_the_offline_store_has_too_is_no_skew(home, about):
    rows = answers(home, about[1], NOON)
    assert skew(rows, about, home) == ()
    shuffled = pl.concat(
        [rows, rows.reverse()]
    )  # the log's order is that of answers, and callers repeat themselves
    assert skew(shuffled, about, home) == ()
    whole = rows.with_columns(pl.col("^feature__heat.*$").cast(pl.Float32).cast(pl.Float64))
    assert skew(whole, about, home) == ()


def test_a_feature_that_was_made_otherwise_is_named_with_its_share(home, about):
    rows = answers(home, about[1], NOON).with_columns(
        feature__heat__mean_2h=pl.when(pl.col("entity") == "u01")
        .then(pl.col("feature__heat__mean_2h") * 1.8 + 32)
        .otherwise(pl.col("feature__heat__mean_2h"))
    )
    [found] = skew(rows, about, home)
    assert found.startswith("heat__mean_2h: 25% of 60 served rows differ")


def test_telemetry_that_came_late_and_a_handful_of_rows_are_no_skew(home, about):
    rows = answers(home, about[1], NOON)
    late = rows.with_columns(pl.col("feature__heat__mean_6h") * 1.001)
    assert skew(late, about, home) == ()
    assert skew(rows.head(10).with_columns(feature__heat__mean_2h=pl.lit(-1.0)), about, home) == ()


def test_a_value_that_was_missing_where_it_is_known_is_skew_and_one_missing_on_both_sides_is_not(home, about):
    rows = answers(home, about[1], NOON)
    assert rows["feature__cores"].null_count() == rows.height
    assert skew(rows.with_columns(feature__cores=pl.lit(float("nan"))), about, home) == ()
    [gone] = skew(rows.with_columns(feature__heat__mean_2h=pl.lit(None, pl.Float64)), about, home)
    assert "heat__mean_2h: 100%" in gone


def test_a_category_that_was_served_as_another_is_skew(home, about):
    rows = answers(home, about[1], NOON)
    assert rows.schema["feature__model"] == pl.String
    [other] = skew(rows.with_columns(feature__model=pl.lit("zz")), about, home)
    assert other.startswith("model: 100%")


def test_the_row_of_the_step_before_is_right_until_the_features_stage_has_run(home, about):
    early = [moment + timedelta(minutes=4) for moment in NOON]
    before = answers(home, about[1], [moment - HOUR for moment in early])
    assert skew(before.with_columns(pl.col("event_time") + HOUR), about, home) == ()
    older = answers(home, about[1], [moment - 2 * HOUR for moment in early])
    assert skew(older.with_columns(pl.col("event_time") + 2 * HOUR), about, home) != ()


def test_records_that_callers_brought_name_nobody_and_are_not_compared(home, about):
    rows = answers(home, about[1], NOON).with_columns(
        entity=pl.lit(None, pl.String), event_time=pl.lit(None, TIME), feature__heat__mean_2h=pl.lit(-1.0)
    )
    assert skew(rows, about, home) == ()


def labelled(rows, about, settings, end=DAYS):
    spec, profile = about
    window = Window(start=START, end=START + end * DAY)
    return served.labelled(rows, "failure", spec, profile, "unit", window, settings)


def test_telemetry_tells_the_truth_of_entities_and_times(home, about):
    found = labelled(answers(home, about[1], NOON), about, home)
    failed = found.part.targets["event"][found.part.entity == "u00"]
    assert len(found.part) == 60
    # From midnight to 11 h it is to fail at noon; at noon it does, and after it is over.
    assert failed.tolist() == [1.0] * 12 + [0.0] * 3
    assert found.part.targets["event"].sum() == 12
    assert set(found.answers) == {"probability", "alarm"}


def test_what_is_not_yet_known_is_not_taken_for_a_no(home, about):
    late = answers(home, about[1], [START + 3 * DAY + 12 * HOUR])
    assert labelled(late, about, home) is None
    assert labelled(answers(home, about[1], NOON), about, home, end=2) is None


def test_the_door_goes_before_telemetry_and_reaches_records_without_a_name(home, about):
    spec, profile = about
    lake = Lake.of(home)
    rows = answers(home, profile, NOON)
    rows = rows.with_columns(
        entity=pl.when(pl.col("entity") == "u03").then(None).otherwise(pl.col("entity")),
        event_time=pl.when(pl.col("entity") == "u03").then(None).otherwise(pl.col("event_time")),
    )
    nameless = rows.filter(pl.col("entity").is_null())["prediction_id"].to_list()
    named = rows.filter(pl.col("entity") == "u00")["prediction_id"][0]
    said = pl.DataFrame({"prediction_id": [*nameless, named, named], "value": [1.0] * 15 + [1.0, 0.0]})
    said = said.with_columns(labelled_at=pl.Series([START] * 16 + [START + DAY]))
    label_door.add(lake, "failure", said, spec.target.names, "labels:1", START + 3 * DAY)
    found = labelled(rows, about, home)
    assert len(found.part) == 60  # no row twice
    assert (found.duplicates, found.contradictions) == (0, 1)
    assert found.part.targets["event"][found.part.entity == ""].tolist() == [1.0] * 15
    assert found.part.targets["event"][found.part.entity == "u00"].sum() == 11  # the later word took one back


def logged(rows, settings, name):
    """Rows as a prediction log of a registered model has them."""
    from pipelines.predictions import table

    lake = Lake.of(settings)
    table.enter(lake, name)
    told = rows.with_columns(
        day=pl.col("answered_at").dt.date(), version=pl.lit("3"), alias=pl.lit("production")
    )
    lake.append(table.table_of(name), told, work=["ship:1"], partition_by="day")


def test_labels_that_come_late_are_of_the_answers_that_they_name_and_are_told_once(home, about):
    spec, profile = about
    lake, name = Lake.of(home), "late-failure"
    rows = answers(home, profile, NOON)
    logged(rows, home, name)

    def look(seen, version="3", before=START + 3 * DAY):
        return served.late(name, version, spec, before, seen, home)

    def version():
        return lake.version(label_door.table_of(name))

    assert look(None) == (None, None)
    by_id = pl.DataFrame({"prediction_id": rows["prediction_id"].head(20), "value": [1.0] * 20})
    label_door.add(lake, name, by_id, spec.target.names, "labels:1", START + 90 * DAY)
    found, seen = look(None)
    assert (len(found.part), found.part.targets["event"].sum(), seen) == (20, 20, version())
    assert look(seen) == (None, seen)
    assert look(None, version="2")[0] is None
    assert look(None, before=START + 2 * DAY)[0] is None

    by_time = rows.select("entity", "event_time").tail(15).with_columns(value=pl.lit(0.0))
    taken_back = pl.DataFrame({"prediction_id": rows["prediction_id"].head(1), "value": [0.0]})
    label_door.add(lake, name, by_time, spec.target.names, "labels:2", START + 91 * DAY)
    label_door.add(lake, name, taken_back, spec.target.names, "labels:3", START + 92 * DAY)
    found, newest = look(seen)
    assert (len(found.part), found.part.targets["event"].sum(), newest) == (16, 0, version())
    assert found.contradictions == 1
    assert len(look(77)[0].part) == 35  # that version is not there: all of them are new


def test_late_labels_wait_until_there_are_enough_and_their_figures_stand_for_a_week(home, about):
    spec, profile = about
    spec = spec.model_copy(update={"monitor": spec.monitor.model_copy(update={"min_labels": 20})})
    lake, name = Lake.of(home), "standing-failure"
    rows = answers(home, profile, NOON)
    logged(rows, home, name)
    champion = Champion(name, ModelVersion.model_construct(name=name, version="3"), None, None, spec, profile)

    def look(day, *earlier):
        window = Window(start=START + (day - 7) * DAY, end=START + day * DAY)
        return looks.late(champion, earlier, window, home)

    def say(first, last, day):
        ids = rows["prediction_id"][first:last]
        said = pl.DataFrame({"prediction_id": ids, "value": [float(at % 2) for at in range(first, last)]})
        label_door.add(lake, name, said, spec.target.names, f"labels:{first}", START + day * DAY)

    assert look(12) == Late()
    say(0, 10, 12)
    few = look(13, check(12))
    assert few == Late()
    say(10, 25, 13)
    enough = look(14, check(13, few))
    newest = lake.version(label_door.table_of(name))
    assert (enough.figures.rows, enough.at, enough.seen) == (25, START + 14 * DAY, newest)
    assert "average_precision" in enough.figures.values
    assert look(15, check(14, enough)) == enough
    assert look(22, check(21, enough)) == Late(seen=newest)


def check(day, late=None):
    end = START + day * DAY
    return Check(
        registered_name="standing-failure", model="failure", version="3", window=Window(start=end - DAY, end=end),
        at=end, cause=Cause.NOTHING, drift_score=0.0, late=late or Late(),
    )  # fmt: skip
