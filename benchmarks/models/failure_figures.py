"""The figures of a failure model beside published ones, with intervals, and their plots."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.base import Observations
from models.metrics import RankedLabels, expected_calibration_error
from pipelines.evaluate.steps import cluster_weights, clusters

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

Array = NDArray[np.float64]
TARGET = "event"
RESAMPLES = 200
# README of backblaze_drives: recall by false-positive rate per drive-day.
BACKBLAZE_RECALL = {0.0005: 0.31, 0.001: 0.38, 0.005: 0.53, 0.01: 0.61, 0.05: 0.74}
BACKBLAZE_AUC = 0.92
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"


@dataclass(frozen=True)
class Figure:
    """One line of the results."""

    metric: str
    baseline: float | None
    ours: float
    interval: tuple[float, float] | None = None


def azure_figures(part: Observations, probability: Array, alarm_threshold: float, seed: int) -> list[Figure]:
    """Figures as the README of azure_pdm gives them, and those of the threshold that the model serves with."""
    label = part.targets[TARGET]
    ranked = RankedLabels(label, probability)

    def recall(threshold: float) -> Callable[[Array], float]:
        return lambda weight: alarms(label, probability, weight, threshold)[0]

    def precision(threshold: float) -> Callable[[Array], float]:
        return lambda weight: alarms(label, probability, weight, threshold)[1]

    wanted: list[tuple[str, float | None, Callable[[Array], float]]] = [
        ("average precision", 0.997, ranked.average_precision),
        ("recall at threshold 0.5", 0.957, recall(0.5)),
        ("precision at threshold 0.5", 0.985, precision(0.5)),
        ("recall at threshold 0.2", 0.979, recall(0.2)),
        ("precision at threshold 0.2", None, precision(0.2)),
        (f"recall at the alarm threshold ({alarm_threshold:.3g})", None, recall(alarm_threshold)),
        (f"precision at the alarm threshold ({alarm_threshold:.3g})", None, precision(alarm_threshold)),
        ("recall at 0.06 % false positives", None, lambda weight: ranked.operating_point(weight, 0.0006)[1]),
        ("expected calibration error", None, _calibration_error(part, probability)),
    ]
    return _measured(part, wanted, seed)


def backblaze_figures(part: Observations, probability: Array, seed: int) -> list[Figure]:
    """Figures as the README of backblaze_drives gives them; weights undo the sampling of drive-days."""
    label = part.targets[TARGET]
    ranked = RankedLabels(label, probability)
    # An alarm on a drive that fails after a week counts as false above; below only drives that
    # survive the data give false alarms.
    kept = (label == 1) | ~np.isin(part.entity, np.unique(part.entity[label == 1]))

    def at(rate: float, place: int, rows: NDArray) -> Callable[[Array], float]:
        return lambda weight: ranked.operating_point(weight * rows, rate)[place]

    everything = np.ones(len(part))
    wanted: list[tuple[str, float | None, Callable[[Array], float]]] = [
        (f"recall at {rate:.2%} false positives per drive-day", baseline, at(rate, 1, everything))
        for rate, baseline in BACKBLAZE_RECALL.items()
    ]
    wanted += [
        ("area under ROC", BACKBLAZE_AUC, lambda weight: area_under_roc(label, probability, weight)),
        ("average precision", None, ranked.average_precision),
    ]
    wanted += [
        (f"precision at {rate:.2%} false positives per drive-day", None, at(rate, 3, everything))
        for rate in (0.0005, 0.01)
    ]
    wanted += [
        (f"recall at {rate:.2%} false positives per day of surviving drives", None, at(rate, 1, kept))
        for rate in BACKBLAZE_RECALL
    ]
    wanted.append(("expected calibration error", None, _calibration_error(part, probability)))
    # Bins of equal weight say little where 1 row in 10,000 is positive: nearly all are near zero.
    wanted.append(
        (
            "failures expected over failures seen in the 1 % highest",
            None,
            lambda weight: expected_over_seen(label, probability, weight, 0.01),
        )
    )
    return _measured(part, wanted, seed)


def alarms(label: NDArray, probability: Array, weight: Array, threshold: float) -> tuple[float, float]:
    """``(recall, precision)`` of alarms from the threshold on; NaN where there is nothing to divide by."""
    positive, alarm = label == 1, probability >= threshold
    hits = float(np.sum(weight[positive & alarm]))
    return _ratio(hits, float(np.sum(weight[positive]))), _ratio(hits, float(np.sum(weight[alarm])))


def expected_over_seen(label: NDArray, probability: Array, weight: Array, share: float) -> float:
    """Sum of the probabilities over the number of positives among the rows of highest probability.

    Args:
        share: Of the weight of all rows.
    """
    order = np.argsort(-probability, kind="stable")
    rows = order[np.cumsum(weight[order]) <= share * np.sum(weight)]
    return _ratio(float(np.sum(weight[rows] * probability[rows])), float(np.sum(weight[rows] * label[rows])))


def area_under_roc(label: NDArray, probability: Array, weight: Array) -> float:
    """Probability that a positive row scores above a negative one, ties counting half."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(label, probability, sample_weight=weight))


def plot_azure(part: Observations, probability: Array, file: Path) -> None:
    """Precision over recall, with the README's operating point."""
    canvas, axes = _canvas(1)
    _precision_recall(axes[0], part, probability, BLUE, "this model")
    axes[0].plot([0.957], [0.985], "o", color=ORANGE, label="README: threshold 0.5")
    axes[0].set(title="azure_pdm", xlim=(0.5, 1.01), ylim=(0.5, 1.01))
    axes[0].legend(frameon=False, loc="lower left")
    canvas.savefig(file)


def plot_backblaze(models: Mapping[str, tuple[Observations, Array]], file: Path) -> None:
    """Precision over recall, and recall over the false-positive rate with the README's points.

    Args:
        models: One or two, by name; the last is drawn in colour.
    """
    canvas, axes = _canvas(2)
    rates = np.geomspace(1e-4, 1, 120)
    colours = (GREY, BLUE)[-len(models) :]  # the last is the one to look at
    for (name, (part, probability)), colour in zip(models.items(), colours, strict=True):
        _precision_recall(axes[0], part, probability, colour, name)
        ranked = RankedLabels(part.targets[TARGET], probability)
        axes[1].plot(
            rates, [ranked.operating_point(part.weight, rate)[1] for rate in rates], color=colour, label=name
        )
    axes[1].plot(
        list(BACKBLAZE_RECALL),
        list(BACKBLAZE_RECALL.values()),
        "o",
        color=ORANGE,
        label="README: other drives, all days",
    )
    axes[0].set(title="backblaze_drives", yscale="log", xlim=(0, 1))
    axes[1].set(
        xscale="log", xlabel="False positives per drive-day", ylabel="Recall", xlim=(1e-4, 1), ylim=(0, 1)
    )
    axes[1].legend(frameon=False, loc="lower right")
    canvas.savefig(file)


def _measured(
    part: Observations, wanted: list[tuple[str, float | None, Callable[[Array], float]]], seed: int
) -> list[Figure]:
    drawn = cluster_weights(clusters(part, block=None), RESAMPLES, seed)
    resampled: list[list[float]] = [[] for _ in wanted]
    for number in range(RESAMPLES):
        weight = part.weight * drawn(number)
        for values, (_, _, measure) in zip(resampled, wanted, strict=True):
            values.append(measure(weight))
    figures = []
    for values, (metric, baseline, measure) in zip(resampled, wanted, strict=True):
        low, high = np.nanquantile(values, [0.025, 0.975])
        figures.append(Figure(metric, baseline, measure(part.weight), (float(low), float(high))))
    return figures


def _calibration_error(part: Observations, probability: Array) -> Callable[[Array], float]:
    return lambda weight: expected_calibration_error(part.targets[TARGET], probability, weight)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else float("nan")


def _canvas(plots: int) -> tuple[Canvas, list[Axes]]:
    from matplotlib import figure
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = figure.Figure(figsize=(6.0 * plots, 4.0), layout="constrained", dpi=90)
    FigureCanvasAgg(canvas)
    axes = [canvas.add_subplot(1, plots, number + 1) for number in range(plots)]
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
        each.grid(visible=True, color="#dddddd", linewidth=0.6)
    return canvas, axes


def _precision_recall(axes: Axes, part: Observations, probability: Array, colour: str, name: str) -> None:
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(
        part.targets[TARGET], probability, sample_weight=part.weight
    )
    axes.step(recall[:-1], precision[:-1], where="post", color=colour, label=name)
    axes.set(xlabel="Recall", ylabel="Precision")
