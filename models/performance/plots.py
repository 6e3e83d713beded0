"""Plots of what-if answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from models.base import Array
from models.plots import BLUE, GREY, ORANGE, axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BINS = 12


def what_if(asked: Mapping[str, tuple[Array, Array, Array]]) -> Figure:
    """What became of the usual latency under another load: true against foretold, by bins of the foretold.

    Args:
        asked: By question, the usual latency, the truth and the answer, ms, shape (n,) each.
    """
    figure, plot = axes(
        "Another load, everything else equal",
        "Foretold p95 latency over usual (median of bin)",
        "True p95 latency over usual (median of bin)",
        height=4.5,
    )
    ends = []
    for (name, (usual, truth, answer)), colour in zip(
        asked.items(), (BLUE, ORANGE, "#009E73", "#CC79A7"), strict=False
    ):
        told = answer / usual
        parts = [part for part in np.array_split(np.argsort(told, kind="stable"), BINS) if len(part)]
        points = [(np.median(told[part]), np.median((truth / usual)[part])) for part in parts]
        ends += [value for point in points for value in point]
        plot.plot(*zip(*points, strict=True), "o-", color=colour, label=name)
    plot.plot([min(ends), max(ends)], [min(ends), max(ends)], color=GREY, linestyle=":", label="perfect")
    plot.legend(frameon=False)
    return figure
