"""Plots of a run: precision-recall, calibration, scores, importance, tuning history."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.base import Observations
from models.metrics import RankedLabels, calibration_bins

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart by all common kinds of colour vision.
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"


def precision_recall(
    part: Observations, probability: NDArray[np.float64], max_false_positive_rate: float
) -> Figure:
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(part.label, probability, sample_weight=part.weight)
    ranked = RankedLabels(part.label, probability)
    _, at_recall, rate, at_precision = ranked.operating_point(part.weight, max_false_positive_rate)
    figure, axes = _axes("Precision and recall", "Recall", "Precision")
    axes.step(
        recall,
        precision,
        where="post",
        color=BLUE,
        label=f"average precision {ranked.average_precision(part.weight):.3f}",
    )
    axes.axhline(
        float(np.average(part.label, weights=part.weight)),
        color=GREY,
        linestyle=":",
        label="share of positives",
    )
    axes.plot(
        [at_recall],
        [at_precision],
        "o",
        color=ORANGE,
        label=f"{rate:.2%} false positives: recall {at_recall:.2f}",
    )
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(frameon=False)
    return figure


def calibration(part: Observations, probability: NDArray[np.float64]) -> Figure:
    bins = calibration_bins(part.label, probability, part.weight)
    figure, axes = _axes("Calibration", "Predicted probability", "Observed frequency")
    top = max(max(mean, share) for mean, share, _ in bins) * 1.05
    axes.plot([0, top], [0, top], color=GREY, linestyle=":", label="perfect")
    axes.plot(
        [mean for mean, _, _ in bins],
        [share for _, share, _ in bins],
        "o-",
        color=BLUE,
        label="tenths of the rows",
    )
    axes.legend(frameon=False)
    return figure


def scores(part: Observations, probability: NDArray[np.float64], alarm_threshold: float) -> Figure:
    figure, axes = _axes("Scores", "Predicted probability", "Share of the class")
    edges = np.linspace(0, 1, 41).tolist()
    for value, colour, name in ((0, BLUE, "nothing happened"), (1, ORANGE, "it happened")):
        rows = part.label == value
        weight = part.weight[rows] / np.sum(part.weight[rows])
        axes.hist(
            probability[rows], edges, weights=weight, histtype="step", linewidth=1.6, color=colour, label=name
        )
    axes.axvline(alarm_threshold, color=GREY, linestyle=":", label=f"alarm from {alarm_threshold:.2f}")
    axes.set_yscale("log")
    axes.legend(frameon=False)
    return figure


def importance(shares: dict[str, float], top: int = 20) -> Figure:
    largest = sorted(shares.items(), key=lambda item: item[1])[-top:]
    figure, axes = _axes("Importance", "Share of the total gain", "", height=0.5 + 0.28 * len(largest))
    axes.barh([name for name, _ in largest], [share for _, share in largest], color=BLUE)
    return figure


def tuning_history(values: Sequence[float | None], metric: str) -> Figure:
    figure, axes = _axes("Tuning", "Trial", metric.replace("_", " "))
    numbers = [number for number, value in enumerate(values) if value is not None]
    reached = np.array([value for value in values if value is not None])
    axes.plot(numbers, reached, "o", color=BLUE, label="trial")
    axes.step(numbers, np.maximum.accumulate(reached), where="post", color=ORANGE, label="best so far")
    axes.legend(frameon=False)
    return figure


def _axes(title: str, x: str, y: str, height: float = 4.0) -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # No pyplot: it keeps every figure alive, and a worker lives long.
    figure = Figure(figsize=(6.4, height), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontweight="bold")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes
