"""Exponential smoothing of many windows at once, and what a window says of its own forecasts.

The recursion is the additive ETS model in error-correction form (Hyndman et al., 2008, ch. 2), on
logarithms of costs: level, optional damped trend, and a season over the kinds of day. Without a
limit on the errors it is exactly what statsforecast computes from the same parameters and states;
with one, a spike moves the states no further than ``limit`` mean deviations (Gelper, Fried and
Croux, 2010). NumPy only: the server evaluates it on lags.

Shapes: n windows of w days, oldest day first, and h days ahead. A missing cost is NaN and moves
nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from feature_repo.datasets import Frozen

Array = NDArray[np.float64]
Kinds = NDArray[np.intp]

KINDS = 7
SUNDAY = 6
WARM_UP = 28  # days that the first season is read from; forecasts of them are judged by nobody
_FIRST_LEVEL = 14
# How fast the mean deviation follows, and how much of a single error it sees.
_DEVIATION_RATE = 0.03
_DEVIATION_SEEN = 4.5
_FIRST_DEVIATION = 0.1
_SMALLEST_DEVIATION = 1e-4
# Mean absolute deviation to standard deviation of a normal distribution.
_TO_SIGMA = 1.25

# Days before the start of each month in a year of 365 days.
_BEFORE_MONTH = np.cumsum([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30])
_YEAR = 365
# 24 December to 1 January: work stops as on a Sunday, whatever the weekday.
_YEAR_END = np.array([*range(357, _YEAR), 0])


class Smoothing(Frozen):
    """Parameters of one recursion."""

    level: float = Field(gt=0, le=1, description="Share of an error that the level takes (alpha).")
    season: float = Field(
        0.0, ge=0, le=1, description="Share that the season of the day's kind takes (gamma)."
    )
    trend: float = Field(0.0, ge=0, le=1, description="Share that the trend takes (beta).")
    damping: float = Field(0.98, gt=0, le=1, description="What a day leaves of the trend (phi).")
    limit: float | None = Field(
        None, gt=0, description="Largest error that is believed, in standard deviations; None: any."
    )

    @model_validator(mode="after")
    def _is_admissible(self) -> Self:
        if self.season > 1 - self.level:
            raise ValueError(
                f"season {self.season} is above 1 - level {self.level}: the states would not settle"
            )
        return self


@dataclass(frozen=True)
class States:
    """States after each day.

    Attributes:
        expected: Shape (n, w): forecast of each day made the day before.
        level: Shape (n, w).
        trend: Shape (n, w).
        season: Shape (n, w, 7), by kind of day; or of the last day alone, shape (n, 1, 7).
    """

    expected: Array
    level: Array
    trend: Array
    season: Array


@dataclass(frozen=True)
class First:
    """States before the first day: level and trend of shape (n,), season of shape (n, 7)."""

    level: Array
    trend: Array
    season: Array


def day_kinds(weekday: Array, month: Array, day: Array, offsets: NDArray[np.intp]) -> Kinds:
    """Kind of the days at ``offsets`` from a date, shape (n, offsets): its weekday, Monday 0.

    The days from 24 December to 1 January count as Sundays. Their place is counted in a year of
    365 days, so across a 29 February it is one day off. Where the date is missing there are no such
    days; where the weekday is, counting starts at Monday, and the week still has seven kinds.

    Args:
        weekday: Shape (n,), 0 to 6 or NaN.
        month: Shape (n,), 1 to 12 or NaN.
        day: Shape (n,), day of the month or NaN.
        offsets: Shape (k,), days to add.
    """
    start = np.nan_to_num(weekday).astype(np.intp)
    kinds = (start[:, None] + offsets) % KINDS
    dated = np.isfinite(month) & np.isfinite(day)
    index = np.clip(np.nan_to_num(month, nan=1.0), 1, 12).astype(np.intp) - 1
    place = _BEFORE_MONTH[index] + np.nan_to_num(day, nan=1.0).astype(np.intp) - 1
    at_year_end = np.isin((place[:, None] + offsets) % _YEAR, _YEAR_END) & np.asarray(dated)[:, None]
    return np.where(at_year_end, SUNDAY, kinds)


def first_states(logs: Array, kinds: Kinds) -> First:
    """States read robustly from the first days that have a cost: medians, overall and by kind.

    A window without any cost has level 0.
    """
    number = np.cumsum(np.isfinite(logs), axis=1)
    early = np.where(number <= WARM_UP, logs, np.nan)
    middle = _median(early)
    season = np.stack(
        [_median(np.where(kinds == kind, early, np.nan), missing=middle) - middle for kind in range(KINDS)],
        axis=1,
    )
    return First(_median(np.where(number <= _FIRST_LEVEL, early, np.nan)), np.zeros(len(logs)), season)


def smooth(logs: Array, kinds: Kinds, smoothing: Smoothing, first: First | None = None) -> States:
    """Run the recursion over each window.

    Args:
        logs: Shape (n, w).
        kinds: Shape (n, w).
        smoothing: The parameters.
        first: States before the first day; None: :func:`first_states`.
    """
    return smooth_all(logs, kinds, (smoothing,), first)[smoothing]


def smooth_all(
    logs: Array,
    kinds: Kinds,
    smoothings: Sequence[Smoothing],
    first: First | None = None,
    remembered: int | None = None,
) -> dict[Smoothing, States]:
    """:func:`smooth` with several parameters in one pass: a step costs the same for one window as for many.

    Args:
        logs: Shape (n, w).
        kinds: Shape (n, w).
        smoothings: The parameters, each once.
        first: As in :func:`smooth`.
        remembered: Of so many smoothings, the first ones, the seasons of all days are kept; of the others
            the last day's alone, of shape (n, 1, 7), which is what :func:`ahead` asks for. None: of all.
    """
    first = first_states(logs, kinds) if first is None else first
    rows, days = logs.shape
    count = len(smoothings)

    def by_row(values: Sequence[float]) -> Array:
        return np.repeat(np.asarray(values, dtype=np.float64), rows)

    to_level = by_row([each.level for each in smoothings])
    to_season = by_row([each.season for each in smoothings])
    to_trend = by_row([each.trend for each in smoothings])
    damping = by_row([each.damping for each in smoothings])
    limit = by_row([np.inf if each.limit is None else each.limit for each in smoothings])
    logs, kinds = np.tile(logs, (count, 1)), np.tile(kinds, (count, 1))
    level, trend = np.tile(first.level, count), np.tile(first.trend, count)
    season = np.tile(first.season, (count, 1))
    every = np.arange(count * rows)
    deviation = np.full(count * rows, _FIRST_DEVIATION)
    seen = np.isfinite(logs)
    expected, levels, trends = (np.empty((count * rows, days)) for _ in range(3))
    kept = rows * (count if remembered is None else remembered)
    seasons = np.empty((kept, days, KINDS))
    for number in range(days):
        kind = kinds[:, number]
        base = level + damping * trend
        expected[:, number] = base + season[every, kind]
        error = np.where(seen[:, number], logs[:, number] - expected[:, number], 0.0)
        bound = limit * deviation
        believed = np.minimum(np.maximum(error, -bound), bound)
        size = _TO_SIGMA * np.minimum(np.abs(error), _DEVIATION_SEEN * deviation)
        deviation = deviation + np.where(seen[:, number], _DEVIATION_RATE * (size - deviation), 0.0)
        deviation = np.maximum(deviation, _SMALLEST_DEVIATION)
        level = base + to_level * believed
        trend = damping * trend + to_trend * believed
        season[every, kind] += to_season * believed
        levels[:, number], trends[:, number], seasons[:, number] = level, trend, season[:kept]
    parts = [slice(place * rows, (place + 1) * rows) for place in range(count)]
    return {
        smoothing: States(
            expected[part],
            levels[part],
            trends[part],
            seasons[part] if part.stop <= kept else season[part, None],
        )
        for smoothing, part in zip(smoothings, parts, strict=True)
    }


def ahead(states: States, kinds: Kinds, smoothing: Smoothing) -> Array:
    """Logarithms of the days after the window, shape (n, h).

    Args:
        states: Of the window.
        kinds: Shape (n, h), of the days ahead.
        smoothing: The parameters that the states come from.
    """
    steps = np.arange(1, kinds.shape[1] + 1)
    grown = np.cumsum(smoothing.damping**steps)
    drift = states.trend[:, -1:] * grown
    return states.level[:, -1:] + drift + np.take_along_axis(states.season[:, -1], kinds, axis=1)


def past_errors(logs: Array, kinds: Kinds, states: States, step: int, span: int) -> Array:
    """Mean absolute error of the window's own forecasts ``step`` days ahead, shape (n,).

    Of the forecasts that level and season would have made on each of the last ``span`` days for
    which the outcome is in the window too. NaN where there is none.
    """
    days = logs.shape[1]
    number = np.cumsum(np.isfinite(logs), axis=1)
    origin = np.arange(max(days - span, 0), days - step)
    season = np.take_along_axis(states.season[:, origin], kinds[:, origin + step, None], axis=2)[:, :, 0]
    error = np.abs(logs[:, origin + step] - states.level[:, origin] - season)
    known = np.isfinite(error) & (number[:, origin] >= _FIRST_LEVEL)
    count = known.sum(axis=1)
    total = np.where(known, error, 0.0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _median(values: Array, missing: Array | float = 0.0) -> Array:
    """Median of each row's values that are there; ``missing`` for a row of none."""
    ordered = np.sort(values, axis=1)  # NaN comes last
    count = np.asarray(np.isfinite(values).sum(axis=1))
    every = np.arange(len(values))
    lower, upper = ordered[every, np.maximum(count - 1, 0) // 2], ordered[every, count // 2]
    return np.where(count == 0, missing, (lower + upper) / 2)
