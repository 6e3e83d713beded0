"""Figures for rare binary labels, with weights for sampled rows. Higher ``*_score`` is better."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class RankedLabels:
    """Labels in order of falling score, for figures under many weightings of the same rows.

    A bootstrap reweighs rows and keeps their order, so the sort is done once.
    """

    def __init__(self, label: NDArray, score: Array) -> None:
        self._order = np.argsort(-score, kind="stable")
        ranked = score[self._order]
        self._positive = label[self._order].astype(np.float64)
        # Rows of equal score enter together: only the last of each run is an operating point.
        self._points = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
        self._score = ranked[self._points]

    def _counts(self, weight: Array) -> tuple[Array, Array]:
        ranked = weight[self._order]
        true_positives = np.cumsum(ranked * self._positive)[self._points]
        false_positives = np.cumsum(ranked * (1 - self._positive))[self._points]
        return true_positives, false_positives

    def average_precision(self, weight: Array) -> float:
        """Area under the precision-recall steps, as scikit-learn defines it; NaN without positives."""
        true_positives, false_positives = self._counts(weight)
        if true_positives[-1] == 0:
            return float("nan")
        found = true_positives + false_positives
        precision = np.divide(true_positives, found, out=np.ones_like(found), where=found > 0)
        gained = np.diff(true_positives, prepend=0.0) / true_positives[-1]
        return float(np.sum(gained * precision))

    def operating_point(
        self, weight: Array, max_false_positive_rate: float
    ) -> tuple[float, float, float, float]:
        """The lowest threshold whose false-positive rate stays within the bound.

        Returns:
            ``(threshold, recall, false_positive_rate, precision)``; recall 0 and an infinite
            threshold where even the first point exceeds the bound.
        """
        true_positives, false_positives = self._counts(weight)
        rate = false_positives / max(false_positives[-1], np.finfo(float).tiny)
        allowed = np.flatnonzero(rate <= max_false_positive_rate)
        if len(allowed) == 0 or true_positives[-1] == 0:
            return float("inf"), 0.0, 0.0, float("nan")
        at = allowed[-1]
        found = true_positives[at] + false_positives[at]
        return (
            float(self._score[at]),
            float(true_positives[at] / true_positives[-1]),
            float(rate[at]),
            float(true_positives[at] / found),
        )


def calibration_bins(
    label: NDArray, probability: Array, weight: Array, bins: int = 10
) -> list[tuple[float, float, float]]:
    """``(mean probability, share of positives, weight)`` per bin of equal weight, lowest first."""
    order = np.argsort(probability, kind="stable")
    share = np.cumsum(weight[order]) / np.sum(weight)
    index = np.minimum((share * bins * (1 - 1e-12)).astype(int), bins - 1)
    result = []
    for number in range(bins):
        rows = order[index == number]
        total = float(np.sum(weight[rows]))
        if total > 0:
            result.append(
                (
                    float(np.average(probability[rows], weights=weight[rows])),
                    float(np.average(label[rows], weights=weight[rows])),
                    total,
                )
            )
    return result


def expected_calibration_error(label: NDArray, probability: Array, weight: Array) -> float:
    """Mean distance of probability and frequency over bins of equal weight (Naeini et al., 2015)."""
    bins = calibration_bins(label, probability, weight)
    total = sum(mass for _, _, mass in bins)
    return sum(abs(mean - share) * mass for mean, share, mass in bins) / total
