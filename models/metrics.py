"""Figures for rare binary labels, with weights for sampled rows. Higher ``*_score`` is better."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_TINY = np.finfo(float).tiny
_WORTH = 10  # sums per row, up to which a product of matrices is the faster way
_MOST_SUMS = 20_000_000


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
        self._positives = np.flatnonzero(self._positive > 0)
        self._ends = self._points[np.searchsorted(self._points, self._positives)]
        self._entered = np.searchsorted(self._positives, self._ends, side="right") - 1

    def _counts(self, weight: Array) -> tuple[Array, Array]:
        ranked = weight[self._order]
        true_positives = np.cumsum(ranked * self._positive)[self._points]
        false_positives = np.cumsum(ranked * (1 - self._positive))[self._points]
        return true_positives, false_positives

    def average_precision(self, weight: Array) -> Any:
        """Area under the precision-recall steps, as scikit-learn defines it; NaN without positives.

        Weights of shape (n,) give a number, of shape (n, k) the k numbers of as many weightings.
        """
        ranked = weight[self._order]
        gained = ranked[self._positives]
        if len(gained) == 0:
            return np.full(weight.shape[1:], np.nan)[()]
        # Precision matters where a positive enters, and there at the last row of its score.
        entered = np.cumsum(gained, axis=0)
        found = np.maximum(np.cumsum(ranked, axis=0)[self._ends], _TINY)
        area = np.sum(gained * entered[self._entered] / found, axis=0)
        total = entered[-1]
        return np.where(total > 0, area / np.maximum(total, _TINY), np.nan)[()]

    def precision_by_cluster(
        self, base: Array, cluster: NDArray[np.int64], count: int
    ) -> Callable[[Array], Array] | None:
        """:meth:`average_precision` as a function of how often whole clusters are drawn.

        Each cluster's share in the sums is taken once, and a resample is a product of matrices. None
        where that would be slower than weighing rows.

        Args:
            base: Weights that rows have by themselves, shape (n,).
            cluster: Of each row, below ``count``.

        Returns:
            A function from multiplicities of shape (count, k) to k numbers.
        """
        rows, positives = len(self._order), len(self._positives)
        if positives == 0 or positives * count > _WORTH * rows or rows * count > _MOST_SUMS:
            return None
        weight, member = base[self._order], cluster[self._order]
        shares = np.zeros((rows, count))
        shares[np.arange(rows), member] = weight
        found_of = np.cumsum(shares, axis=0)[self._ends]
        entered_of = np.cumsum(shares[self._positives], axis=0)
        gained_of, gaining = weight[self._positives, None], member[self._positives]

        def precision(drawn: Array) -> Array:
            entered = entered_of @ drawn
            found = np.maximum(found_of @ drawn, _TINY)
            area = np.sum(gained_of * drawn[gaining] * entered[self._entered] / found, axis=0)
            return np.where(entered[-1] > 0, area / np.maximum(entered[-1], _TINY), np.nan)

        return precision

    def operating_point(
        self, weight: Array, max_false_positive_rate: float
    ) -> tuple[float, float, float, float]:
        """The lowest threshold whose false-positive rate stays within the bound.

        Returns:
            ``(threshold, recall, false_positive_rate, precision)``; recall 0 and an infinite
            threshold where even the first point exceeds the bound.
        """
        true_positives, false_positives = self._counts(weight)
        rate = false_positives / max(false_positives[-1], _TINY)
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


class BinnedProbabilities:
    """Probabilities beside outcomes, for figures under many weightings of the same rows; sorted once."""

    def __init__(self, label: NDArray, probability: Array) -> None:
        self._order = np.argsort(probability, kind="stable")
        self._probability = probability[self._order].astype(np.float64)
        self._label = label[self._order].astype(np.float64)

    def bins(self, weight: Array, bins: int = 10) -> tuple[Array, Array, Array]:
        """Mean probability, share of positives and weight per bin of equal weight, lowest first."""
        ordered = weight[self._order]
        share = np.cumsum(ordered) / np.sum(ordered)
        index = np.minimum((share * bins * (1 - 1e-12)).astype(int), bins - 1)
        mass: Array = np.bincount(index, weights=ordered, minlength=bins).astype(np.float64)
        told = np.bincount(index, weights=ordered * self._probability, minlength=bins)
        seen = np.bincount(index, weights=ordered * self._label, minlength=bins)
        there = mass > 0
        return told[there] / mass[there], seen[there] / mass[there], mass[there]

    def calibration_error(self, weight: Array) -> float:
        mean, share, mass = self.bins(weight)
        return float(np.sum(np.abs(mean - share) * mass) / np.sum(mass))


def calibration_bins(
    label: NDArray, probability: Array, weight: Array, bins: int = 10
) -> list[tuple[float, float, float]]:
    """``(mean probability, share of positives, weight)`` per bin of equal weight, lowest first."""
    mean, share, mass = BinnedProbabilities(label, probability).bins(weight, bins)
    return [(float(mean[at]), float(share[at]), float(mass[at])) for at in range(len(mass))]


def expected_calibration_error(label: NDArray, probability: Array, weight: Array) -> float:
    """Mean distance of probability and frequency over bins of equal weight (Naeini et al., 2015)."""
    return BinnedProbabilities(label, probability).calibration_error(weight)
