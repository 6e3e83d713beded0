"""Feature families against plain computations, one window at a time in Python, and their promises about time."""

from __future__ import annotations

import cmath
import math
import statistics
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.datasets import Column, ColumnRole, ColumnType, Dataset, DatasetKind, Family, FeatureGrid
from feature_repo.definitions import feature_views
from feature_repo.transformations import UTC_TIME, elapsed, table_schema, telemetry_features, to_table

START = datetime(2026, 1, 30, tzinfo=UTC)  # a Friday: the rows reach into a weekend and another month
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
STEP = 15 * MINUTE
ENTITY = Column(name="unit", type=ColumnType.STRING, role=ColumnRole.ENTITY)
TIME = Column(name="seen_at", type=ColumnType.TIMESTAMP, role=ColumnRole.EVENT_TIME)
HEAT = Column(name="heat", type=ColumnType.FLOAT, role=ColumnRole.GAUGE, nullable=True)
TELEMETRY = Dataset(
    name="telemetry",
    kind=DatasetKind.TELEMETRY,
    description="",
    columns=(ENTITY, TIME, HEAT),
    key=("unit", "seen_at"),
)
GRID = FeatureGrid(
    every=HOUR,
    windows=(2 * HOUR, 6 * HOUR),
    families=tuple(Family),
    lags=9,
    differences=(1, 8),
    autocorrelation=(1, 5),
    resolution=timedelta(minutes=30),
)

# Few distinct values make ties and constant windows, plain ones make digits; None is a row that is not
# there, NaN one without a value.
values = st.one_of(
    st.none(),
    st.just(math.nan),
    st.sampled_from([0.0, 20.0, 20.1]),
    st.integers(-5_000, 20_000).map(lambda number: number / 100),
)
# Mostly there and mostly long: figures of a series need three quarters of six hours.
_mostly = st.one_of(st.floats(15, 25), st.floats(15, 25), values)
dense = st.one_of(st.lists(_mostly, max_size=24), st.lists(_mostly, min_size=26, max_size=50))


def _frame(*series: list[float | None]) -> pl.LazyFrame:
    """One row per quarter of an hour and unit, from the first quarter on."""
    rows = [
        {"unit": unit, "seen_at": START + (number + 1) * STEP, "heat": value}
        for unit, heat in zip("ab", series, strict=False)
        for number, value in enumerate(heat)
        if value is not None
    ]
    schema = {"unit": pl.String, "seen_at": UTC_TIME, "heat": pl.Float64}
    return _arrived(pl.DataFrame(rows, schema=schema))


def _arrived(frame: pl.DataFrame) -> pl.LazyFrame:
    return frame.lazy().with_columns(
        slice_start=pl.lit(START, UTC_TIME), ordinal=pl.int_range(pl.len(), dtype=pl.Int64)
    )


def _features(*series: list[float | None], grid: FeatureGrid = GRID) -> pl.DataFrame:
    return telemetry_features(_frame(*series), TELEMETRY, grid).collect()


class Plain:
    """The same figures, from one unit's list of values."""

    def __init__(self, heat: list[float | None], at: datetime) -> None:
        self.known = {
            START + (number + 1) * STEP: value
            for number, value in enumerate(heat)
            if value is not None and not math.isnan(value)
        }
        self.at = at

    def within(self, begin: datetime, end: datetime) -> list[float]:
        return [value for moment, value in sorted(self.known.items()) if begin < moment <= end]

    def bucket(self, ago: int, width: timedelta = HOUR) -> float | None:
        found = self.within(self.at - (ago + 1) * width, self.at - ago * width)
        return statistics.fmean(found) if found else None

    def difference(self, ago: int) -> float | None:
        now, before = self.bucket(0), self.bucket(ago)
        return None if now is None or before is None else now - before

    def moments(self, window: timedelta) -> tuple[float | None, float | None]:
        exact = [Fraction(value) for value in self.within(self.at - window, self.at)]
        if len(set(exact)) < 2:
            return None, None
        mean = sum(exact) / len(exact)
        second, third, fourth = (
            sum((value - mean) ** power for value in exact) / len(exact) for power in (2, 3, 4)
        )
        skewness = float(third) / math.sqrt(float(second)) ** 3
        return skewness, float(fourth / second**2) - 3

    def series(self) -> list[float] | None:
        """Twelve means of half hours less their mean; None where the figures are."""
        means = [self.bucket(ago, 30 * MINUTE) for ago in reversed(range(12))]
        there = [value for value in means if value is not None]
        if len(there) < 9 or max(there) == min(there):
            return None
        mean = statistics.fmean(there)
        return [0.0 if value is None else value - mean for value in means]

    def powers(self) -> list[float] | None:
        if (series := self.series()) is None:
            return None
        turns = [
            sum(value * cmath.exp(-2j * cmath.pi * j * t / 12) for t, value in enumerate(series))
            for j in range(1, 7)
        ]
        return [abs(turn) ** 2 for turn in turns]

    def autocorrelation(self, lag: int) -> float | None:
        if (series := self.series()) is None:
            return None
        return sum(a * b for a, b in zip(series, series[lag:], strict=False)) / sum(a * a for a in series)


def _same(found: float | None, expected: float | None, tolerance: float = 1e-9) -> bool:
    if expected is None or found is None:
        return found is expected
    return math.isclose(found, expected, rel_tol=tolerance, abs_tol=tolerance)


@given(heat=dense, other=dense)
@settings(max_examples=30, deadline=None)
def test_each_family_is_what_a_plain_computation_gives(
    heat: list[float | None], other: list[float | None]
) -> None:
    rows = _features(heat, other).to_dicts()
    for row in rows:
        plain = Plain(heat if row["unit"] == "a" else other, row["event_time"])
        for lag in range(9):
            assert _same(row[f"heat__lag_{lag}"], plain.bucket(lag)), lag
        for step in (1, 8):
            assert _same(row[f"heat__diff_{step}"], plain.difference(step)), step
        for name, window in (("2h", 2 * HOUR), ("6h", 6 * HOUR)):
            _assert_statistics(row, name, plain, window)
        _assert_series(row, plain)


def _assert_statistics(row: dict[str, Any], name: str, plain: Plain, window: timedelta) -> None:
    found = plain.within(plain.at - window, plain.at)
    assert _same(row[f"heat__mean_{name}"], statistics.fmean(found) if found else None)
    assert _same(row[f"heat__std_{name}"], statistics.stdev(found) if len(found) > 1 else None, 1e-6)
    assert row[f"heat__min_{name}"] == min(found, default=None)
    assert row[f"heat__max_{name}"] == max(found, default=None)
    # "inclusive" is type 7 of Hyndman and Fan.
    cuts = statistics.quantiles(found, n=100, method="inclusive") if len(found) > 1 else found * 99
    for percent in (5, 50, 95):
        assert _same(row[f"heat__p{percent:02d}_{name}"], cuts[percent - 1] if cuts else None), percent
    skewness, kurtosis = plain.moments(window)
    assert _same(row[f"heat__skew_{name}"], skewness, 1e-6)
    assert _same(row[f"heat__kurt_{name}"], kurtosis, 1e-6)


def _assert_series(row: dict[str, Any], plain: Plain) -> None:
    for lag in (1, 5):
        assert _same(row[f"heat__acf_{lag}"], plain.autocorrelation(lag), 1e-6)
    powers = plain.powers()
    if powers is None:
        assert row["heat__dominant_period_6h"] is None
        assert row["heat__spectral_entropy_6h"] is None
        return
    # Of powers that are equal but for rounding either may be found.
    frequency = round(6 / row["heat__dominant_period_6h"])
    assert math.isclose(powers[frequency - 1], max(powers), rel_tol=1e-6)
    shares = [power / sum(powers) for power in powers]
    entropy = -sum(share * math.log(share) for share in shares if share > 0) / math.log(6)
    assert _same(row["heat__spectral_entropy_6h"], entropy, 1e-6)


@given(heat=dense, later=dense, cut=st.integers(0, 12))
@settings(max_examples=25, deadline=None)
def test_nothing_after_a_time_changes_a_feature_row_at_or_before_it(
    heat: list[float | None], later: list[float | None], cut: int
) -> None:
    changed = heat[: cut * 4] + [None] * (cut * 4 - len(heat)) + later[cut * 4 :]
    until = pl.col("event_time") <= START + cut * HOUR
    assert _features(heat, heat).filter(until).equals(_features(changed, changed).filter(until))


@given(heat=dense, begin=st.integers(0, 12))
@settings(max_examples=25, deadline=None)
def test_values_do_not_depend_on_where_the_computation_begins(heat: list[float | None], begin: int) -> None:
    """Nor on what other units there are: not a bit differs."""
    begin_at = START + begin * HOUR
    dropped = (begin_at - GRID.look_back - START) // STEP
    enough = [None if number < dropped else value for number, value in enumerate(heat)]
    since = (pl.col("event_time") >= begin_at) & (pl.col("unit") == "a")
    assert _features(heat, heat[::-1]).filter(since).equals(_features(enough).filter(since))


@given(
    st.lists(st.one_of(st.sampled_from([1.0, 2.0, 3.0]), st.just(90.0), st.none()), min_size=24, max_size=40)
)
@settings(max_examples=30, deadline=None)
def test_hours_since_spike_count_from_the_newest_value_far_above_its_window(
    heat: list[float | None],
) -> None:
    (view,) = feature_views((TELEMETRY,), {"all": GRID})
    field = next(field for field in view.fields if field.name == "heat__hours_since_spike")
    found = elapsed(_features(heat), [field], "event_time")
    for row in found.to_dicts():
        plain = Plain(heat, row["event_time"])
        window = plain.within(plain.at - 6 * HOUR, plain.at)
        limit = statistics.fmean(window) + 3 * statistics.stdev(window) if len(window) > 1 else math.inf
        spikes = [
            at for at, value in plain.known.items() if value > limit and plain.at - 6 * HOUR < at <= plain.at
        ]
        hours = (plain.at - max(spikes)) / HOUR if spikes else None
        assert row["heat__hours_since_spike"] == hours


def test_a_spike_is_found_and_forgotten_with_its_window() -> None:
    heat: list[float | None] = [20.0 + number % 2 for number in range(60)]
    heat[29] = 80.0  # at 7:30
    found = _features(heat).filter(pl.col("heat__last_spike_at").is_not_null())
    assert found["event_time"].dt.hour().to_list() == [8, 9, 10, 11, 12, 13]
    assert set(found["heat__last_spike_at"]) == {START + 7.5 * HOUR}


def test_a_daily_wave_has_a_period_of_a_day_and_little_entropy() -> None:
    grid = FeatureGrid(
        every=timedelta(days=1),
        windows=(timedelta(days=4),),
        families=(Family.SPECTRAL,),
        autocorrelation=(12, 24),
        resolution=HOUR,
    )
    heat: list[float | None] = [30 + 5 * math.sin(2 * math.pi * n / 96) for n in range(4 * 96)]
    last = _features(heat, grid=grid).to_dicts()[-1]
    assert last["heat__dominant_period_4d"] == 24.0
    assert last["heat__spectral_entropy_4d"] < 0.01
    assert last["heat__acf_24"] == pytest.approx(0.75, abs=0.01)  # a day of four has no partner
    assert last["heat__acf_12"] < -0.8


def test_white_noise_has_nearly_full_entropy() -> None:
    state, heat = 1, []
    for _ in range(240):
        state = state * 48_271 % (2**31 - 1)
        heat.append(state / 2**31)
    grid = FeatureGrid(every=HOUR, windows=(48 * HOUR,), families=(Family.SPECTRAL,), resolution=STEP)
    assert _features(list(heat), grid=grid)["heat__spectral_entropy_2d"][-1] > 0.8


def test_nearly_equal_values_keep_their_shape() -> None:
    heat: list[float | None] = [1e9 + (number % 4 == 0) for number in range(24)]
    row = _features(heat).to_dicts()[-1]
    assert row["heat__skew_6h"] == pytest.approx(2 / math.sqrt(3), rel=1e-9)
    assert row["heat__kurt_6h"] == pytest.approx(-2 / 3, rel=1e-9)


CALENDAR = FeatureGrid(every=timedelta(minutes=30), windows=(HOUR,), families=(Family.BASIC, Family.CALENDAR))


@pytest.mark.parametrize(
    ("moment", "hour", "weekday", "weekend", "day", "left", "month"),
    [
        (datetime(2026, 1, 30, 18, 0, tzinfo=UTC), 0.75, 4, 0, 30, 1, 1),
        (datetime(2026, 1, 31, 6, 30, tzinfo=UTC), 6.5 / 24, 5, 1, 31, 0, 1),
        (datetime(2026, 2, 1, 0, 0, tzinfo=UTC), 0.0, 6, 1, 1, 27, 2),
        (datetime(2028, 2, 28, 12, 0, tzinfo=UTC), 0.5, 0, 0, 28, 1, 2),
        (datetime(2026, 12, 31, 23, 30, tzinfo=UTC), 23.5 / 24, 3, 0, 31, 0, 12),
    ],
)
def test_calendar_of_the_rows_own_time(
    moment: datetime, hour: float, weekday: int, weekend: int, day: int, left: int, month: int
) -> None:
    frame = _arrived(
        pl.DataFrame(
            {"unit": ["a"], "seen_at": [moment], "heat": [1.0]}, schema_overrides={"seen_at": UTC_TIME}
        )
    )
    (row,) = telemetry_features(frame, TELEMETRY, CALENDAR).collect().to_dicts()
    for name, turn in (("hour", hour), ("weekday", weekday / 7)):
        assert row[f"{name}_sin"] == pytest.approx(math.sin(2 * math.pi * turn), abs=1e-12)
        assert row[f"{name}_cos"] == pytest.approx(math.cos(2 * math.pi * turn), abs=1e-12)
    assert (row["is_weekend"], row["day_of_month"], row["days_to_month_end"], row["month"]) == (
        weekend,
        day,
        left,
        month,
    )


BILLS = Dataset(
    name="bills",
    kind=DatasetKind.BILLING,
    description="",
    columns=(
        ENTITY,
        TIME,
        Column(name="service", type=ColumnType.STRING, role=ColumnRole.CATEGORY),
        Column(
            name="cost", type=ColumnType.FLOAT, role=ColumnRole.GAUGE, nullable=True, minimum=0, maximum=9
        ),
    ),
    key=("unit", "seen_at", "service"),
)
DAILY = FeatureGrid(
    every=timedelta(days=1), windows=(timedelta(days=2),), datasets=("bills",), lags=3, differences=(1,)
)


@given(
    items=st.lists(
        st.tuples(
            st.sampled_from("ab"),
            st.integers(0, 4),
            st.sampled_from("xyz"),
            st.one_of(st.none(), st.integers(0, 900).map(lambda cents: cents / 100)),
        ),
        max_size=30,
        unique_by=lambda item: item[:3],
    ),
    order=st.randoms(use_true_random=False),
)
@settings(max_examples=30, deadline=None)
def test_items_of_a_bill_are_summed_before_all_else(items: list[Any], order: Any) -> None:
    def computed(items: list[Any]) -> pl.DataFrame:
        rows = [
            {"unit": unit, "seen_at": START + timedelta(days=day), "service": service, "cost": cost}
            for unit, day, service, cost in items
        ]
        schema = {"unit": pl.String, "seen_at": UTC_TIME, "service": pl.String, "cost": pl.Float64}
        return telemetry_features(_arrived(pl.DataFrame(rows, schema=schema)), BILLS, DAILY).collect()

    def total(unit: str, day: int) -> float | None:
        costs = [cost for who, when, _, cost in items if (who, when) == (unit, day) and cost is not None]
        return math.fsum(costs) if costs else None

    for row in computed(items).to_dicts():
        day = (row["event_time"] - START).days
        totals = [total(row["unit"], day - ago) for ago in range(3)]
        for ago, cost in enumerate(totals):
            assert _same(row[f"cost__lag_{ago}"], cost)
        known = [cost for cost in totals[:2] if cost is not None]
        assert _same(row["cost__mean_2d"], statistics.fmean(known) if known else None)
    shuffled = list(items)
    order.shuffle(shuffled)
    assert computed(shuffled).equals(computed(items))


def test_rows_stand_as_their_view_says() -> None:
    (view,) = feature_views((TELEMETRY,), {"all": GRID})
    table = to_table(telemetry_features(_frame([20.0] * 8), TELEMETRY, GRID), view).collect()
    assert table.schema == table_schema(view)
    assert table.height == 2


def test_a_window_of_which_much_is_missing_has_no_spectrum() -> None:
    heat: list[float | None] = [float(number % 5) for number in range(24)]
    assert _features(heat)["heat__spectral_entropy_6h"][-1] is not None
    assert _features([None] * 6 + heat[6:])["heat__spectral_entropy_6h"][-1] is not None
    assert _features([None] * 8 + heat[8:])["heat__spectral_entropy_6h"][-1] is None


def test_no_rows_make_no_features_and_rows_without_values_missing_ones() -> None:
    assert _features().height == 0
    nothing = _features([math.nan] * 6).select("^heat__.*$")
    assert nothing.height == 2
    assert set(nothing.null_count().row(0)) == {2}
