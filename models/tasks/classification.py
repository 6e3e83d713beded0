"""Probabilities of an event that comes or not, rare ones above all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.base import Answers, Array, Observations, Statistic
from models.manifest import FieldType, InputField
from models.metrics import BinnedProbabilities, RankedLabels, expected_calibration_error
from models.specs import Classification

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class ClassificationTask:
    """Judges ``probability`` and, where the model gives one, ``alarm``.

    Args:
        config: Of the spec.
        target: Name of the target, 0 or 1.
    """

    config: Classification
    target: str

    @property
    def objective(self) -> str:
        return "average precision"

    @property
    def answer(self) -> str:
        return "alarm"

    def statistic(self, part: Observations, answers: Answers) -> Statistic:
        ranked = RankedLabels(part.targets[self.target], answers["probability"])
        return AveragePrecision(ranked, part.weight)

    def losses(self, part: Observations, answers: Answers) -> None:
        return None  # average precision is of the order of all rows

    def right(self, part: Observations, answers: Answers) -> Array | None:
        if "alarm" not in answers:
            return None
        return right_alarms(part.targets[self.target], answers["alarm"])

    def figures(self, part: Observations, answers: Answers) -> dict[str, Callable[[Array], float]]:
        """Average precision; of a model also its calibration error and what the alarms did."""
        label, probability = part.targets[self.target], answers["probability"]
        figures = {"average_precision": self.statistic(part, answers)}
        if "alarm" in answers:
            binned = BinnedProbabilities(label, probability)
            figures["calibration_error"] = lambda weight: binned.calibration_error(part.weight * weight)
            figures |= alarm_figures(label, answers["alarm"].astype(bool), part.weight)
        return figures

    def metrics(self, part: Observations, answers: Answers) -> dict[str, float]:
        """Average precision, the operating point, calibration, and what the alarms did."""
        label, probability = part.targets[self.target], answers["probability"]
        ranked = RankedLabels(label, probability)
        _, recall, rate, precision = ranked.operating_point(part.weight, self.config.max_false_positive_rate)
        figures = {
            "average_precision": ranked.average_precision(part.weight),
            "recall": recall,
            "false_positive_rate": rate,
            "precision": precision,
        }
        if "alarm" in answers:  # a model; a baseline's score ranks, but is no probability
            figures["calibration_error"] = expected_calibration_error(label, probability, part.weight)
            figures |= alarm_metrics(label, answers["alarm"].astype(bool), part.weight)
        return figures

    def baselines(
        self, train: Observations, part: Observations, inputs: tuple[InputField, ...]
    ) -> dict[str, Answers]:
        """The share of positives, and the best single feature.

        The feature and its direction are chosen on the training part, so that the baseline peeks
        at the holdout no more than the candidate does.
        """
        label = train.targets[self.target]
        prior = float(np.average(label, weights=train.weight))
        best_name, best_sign, best = "", 1.0, -1.0
        for field in inputs:
            if field.type is FieldType.STRING:
                continue
            for sign in (1.0, -1.0):
                values = _ordered(train.columns[field.name], sign)
                reached = RankedLabels(label, values).average_precision(train.weight)
                if reached > best:
                    best_name, best_sign, best = field.name, sign, reached
        answers: dict[str, Answers] = {"share of positives": {"probability": np.full(len(part), prior)}}
        if best_name:
            arrow = "high" if best_sign > 0 else "low"
            single = _ordered(part.columns[best_name], best_sign)
            answers[f"best single feature ({best_name}, {arrow})"] = {"probability": single}
        return answers

    def positives(self, part: Observations) -> int:
        return int(np.sum(part.targets[self.target]))

    def plots(self, part: Observations, answers: Answers) -> dict[str, Figure]:
        from models import plots

        label, probability = part.targets[self.target], answers["probability"]
        alarms = probability[answers["alarm"].astype(bool)]
        threshold = float(np.min(alarms)) if len(alarms) else 1.0
        bound = self.config.max_false_positive_rate
        return {
            "precision_recall": plots.precision_recall(label, probability, part.weight, bound),
            "calibration": plots.calibration(label, probability, part.weight),
            "scores": plots.scores(label, probability, part.weight, threshold),
            "probability_over_time": plots.score_over_time(
                part,
                label,
                probability,
                answers["alarm"].astype(bool),
                name="Probability",
                labelled="it came within the horizon",
                calling="alarm",
            ),
        }


def alarm_metrics(label: NDArray, alarm: NDArray[np.bool_], weight: Array) -> dict[str, float]:
    """Figures at the threshold that the model serves with, which was learned before the part."""
    positive = label == 1
    hits = float(np.sum(weight[alarm & positive]))

    def ratio(hit: float, mask: NDArray) -> float:
        return hit / max(float(np.sum(weight[mask])), np.finfo(float).tiny)

    return {
        "alarm_recall": ratio(hits, positive),
        "alarm_precision": ratio(hits, alarm),
        "alarm_false_positive_rate": ratio(float(np.sum(weight[alarm & ~positive])), ~positive),
    }


@dataclass(frozen=True)
class AveragePrecision:
    """Average precision as a statistic of the rows' weights, or of how often clusters are drawn.

    Attributes:
        ranked: Of the known rows.
        base: Weights that all rows have by themselves.
        known: Rows whose label is known; None: all.
    """

    ranked: RankedLabels
    base: Array
    known: NDArray[np.bool_] | None = None

    def __call__(self, weight: Array) -> Any:
        weights = weighed(self.base, weight)
        return self.ranked.average_precision(weights if self.known is None else weights[self.known])

    def by_cluster(self, cluster: NDArray[np.int64], count: int) -> Callable[[Array], Array] | None:
        known = slice(None) if self.known is None else self.known
        return self.ranked.precision_by_cluster(self.base[known], cluster[known], count)


def weighed(base: Array, weight: Array) -> Array:
    """Weights of shape (n,) or (n, k), times those that rows have by themselves."""
    return weight * (base if weight.ndim == 1 else base[:, None])


def alarm_figures(
    label: NDArray, alarm: NDArray[np.bool_], base: Array
) -> dict[str, Callable[[Array], float]]:
    """:func:`alarm_metrics` as functions of weights beside ``base``; rows of unknown label count nothing."""
    known = ~np.isnan(label)

    def figure(name: str) -> Callable[[Array], float]:
        return lambda weight: alarm_metrics(label[known], alarm[known], (base * weight)[known])[name]

    return {name: figure(name) for name in ("alarm_recall", "alarm_precision", "alarm_false_positive_rate")}


def right_alarms(label: NDArray, alarm: NDArray) -> Array:
    """1 where alarm and label agree, 0 where not, NaN where the label is not known; shape (n,)."""
    return np.where(np.isnan(label), np.nan, (alarm.astype(bool) == (label == 1)).astype(np.float64))


def _ordered(values: NDArray, sign: float) -> Array:
    """A feature as a score; a missing value ranks last."""
    return np.nan_to_num(sign * values.astype(np.float64), nan=-np.inf, posinf=np.inf, neginf=-np.inf)
