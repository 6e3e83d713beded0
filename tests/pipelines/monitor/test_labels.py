"""Late, doubled and contradicting labels; keys by id and by entity and time; files taken once."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from pipelines.adapters.lake import Lake
from pipelines.errors import MonitorError
from pipelines.monitor import label_door
from pipelines.monitor.labels import checked, joined, resolve
from pipelines.times import TIME

NOW = datetime(2026, 3, 1, tzinfo=UTC)
ARRIVED = pl.lit(NOW, TIME)


def labels(*rows, targets=("event",)):
    return checked(pl.DataFrame(rows), targets, ARRIVED)


def test_the_newest_word_counts_and_the_others_are_counted():
    found = resolve(
        labels(
            {"prediction_id": "A1", "value": 0, "labelled_at": "2026-02-01T00:00:00Z"},
            {"prediction_id": "a1", "value": 1, "labelled_at": "2026-02-03T00:00:00Z"},
            {"prediction_id": "a1", "value": 1, "labelled_at": "2026-02-02T00:00:00Z"},
            {"prediction_id": "b2", "value": 0, "labelled_at": "2026-02-02T00:00:00Z"},
        )
    )
    assert dict(found.rows.select("prediction_id", "value").rows()) == {"a1": 1.0, "b2": 0.0}
    assert (found.duplicates, found.contradictions) == (1, 1)


def test_an_id_goes_before_an_entity_and_a_time_and_a_prediction_stays_one_row():
    rows = pl.DataFrame(
        {"prediction_id": ["a1", "b2", "c3"], "entity": ["m", "m", "n"], "event_time": [NOW, NOW, NOW]},
        schema_overrides={"event_time": TIME},
    )
    both = pl.concat(
        [
            labels({"prediction_id": "a1", "value": 1}),
            labels({"entity": "m", "event_time": "2026-03-01", "value": 0}),
        ]
    )
    assert joined(rows, both, "event")["target__event"].to_list() == [1.0, 0.0, None]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"value": 1}, "need the columns"),
        ({"prediction_id": "a", "value": "high"}, "row 0"),
        ({"prediction_id": None, "value": 1.0}, "row 0"),
        ({"prediction_id": "a", "value": 1, "target": "other"}, "no target among"),
    ],
)
def test_what_cannot_be_a_label_is_refused_by_name(row, told):
    with pytest.raises(MonitorError, match=told):
        labels(row)


def test_several_targets_must_be_named():
    with pytest.raises(MonitorError, match="column target"):
        labels({"prediction_id": "a", "value": 1}, targets=("cpu", "memory"))


@pytest.mark.integration
def test_a_file_is_taken_once_and_a_bad_one_says_why(settings):
    folder = label_door.folder_of(settings, "failure")
    folder.mkdir(parents=True)

    def drop(name, text):
        (folder / name).write_text(text)
        return label_door.take_files("failure", ("event",), NOW + timedelta(hours=1), settings)

    assert drop("one.csv", "prediction_id,value\na1,1\nb2,0\n").rows == 2
    assert drop("again.csv", "prediction_id,value\na1,1\nb2,0\n").rows == 0
    assert drop("bad.csv", "id,value\na1,1\n").refused == 1
    assert "need the columns" in (folder / "refused" / "bad.csv.txt").read_text()
    assert Lake.of(settings).scan(label_door.table_of("failure")).collect().height == 2
    assert not list(folder.glob("*.csv"))
