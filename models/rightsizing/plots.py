"""Plots of sizing decisions: what they cost beyond hindsight, and whether their risk came true."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.base import Array
from models.plots import BLUE, GREY, ORANGE, axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RISK_BINS = 8


def regret(by_name: Mapping[str, Array]) -> Figure:
    """Share of machine-weeks whose regret is at most so many USD."""
    figure, plot = axes("Regret", "Regret, USD per machine and week", "Share of machine-weeks")
    for (name, values), colour in zip(by_name.items(), (BLUE, ORANGE, GREY), strict=False):
        plot.step(
            np.sort(values),
            np.arange(1, len(values) + 1) / len(values),
            where="post",
            color=colour,
            label=f"{name}: {np.mean(values):.2f} USD in the mean",
        )
    plot.legend(frameon=False, loc="lower right")
    return figure


def risk(told: Array, short: NDArray[np.bool_]) -> Figure:
    """Told risk of the chosen sizes against the share that came to be short."""
    figure, plot = axes("Risk of the chosen sizes", "Risk told", "Share that was short")
    parts = [part for part in np.array_split(np.argsort(told, kind="stable"), RISK_BINS) if len(part)]
    means = [float(np.mean(told[part])) for part in parts]
    shares = [float(np.mean(short[part])) for part in parts]
    top = max(*means, *shares, 0.01) * 1.05
    plot.plot([0, top], [0, top], color=GREY, linestyle=":", label="perfect")
    plot.plot(means, shares, "o-", color=BLUE, label=f"{len(told)} choices")
    plot.legend(frameon=False)
    return figure


def trade_off(curves: Mapping[str, tuple[Array, Array]], marks: Mapping[str, tuple[float, float]]) -> Figure:
    """Price against short weeks: a curve per policy over its setting, and single points.

    Args:
        curves: By policy, price (USD a week) and share of short weeks.
        marks: By name, one price and share.
    """
    figure, plot = axes(
        "What being short less often costs",
        "Price, USD per machine and week",
        "Share of weeks that are short",
        height=4.5,
    )
    plot.set_yscale("log")
    colours = (BLUE, ORANGE, "#009E73", "#CC79A7", GREY)
    for (name, (price, short)), colour in zip(curves.items(), colours, strict=False):
        plot.plot(price, short, "-", color=colour, label=name)
    for (name, (price_at, short_at)), marker in zip(marks.items(), "os^D", strict=False):
        plot.plot([price_at], [short_at], marker, color=GREY, label=name)
    plot.legend(frameon=False)
    return figure
