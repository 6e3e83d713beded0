"""How cost forecasts are judged: single days as any forecast is, and the sum of the month ahead."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.base import Answers, Array, Observations
from models.cost.origins import lag_names, origins_of, side_by_side
from models.manifest import InputField
from models.targets import STEPS_AHEAD
from models.tasks.forecast import ForecastTask

WEEK = 7


@dataclass(frozen=True)
class CostTask(ForecastTask):
    """Adds the error of the sum over the horizon, and MASE, to the figures of each day."""

    def metrics(self, part: Observations, answers: Answers) -> dict[str, float]:
        """Those of :class:`ForecastTask`, and:

        ``total_ape_mean``, ``total_ape_median``: absolute error of the sum over the horizon as a
        share of the true sum, over origins with all their days; ``total_below_5_percent``: share of
        origins where it is below 5 %. ``total_coverage``: share of those sums within their interval.
        ``mase``: mean absolute error of a day over that of repeating the last week, which is
        measured on the lags (Hyndman and Koehler, 2006).
        """
        figures = super().metrics(part, answers) | self._totals(part, answers)
        week = weekly_naive_error(part)
        known = np.isfinite(week) & (week > 0)
        if known.any():
            error = np.abs(answers[self.config.output] - part.targets[self.config.target])
            figures["mase"] = float(np.average(error[known] / week[known], weights=part.weight[known]))
        return figures

    def _totals(self, part: Observations, answers: Answers) -> dict[str, float]:
        origins = origins_of(part)
        truth = origins.of(part.targets[self.config.target]).sum(axis=1)
        whole = np.isfinite(truth) & (truth > 0)
        if not whole.any():
            return {}
        truth, rows = truth[whole], origins.rows[whole]
        error = np.abs(answers[self.config.output][rows].sum(axis=1) / truth - 1)
        figures = {
            "total_ape_mean": float(np.mean(error)),
            "total_ape_median": float(np.median(error)),
            "total_below_5_percent": float(np.mean(error < 0.05)),
        }
        if "total_lower" in answers:
            lower, upper = (answers[name][rows[:, -1]] for name in ("total_lower", "total_upper"))
            figures["total_coverage"] = float(np.mean((truth >= lower) & (truth <= upper)))
        return figures

    def baselines(
        self, train: Observations, part: Observations, inputs: tuple[InputField, ...]
    ) -> dict[str, Answers]:
        """The last day repeated, the last week repeated, and the mean of the last week."""
        lags = side_by_side(part.columns, lag_names(part.columns)[:WEEK])
        there = np.isfinite(lags)
        median = float(np.nanmedian(train.targets[self.config.target]))
        total = np.where(there, lags, 0.0).sum(axis=1)
        mean = np.where(there.any(axis=1), total / np.maximum(there.sum(axis=1), 1), median)
        filled = np.where(there, lags, mean[:, None])
        step = part.columns[STEPS_AHEAD].astype(np.intp)
        return {
            "naive (last day)": {self.config.output: filled[:, 0]},
            "seasonal naive (last week)": {self.config.output: filled[np.arange(len(step)), -step % WEEK]},
            "mean of the last 7 days": {self.config.output: mean},
        }


def weekly_naive_error(part: Observations) -> Array:
    """Mean absolute difference of a day to the same weekday before, over the lags; shape (n,), NaN where unknown."""
    lags = side_by_side(part.columns, lag_names(part.columns))
    difference = np.abs(lags[:, :-WEEK] - lags[:, WEEK:])
    known = np.isfinite(difference)
    total = np.where(known, difference, 0.0).sum(axis=1)
    return np.where(known.any(axis=1), total / np.maximum(known.sum(axis=1), 1), np.nan)
