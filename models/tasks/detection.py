"""How abnormal a row is, learned without labels and judged by those there are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.base import Answers, Array, Observations, Statistic
from models.manifest import FieldType, InputField
from models.metrics import RankedLabels
from models.specs import Detection
from models.tasks.classification import AveragePrecision, alarm_figures, alarm_metrics, right_alarms

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class DetectionTask:
    """Judges ``score`` and ``abnormal``, row by row and event by event, without point adjustment.

    Rows whose label is not known are left out of every figure but the share of alarms.
    """

    config: Detection
    target: str

    @property
    def objective(self) -> str:
        return "average precision"

    @property
    def answer(self) -> str:
        return "abnormal"

    def statistic(self, part: Observations, answers: Answers) -> Statistic:
        """Average precision where there are labels; else minus the excess of alarms over the budget."""
        known = self._known(part)
        if self._positives(part):
            ranked = RankedLabels(part.targets[self.target][known], answers["score"][known])
            return AveragePrecision(ranked, part.weight, known)
        alarm = answers["abnormal"].astype(np.float64)
        budget = self.config.max_false_positive_rate
        return lambda weight: -abs((part.weight * alarm) @ weight / (part.weight @ weight) - budget)

    def losses(self, part: Observations, answers: Answers) -> None:
        return None  # average precision is of the order of all rows

    def right(self, part: Observations, answers: Answers) -> Array | None:
        if "abnormal" not in answers or not self._positives(part):
            return None
        return right_alarms(part.targets[self.target], answers["abnormal"])

    def figures(self, part: Observations, answers: Answers) -> dict[str, Callable[[Array], float]]:
        """Average precision and what the alarms did where there are labels; the share of alarms."""
        figures: dict[str, Callable[[Array], float]] = {}
        if "abnormal" in answers:
            alarm = answers["abnormal"].astype(np.float64)
            figures["alarm_share"] = lambda weight: float(np.average(alarm, weights=part.weight * weight))
        if self._positives(part):
            figures["average_precision"] = self.statistic(part, answers)
            if "abnormal" in answers:
                figures |= alarm_figures(
                    part.targets[self.target], answers["abnormal"].astype(bool), part.weight
                )
        return figures

    def metrics(self, part: Observations, answers: Answers) -> dict[str, float]:
        """Average precision, recall and precision at the served threshold, events found, alarms."""
        known, figures = self._known(part), {}
        if "abnormal" in answers:
            alarm = answers["abnormal"].astype(bool)
            figures["alarm_share"] = float(np.average(alarm, weights=part.weight))
        if not self._positives(part):
            return figures
        label, weight = part.targets[self.target][known], part.weight[known]
        ranked = RankedLabels(label, answers["score"][known])
        _, recall, rate, precision = ranked.operating_point(weight, self.config.max_false_positive_rate)
        figures |= {
            "average_precision": ranked.average_precision(weight),
            "recall": recall,
            "false_positive_rate": rate,
            "precision": precision,
            "prevalence": float(np.average(label, weights=weight)),
        }
        if "abnormal" in answers:
            alarm = answers["abnormal"].astype(bool)[known]
            figures |= alarm_metrics(label, alarm, weight)
            events = event_numbers(part.entity[known], part.time[known], label)
            figures["event_recall"] = event_recall(events, alarm)
            figures["events"] = float(np.max(events, initial=-1) + 1)
        return figures

    def baselines(
        self, train: Observations, part: Observations, inputs: tuple[InputField, ...]
    ) -> dict[str, Answers]:
        """A constant, and the largest robust z-score of any feature (median and IQR of the training part)."""
        largest = np.zeros(len(part))
        for field in inputs:
            if field.type is FieldType.STRING or field.name not in train.columns:
                continue
            low, middle, high = np.nanquantile(train.columns[field.name], [0.25, 0.5, 0.75])
            if high > low:
                deviation = np.abs(part.columns[field.name] - middle) / (high - low)
                largest = np.fmax(largest, deviation)
        return {"constant": {"score": np.zeros(len(part))}, "largest robust z-score": {"score": largest}}

    def positives(self, part: Observations) -> int | None:
        return self._positives(part) or None

    def plots(self, part: Observations, answers: Answers) -> dict[str, Figure]:
        from models import plots

        label = part.targets[self.target]
        called = answers["abnormal"].astype(bool) if "abnormal" in answers else None
        figures = {"score_over_time": plots.score_over_time(part, label, answers["score"], called)}
        if self._positives(part):
            known = self._known(part)
            figures["precision_recall"] = plots.precision_recall(
                label[known],
                answers["score"][known],
                part.weight[known],
                self.config.max_false_positive_rate,
            )
        return figures

    def _known(self, part: Observations) -> NDArray[np.bool_]:
        return ~np.isnan(part.targets[self.target])

    def _positives(self, part: Observations) -> int:
        return int(np.nansum(part.targets[self.target]))


def event_numbers(entity: NDArray, time: NDArray, label: NDArray) -> NDArray[np.int64]:
    """Number of the event that each row belongs to, -1 for none, shape (n,).

    An event is a run of abnormal rows of one entity with no normal row between.
    """
    order = np.lexsort((time, entity.astype(str)))
    abnormal = label[order] == 1
    ordered = entity[order].astype(str)
    begins = abnormal & (np.append(True, ordered[1:] != ordered[:-1]) | np.append(True, ~abnormal[:-1]))
    numbers = np.where(abnormal, np.cumsum(begins) - 1, -1)
    result = np.empty(len(label), dtype=np.int64)
    result[order] = numbers
    return result


def event_recall(events: NDArray[np.int64], alarm: NDArray[np.bool_]) -> float:
    """Share of events with an alarm in at least one of their rows; NaN without events."""
    total = int(np.max(events, initial=-1)) + 1
    if total == 0:
        return float("nan")
    return len(np.unique(events[alarm & (events >= 0)])) / total
