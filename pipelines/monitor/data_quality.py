"""Whether data are broken, and how: schema, freshness, volume, missing, range, stuck, units, swapped. Pure.

What is found is named with its figures, so that the one who is paged knows where to look.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from models.base import Array
from models.specs import DataTest

#: Factors between units that telemetry mixes up: bits and bytes, thousands and 1024s, seconds and
#: milliseconds, shares and percent.
_UNITS = (8.0, 60.0, 100.0, 1000.0, 1024.0, 3600.0, 1e6, 1024.0**2, 1e9, 1024.0**3)


@dataclass(frozen=True)
class ColumnFacts:
    """A numeric column in a few figures.

    Attributes:
        quantiles: At 0.05, 0.25, 0.5, 0.75 and 0.95, shape (5,); NaN where nothing was there.
        missing: Share of rows.
        stuck: Share of values that equal the same entity's last one.
    """

    quantiles: Array
    missing: float
    stuck: float


@dataclass(frozen=True)
class Limits:
    """What a column can be at all; None: no bound."""

    minimum: float | None
    maximum: float | None


def facts(values: Array, entity: NDArray, time: NDArray[np.datetime64]) -> ColumnFacts:
    """Figures of a column; rows in any order, shape (n,) each."""
    there = np.isfinite(values)
    if not there.any():
        return ColumnFacts(np.full(5, np.nan), 1.0, 0.0)
    order = np.lexsort((time, entity))
    ordered, same = values[order], entity[order][1:] == entity[order][:-1]
    pairs = same & np.isfinite(ordered[1:]) & np.isfinite(ordered[:-1])
    repeats = np.sum((ordered[1:] == ordered[:-1]) & pairs) / max(np.sum(pairs), 1)
    return ColumnFacts(
        np.quantile(values[there], [0.05, 0.25, 0.5, 0.75, 0.95]), float(1 - there.mean()), float(repeats)
    )


def broken(
    now: Mapping[str, Array],
    entity: NDArray,
    time: NDArray[np.datetime64],
    reference: Mapping[str, ColumnFacts],
    limits: Mapping[str, Limits],
    test: DataTest,
) -> list[str]:
    """Findings of numeric columns, each a sentence that begins with the column's name.

    Args:
        now: Columns of a window, shape (n,) each, NaN for missing.
        reference: Of training.
    """
    found = [f"{name}: the column is gone" for name in reference if name not in now]
    current = {name: facts(values, entity, time) for name, values in now.items() if name in reference}
    named = set()
    for one, other in _swapped(current, reference):
        found.append(f"{one}, {other}: the two columns are swapped: each lies as the other did in training")
        named |= {one, other}
    for name, fact in current.items():
        before = reference[name]
        if fact.missing - before.missing > test.max_missing:
            found.append(
                f"{name}: {fact.missing:.0%} of values are missing, {before.missing:.0%} in training"
            )
        if fact.stuck - before.stuck > test.max_stuck:
            found.append(
                f"{name}: a sensor is stuck: {fact.stuck:.0%} of values only repeat the last one, {before.stuck:.0%} in training"
            )
        if name in named:
            continue
        if (factor := _unit(fact, before, test.unit_ratio)) is not None:
            found.append(
                f"{name}: values are about {factor:g} times those of training: was the unit changed?"
            )
        elif (outside := _outside(now[name], limits.get(name))) > test.max_out_of_range:
            bounds = limits[name]
            found.append(
                f"{name}: {outside:.1%} of values lie outside of {bounds.minimum} to {bounds.maximum}"
            )
    return found


def stale(newest: datetime | None, now: datetime, test: DataTest) -> list[str]:
    """Whether the newest row is too old."""
    if newest is None:
        return ["freshness: there are no rows at all"]
    age = now - newest
    if age <= test.max_age:
        return []
    return [
        f"freshness: the newest row is of {newest:%Y-%m-%d %H:%M}Z, {_hours(age)} old; {_hours(test.max_age)} are allowed"
    ]


def thin(rows: float, usual: float, test: DataTest) -> list[str]:
    """Whether there are too few rows for a window of this length."""
    if rows >= usual * test.min_volume:
        return []
    return [f"volume: {rows:.0f} rows, {usual:.0f} are usual in such a window"]


def _unit(now: ColumnFacts, before: ColumnFacts, least: float) -> float | None:
    """The factor between units that all quantiles agree on; None: there is none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = now.quantiles / before.quantiles
    usable = ratios[np.isfinite(ratios) & (ratios > 0)]
    if len(usable) < 3:
        return None
    middle = float(np.median(usable))
    # A change of load moves quantiles apart; a change of unit moves all of them alike.
    if np.max(np.abs(np.log(usable / middle))) > np.log(2.5):
        return None
    near = [each for unit in _UNITS for each in (unit, 1 / unit) if abs(np.log(middle / each)) < np.log(1.6)]
    if near and max(middle, 1 / middle) > min(least, 6.0):
        # Where two are near, such as 1000 and 1024, none is told for the other.
        return near[0] if len(near) == 1 else float(f"{middle:.3g}")
    return float(f"{middle:.3g}") if max(middle, 1 / middle) > least else None


def _swapped(now: Mapping[str, ColumnFacts], before: Mapping[str, ColumnFacts]) -> list[tuple[str, str]]:
    """Pairs of columns of which each lies as the other did, and not as it did itself."""
    names = [
        name
        for name in now
        if np.all(np.isfinite(now[name].quantiles)) and np.all(np.isfinite(before[name].quantiles))
    ]
    moved = [name for name in names if _apart(now[name].quantiles, before[name].quantiles) > 1.0]
    pairs = []
    for place, one in enumerate(moved):
        for other in moved[place + 1 :]:
            crossed = max(
                _apart(now[one].quantiles, before[other].quantiles),
                _apart(now[other].quantiles, before[one].quantiles),
            )
            if crossed < 0.35:
                pairs.append((one, other))
    return pairs


def _apart(left: Array, right: Array) -> float:
    """Mean distance of quantiles in spreads of the second."""
    spread = max(float(right[-1] - right[0]), 1e-9 * float(np.max(np.abs(right))), 1e-12)
    return float(np.mean(np.abs(left - right)) / spread * stats.norm.ppf(0.95) * 2 / 2)


def _outside(values: Array, limits: Limits | None) -> float:
    there = values[np.isfinite(values)]
    if limits is None or not len(there):
        return 0.0
    low = there < limits.minimum if limits.minimum is not None else np.zeros(len(there), dtype=bool)
    high = there > limits.maximum if limits.maximum is not None else np.zeros(len(there), dtype=bool)
    return float(np.mean(low | high))


def _hours(span: timedelta) -> str:
    return f"{span.total_seconds() / 3600:.1f} h"


def names(findings: Sequence[str]) -> list[str]:
    """Columns that findings name."""
    return [name for finding in findings for name in finding.partition(":")[0].split(", ")]
