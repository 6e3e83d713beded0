"""Plots of what goes into a model and comes of it over time: data, explanations, drift."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.plots import BLUE, GREY, ORANGE, axes, quiet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from models.base import Array

_COLUMNS = 3
_BINS = 30
_CATEGORIES = 8


def data_profile(parts: Mapping[str, Mapping[str, NDArray]], names: Sequence[str]) -> Figure:
    """How inputs are distributed in each of two parts, and how much of them is missing.

    Args:
        parts: Columns by name, by part; numbers with NaN, or objects with None, where missing.
        names: Which inputs, weightiest first.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = -(-len(names) // _COLUMNS)
    figure = Figure(figsize=(9.6, 1.0 + 1.7 * lines), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    grid = figure.subplots(lines, _COLUMNS, squeeze=False)
    for plot, name in zip(grid.flat, names, strict=False):
        columns = {part: values[name] for part, values in parts.items()}
        if next(iter(columns.values())).dtype == object:
            _categories(plot, columns)
        else:
            _numbers(plot, columns)
        missing = ", ".join(
            f"{share:.1%}" for share in (_missing(each) for each in columns.values()) if share
        )
        plot.set_title(f"{name}\nmissing {missing}" if missing else name, loc="left", fontsize=8)
        plot.tick_params(labelsize=7)
        plot.set_yticks([])
        quiet(plot)
        plot.spines["left"].set_visible(False)
    for plot in grid.flat[len(names) :]:
        plot.set_axis_off()
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=len(parts), frameon=False)
    figure.suptitle("Data, by weight of the input", x=0.01, ha="left", fontweight="bold")
    return figure


def _numbers(plot: Axes, columns: Mapping[str, NDArray]) -> None:
    known = {part: values[np.isfinite(values)] for part, values in columns.items()}
    together = np.concatenate(list(known.values()))
    if not len(together):
        return
    # Of nearly all: one broken value would press the others into one bin.
    low, high = np.quantile(together, [0.005, 0.995])
    edges = np.linspace(low, high if high > low else low + 1, _BINS + 1)
    for (part, values), colour, filled in zip(known.items(), (GREY, BLUE), (True, False), strict=False):
        plot.hist(
            np.clip(values, edges[0], edges[-1]),
            edges.tolist(),
            weights=np.full(len(values), 1 / max(len(values), 1)),
            histtype="stepfilled" if filled else "step",
            color=colour,
            alpha=0.35 if filled else 1.0,
            linewidth=1.4,
            label=part,
        )


def _categories(plot: Axes, columns: Mapping[str, NDArray]) -> None:
    known = {
        part: values[[value is not None for value in values]].astype(str) for part, values in columns.items()
    }
    names, counts = np.unique(np.concatenate(list(known.values())), return_counts=True)
    shown = names[np.argsort(-counts, kind="stable")][:_CATEGORIES]
    place, width = np.arange(len(shown)), 0.8 / len(known)
    for number, ((part, values), colour) in enumerate(zip(known.items(), (GREY, BLUE), strict=False)):
        share = [float(np.mean(values == name)) if len(values) else 0.0 for name in shown]
        plot.bar(
            place + (number - 0.5) * width,
            share,
            width,
            color=colour,
            alpha=0.6 if number == 0 else 1,
            label=part,
        )
    plot.set_xticks(place, [name[:10] for name in shown], rotation=30)


def _missing(values: NDArray) -> float:
    absent = [value is None for value in values] if values.dtype == object else np.isnan(values)
    return float(np.mean(absent)) if len(values) else 0.0


def explanation(
    shares: Mapping[str, Array], values: Mapping[str, NDArray], of: str, top: int = 12, seed: int = 0
) -> Figure:
    """What inputs add to the raw answer, a dot per row, coloured by the input's own value.

    The summary plot of TreeSHAP (Lundberg et al., 2020).

    Args:
        shares: What each input adds, shape (n,).
        values: The inputs, shape (n,); where one is no number, or missing, its dots are grey.
        of: Which answer is explained.
    """
    weight = {name: float(np.mean(np.abs(share))) for name, share in shares.items()}
    chosen = sorted(weight, key=lambda name: weight[name])[-top:]
    figure, plot = axes(
        f"What inputs add: {of}", "Added to the raw answer", "", height=1.0 + 0.32 * len(chosen), width=7.2
    )
    generator = np.random.default_rng(seed)
    for place, name in enumerate(chosen):
        share = np.asarray(shares[name], dtype=np.float64)
        rank = _ranks(values.get(name), len(share))
        height = place + generator.uniform(-0.28, 0.28, len(share))
        known = np.isfinite(rank)
        plot.scatter(share[~known], height[~known], s=6, color=GREY, alpha=0.5, linewidths=0)
        dots = plot.scatter(
            share[known], height[known], s=7, c=rank[known], cmap="cividis", vmin=0, vmax=1, linewidths=0
        )
    plot.axvline(0, color=GREY, linewidth=0.8)
    plot.set_yticks(range(len(chosen)), chosen)
    if chosen:
        scale = figure.colorbar(dots, ax=plot, ticks=[0, 1], fraction=0.03, pad=0.02)
        scale.set_ticklabels(["low", "high"])
        scale.set_label("value of the input", labelpad=-18)
        scale.outline.set_visible(False)
    return figure


def _ranks(values: NDArray | None, rows: int) -> Array:
    """Ranks from 0 to 1; NaN where the value is missing or no number."""
    if values is None or values.dtype == object:
        return np.full(rows, np.nan)
    numbers = values.astype(np.float64)
    ranks = np.full(rows, np.nan)
    known = np.isfinite(numbers)
    order = np.searchsorted(np.sort(numbers[known]), numbers[known])
    ranks[known] = order / max(int(known.sum()) - 1, 1)
    return ranks


def drift_over_time(
    days: NDArray[np.datetime64], scores: Array, alarm: NDArray[np.bool_], asks_from: float | None
) -> Figure:
    """The drift score of each check.

    Args:
        days: End of each checked window, ascending.
        scores: Share of tested columns that drifted, weighted by importance; NaN: not enough data.
        alarm: Checks that raised an alarm.
        asks_from: Score above which a training is asked for.
    """
    figure, plot = axes("Drift over time", "End of the window (UTC)", "Drift score")
    plot.plot(days, scores, "o-", color=BLUE, linewidth=1.2, markersize=4, label="drift score")
    plot.plot(days[alarm], scores[alarm], "o", color=ORANGE, markersize=6, label="alarm")
    if asks_from is not None:
        plot.axhline(
            asks_from, color=GREY, linestyle=":", label=f"a training is asked for above {asks_from:g}"
        )
    plot.set_ylim(0, min(1.05, 1.2 * max(0.4, asks_from or 0.0, float(np.nanmax(scores, initial=0.0)))))
    plot.tick_params(axis="x", labelrotation=30)
    plot.legend(frameon=False)
    return figure
