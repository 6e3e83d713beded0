"""Which days of a feature table new rows touch. Pure: frames and dates in, dates out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

import polars as pl

from feature_repo.definitions import DAY
from feature_repo.transformations import feature_time


@dataclass(frozen=True)
class Touched:
    """Days whose feature rows have to be computed anew, and the span that no one else may change meanwhile.

    Attributes:
        days: Rising, without repeats.
        onwards: From this day on every row of the table is replaced; None: only those of ``days``.
    """

    days: tuple[date, ...]
    onwards: date | None = None

    @property
    def where(self) -> str:
        """SQL predicate of the rows to replace."""
        closed = [day for day in self.days if self.onwards is None or day < self.onwards]
        parts = [f"({DAY} >= '{first}' AND {DAY} <= '{last}')" for first, last in spans(closed)]
        if self.onwards is not None:
            parts.append(f"{DAY} >= '{self.onwards}'")
        return " OR ".join(parts)


def window_days(
    rows: pl.LazyFrame, event_time: str, every: timedelta | None, longest: timedelta
) -> set[date]:
    """Days of the feature rows at T whose window (T - longest, T] holds one of the rows.

    A late row touches the days that its windows reach, not only its own.
    """
    first = feature_time(pl.col(event_time), every)
    pairs = rows.select(first=first.dt.date(), last=(first + longest).dt.date()).unique().collect()
    return {day for first_day, last_day in pairs.iter_rows() for day in _days(first_day, last_day)}


def point_days(rows: pl.LazyFrame, event_time: str, every: timedelta | None) -> set[date]:
    """Days of the feature rows that stand where the rows are."""
    days = rows.select(day=feature_time(pl.col(event_time), every).dt.date()).unique().collect()
    return set(days["day"])


def spans(days: Iterable[date], gap: timedelta = timedelta(0)) -> list[tuple[date, date]]:
    """Runs of days as (first, last), joined over gaps of up to ``gap``."""
    runs: list[tuple[date, date]] = []
    for day in sorted(days):
        if runs and day - runs[-1][1] <= timedelta(days=1) + gap:
            runs[-1] = (runs[-1][0], day)
        else:
            runs.append((day, day))
    return runs


def midnight(day: date) -> datetime:
    """Begin of a day, UTC."""
    return datetime.combine(day, time(), UTC)


def _days(first: date, last: date) -> list[date]:
    return [first + timedelta(days=number) for number in range((last - first).days + 1)]
