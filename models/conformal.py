"""Conformal calibration of intervals (training side).

Split conformal prediction on rows that no estimator was trained on. With estimators of quantiles it
is conformalized quantile regression (Romano, Patterson and Candès, 2019); without, it is the
classical split around the forecast, scaled as the head's encoding says (Lei et al., 2018). With bins
each is calibrated by itself (Mondrian; Vovk et al., 2005).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from models.heads.interval import Bins, IntervalHead, Level, Offset

Array = NDArray[np.float64]


def calibrated(
    head: IntervalHead,
    columns: Mapping[str, NDArray],
    raw: Mapping[str, NDArray],
    truth: Array,
    symmetric: bool = True,
) -> IntervalHead:
    """The head with offsets that make its intervals cover ``head.coverage`` of rows like these.

    Args:
        head: Its ``bins`` stay as they are; its offsets are replaced.
        columns: Input columns of the calibration rows.
        raw: Raw estimator outputs of the calibration rows.
        truth: Shape (n,), in the target's unit. Rows whose truth is missing are left out.
        symmetric: One offset for both ends, found from the larger of the two misses, so that the
            whole interval has the coverage. False: each end by itself, each with half of the misses.

    Raises:
        ValueError: a bin has so few rows that no finite offset reaches the coverage.
    """
    forecast, lower, upper = head.uncalibrated(columns, raw)
    score = head.encoding.score
    target = score(truth, columns)
    below, above = score(lower, columns) - target, target - score(upper, columns)
    # The interval always holds the forecast. A truth on one side of it can only be missed there.
    side = truth - forecast
    missed = np.where(side < 0, below, np.where(side > 0, above, -np.inf))
    usable = np.isfinite(truth)
    bins = np.zeros(len(truth), dtype=np.intp) if head.bins is None else head.bins.of(columns)
    offsets = []
    for number in range(len(head.offsets)):
        rows = usable & (bins == number)
        if symmetric:
            offset = conformal_quantile(missed[rows], head.coverage)
            offsets.append(Offset(lower=offset, upper=offset))
        else:
            half = (1 + head.coverage) / 2
            offsets.append(
                Offset(
                    lower=conformal_quantile(below[rows], half), upper=conformal_quantile(above[rows], half)
                )
            )
    return head.model_copy(update={"offsets": tuple(offsets)})


def conformal_quantile(scores: Array, coverage: float) -> float:
    """The smallest score that at least ``ceil((n + 1) * coverage)`` of n scores do not exceed.

    Raises:
        ValueError: n is so small that it takes more than n.
    """
    rank = int(np.ceil((len(scores) + 1) * coverage))
    if rank > len(scores):
        raise ValueError(
            f"{len(scores)} rows are too few to calibrate an interval that covers {coverage:.0%}"
        )
    found = float(np.partition(scores, rank - 1)[rank - 1])
    # Minus infinity: more truths than that equal the forecast, and an interval of no width covers.
    return found if np.isfinite(found) else float(np.min(scores[np.isfinite(scores)], initial=0.0))


def equal_bins(level: Level, columns: Mapping[str, NDArray], bins: int) -> Bins:
    """Bins of about as many rows each by a level; fewer where values repeat too often."""
    values = level.of(columns)
    edges = np.unique(np.quantile(values, np.arange(1, bins) / bins))
    return Bins(by=level, edges=tuple(float(edge) for edge in edges if edge > values.min()))
