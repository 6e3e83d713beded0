"""How what-if answers are judged: as a forecast of the tail latency, and by their probabilities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from models.base import Answers, Array, Observations
from models.metrics import BinnedProbabilities, expected_calibration_error
from models.tasks.forecast import ForecastTask

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TAIL, MEDIAN, ERRORS = "latency_p95_ms", "latency_p50_ms", "error_percent"


@dataclass(frozen=True)
class PerformanceTask(ForecastTask):
    """The forecast's figures, those of the median latency, and those of the service level."""

    def metrics(self, part: Observations, answers: Answers) -> dict[str, float]:
        """Adds ``p50_wape``, and of the probability its calibration error, Brier score and the share passed."""
        figures = super().metrics(part, answers)
        if MEDIAN in answers:
            truth = part.targets[MEDIAN]
            figures["p50_wape"] = float(
                np.sum(part.weight * np.abs(truth - answers[MEDIAN])) / np.sum(part.weight * truth)
            )
        if "slo_probability" in answers:
            passed, probability = slo_passed(part, answers), answers["slo_probability"]
            figures["slo_calibration_error"] = expected_calibration_error(passed, probability, part.weight)
            figures["slo_brier"] = float(np.average((probability - passed) ** 2, weights=part.weight))
            figures["slo_share"] = float(np.average(passed, weights=part.weight))
        return figures

    def figures(self, part: Observations, answers: Answers) -> dict[str, Callable[[Array], float]]:
        """Adds the calibration error of the service level's probability."""
        figures = super().figures(part, answers)
        if "slo_probability" not in answers:
            return figures
        binned = BinnedProbabilities(slo_passed(part, answers), answers["slo_probability"])
        return figures | {
            "slo_calibration_error": lambda weight: binned.calibration_error(part.weight * weight)
        }

    def plots(self, part: Observations, answers: Answers) -> dict[str, Figure]:
        from models import plots

        passed = slo_passed(part, answers)
        return {
            **super().plots(part, answers),
            "slo_calibration": plots.calibration(passed, answers["slo_probability"], part.weight),
        }


def slo_passed(part: Observations, answers: Answers) -> Array:
    """1 where the tail latency passed the limit that the answer is about, else 0; shape (n,)."""
    return (part.targets[TAIL] > answers["slo_ms"]).astype(np.float64)
