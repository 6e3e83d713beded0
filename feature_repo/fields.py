"""The features of one column: their names, types, units and limits.

Data only, as :mod:`feature_repo.definitions`. The values of each come about in
:mod:`feature_repo.transformations` and :mod:`feature_repo.series`, under the same names.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from pydantic import Field

from feature_repo.datasets import TABLE_NAME, Column, ColumnType, Dataset, Family, FeatureGrid, Frozen

# Of a window that is seen as an evenly spaced series, so many of the values may be missing.
MAX_MISSING_SHARE = 0.25
SPIKE_DEVIATIONS = 3.0  # a value this many standard deviations above the window's mean is a spike
PERCENTILES = (5, 50, 95)


class FeatureField(Frozen):
    """One feature, as models take it."""

    name: str = Field(pattern=TABLE_NAME)
    view: str
    type: ColumnType
    unit: str = ""
    description: str = ""
    minimum: float | None = None
    maximum: float | None = None
    kind: Literal["stored", "elapsed"] = "stored"
    at_column: str | None = Field(
        None,
        description="For elapsed features: the stored time from which the hours are counted at retrieval.",
    )


def window_name(window: timedelta) -> str:
    """Short name of a window: ``3h``, ``24h``, ``3d``, ``30min``, ``90s``. Days from two days on."""
    seconds = int(window.total_seconds())
    if seconds % 86_400 == 0 and seconds > 86_400:
        return f"{seconds // 86_400}d"
    if seconds % 3_600 == 0:
        return f"{seconds // 3_600}h"
    return f"{seconds // 60}min" if seconds % 60 == 0 else f"{seconds}s"


def measured_fields(
    view: str, dataset: Dataset, grid: FeatureGrid, with_calendar: bool
) -> tuple[FeatureField, ...]:
    """Features of a data set's gauges and counters, column by column, and those of the calendar."""
    fields: list[FeatureField] = []
    gauges, counters = grid.gauges(dataset), grid.counters(dataset)
    for column in dataset.columns:
        if column in gauges:
            fields += gauge_fields(view, dataset, column, grid)
        elif column in counters:
            fields += counter_fields(view, column, grid)
    if fields and with_calendar and Family.CALENDAR in grid.families:
        fields += calendar_fields(view)
    return tuple(fields)


def gauge_fields(view: str, dataset: Dataset, column: Column, grid: FeatureGrid) -> list[FeatureField]:
    """Features of one gauge, family by family."""
    gauge = _Gauge(view, dataset, column)
    fields: list[FeatureField] = []
    if Family.BASIC in grid.families:
        fields += _basic(gauge, grid)
    if Family.STATISTICS in grid.families:
        there = {field.name for field in fields}
        fields += [field for field in _statistics(gauge, grid) if field.name not in there]
    fields += _lags(gauge, grid)
    fields += _differences(gauge, grid)
    if Family.SPECTRAL in grid.families:
        fields += _spectral(gauge, grid)
    fields += _autocorrelation(gauge, grid)
    if Family.SPIKE in grid.families:
        fields.append(_spike(gauge, grid))
    return fields


def counter_fields(view: str, column: Column, grid: FeatureGrid) -> list[FeatureField]:
    """Features of one counter."""
    if Family.BASIC not in grid.families:
        return []
    longest = window_name(grid.windows[-1])

    def field(suffix: str, description: str, maximum: float | None) -> FeatureField:
        return FeatureField(
            name=f"{column.name}__{suffix}",
            view=view,
            type=column.type,
            unit=column.unit,
            description=f"{column.description or column.name} {description}",
            minimum=column.minimum if suffix == "last" else 0.0,
            maximum=maximum,
        )

    return [
        field("last", f"Newest value of the last {longest}.", column.maximum),
        *(
            field(
                f"increase_{window}",
                f"Growth within the last {window}; a fall counts as a new start at zero.",
                None,
            )
            for window in map(window_name, grid.windows)
        ),
    ]


def calendar_fields(view: str) -> list[FeatureField]:
    """Where in day, week and month the row's time lies, in UTC. Midnight belongs to the day that begins."""

    def wave(name: str, what: str) -> FeatureField:
        return FeatureField(
            name=name,
            view=view,
            type=ColumnType.FLOAT,
            unit="1",
            description=what,
            minimum=-1.0,
            maximum=1.0,
        )

    def count(name: str, unit: str, what: str, minimum: int, maximum: int) -> FeatureField:
        return FeatureField(
            name=name,
            view=view,
            type=ColumnType.INTEGER,
            unit=unit,
            description=what,
            minimum=minimum,
            maximum=maximum,
        )

    return [
        wave("hour_sin", "Sine of the time of day as an angle; midnight is 0, a day is a full turn. UTC."),
        wave("hour_cos", "Cosine of the time of day as an angle; midnight is 0, a day is a full turn. UTC."),
        wave("weekday_sin", "Sine of the weekday as an angle in steps of a seventh turn; Monday is 0. UTC."),
        wave(
            "weekday_cos", "Cosine of the weekday as an angle in steps of a seventh turn; Monday is 0. UTC."
        ),
        count("is_weekend", "1", "1 on Saturday and Sunday, else 0. UTC.", 0, 1),
        count("day_of_month", "days", "Day of the month, from 1. UTC.", 1, 31),
        count(
            "days_to_month_end",
            "days",
            "Days of the month that follow this one; 0 on its last day. UTC.",
            0,
            30,
        ),
        count("month", "months", "Month, January is 1. UTC.", 1, 12),
    ]


class _Gauge:
    """What the features of a gauge have in common."""

    def __init__(self, view: str, dataset: Dataset, column: Column) -> None:
        self.view = view
        self.name = column.name
        self.unit = column.unit
        self.what = column.description or column.name
        # Limits hold for single rows: a sum of them may lie above the largest, and below a negative smallest.
        self.minimum = column.minimum if not dataset.is_summed or (column.minimum or 0.0) >= 0 else None
        self.maximum = None if dataset.is_summed else column.maximum
        self.span = None if self.minimum is None or self.maximum is None else self.maximum - self.minimum

    def field(
        self,
        suffix: str,
        description: str,
        minimum: float | None = None,
        maximum: float | None = None,
        unit: str | None = None,
    ) -> FeatureField:
        return FeatureField(
            name=f"{self.name}__{suffix}",
            view=self.view,
            type=ColumnType.FLOAT,
            unit=self.unit if unit is None else unit,
            description=f"{self.what} {description}",
            minimum=minimum,
            maximum=maximum,
        )

    def level(self, suffix: str, description: str) -> FeatureField:
        """A value between the column's own limits."""
        return self.field(suffix, description, self.minimum, self.maximum)

    def change(self, suffix: str, description: str) -> FeatureField:
        """A difference of two values of the column."""
        lowest = None if self.span is None else -self.span
        return self.field(suffix, description, lowest, self.span)


def _basic(gauge: _Gauge, grid: FeatureGrid) -> list[FeatureField]:
    shortest, longest = window_name(grid.windows[0]), window_name(grid.windows[-1])
    fields = [gauge.level("last", f"Newest value of the last {longest}.")]
    fields += [_mean(gauge, window) for window in map(window_name, grid.windows)]
    # Spread only over the longest window: the shortest may hold a single value.
    fields.append(_deviation(gauge, longest))
    if len(grid.windows) > 1:
        fields.append(
            gauge.change("change", f"Mean of the last {shortest} minus mean of the last {longest}.")
        )
    return fields


def _mean(gauge: _Gauge, window: str) -> FeatureField:
    return gauge.level(f"mean_{window}", f"Mean of the last {window}.")


def _deviation(gauge: _Gauge, window: str) -> FeatureField:
    return gauge.field(f"std_{window}", f"Standard deviation of the last {window}.", 0.0, gauge.span)


def _statistics(gauge: _Gauge, grid: FeatureGrid) -> list[FeatureField]:
    fields: list[FeatureField] = []
    for window in map(window_name, grid.windows):
        fields += [
            _mean(gauge, window),
            _deviation(gauge, window),
            gauge.level(f"min_{window}", f"Smallest value of the last {window}."),
            gauge.level(f"max_{window}", f"Largest value of the last {window}."),
            *(
                gauge.level(f"p{percent:02d}_{window}", f"{percent}th percentile of the last {window}.")
                for percent in PERCENTILES
            ),
            gauge.field(
                f"skew_{window}",
                f"Skewness of the last {window}: third central moment over the cube of the standard deviation. "
                "Null where all values are equal.",
                unit="1",
            ),
            gauge.field(
                f"kurt_{window}",
                f"Excess kurtosis of the last {window}: fourth central moment over the squared variance, minus 3. "
                "Null where all values are equal.",
                minimum=-2.0,
                unit="1",
            ),
        ]
    return fields


def _lags(gauge: _Gauge, grid: FeatureGrid) -> list[FeatureField]:
    if not grid.lags or grid.every is None:
        return []
    step = window_name(grid.every)
    ago = (f"the {step} that ended {_steps_ago(number, grid.every)}" for number in range(grid.lags))
    return [gauge.level(f"lag_{number}", f"Mean of {what}.") for number, what in enumerate(ago)]


def _differences(gauge: _Gauge, grid: FeatureGrid) -> list[FeatureField]:
    if grid.every is None:
        return []
    step = window_name(grid.every)
    return [
        gauge.change(
            f"diff_{number}",
            f"Mean of the newest {step} minus mean of the {step} that ended {_steps_ago(number, grid.every)}.",
        )
        for number in grid.differences
    ]


def _steps_ago(number: int, every: timedelta) -> str:
    return f"{window_name(number * every)} earlier" if number else "at the row's time"


def _spectral(gauge: _Gauge, grid: FeatureGrid) -> list[FeatureField]:
    longest, step = grid.windows[-1], window_name(grid.sample_spacing)
    window = window_name(longest)
    series = f"of the last {window} as means of {step}; null where more than a quarter is missing or all are equal."
    hour = timedelta(hours=1)
    return [
        gauge.field(
            f"dominant_period_{window}",
            f"Period of the strongest frequency {series}",
            minimum=2 * (grid.sample_spacing / hour),
            maximum=longest / hour,
            unit="hours",
        ),
        gauge.field(
            f"spectral_entropy_{window}",
            f"Entropy of the power over the frequencies (0: one alone, 1: all alike) {series}",
            minimum=0.0,
            maximum=1.0,
            unit="1",
        ),
    ]


def _autocorrelation(gauge: _Gauge, grid: FeatureGrid) -> list[FeatureField]:
    window, step = window_name(grid.windows[-1]), window_name(grid.sample_spacing)
    return [
        gauge.field(
            f"acf_{number}",
            f"Autocorrelation over {window_name(number * grid.sample_spacing)} of the last {window} as means of "
            f"{step}; null where more than a quarter is missing or all are equal.",
            minimum=-1.0,
            maximum=1.0,
            unit="1",
        )
        for number in grid.autocorrelation
    ]


def _spike(gauge: _Gauge, grid: FeatureGrid) -> FeatureField:
    window = window_name(grid.windows[-1])
    return FeatureField(
        name=f"{gauge.name}__hours_since_spike",
        view=gauge.view,
        type=ColumnType.FLOAT,
        unit="hours",
        minimum=0.0,
        kind="elapsed",
        at_column=f"{gauge.name}__last_spike_at",
        description=f"{gauge.what} Since the newest value of the last {window} that lies more than "
        f"{SPIKE_DEVIATIONS:g} standard deviations above the mean of that window; null where none does.",
    )
