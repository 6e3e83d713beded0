"""The feature store: what training sees and what a request sees are the same."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pipelines.adapters.feature_store import FeatureStore, age_name, all_views, fields, views
from pipelines.adapters.lake import Lake
from pipelines.errors import FeatureError, SourceError
from pipelines.features import job
from pipelines.features.table import FeatureTable
from pipelines.references import FeaturesRef, Layer, Window
from pipelines.settings import Settings, load_settings
from pipelines.sources.profile import load_profile

Row = dict[str, Any]
PutClean = Callable[[Settings, str, list[Row]], None]
START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
TTL = 3 * HOUR
WINDOW = Window(start=START, end=START + timedelta(days=2))
UTC_TIME = pl.Datetime("us", "UTC")
REDIS_URL = os.environ.get("HEADRACE_TEST_REDIS_URL", "redis://127.0.0.1:6379/15")


def _observations(*rows: tuple[str, datetime]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema={"unit": pl.String, "event_time": UTC_TIME}, orient="row")


def test_fields_are_those_of_the_views_in_their_order(small_source: str, settings: Settings) -> None:
    profile = load_profile(small_source)
    names = [field.name for field in fields(profile)]
    assert names[0] == "heat__last"
    assert names[-4:] == ["failure__count_6h", "hours_since_failure", "model", "cores"]
    store = FeatureStore(profile, settings)
    assert store.fields() == fields(profile)
    assert store.entity == "unit"


def test_a_grid_has_its_own_fields_and_the_inventory(small_source: str, settings: Settings) -> None:
    profile = load_profile(small_source)
    store = FeatureStore(profile, settings)
    names = [field.name for field in store.fields("fine")]
    assert names == [field.name for field in fields(profile, "fine")]
    assert {"heat__lag_3", "heat__diff_5", "heat__skew_6h", "heat__acf_1", "hour_sin", "cores"} <= set(names)
    assert not {"error__count_6h", "heat__mean_2h", "heat__lag_4"} & set(names)
    assert store.fields("hourly") == store.fields() == store.fields(None)
    assert [view.name for view in store.views_of(["fine"])] == ["readings_windows_fine", "units_profile"]
    assert store.views_of(["fine", None]) == store.views_of(None) == store.views
    assert [view.name for view in views(profile)] == ["readings_windows", "log_history", "units_profile"]
    assert store.entity_of("fine") == "unit"
    for ask in (store.fields, store.entity_of):
        with pytest.raises(SourceError, match=r"no feature grid 'coarse'.*hourly.*fine"):
            ask("coarse")


def test_a_grid_of_what_is_not_there_is_refused(small_source: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    text = Path(small_source).read_text("utf-8")
    path.write_text(
        text.replace("datasets: [readings]\n    families", "datasets: [reading]\n    families"), "utf-8"
    )
    with pytest.raises(FeatureError, match=r"features\.fine\.datasets.*reading"):
        all_views(load_profile(str(path)))


def test_the_module_imports_nothing_heavy() -> None:
    code = (
        "import pipelines.adapters.feature_store, sys;"
        "print({'polars', 'feast', 'pandas', 'deltalake', 'mlflow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.integration
class TestAgainstFeast:
    @pytest.fixture
    def filled(self, settings: Settings, put_clean: PutClean) -> Settings:
        """Unit a has all; b stopped at noon of the first day; c is known from inventory alone."""
        moments = [START + number * timedelta(minutes=30) for number in range(1, 96)]
        readings = [{"unit": "a", "seen_at": at, "heat": 20.0 + at.hour, "resets": at.day} for at in moments]
        readings += [{**row, "unit": "b"} for row in readings if row["seen_at"] <= START + 12 * HOUR]
        put_clean(settings, "readings", readings)
        put_clean(
            settings, "log", [{"unit": "a", "seen_at": START + 90 * timedelta(minutes=1), "kind": "error"}]
        )
        units = [{"unit": unit, "seen_at": START, "model": f"model {unit}", "cores": None} for unit in "abc"]
        put_clean(settings, "units", units)
        return settings

    @pytest.fixture
    def ref(self, small_source: str, filled: Settings) -> FeaturesRef:
        return job.run(small_source, WINDOW, filled)

    @pytest.fixture
    def store(self, small_source: str, filled: Settings, ref: FeaturesRef) -> FeatureStore:
        return FeatureStore(load_profile(small_source), filled)

    def test_observations_come_back_once_in_order_with_their_other_columns(self, store: FeatureStore) -> None:
        observations = _observations(
            ("a", START + 5 * HOUR), ("nobody", START), ("a", START + 5 * HOUR), ("b", START + 4 * HOUR)
        ).with_columns(label=pl.Series([1, 0, 1, 0]))
        found = store.historical(observations)
        assert found.select(observations.columns).equals(observations)
        assert found.columns == [*observations.columns, *(field.name for field in store.fields())]
        assert found.row(0) == found.row(2)
        assert found.row(1, named=True)["model"] is None

    def test_types_are_those_of_the_definitions(self, store: FeatureStore) -> None:
        types = {"float": pl.Float64, "integer": pl.Int64, "string": pl.String}
        found = store.historical(_observations(("nobody", START)))
        assert {name: found.schema[name] for name in (field.name for field in store.fields())} == {
            field.name: types[field.type] for field in store.fields()
        }

    def test_each_grid_answers_with_its_own_features(self, store: FeatureStore) -> None:
        at = WINDOW.end
        found = store.historical(_observations(("a", at)), grid="fine")
        assert found.columns == ["unit", "event_time", *(field.name for field in store.fields("fine"))]
        assert found["heat__lag_0"][0] == pytest.approx(20 + (22 + 23 + 23) / 3)
        assert found["heat__lag_1"][0] == pytest.approx(20 + (20 + 21 + 21 + 22) / 4)
        assert found["model"][0] == "model a"
        (row,) = store.online(["a"], at, "fine")
        assert row is not None
        names = found.columns[2:]
        assert {name: row[name] for name in names} == found.select(names).row(0, named=True)
        assert age_name("readings_windows_fine") in row
        assert age_name("readings_windows") not in row

    def test_only_the_grids_asked_for_are_computed_and_published(
        self, small_source: str, settings: Settings, put_clean: PutClean
    ) -> None:
        put_clean(settings, "readings", [{"unit": "a", "seen_at": START + 4 * HOUR, "heat": 20.0}])
        window = Window(start=START, end=START + timedelta(days=1))
        ref = job.run(small_source, window, settings, grids=["fine"])
        assert list(ref.views) == ["readings_windows_fine", "units_profile"]
        store = FeatureStore(load_profile(small_source), settings)
        at = START + 4 * HOUR
        store.publish(at, ["fine"])
        assert store.online(["a"], at) == [None]
        (row,) = store.online(["a"], at, "fine")
        assert row is not None
        assert row["heat__lag_0"] == 20.0
        both = job.run(small_source, window, settings, grids=[None, "fine"])
        assert set(both.views) == set(job.run(small_source, window, settings).views)
        with pytest.raises(SourceError, match="coarse"):
            job.run(small_source, window, settings, grids=["coarse"])

    def test_hours_since_an_event_grow_between_feature_rows(self, store: FeatureStore) -> None:
        at = START + 150 * timedelta(minutes=1)
        found = store.historical(_observations(("a", at), ("a", at + 15 * timedelta(minutes=1)), ("b", at)))
        assert found["hours_since_error"].to_list() == [1.0, 1.25, None]

    def test_pinned_versions_are_read_whatever_came_since(
        self, small_source: str, filled: Settings, ref: FeaturesRef, store: FeatureStore, put_clean: PutClean
    ) -> None:
        observed = _observations(("a", START + 5 * HOUR))
        before = store.historical(observed)
        late = {"seen_at": START + 4.9 * HOUR, "arrived": START + timedelta(days=2), "heat": 200.0}
        put_clean(filled, "readings", [{"unit": "a", "resets": 0, **late}])
        job.run(small_source, Window(start=WINDOW.end, end=WINDOW.end + timedelta(days=1)), filled)
        pinned = {view: table.version for view, table in ref.views.items()}
        assert store.historical(observed, pinned).equals(before)
        assert store.historical(observed)["heat__mean_2h"][0] > before["heat__mean_2h"][0]

    def test_online_at_and_beyond_the_ttl(self, store: FeatureStore) -> None:
        stopped = START + 12 * HOUR
        store.publish(stopped)
        (at_border,) = store.online(["b"], stopped + TTL)
        (beyond,) = store.online(["b"], stopped + TTL + timedelta(microseconds=1))
        assert at_border is not None
        assert beyond is not None
        assert at_border["heat__last"] is not None
        assert beyond["heat__last"] is None
        assert beyond["hours_since_error"] is None
        assert at_border[age_name("readings_windows")] == 3.0
        assert beyond[age_name("readings_windows")] == pytest.approx(3.0)
        assert beyond["model"] == "model b"

    def test_online_knows_the_unknown_from_the_silent(self, store: FeatureStore) -> None:
        inventory_only, nobody = store.online(["c", "nobody"], WINDOW.end)
        assert nobody is None
        assert inventory_only is not None
        assert (inventory_only["model"], inventory_only["heat__last"]) == ("model c", None)
        assert inventory_only[age_name("readings_windows")] is None
        assert store.online([], WINDOW.end) == []

    def test_online_gives_nothing_from_after_the_time_asked_for(self, store: FeatureStore) -> None:
        (row,) = store.online(["a"], START + HOUR)
        assert row is not None
        assert row["heat__last"] is None
        assert row[age_name("readings_windows")] < 0

    def test_a_row_of_missing_values_takes_the_place_of_older_values(
        self, small_source: str, filled: Settings, store: FeatureStore, put_clean: PutClean
    ) -> None:
        """Also where each row of the view is such a row: all sensors may fail at once."""
        end = WINDOW.end + timedelta(days=1)
        put_clean(filled, "readings", [{"unit": "a", "seen_at": end, "arrived": end - HOUR}])
        job.run(small_source, Window(start=WINDOW.end, end=end), filled)
        (row,) = store.online(["a"], end)
        assert row is not None
        assert row["heat__last"] is None
        assert row[age_name("readings_windows")] == 0

    def test_a_window_of_the_past_does_not_put_old_rows_online(self, store: FeatureStore) -> None:
        newest = store.online(["a"], WINDOW.end)
        store.publish(START + 5 * HOUR)
        assert store.online(["a"], WINDOW.end) == newest

    def test_a_late_row_reaches_the_online_row_of_the_same_time(
        self, small_source: str, filled: Settings, store: FeatureStore, put_clean: PutClean
    ) -> None:
        before = store.online(["a"], WINDOW.end)[0]
        late = {"unit": "a", "seen_at": WINDOW.end - timedelta(minutes=1), "heat": 200.0, "resets": 2}
        put_clean(filled, "readings", [{**late, "arrived": WINDOW.end}])
        job.run(small_source, Window(start=WINDOW.end, end=WINDOW.end + timedelta(days=1)), filled)
        store.publish(WINDOW.end)
        after = store.online(["a"], WINDOW.end)[0]
        assert before is not None
        assert after is not None
        assert after["heat__last"] == 200.0 != before["heat__last"]

    def test_applying_again_changes_nothing(self, store: FeatureStore, filled: Settings) -> None:
        def registry() -> list[str]:
            with sqlite3.connect(filled.home / "features" / "registry.db") as connection:
                return list(connection.iterdump())

        before = registry()
        store.apply()
        assert registry() == before

    def test_each_model_has_a_feature_service_of_its_data_sets(self, store: FeatureStore) -> None:
        (service,) = store._store.list_feature_services()
        assert service.name == "failure"
        assert [projection.name for projection in service.feature_view_projections] == [
            "readings_windows",
            "log_history",
            "units_profile",
        ]

    def test_what_cannot_be_answered_says_why(
        self, store: FeatureStore, small_source: str, tmp_path: Path
    ) -> None:
        with pytest.raises(FeatureError, match="event_time"):
            store.historical(pl.DataFrame({"unit": ["a"]}))
        with pytest.raises(FeatureError, match="heat__last"):
            store.historical(_observations(("a", START)).with_columns(heat__last=1.0))
        with pytest.raises(FeatureError, match="UTC"):
            store.online(["a"], datetime(2026, 1, 1, tzinfo=timezone(HOUR)))
        empty = FeatureStore(load_profile(small_source), load_settings({}, home=tmp_path / "empty"))
        with pytest.raises(FeatureError, match="features stage"):
            empty.online(["a"], START)
        empty.apply()
        with pytest.raises(FeatureError, match="features stage"):
            empty.historical(_observations(("a", START)))


moments = st.integers(1, 2 * 24 * 6).map(lambda number: START + number * timedelta(minutes=10))
sparse_readings = st.lists(
    st.fixed_dictionaries(
        {
            "unit": st.sampled_from("ab"),
            "seen_at": moments,
            "heat": st.one_of(st.none(), st.floats(-50, 200)),
            "resets": st.one_of(st.none(), st.integers(0, 2**53)),
        }
    ),
    min_size=1,
    max_size=30,
    unique_by=lambda row: (row["unit"], row["seen_at"]),
)
# Figures of a series need three quarters of it, and a spike needs many values below it.
dense_readings = st.lists(
    st.one_of(st.floats(19, 21), st.floats(19, 21), st.just(150.0), st.none()), min_size=30, max_size=80
).map(
    lambda heat: [
        {
            "unit": "a",
            "seen_at": START + (number + 1) * timedelta(minutes=20),
            "heat": value,
            "resets": number,
        }
        for number, value in enumerate(heat)
    ]
)
random_readings = st.one_of(sparse_readings, dense_readings)
random_log = st.lists(
    st.fixed_dictionaries(
        {
            "unit": st.sampled_from("ab"),
            # To the microsecond: Feast's own time type would lose the fraction online.
            "seen_at": moments.map(lambda at: at - timedelta(microseconds=1)),
            "kind": st.sampled_from(["error", "failure"]),
        }
    ),
    max_size=6,
    unique_by=lambda row: (row["unit"], row["seen_at"], row["kind"]),
)
random_units = st.lists(
    st.fixed_dictionaries(
        {
            "unit": st.sampled_from("abc"),
            "seen_at": moments,
            "model": st.sampled_from(["x", "ü"]),
            "cores": st.one_of(st.none(), st.integers(1, 99)),
        }
    ),
    max_size=4,
    unique_by=lambda row: (row["unit"], row["seen_at"]),
)


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def online_store_url(request: pytest.FixtureRequest) -> str:
    if request.param == "sqlite":
        return ""
    import redis

    try:
        redis.Redis.from_url(REDIS_URL, socket_connect_timeout=1).ping()
    except redis.RedisError:
        pytest.skip("no Redis answers at HEADRACE_TEST_REDIS_URL")
    return REDIS_URL


@pytest.fixture
def own_source(small_source: str, online_store_url: str) -> Iterator[Callable[[Path], tuple[str, Settings]]]:
    """``own_source(folder)``: the small source under a name of its own, since a Redis may be shared."""
    names = []

    def make(folder: Path) -> tuple[str, Settings]:
        names.append(f"test_{uuid.uuid4().hex}")
        path = folder / "own.yaml"
        path.write_text(
            Path(small_source).read_text("utf-8").replace("name: small\n", f"name: {names[-1]}\n"), "utf-8"
        )
        return str(path), load_settings({}, home=folder / "home", online_store_url=online_store_url)

    yield make
    if online_store_url:
        import redis

        client = redis.Redis.from_url(online_store_url)
        for name in names:
            for key in client.scan_iter(match=f"*{name}*"):
                client.delete(key)


@pytest.mark.integration
@given(
    readings=random_readings,
    log=random_log,
    known=random_units,
    after=st.integers(0, 5 * 60).map(lambda minutes: timedelta(minutes=minutes, microseconds=7)),
)
@hypothesis_settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_online_values_are_those_of_training_at_the_same_time(
    own_source: Callable[[Path], tuple[str, Settings]],
    small_source: str,
    put_clean: PutClean,
    readings: list[Row],
    log: list[Row],
    known: list[Row],
    after: timedelta,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, settings = own_source(Path(folder))
        for dataset, rows in (("readings", readings), ("log", log), ("units", known)):
            put_clean(settings, dataset, rows)
        small, own = (load_profile(name) for name in (small_source, source))
        lake = Path(Lake.of(settings).url)
        (lake / small.table(Layer.CLEAN, "")).rename(lake / own.table(Layer.CLEAN, ""))
        store = FeatureStore(own, settings)
        for view in store.views:
            # One slice more: rows of the last moment stand at the window's end.
            window = Window(start=START, end=WINDOW.end + timedelta(days=1))
            FeatureTable(view, own, Lake.of(settings)).bring_up_to_date(window)
        store.apply()
        units, at = ["a", "b", "c"], max(row["seen_at"] for row in readings) + after
        for earlier in (at - timedelta(hours=5), at):
            store.publish(earlier)
        for grid in own.features:
            names = [field.name for field in store.fields(grid)]
            observed = _observations(*((unit, at) for unit in units))
            trained = store.historical(observed, grid=grid).select(names)
            for expected, row in zip(trained.to_dicts(), store.online(units, at, grid), strict=True):
                found = dict.fromkeys(names) if row is None else {name: row[name] for name in names}
                assert found == expected
                assert {name: type(value) for name, value in found.items()} == {
                    name: type(value) for name, value in expected.items()
                }
