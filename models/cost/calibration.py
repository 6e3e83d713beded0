"""Intervals that keep their coverage while a bill changes: adaptive conformal inference (training side).

Split conformal prediction takes for granted that errors to come are like those known. The bill of
a growing service breaks that: its errors come in calm and in rough months. Adaptive conformal
inference (Gibbs and Candès, 2021) replays the past week by week, and widens the interval while it
misses more than it may. Unlike there, it is never narrower than split conformal prediction would
have it: that a bill was calm promises nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.heads.cost import Spread

Array = NDArray[np.float64]

# How much one day of missing everything takes from the share that may be missed.
RATE_PER_DAY = 0.0075
_REVIEW_DAYS = 7
_SMALLEST_SHARE = 0.02
_FEWEST = 50  # scores of a group, below which its past says nothing


def adaptive_spreads(
    scores: Array, day: NDArray[np.int64], group_of_step: NDArray[np.intp], coverage: float
) -> tuple[Spread, ...]:
    """Spreads by group for the time after the last score became known.

    Args:
        scores: Shape (n, h): what truth is above forecast, in logarithms and in units of the row's
            scale, of n origins and h steps. NaN where it is not known.
        day: Shape (n,), the day of each origin. Step s of it is known on day + s.
        group_of_step: Shape (h,).
        coverage: Share of truths that the intervals shall hold.

    Raises:
        ValueError: a group has too few scores.
    """
    share = final_share(scores, day, group_of_step, coverage)
    return tuple(
        _spread(_known(scores[:, group_of_step == group], group), share)
        for group in range(int(group_of_step.max()) + 1)
    )


def final_share(
    scores: Array, day: NDArray[np.int64], group_of_step: NDArray[np.intp], coverage: float
) -> float:
    """The share that intervals may miss by now, for them to have missed 1 - coverage in the long run."""
    allowed = share = 1 - coverage
    steps = np.arange(1, scores.shape[1] + 1)
    known_on = np.where(np.isfinite(scores), day[:, None] + steps, np.iinfo(np.int64).max)
    inside = np.full(scores.shape, np.nan)
    for today in range(int(day.min()) + _REVIEW_DAYS, int(day.max()) + len(steps) + 1, _REVIEW_DAYS):
        judged = inside[(known_on <= today) & (known_on > today - _REVIEW_DAYS) & np.isfinite(inside)]
        if len(judged):
            missed = 1 - float(np.mean(judged))
            share += RATE_PER_DAY * _REVIEW_DAYS * (allowed - missed)
            share = float(np.clip(share, min(_SMALLEST_SHARE, allowed), allowed))
        published = (day >= today) & (day < today + _REVIEW_DAYS)
        if not published.any():
            continue
        for group in range(int(group_of_step.max()) + 1):
            own = group_of_step == group
            past = scores[:, own][known_on[:, own] <= today]
            if len(past) >= _FEWEST:
                spread, asked = _spread(past, share), scores[np.ix_(published, own)]
                held = (asked >= spread.lower) & (asked <= spread.upper)
                inside[np.ix_(published, own)] = np.where(np.isfinite(asked), held, np.nan)
    return share


def _known(scores: Array, group: int) -> Array:
    known = scores[np.isfinite(scores)]
    if len(known) < _FEWEST:
        raise ValueError(
            f"group {group} of the days ahead has {len(known)} known outcomes; it takes {_FEWEST}"
        )
    return known


def _spread(scores: Array, share: float) -> Spread:
    """As far up as down, so that a year of falling costs does not close the interval to a rise."""
    width = float(np.quantile(np.abs(scores), 1 - share))
    return Spread(lower=-width, upper=width)
