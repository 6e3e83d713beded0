"""Plots of sizing decisions: what they cost beyond hindsight, and whether their risk came true."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.base import Array
from models.plots import BLUE, GREY, ORANGE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RISK_BINS = 8


def regret(by_name: Mapping[str, Array]) -> Figure:
    """Share of machine-weeks whose regret is at most so many USD."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for (name, values), colour in zip(by_name.items(), (BLUE, ORANGE, GREY), strict=False):
        axes.step(
            np.sort(values),
            np.arange(1, len(values) + 1) / len(values),
            where="post",
            color=colour,
            label=f"{name}: {np.mean(values):.2f} USD in the mean",
        )
    axes.set(xlabel="Regret, USD per machine and week", ylabel="Share of machine-weeks", title="Regret")
    axes.legend(frameon=False, loc="lower right")
    return figure


def risk(told: Array, short: NDArray[np.bool_]) -> Figure:
    """Told risk of the chosen sizes against the share that came to be short."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    parts = [part for part in np.array_split(np.argsort(told, kind="stable"), RISK_BINS) if len(part)]
    means = [float(np.mean(told[part])) for part in parts]
    shares = [float(np.mean(short[part])) for part in parts]
    top = max(*means, *shares, 0.01) * 1.05
    axes.plot([0, top], [0, top], color=GREY, linestyle=":", label="perfect")
    axes.plot(means, shares, "o-", color=BLUE, label=f"{len(told)} choices")
    axes.set(xlabel="Risk told", ylabel="Share that was short", title="Risk of the chosen sizes")
    axes.legend(frameon=False)
    return figure


def trade_off(curves: Mapping[str, tuple[Array, Array]], marks: Mapping[str, tuple[float, float]]) -> Figure:
    """Price against short weeks: a curve per policy over its setting, and single points.

    Args:
        curves: By policy, price (USD a week) and share of short weeks.
        marks: By name, one price and share.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 4.5), layout="constrained")
    axes = figure.subplots()
    colours = (BLUE, ORANGE, "#009E73", "#CC79A7", GREY)
    for (name, (price, short)), colour in zip(curves.items(), colours, strict=False):
        axes.plot(price, short, "-", color=colour, label=name)
    for (name, (price_at, short_at)), marker in zip(marks.items(), "os^D", strict=False):
        axes.plot([price_at], [short_at], marker, color="black", label=name)
    axes.set(xlabel="Price, USD per machine and week", ylabel="Share of weeks that are short", yscale="log")
    axes.set_title("What being short less often costs")
    axes.legend(frameon=False)
    return figure
