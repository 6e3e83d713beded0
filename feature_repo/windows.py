"""From buckets of telemetry to features: what :func:`feature_repo.transformations.telemetry_features` ends in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from math import pi

import numpy as np
import polars as pl
from numpy.typing import NDArray

from feature_repo import series
from feature_repo.datasets import Dataset, Family, FeatureGrid
from feature_repo.definitions import EVENT_TIME
from feature_repo.fields import MAX_MISSING_SHARE, PERCENTILES, SPIKE_DEVIATIONS, window_name

Figures = Iterator[tuple[str, pl.Series]]
_MICROSECOND = timedelta(microseconds=1)


def window_features(
    buckets: pl.DataFrame, dataset: Dataset, grid: FeatureGrid, schema: Mapping[str, pl.DataType]
) -> pl.DataFrame:
    """Features of each bucket's time, from the buckets within its windows and at its lags.

    Args:
        buckets: Columns entity, ``event_time`` and those of :func:`bucket_figures` for each gauge
            and counter; sorted by entity and time, each pair once.
        schema: Columns to return, in order.
    """
    time = buckets[EVENT_TIME].to_physical().to_numpy()
    rows = series.Rows(buckets[dataset.entity].rle_id().cast(pl.Int64).to_numpy(), time)
    windows = {window: rows.begin(window // _MICROSECOND) for window in grid.windows}
    earlier = _earlier(rows, grid)
    figures: dict[str, pl.Series] = {}
    for gauge in grid.gauges(dataset):
        known = _Gauge(buckets, gauge.name)
        figures.update(_levels(known, windows, grid))
        figures.update(_steps(known, earlier, grid))
        if Family.STATISTICS in grid.families or Family.SPIKE in grid.families:
            figures.update(_distributions(known, windows, grid))
        if grid.sees_series:
            figures.update(_periods(known, rows, grid))
    if Family.BASIC in grid.families:
        for counter in grid.counters(dataset):
            figures.update(_growth(buckets, counter.name, windows))
    return (
        buckets.select(dataset.entity, EVENT_TIME)
        .with_columns(*calendar(pl.col(EVENT_TIME)))
        .with_columns(figure.alias(name) for name, figure in figures.items() if name in schema)
        .select(pl.col(name).cast(dtype) for name, dtype in schema.items())
    )


def gauge_figures(gauge: str, time: str, grid: FeatureGrid) -> list[pl.Expr]:
    """What a bucket keeps of the rows of one gauge."""
    value = pl.col(gauge)
    figures = [
        value.count().cast(pl.Int64).alias(f"{gauge} n"),
        value.mean().alias(f"{gauge} mean"),
    ]
    if Family.BASIC in grid.families or Family.STATISTICS in grid.families:
        figures += [
            (value.var(ddof=0) * value.count()).alias(f"{gauge} m2"),
            value.drop_nulls().last().alias(f"{gauge} last"),
        ]
    if grid.sees_rows:
        figures += [
            value.drop_nulls().implode().alias(f"{gauge} values"),
            pl.col(time).filter(value.is_not_null()).implode().alias(f"{gauge} times"),
        ]
    return figures


def counter_figures(counter: str) -> list[pl.Expr]:
    """What a bucket keeps of the rows of one counter, whose steps stand beside it as ``<counter> step``."""
    # The step into the bucket is kept apart: at the start of a window it leads in from outside.
    steps = pl.col(f"{counter} step").filter(pl.col(counter).is_not_null())
    return [
        pl.col(counter).count().cast(pl.Int64).alias(f"{counter} n"),
        steps.first().alias(f"{counter} entry"),
        steps.slice(1).sum().alias(f"{counter} inner"),
        pl.col(counter).drop_nulls().last().alias(f"{counter} last"),
    ]


def calendar(time: pl.Expr) -> list[pl.Expr]:
    """Where in day, week and month a time (UTC) lies."""
    seconds = time.dt.hour().cast(pl.Int64) * 3_600 + time.dt.minute().cast(pl.Int64) * 60 + time.dt.second()
    hour = seconds.cast(pl.Float64) * (2 * pi / 86_400)
    weekday = (time.dt.weekday().cast(pl.Int64) - 1).cast(pl.Float64) * (2 * pi / 7)
    day = time.dt.day().cast(pl.Int64)
    return [
        hour.sin().alias("hour_sin"),
        hour.cos().alias("hour_cos"),
        weekday.sin().alias("weekday_sin"),
        weekday.cos().alias("weekday_cos"),
        (time.dt.weekday() >= 6).cast(pl.Int64).alias("is_weekend"),
        day.alias("day_of_month"),
        (time.dt.month_end().dt.day().cast(pl.Int64) - day).alias("days_to_month_end"),
        time.dt.month().cast(pl.Int64).alias("month"),
    ]


class _Gauge:
    """The figures that the buckets keep of one gauge, as arrays; missing values are NaN."""

    def __init__(self, buckets: pl.DataFrame, name: str) -> None:
        self._buckets = buckets
        self.name = name
        self.count = buckets[f"{name} n"].to_numpy()
        self.mean = self.floats("mean")

    def floats(self, figure: str) -> series.Floats:
        values: series.Floats = self._buckets[f"{self.name} {figure}"].fill_null(np.nan).to_numpy()
        return values

    def values(self) -> series.Floats:
        """All values of the rows, in order."""
        return self._flat("values").to_numpy()

    def times(self) -> series.Ints:
        """Times of the values, microseconds."""
        return self._flat("times").to_physical().to_numpy()

    def edges(self) -> series.Ints:
        """Where each bucket's values begin, and where the last one's end."""
        return np.concatenate(([0], np.cumsum(self.count)))

    def _flat(self, figure: str) -> pl.Series:
        lists = self._buckets[f"{self.name} {figure}"]
        return lists.filter(lists.list.len() > 0).explode()


def _levels(gauge: _Gauge, windows: Mapping[timedelta, series.Ints], grid: FeatureGrid) -> Figures:
    if Family.BASIC not in grid.families and Family.STATISTICS not in grid.families:
        return
    mean = np.nan_to_num(gauge.mean)
    squares = np.nan_to_num(gauge.floats("m2"))
    means: list[series.Floats] = []
    for window, begin in windows.items():
        count = series.window_sum(gauge.count, begin)
        centre = _ratio(series.window_sum(gauge.count * mean, begin), count)
        means.append(centre)
        yield f"{gauge.name}__mean_{window_name(window)}", _known(centre)
        if window == grid.windows[-1] or Family.STATISTICS in grid.families:
            around = series.window_squares(gauge.count, mean, np.nan_to_num(centre), begin)
            deviation = np.sqrt(_ratio(series.window_sum(squares, begin) + around, count - 1))
            yield f"{gauge.name}__std_{window_name(window)}", _known(deviation)
    newest = series.newest(gauge.count > 0, windows[grid.windows[-1]])
    yield f"{gauge.name}__last", _known(series.picked(gauge.floats("last"), newest))
    yield f"{gauge.name}__change", _known(means[0] - means[-1])


def _earlier(rows: series.Rows, grid: FeatureGrid) -> dict[int, series.Ints]:
    """Row of the bucket so many grid steps earlier, for each number of steps that a feature needs."""
    if grid.every is None:
        return {}
    steps = series.Rows(rows.entity, rows.time // (grid.every // _MICROSECOND))
    return {number: steps.before(number) for number in sorted({*range(grid.lags), *grid.differences})}


def _steps(gauge: _Gauge, earlier: Mapping[int, series.Ints], grid: FeatureGrid) -> Figures:
    for number in range(grid.lags):
        yield f"{gauge.name}__lag_{number}", _known(series.picked(gauge.mean, earlier[number]))
    for number in grid.differences:
        before = series.picked(gauge.mean, earlier[number])
        yield f"{gauge.name}__diff_{number}", _known(gauge.mean - before)


def _distributions(gauge: _Gauge, windows: Mapping[timedelta, series.Ints], grid: FeatureGrid) -> Figures:
    edges = gauge.edges()
    for window, begin in windows.items():
        if Family.STATISTICS not in grid.families and window != grid.windows[-1]:
            continue
        found = series.distribution(gauge.values(), edges[begin], edges[1:], PERCENTILES, SPIKE_DEVIATIONS)
        name = window_name(window)
        yield f"{gauge.name}__min_{name}", _known(found.minimum)
        yield f"{gauge.name}__max_{name}", _known(found.maximum)
        for percent, figure in found.percentiles.items():
            yield f"{gauge.name}__p{percent:02d}_{name}", _known(figure)
        yield f"{gauge.name}__skew_{name}", _known(found.skewness)
        yield f"{gauge.name}__kurt_{name}", _known(found.kurtosis)
        if window == grid.windows[-1]:
            yield f"{gauge.name}__last_spike_at", _times_at(gauge.times(), found.spike)


def _periods(gauge: _Gauge, rows: series.Rows, grid: FeatureGrid) -> Figures:
    spacing = grid.sample_spacing // _MICROSECOND
    entity = np.repeat(rows.entity, gauge.count)
    # As feature rows, samples are named by the end of their step.
    of = series.samples(entity, -(-gauge.times() // spacing), gauge.values())
    at = series.Rows(rows.entity, rows.time // spacing)
    found = series.periodicity(
        of, at, grid.windows[-1] // grid.sample_spacing, grid.autocorrelation, MAX_MISSING_SHARE
    )
    name = window_name(grid.windows[-1])
    yield f"{gauge.name}__dominant_period_{name}", _known(found.period * (spacing / 3.6e9))
    yield f"{gauge.name}__spectral_entropy_{name}", _known(found.entropy)
    for lag, figure in found.autocorrelation.items():
        yield f"{gauge.name}__acf_{lag}", _known(figure)


def _growth(buckets: pl.DataFrame, counter: str, windows: Mapping[timedelta, series.Ints]) -> Figures:
    count = buckets[f"{counter} n"].to_numpy()
    inner, entry = (buckets[f"{counter} {part}"].fill_null(0).to_numpy() for part in ("inner", "entry"))
    for window, begin in windows.items():
        growth = series.window_sum(inner, begin) + series.window_growth(count, entry, begin)
        yield (
            f"{counter}__increase_{window_name(window)}",
            _where(pl.Series(growth), series.window_sum(count, begin) > 0),
        )
    newest = series.newest(count > 0, begin)
    yield f"{counter}__last", _where(buckets[f"{counter} last"].gather(np.maximum(newest, 0)), newest >= 0)


def _ratio(part: series.Floats, whole: series.Ints) -> series.Floats:
    """NaN where the whole is not above zero."""
    ratio: series.Floats = np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)
    return ratio


def _known(values: series.Floats) -> pl.Series:
    return pl.Series(values, nan_to_null=True)


def _where(values: pl.Series, there: NDArray[np.bool_]) -> pl.Series:
    return values.set(pl.Series(~there), None)


def _times_at(times: series.Ints, rows: series.Ints) -> pl.Series:
    moments = pl.Series(np.append(times, 0)[rows]).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    return moments.to_frame("at").select(pl.when(pl.Series(rows >= 0)).then("at")).to_series()
