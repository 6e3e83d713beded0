"""Head of cost forecasts: a weighted ensemble of smoothings and of estimators that correct one, day by day.

Everything but the estimators' raw answers is worked out here from the lags of an entity's daily
cost, so that a forecast of any of the next days, the sum up to that day and both intervals need no
forecasting library. All members work on ``log(cost + offset)``, with an offset of a small share of
the window's mean: costs of zero have a logarithm, and everything but the smallest costs is relative.

Shapes: n rows, of which u have windows of their own (rows that ask for different days of one
entity share one), w lags, h days of the horizon, g groups of days.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from feature_repo.datasets import Frozen
from models.cost.smoothing import (
    WARM_UP,
    Kinds,
    Smoothing,
    States,
    ahead,
    day_kinds,
    past_errors,
    smooth_all,
)
from models.heads.base import BaseHead, FieldType, OutputField

Array = NDArray[np.float64]

# Of the mean cost of the window; zero costs have logarithms, and errors near zero stay bounded.
_OFFSET_SHARE = 0.05
_SMALLEST_OFFSET = 0.01
# A smoothing that misses the sum of its own past by more has met a change of level, not a skew.
_LARGEST_CORRECTION = np.log(1.4)
# Forecasts beyond e^3 times or e^-3 of the window's mean are no forecasts.
_LARGEST_CHANGE = 3.0
# An estimator that learned from other entities may move a forecast by 1.5 times the window's usual
# error: a cost that has been flat for months is not moved by what happens elsewhere.
_DRIFT_OF_ERROR = 1.5
_LARGEST_DRIFT = 0.5
_SMALLEST_ERROR = 0.005
_UNKNOWN_ERROR = 0.1  # of a window too short to have errors
# A window half as rough makes the interval 0.6 times as wide, not half: part of the calm is luck.
_SCALE_POWER = 0.75


class Spread(Frozen):
    """Ends of an interval around the logarithm of a forecast, in units of the row's scale."""

    lower: float = Field(le=0)
    upper: float = Field(ge=0)


class CostMember(Frozen):
    """One forecast of the ensemble: the mean of some smoothings."""

    name: str
    smoothings: tuple[Smoothing, ...] = Field(min_length=1)
    corrected: bool = Field(
        False,
        description="Scaled so that its forecasts of the days in the window add up to their costs: what was "
        "limited in the smoothing, and what it lags behind a trend, comes back in the mean.",
    )
    drifts: tuple[str, ...] = Field(
        (),
        description="Estimators of the log ratio of truth to forecast, one a group of days; none: as it is.",
    )
    weight: float = Field(ge=0)


@dataclass(frozen=True)
class Windows:
    """What rows say, by distinct window.

    Attributes:
        first: Shape (u,), a row of each window.
        of_row: Shape (n,), the window of each row.
        cost: Shape (u, w), oldest day first.
        kinds_ahead: Shape (u, h).
        offset: Shape (u, 1).
        logs: Shape (u, w), of cost and offset.
        kinds: Shape (u, w).
        states: Of every smoothing of the head.
    """

    first: NDArray[np.intp]
    of_row: NDArray[np.intp]
    cost: Array
    kinds_ahead: Kinds
    offset: Array
    logs: Array
    kinds: Kinds
    states: Mapping[Smoothing, States]


class CostHead(BaseHead):
    """Daily forecast and sum so far, each with an interval."""

    kind: Literal["cost"] = "cost"
    lags: tuple[str, ...] = Field(min_length=WARM_UP, description="Inputs, the day that just ended first.")
    weekday_sin: str = "weekday_sin"
    weekday_cos: str = "weekday_cos"
    month: str = "month"
    day: str = "day_of_month"
    step: str = "steps_ahead"
    groups: tuple[int, ...] = Field((7, 14, 21, 30), description="Last day of each group of days ahead.")
    members: tuple[CostMember, ...] = Field(min_length=1)
    scale_by: tuple[Smoothing, ...] = Field(
        min_length=1, description="Smoothings whose past errors in the window are the scale of the intervals."
    )
    daily: tuple[Spread, ...] = Field(description="Interval of a day, one a group.")
    total: tuple[Spread, ...] = Field(description="Interval of the sum up to a day, one a group.")
    coverage: float = Field(0.8, gt=0, lt=1, description="Nominal share of truths within the interval.")
    unit: str = "USD"

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if list(self.groups) != sorted(set(self.groups)) or self.groups[0] < 1:
            raise ValueError(f"groups must rise from 1 or more: {self.groups}")
        for name, spreads in (("daily", self.daily), ("total", self.total)):
            if len(spreads) != len(self.groups):
                raise ValueError(f"{name} has {len(spreads)} spreads for {len(self.groups)} groups")
        if not sum(member.weight for member in self.members) > 0:
            raise ValueError("no member has a weight")
        for member in self.members:
            if member.drifts and len(member.drifts) != len(self.groups):
                raise ValueError(
                    f"member {member.name} has {len(member.drifts)} drifts for {len(self.groups)} groups"
                )
        return self

    @property
    def horizon(self) -> int:
        """Days ahead that can be asked for."""
        return self.groups[-1]

    @property
    def group_of_step(self) -> NDArray[np.intp]:
        """Number of the group of each day ahead, shape (h,)."""
        return np.searchsorted(self.groups, np.arange(1, self.horizon + 1)).astype(np.intp)

    def outputs(self) -> tuple[OutputField, ...]:
        share = f"{self.coverage:.0%}"
        return tuple(
            OutputField(name=name, type=FieldType.DOUBLE, unit=self.unit, description=description)
            for name, description in (
                ("forecast", "Cost of the day that is steps_ahead days ahead."),
                ("lower", f"Lower end of its {share} interval."),
                ("upper", f"Upper end of its {share} interval."),
                ("total", "Cost of all days from the next one to that day."),
                ("total_lower", f"Lower end of its {share} interval."),
                ("total_upper", f"Upper end of its {share} interval."),
            )
        )

    def answer(self, columns: Mapping[str, NDArray], raw: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """The outputs, each of shape (n,). A row without a single cost is answered with zeros.

        Args:
            columns: The lags, the calendar of the row's time, and how many days ahead is asked for.
                Steps below 1 or above the horizon are answered as the nearest.
            raw: Drifts of shape (n,), which must not hang on the step.
        """
        windows = self.windows(columns)
        path = self.path(windows, raw)
        scale = self.scale(windows)
        step = np.clip(
            np.nan_to_num(np.asarray(columns[self.step], dtype=np.float64), nan=1.0), 1, self.horizon
        )
        index, row = np.rint(step).astype(np.intp) - 1, windows.of_row
        group = self.group_of_step[index]
        # Of h days the offset counts h times: the sum is on the scale of the days' logarithms.
        return _interval(
            path[row, index],
            windows.offset[row, 0],
            scale[row, group],
            self.daily,
            group,
            ("forecast", "lower", "upper"),
        ) | _interval(
            np.cumsum(path, axis=1)[row, index],
            windows.offset[row, 0] * (index + 1),
            scale[row, group],
            self.total,
            group,
            ("total", "total_lower", "total_upper"),
        )

    def windows(self, columns: Mapping[str, NDArray]) -> Windows:
        """The distinct windows of the rows."""
        lags = np.stack([np.asarray(columns[name], dtype=np.float64) for name in reversed(self.lags)], axis=1)
        sine, cosine, month, day = (
            np.asarray(columns[name], dtype=np.float64)
            for name in (self.weekday_sin, self.weekday_cos, self.month, self.day)
        )
        weekday = np.rint(np.arctan2(sine, cosine) / (2 * np.pi) * 7) % 7
        told = np.column_stack([lags, weekday, month, day])
        # Missing values do not equal themselves; as a number that no cost has they do.
        _, first, of_row = np.unique(
            np.nan_to_num(told, nan=-1.0), axis=0, return_index=True, return_inverse=True
        )
        cost = np.maximum(lags[first], 0.0)
        offset = offset_of(cost)[:, None]
        logs = np.asarray(np.log(cost + offset))
        kinds = day_kinds(weekday[first], month[first], day[first], np.arange(-len(self.lags), 0))
        return Windows(
            first=first,
            of_row=of_row.reshape(-1),
            cost=cost,
            kinds_ahead=day_kinds(weekday[first], month[first], day[first], np.arange(self.horizon)),
            offset=offset,
            logs=logs,
            kinds=kinds,
            states=smooth_all(logs, kinds, self._smoothings(), remembered=len(set(self.scale_by))),
        )

    def _smoothings(self) -> tuple[Smoothing, ...]:
        """Each once, whatever the number of members that use it; first those whose past errors are asked for."""
        of_members = (smoothing for member in self.members for smoothing in member.smoothings)
        return tuple(dict.fromkeys((*self.scale_by, *of_members)))

    def path(self, windows: Windows, raw: Mapping[str, NDArray]) -> Array:
        """Forecast of each day of the horizon, shape (u, h).

        Args:
            windows: From :meth:`windows`.
            raw: Drifts by estimator, shape (n,).
        """
        weights = np.array([member.weight for member in self.members])
        paths = [self.member_path(member, windows, raw) for member in self.members if member.weight > 0]
        return np.asarray(np.average(np.stack(paths), axis=0, weights=weights[weights > 0]))

    def member_path(self, member: CostMember, windows: Windows, raw: Mapping[str, NDArray]) -> Array:
        """Forecast of each day of the horizon by one member, shape (u, h)."""
        offset = windows.offset
        middle = np.log(_mean(windows.cost)[:, None] + offset)
        paths, past = [], []
        for smoothing in member.smoothings:
            states = windows.states[smoothing]
            future = ahead(states, windows.kinds_ahead, smoothing)
            future = np.clip(future, middle - _LARGEST_CHANGE, middle + _LARGEST_CHANGE)
            paths.append(np.exp(future))
            past.append(np.exp(np.clip(states.expected, middle - _LARGEST_CHANGE, middle + _LARGEST_CHANGE)))
        path = np.maximum(np.mean(paths, axis=0) - offset, 0.0)
        if member.corrected:
            path = path * _correction(windows.cost, np.maximum(np.mean(past, axis=0) - offset, 0.0))[:, None]
        if member.drifts:
            drift = np.stack(
                [np.asarray(raw[name], dtype=np.float64)[windows.first] for name in member.drifts], 1
            )
            bound = np.minimum(_DRIFT_OF_ERROR * self.past_errors(windows), _LARGEST_DRIFT)
            drift = np.clip(drift, -bound, bound)[:, self.group_of_step]
            path = np.maximum((path + offset) * np.exp(drift) - offset, 0.0)
        known = np.asarray(np.isfinite(windows.cost))
        return np.where(np.asarray(known.any(axis=1))[:, None], path, 0.0)

    def scale(self, windows: Windows) -> Array:
        """What intervals are scaled by: a power of the window's own past errors, shape (u, g)."""
        return np.asarray(self.past_errors(windows) ** _SCALE_POWER)

    def past_errors(self, windows: Windows) -> Array:
        """How far the window's own forecasts were off by group of days, in logarithms, shape (u, g)."""
        return np.stack([self._error_at(step, windows) for step in self._middles()], axis=1)

    def _error_at(self, step: int, windows: Windows) -> Array:
        span = len(self.lags) - WARM_UP
        errors = [
            past_errors(windows.logs, windows.kinds, windows.states[smoothing], step, span)
            for smoothing in self.scale_by
        ]
        error = np.nan_to_num(np.mean(errors, axis=0), nan=_UNKNOWN_ERROR)
        return np.asarray(np.maximum(error, _SMALLEST_ERROR))

    def _middles(self) -> list[int]:
        begins = (0, *self.groups[:-1])
        return [(begin + 1 + end) // 2 for begin, end in zip(begins, self.groups, strict=True)]


def _interval(
    value: Array,
    offset: Array,
    scale: Array,
    spreads: tuple[Spread, ...],
    group: NDArray[np.intp],
    names: tuple[str, str, str],
) -> dict[str, NDArray]:
    """A value with the ends of its interval, which holds it and does not reach below zero."""
    lower = np.array([spread.lower for spread in spreads])[group]
    upper = np.array([spread.upper for spread in spreads])[group]
    changes = [np.clip(end * scale, -_LARGEST_CHANGE, _LARGEST_CHANGE) for end in (lower, upper)]
    ends = [np.maximum((value + offset) * np.exp(change) - offset, 0.0) for change in changes]
    return dict(zip(names, (value, np.minimum(ends[0], value), np.maximum(ends[1], value)), strict=True))


def _correction(cost: Array, expected: Array) -> Array:
    """Costs over their forecasts of the day before, summed after the warm-up; shape (u,)."""
    judged = np.asarray(np.isfinite(cost))
    judged[:, :WARM_UP] = False
    spent = np.where(judged, cost, 0.0).sum(axis=1)
    foreseen = np.where(judged, expected, 0.0).sum(axis=1)
    known = (spent > 0) & (foreseen > 0)
    ratio = np.log(np.where(known, spent, 1.0) / np.where(known, foreseen, 1.0))
    return np.asarray(np.exp(np.clip(ratio, -_LARGEST_CORRECTION, _LARGEST_CORRECTION)))


def offset_of(cost: Array) -> Array:
    """What is added to costs before the logarithm is taken, shape (u,), from windows of shape (u, w)."""
    return np.asarray(np.maximum(_OFFSET_SHARE * _mean(cost), _SMALLEST_OFFSET))


def _mean(cost: Array) -> Array:
    """Mean of each window's known costs; 0 where none is."""
    return np.asarray(np.nansum(cost, axis=1) / np.maximum(np.isfinite(cost).sum(axis=1), 1))
