"""The drift test on columns as they are: numbers with missing values, categories, constants, too few rows."""

import numpy as np
import pytest

from models.specs import DriftTest
from pipelines.monitor import drift
from pipelines.monitor.reference import from_bytes, of_columns, to_bytes, window_of
from pipelines.monitor.sketch import OTHER, NumberSketch, TextSketch, binned

HOURS, ROWS = 4 * 168, 6
TEST = DriftTest()


def columns(random, hours, offset=0):
    hour = np.repeat(np.arange(hours), ROWS)
    load = random.normal(size=len(hour)) + np.sin(2 * np.pi * (hour + offset) / 24)
    gaps = np.where(random.uniform(size=len(hour)) < 0.1, np.nan, random.normal(size=len(hour)))
    zone = np.array(random.choice(["a", "b", "c"], len(hour), p=[0.5, 0.3, 0.2]).tolist(), dtype=object)
    return {"load": np.exp(load), "gaps": gaps, "constant": np.ones(len(hour)), "zone": zone}, hour


@pytest.fixture(scope="module")
def reference():
    every, hour = columns(np.random.default_rng(1), HOURS)
    return of_columns(every, hour, HOURS)


def look(reference, change=lambda columns: columns, hours=168, importance=None):
    every, hour = columns(np.random.default_rng(2), hours)
    window = window_of(reference, change(every), hour, hours)
    found = drift.check(reference, window, 0, TEST, importance or {})
    return {each.column: each for each in found}


def test_nothing_is_found_where_nothing_changed(reference):
    found = look(reference)
    assert list(found) == ["load", "gaps", "constant", "zone"]
    assert not any(each.drifted for each in found.values())


@pytest.mark.parametrize(
    ("column", "change", "aspect", "told"),
    [
        ("load", lambda values: values * 2, "location", "higher by"),
        ("gaps", lambda values: values * 3, "spread", "scatters"),
        ("gaps", lambda values: np.where(np.arange(len(values)) % 2, np.nan, values), "missing", "missing +"),
        ("constant", lambda values: values * 2, "location", "higher by"),
        ("constant", lambda values: values * 0, "location", "lower by"),
        ("zone", lambda values: np.where(values == "c", "a", values), "category", ""),
        ("zone", lambda values: np.where(values == "c", "new", values), "category", ""),
    ],
)
def test_what_changed_is_named(reference, column, change, aspect, told):
    found = look(reference, lambda every: every | {column: change(every[column])})
    assert [name for name, each in found.items() if each.drifted] == [column]
    assert found[column].aspect == aspect
    assert told in found[column].detail


def test_a_vanished_category_is_called_vanished(reference):
    found = look(
        reference, lambda every: every | {"zone": np.where(every["zone"] == "a", "b", every["zone"])}
    )
    assert "zone" in {name for name, each in found.items() if each.drifted}
    sketch = reference.sketches["zone"]
    assert sketch.categories[-1] == OTHER


def test_a_column_that_is_gone_altogether_is_missing_not_unknown(reference):
    found = look(reference, lambda every: every | {"gaps": np.full(len(every["gaps"]), np.nan)})
    assert found["gaps"].drifted
    assert found["gaps"].aspect == "missing"


def test_too_few_rows_are_not_enough_data(reference):
    test = DriftTest(min_rows=10_000)
    every, hour = columns(np.random.default_rng(2), 24)
    found = drift.check(reference, window_of(reference, every, hour, 24), 0, test, {})
    assert all(each.p_value is None and not each.drifted for each in found)
    assert all(each.detail == "not enough data" for each in found)


def test_a_short_training_is_not_enough_data():
    every, hour = columns(np.random.default_rng(1), 48)
    short = of_columns(every, hour, 48)
    window = window_of(short, *columns(np.random.default_rng(2), 24), 24)
    assert all(each.p_value is None for each in drift.check(short, window, 0, TEST, {}))


def test_a_change_too_small_to_matter_is_none_however_sure(reference):
    test = DriftTest(min_effect=5.0)
    every, hour = columns(np.random.default_rng(2), 168)
    window = window_of(reference, every | {"load": every["load"] * 2}, hour, 168)
    found = {each.column: each for each in drift.check(reference, window, 0, test, {})}
    assert found["load"].adjusted < 0.001
    assert not found["load"].drifted


def test_windows_together_are_corrected_for_their_number(reference):
    every, hour = columns(np.random.default_rng(2), 168)
    week = drift.check(reference, window_of(reference, every, hour, 168), 0, TEST, {})
    day = drift.check(reference, window_of(reference, every, hour - 144, 24), 144, TEST, {})
    for one, other, both in zip(day, week, drift.together([day, week], TEST), strict=True):
        assert both.p_value == pytest.approx(min(1.0, 2 * min(one.p_value, other.p_value)))


def test_a_reference_survives_being_stored(reference):
    from datetime import UTC, datetime, timedelta

    from pipelines.monitor.data_quality import ColumnFacts
    from pipelines.monitor.reference import Kept
    from pipelines.references import Window

    start = datetime(2026, 1, 1, tzinfo=UTC)
    kept = Kept(
        reference, reference, reference, Window(start=start, end=start + timedelta(hours=HOURS)),
        {"telemetry.heat": ColumnFacts(np.arange(5.0), 0.1, 0.2)}, {"telemetry": 6.0}, {"load": 0.7},
    )  # fmt: skip
    again = from_bytes(to_bytes(kept))
    assert to_bytes(again) == to_bytes(kept)
    before, after = look(kept.features), look(again.features)
    assert {name: each.p_value for name, each in before.items()} == pytest.approx(
        {name: each.p_value for name, each in after.items()}, rel=1e-4
    )
    assert again.importance == {"load": 0.7}
    assert again.gauges["telemetry.heat"].stuck == 0.2


def test_sketches_add_up_over_parts():
    random = np.random.default_rng(4)
    values, bins = random.normal(size=500), np.sort(random.integers(0, 10, 500))
    sketch = NumberSketch.of(values)
    whole = binned(sketch, values, bins, 10)
    parts = [binned(sketch, values[part], bins[part], 10) for part in (slice(0, 200), slice(200, 500))]
    np.testing.assert_array_equal(whole.counts, parts[0].counts + parts[1].counts)
    assert whole.rows.sum() == 500
    assert sketch.scores @ sketch.shares == pytest.approx(0, abs=1e-9)


def test_text_counts_missing_and_other_values():
    sketch = TextSketch.of(np.array(["a", "a", "b", None], dtype=object))
    assert sketch.missing == 0.25
    table = binned(sketch, np.array(["a", "z", None], dtype=object), np.zeros(3, dtype=np.int64), 1)
    assert dict(zip(sketch.categories, table.counts[0].tolist(), strict=True)) == {"a": 1, "b": 0, OTHER: 1}
    assert table.missing[0] == 1


def test_daily_rows_are_compared_by_days():
    random = np.random.default_rng(5)
    hour = np.repeat(np.arange(42) * 24, 50)  # fifty machines once a day, for six weeks
    daily = of_columns({"load": random.normal(size=len(hour))}, hour, 42 * 24, 24)
    assert daily.period == 7
    now = np.repeat(np.arange(7), 50)
    for shift, drifted in ((0.0, False), (1.0, True)):
        window = window_of(daily, {"load": random.normal(size=len(now)) + shift}, now, 7)
        [found] = drift.check(daily, window, 0, TEST, {})
        assert found.drifted is drifted
