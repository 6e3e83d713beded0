"""The gate at one look: each check's figure and interval, beside the line where good begins."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from models.plots import BLUE, GREY, ORANGE, axes
from pipelines.evaluate.checks import Check
from pipelines.evaluate.report.forest import LINE, WIDTH, row
from pipelines.references import Outcome

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LINE_OF_NAME = 58  # characters
_COLOURS = {Outcome.PASS: BLUE, Outcome.FAIL: ORANGE}


def intervals(checks: Sequence[Check]) -> Figure | None:
    """A forest plot: right of the line is good, whichever way a figure counts; each row has its own scale.

    None where no check has a figure to draw.
    """
    drawn = [(check, place) for check in reversed(checks) if (place := row(check)) is not None]
    if not drawn:
        return None
    tall = 0.9 + 0.27 * len(drawn)
    figure, plot = axes("", "", "", height=tall, width=11.0)
    figure.suptitle("What the gate saw", x=0.01, ha="left", fontweight="bold")
    # Names and figures take two thirds; a layout that measures them would leave the plot a strip.
    figure.set_layout_engine("none")
    plot.set_position((0.37, 0.4 / tall, 0.3, 1 - 0.8 / tall))
    plot.axvline(LINE, color=GREY, linewidth=1)
    for height, (check, place) in enumerate(drawn):
        colour = _COLOURS.get(check.outcome, GREY)
        if place.low is not None and place.high is not None:
            plot.plot(
                [place.low, place.high], [height, height], color=colour, linewidth=2, solid_capstyle="round"
            )
        # Told apart without colour as well: what passed is filled.
        filled = colour if check.outcome is Outcome.PASS else "white"
        plot.plot([place.figure], [height], "o", markerfacecolor=filled, markeredgecolor=colour, markersize=6)
        shown = f"{check.figure:,.0f}" if abs(check.figure or 0) >= 1000 else f"{check.figure:.4g}"
        word = f"{shown}, wanted {check.wanted}" + ("" if check.blocking else " (reported)")
        plot.annotate(word, (WIDTH + 9, height), va="center", fontsize=8, color=GREY, annotation_clip=False)
    plot.set_yticks(
        range(len(drawn)), [textwrap.fill(check.name, _LINE_OF_NAME) for check, _ in drawn], fontsize=8
    )
    plot.set(xlim=(-6, WIDTH + 6), xticks=[LINE / 2, (LINE + WIDTH) / 2], ylim=(-0.8, len(drawn) - 0.2))
    plot.set_xticklabels(["refused", "good"])
    plot.tick_params(axis="both", length=0)
    plot.grid(visible=False)
    plot.spines[["left", "bottom"]].set_visible(False)
    return figure
