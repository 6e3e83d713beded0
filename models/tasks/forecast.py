"""Figures with intervals: what a load, a cost or a latency will be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from models.base import Answers, Array, Observations, Statistic
from models.manifest import InputField
from models.specs import Forecast

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TINY = np.finfo(float).tiny


@dataclass(frozen=True)
class ForecastTask:
    """Judges one output against one target, and its interval where there is one."""

    config: Forecast

    @property
    def objective(self) -> str:
        return "negative WAPE"

    @property
    def answer(self) -> str:
        return self.config.output

    def statistic(self, part: Observations, answers: Answers) -> Statistic:
        """Minus the weighted absolute percentage error: sum of |error| over sum of |truth|."""
        truth = part.targets[self.config.target]
        error = part.weight * np.abs(truth - answers[self.config.output])
        size = part.weight * np.abs(truth)
        return lambda weight: -(error @ weight) / np.maximum(size @ weight, _TINY)

    def losses(self, part: Observations, answers: Answers) -> Array:
        """Absolute errors over the mean absolute truth, which is the same for every model on the same rows."""
        truth = part.targets[self.config.target]
        size = max(float(np.average(np.abs(truth), weights=part.weight)), _TINY)
        losses: Array = np.abs(truth - answers[self.config.output]) / size
        return losses

    def right(self, part: Observations, answers: Answers) -> None:
        return None  # nothing is decided

    def figures(self, part: Observations, answers: Answers) -> dict[str, Callable[[Array], float]]:
        """WAPE and bias; of an interval the coverage and its distance from what was promised."""
        truth, forecast = part.targets[self.config.target], answers[self.config.output]
        size, error = part.weight * np.abs(truth), part.weight * (forecast - truth)
        figures: dict[str, Callable[[Array], float]] = {
            "wape": lambda weight: float(weight @ np.abs(error) / max(float(weight @ size), _TINY)),
            "bias": lambda weight: float(weight @ error / max(float(weight @ size), _TINY)),
        }
        if self.config.lower is None or self.config.upper is None or self.config.lower not in answers:
            return figures
        covered = (truth >= answers[self.config.lower]) & (truth <= answers[self.config.upper])

        def coverage(weight: Array) -> float:
            return float(np.average(covered, weights=part.weight * weight))

        promised = self.config.coverage
        return figures | {
            "coverage": coverage,
            "coverage_error": lambda weight: abs(coverage(weight) - promised),
        }

    def metrics(self, part: Observations, answers: Answers) -> dict[str, float]:
        """WAPE, MAE, RMSE, bias, MAPE and its median; coverage, width and pinball loss of the interval.

        MAPE and its median leave out truths of zero, where they are not defined; a share of
        them is ``zero_share``.
        """
        truth, forecast = part.targets[self.config.target], answers[self.config.output]
        error, weight = forecast - truth, part.weight
        size = max(float(np.sum(weight * np.abs(truth))), _TINY)
        relative = np.abs(error[truth != 0] / truth[truth != 0])
        figures = {
            "wape": float(np.sum(weight * np.abs(error))) / size,
            "mae": float(np.average(np.abs(error), weights=weight)),
            "rmse": float(np.sqrt(np.average(error**2, weights=weight))),
            "bias": float(np.sum(weight * error)) / size,
            "mape": float(np.mean(relative)) if len(relative) else float("nan"),
            "median_ape": float(np.median(relative)) if len(relative) else float("nan"),
            "zero_share": float(np.mean(truth == 0)),
        }
        return figures | self._interval(part, answers, size)

    def _interval(self, part: Observations, answers: Answers, size: float) -> dict[str, float]:
        if self.config.lower is None or self.config.upper is None or self.config.lower not in answers:
            return {}
        truth, weight = part.targets[self.config.target], part.weight
        lower, upper = answers[self.config.lower], answers[self.config.upper]
        tail = (1 - self.config.coverage) / 2
        covered = (truth >= lower) & (truth <= upper)
        losses = pinball(truth, lower, tail) + pinball(truth, upper, 1 - tail)
        coverage = float(np.average(covered, weights=weight))
        return {
            "coverage": coverage,
            "coverage_error": abs(coverage - self.config.coverage),
            "interval_width": float(np.sum(weight * (upper - lower))) / size,
            "pinball": float(np.sum(weight * losses)) / 2 / size,
        }

    def baselines(
        self, train: Observations, part: Observations, inputs: tuple[InputField, ...]
    ) -> dict[str, Answers]:
        """The naive and the seasonal-naive forecast by the spec's inputs, or else the train median.

        Where the naive input is missing, the median of the training part stands in.
        """
        median = float(np.nanmedian(train.targets[self.config.target]))
        wanted = {"naive": self.config.naive, "seasonal naive": self.config.seasonal_naive}
        answers: dict[str, Answers] = {}
        for name, column in wanted.items():
            if column is not None:
                values = part.columns[column].astype(np.float64)
                filled = np.where(np.isnan(values), median, values)
                answers[f"{name} ({column})"] = {self.config.output: filled}
        return answers or {"median of the training part": {self.config.output: np.full(len(part), median)}}

    def positives(self, part: Observations) -> None:
        return None

    def plots(self, part: Observations, answers: Answers) -> dict[str, Figure]:
        from models import plots

        truth = part.targets[self.config.target]
        forecast = answers[self.config.output]
        figures = {
            "forecast": plots.forecast(part, truth, answers, self.config),
            "errors": plots.errors(truth, forecast),
        }
        if self.config.lower in answers and self.config.upper in answers:
            within = (truth >= answers[self.config.lower]) & (truth <= answers[self.config.upper])
            figures["coverage"] = plots.coverage(part, within, self.config.coverage)
        return figures


def pinball(truth: Array, quantile: Array, level: float) -> Array:
    """Pinball loss of a quantile forecast, shape (n,) (Koenker and Bassett, 1978)."""
    above = truth - quantile
    loss: Array = np.maximum(level * above, (level - 1) * above)
    return loss
