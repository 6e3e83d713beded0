"""Which days of a feature table rows touch."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_repo.transformations import UTC_TIME
from pipelines.features.steps import Touched, point_days, spans, window_days

HOUR = timedelta(hours=1)


def _rows(*moments: datetime) -> pl.LazyFrame:
    return pl.LazyFrame({"at": moments}, schema={"at": UTC_TIME})


@pytest.mark.parametrize(
    ("moment", "longest", "days"),
    [
        (datetime(2026, 1, 5, 3, tzinfo=UTC), 6 * HOUR, [5]),
        (datetime(2026, 1, 5, 20, tzinfo=UTC), 6 * HOUR, [5, 6]),
        (datetime(2026, 1, 5, 23, 30, tzinfo=UTC), 6 * HOUR, [6]),  # its first feature row stands at midnight
        (datetime(2026, 1, 5, 12, tzinfo=UTC), 48 * HOUR, [5, 6, 7]),
    ],
)
def test_a_row_touches_the_days_that_its_windows_reach(
    moment: datetime, longest: timedelta, days: list[int]
) -> None:
    assert window_days(_rows(moment), "at", HOUR, longest) == {date(2026, 1, day) for day in days}


def test_a_row_touches_its_own_day_where_feature_rows_stand_at_rows() -> None:
    moment = datetime(2026, 1, 5, 23, 30, tzinfo=UTC)
    assert point_days(_rows(moment), "at", None) == {date(2026, 1, 5)}
    assert point_days(_rows(moment), "at", HOUR) == {date(2026, 1, 6)}
    assert point_days(_rows(), "at", None) == set()


@given(st.sets(st.dates(date(2026, 1, 1), date(2026, 3, 1)), min_size=1))
def test_spans_hold_exactly_the_days(days: set[date]) -> None:
    found = spans(days)
    assert {day for first, last in found for day in _between(first, last)} == days
    assert all(after[0] - before[1] > timedelta(days=1) for before, after in pairwise(found))


def test_spans_are_joined_over_small_gaps() -> None:
    days = [date(2026, 1, 1), date(2026, 1, 3), date(2026, 1, 9)]
    assert spans(days, gap=timedelta(days=1)) == [(days[0], days[1]), (days[2], days[2])]


def test_the_predicate_names_the_days_and_an_open_end() -> None:
    days = (date(2026, 1, 1), date(2026, 1, 2), date(2026, 1, 5), date(2026, 1, 8))
    assert Touched(days[:3]).where == (
        "(day >= '2026-01-01' AND day <= '2026-01-02') OR (day >= '2026-01-05' AND day <= '2026-01-05')"
    )
    assert Touched(days, onwards=date(2026, 1, 5)).where == (
        "(day >= '2026-01-01' AND day <= '2026-01-02') OR day >= '2026-01-05'"
    )


def _between(first: date, last: date) -> list[date]:
    return [first + timedelta(days=number) for number in range((last - first).days + 1)]
