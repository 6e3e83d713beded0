"""Plots of a run, in one style: what a person would rather look at than read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.metrics import RankedLabels, calibration_bins

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from models.base import Answers, Array, Observations
    from models.specs import Forecast

# Okabe and Ito's palette: told apart by all common kinds of colour vision.
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"


def precision_recall(label: NDArray, score: Array, weight: Array, max_false_positive_rate: float) -> Figure:
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(label, score, sample_weight=weight)
    ranked = RankedLabels(label, score)
    _, at_recall, rate, at_precision = ranked.operating_point(weight, max_false_positive_rate)
    figure, plot = axes("Precision and recall", "Recall", "Precision")
    plot.step(
        recall,
        precision,
        where="post",
        color=BLUE,
        label=f"average precision {ranked.average_precision(weight):.3f}",
    )
    plot.axhline(
        float(np.average(label, weights=weight)),
        color=GREY,
        linestyle=":",
        label="share of positives",
    )
    plot.plot(
        [at_recall],
        [at_precision],
        "o",
        color=ORANGE,
        label=f"{rate:.2%} false positives: recall {at_recall:.2f}",
    )
    plot.set(xlim=(0, 1), ylim=(0, 1.02))
    plot.legend(frameon=False)
    return figure


def calibration(label: NDArray, probability: Array, weight: Array) -> Figure:
    bins = calibration_bins(label, probability, weight)
    figure, plot = axes("Calibration", "Predicted probability", "Observed frequency")
    top = max(max(mean, share) for mean, share, _ in bins) * 1.05
    plot.plot([0, top], [0, top], color=GREY, linestyle=":", label="perfect")
    plot.plot(
        [mean for mean, _, _ in bins],
        [share for _, share, _ in bins],
        "o-",
        color=BLUE,
        label="tenths of the rows",
    )
    plot.legend(frameon=False)
    return figure


def scores(label: NDArray, probability: Array, weight: Array, alarm_threshold: float) -> Figure:
    figure, plot = axes("Scores", "Predicted probability", "Share of the class")
    edges = np.linspace(0, 1, 41).tolist()
    for value, colour, name in ((0, BLUE, "nothing happened"), (1, ORANGE, "it happened")):
        rows = label == value
        share = weight[rows] / np.sum(weight[rows])
        plot.hist(
            probability[rows], edges, weights=share, histtype="step", linewidth=1.6, color=colour, label=name
        )
    plot.axvline(alarm_threshold, color=GREY, linestyle=":", label=f"alarm from {alarm_threshold:.2f}")
    plot.set_yscale("log")
    plot.legend(frameon=False)
    return figure


def forecast(
    part: Observations, truth: Array, answers: Answers, config: Forecast, points: int = 300
) -> Figure:
    """Truth, forecast and interval of the entity with the most rows, its newest points."""
    names, counts = np.unique(part.entity.astype(str), return_counts=True)
    entity = names[np.argmax(counts)]
    rows = np.flatnonzero(part.entity.astype(str) == entity)
    rows = rows[np.argsort(part.time[rows], kind="stable")][-points:]
    figure, plot = axes(f"Forecast of {entity}", "Asked at (UTC)", config.target.replace("_", " "))
    at = part.time[rows]
    if config.lower in answers and config.upper in answers:
        lower, upper = answers[str(config.lower)][rows], answers[str(config.upper)][rows]
        plot.fill_between(
            at, lower, upper, color=BLUE, alpha=0.18, linewidth=0, label=f"{config.coverage:.0%} interval"
        )
    plot.plot(at, truth[rows], color=GREY, linewidth=1, label="what came")
    plot.plot(at, answers[config.output][rows], color=BLUE, linewidth=1.2, label="forecast")
    plot.tick_params(axis="x", labelrotation=30)
    plot.legend(frameon=False)
    return figure


def errors(truth: Array, forecast: Array) -> Figure:
    """Truth against forecast, the density of rows as shade."""
    figure, plot = axes("Forecast against truth", "Forecast", "Truth")
    positive = bool(np.all(truth >= 0)) and bool(np.all(forecast >= 0))
    scale = "symlog" if positive else "linear"
    plot.set(xscale=scale, yscale=scale)
    rows = np.linspace(0, len(truth) - 1, min(len(truth), 4000)).astype(int)
    plot.plot(forecast[rows], truth[rows], ".", color=BLUE, alpha=0.25, markersize=3)
    ends = [float(np.min(truth)), float(np.max(truth))]
    plot.plot(ends, ends, color=GREY, linestyle=":", label="perfect")
    plot.legend(frameon=False)
    return figure


def score_over_time(
    part: Observations,
    label: Array,
    score: Array,
    called: NDArray[np.bool_] | None = None,
    *,
    name: str = "Score",
    labelled: str = "labelled abnormal",
    calling: str = "called abnormal",
    points: int = 3000,
) -> Figure:
    """Score of the entity with the most rows of label 1, these stretches shaded, and what was called.

    Args:
        label: 1, 0, or NaN where nobody knows.
        called: Rows that the model raised an alarm on.
        labelled, calling: What the shade and the dots mean.
    """
    names, index = np.unique(part.entity.astype(str), return_inverse=True)
    abnormal = np.bincount(index, weights=np.nan_to_num(label))
    chosen = int(np.argmax(abnormal))
    rows = np.flatnonzero(index == chosen)
    rows = rows[np.argsort(part.time[rows], kind="stable")][-points:]
    figure, plot = axes(f"{name} of {names[chosen]}", "Time (UTC)", name)
    at, shown = part.time[rows], score[rows]
    top = float(np.nanmax(shown)) if len(shown) else 1.0
    plot.fill_between(
        at, 0, top, where=label[rows] == 1, color=ORANGE, alpha=0.25, linewidth=0, label=labelled
    )
    plot.plot(at, shown, color=BLUE, linewidth=0.8, label=name.lower())
    if called is not None:
        alarms = rows[called[rows]]
        plot.plot(part.time[alarms], score[alarms], ".", color=ORANGE, label=calling)
    plot.tick_params(axis="x", labelrotation=30)
    plot.legend(frameon=False)
    return figure


def coverage(part: Observations, covered: NDArray[np.bool_], promised: float, spans: int = 12) -> Figure:
    """Share of truths that the interval held, over time, beside what it promises.

    Args:
        covered: Rows whose truth lies within.
        promised: Share that should.
    """
    figure, plot = axes("Coverage of the interval", "Asked at (UTC)", "Share of truths within")
    order = np.argsort(part.time, kind="stable")
    parts = [rows for rows in np.array_split(order, spans) if len(rows)]
    at = np.array([part.time[rows[len(rows) // 2]] for rows in parts])
    shares = [float(np.average(covered[rows], weights=part.weight[rows])) for rows in parts]
    plot.axhline(promised, color=GREY, linestyle=":", label=f"promised {promised:.0%}")
    plot.plot(
        at, shares, "o-", color=BLUE, label=f"{float(np.average(covered, weights=part.weight)):.1%} in all"
    )
    plot.set_ylim(min(*shares, promised) - 0.05, 1.0)
    plot.tick_params(axis="x", labelrotation=30)
    plot.legend(frameon=False)
    return figure


def importance(shares: dict[str, float], top: int = 20) -> Figure:
    largest = sorted(shares.items(), key=lambda item: item[1])[-top:]
    figure, plot = axes("Importance", "Share of the total", "", height=0.5 + 0.28 * len(largest))
    plot.barh([name for name, _ in largest], [share for _, share in largest], color=BLUE)
    return figure


def tuning_history(values: Sequence[float | None], metric: str) -> Figure:
    figure, plot = axes("Tuning", "Trial", metric.replace("_", " "))
    numbers = [number for number, value in enumerate(values) if value is not None]
    reached = np.array([value for value in values if value is not None])
    plot.plot(numbers, reached, "o", color=BLUE, label="trial")
    plot.step(numbers, np.maximum.accumulate(reached), where="post", color=ORANGE, label="best so far")
    plot.legend(frameon=False)
    return figure


def axes(title: str, x: str, y: str, height: float = 4.0, width: float = 6.4) -> tuple[Figure, Axes]:
    """One pair of axes in the one style; sizes in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # No pyplot: it keeps every figure alive, and a worker lives long.
    figure = Figure(figsize=(width, height), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    plot = figure.add_subplot()
    plot.set_title(title, loc="left", fontweight="bold")
    plot.set_xlabel(x)
    plot.set_ylabel(y)
    quiet(plot)
    return figure, plot


def quiet(plot: Axes) -> None:
    """No frame that says nothing, and a grid that stays behind the data."""
    plot.spines[["top", "right"]].set_visible(False)
    plot.grid(visible=True, color="#dddddd", linewidth=0.6)
    plot.set_axisbelow(True)
