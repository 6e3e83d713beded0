"""A check as a row of a forest plot: estimate and interval against the line where good begins."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipelines.evaluate.checks import Check

WIDTH, HEIGHT = 240.0, 26.0
#: Where the line stands in every row, so that the eye can run down it.
LINE = 84.0
_PADDING = 9.0


@dataclass(frozen=True)
class Row:
    """Places of one row, in units of the picture; right of the line is good, whichever way the figure counts.

    Attributes:
        figure: Of the dot.
        low, high: Ends of the interval; None without one.
        zero: Where "no difference" lies, in rows whose line is a margin away from it.
    """

    figure: float
    low: float | None
    high: float | None
    zero: float | None


def row(check: Check) -> Row | None:
    """Places of a check; None where there is no figure, or no line to hold it against.

    Each row has its own scale: what is farthest from the line just fits.
    """
    if check.bound is None or check.figure is None:
        return None
    values = [check.figure, *(check.interval or ())]
    if not all(math.isfinite(value) for value in (*values, check.bound)):
        return None
    sign = 1.0 if check.better == "higher" else -1.0
    bound = check.bound
    reach = [sign * (value - bound) for value in values]
    if not check.interval:
        # Without an interval nothing says what is far: the distance is seen as a share of the figures.
        reach += [max(abs(bound), abs(check.figure))]
    unit: float = max(max(reach) / (WIDTH - LINE - _PADDING), -min(reach) / (LINE - _PADDING), math.ulp(0.0))

    def place(value: float) -> float:
        return float(round(LINE + sign * (value - bound) / unit, 2))

    low, high = sorted(map(place, check.interval)) if check.interval else (None, None)
    zero = place(0.0) if check.margin else None
    visible = zero is not None and _PADDING <= zero <= WIDTH - _PADDING
    return Row(place(check.figure), low, high, zero if visible else None)
