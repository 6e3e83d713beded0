"""The page and the plots, from the counts that are kept."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.gates import exact
from benchmarks.gates.cells import ALARMS_WORSE, NOT_INFERIOR, SUPERIOR, Cell
from benchmarks.gates.worlds import DECISION_MARGIN, WORLDS, World, true_gain
from models.plots import BLUE, GREY, ORANGE
from pipelines.evaluate.comparison import LEAST_MEMORY, LEAST_TIMES
from pipelines.evaluate.paired import OverTime

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HERE = Path(__file__).parent
PAGE = HERE / "RESULTS.md"
COMMAND = "make bench-gates"
BLACK, SKY = "#000000", "#56B4E9"
COLOURS = {"gate": BLUE, ">=": GREY, "naive t-test": ORANGE, "Bartlett HAC": SKY}
PROMISE = 0.05
LIBRARIES = ("numpy", "scipy", "statsmodels")
MOMENTS = (LEAST_TIMES["time"], 60, 100, 200, 267, 500, 2000)
EXACT_PHIS, OVERLAPS = (0.0, 0.5, 0.9, 0.95, 0.98), (1 / 8, 1 / 4, 1 / 3)


def write(cells: list[Cell], seed: int) -> None:
    """Write ``RESULTS.md``, ``false_promotions.png`` and ``power.png``."""
    false_promotions(cells).savefig(HERE / "false_promotions.png")
    power(cells).savefig(HERE / "power.png")
    PAGE.write_text(page(cells, seed), "utf-8")


def page(cells: list[Cell], seed: int) -> str:
    worst = max((cell for cell in cells if cell.is_null), key=lambda cell: cell.share("gate"))
    versions = ", ".join(f"{library} {version(library)}" for library in LIBRARIES)
    lines = [
        "# How often the gate errs",
        "",
        f"Written by `{COMMAND}`, Python {platform.python_version()}, {versions}, seed {seed}. Each figure is the share of "
        "simulated holdouts on which a method would have replaced the champion, ± its Monte-Carlo standard error. The "
        "gate is the code that judges candidates ([comparison.py](../../pipelines/evaluate/comparison.py)); what the "
        "worlds are like is in [worlds.py](worlds.py), why these methods in "
        "[decision record 0012](../../docs/decisions/0012-uncertainty-decides.md).",
        "",
        f"**False promotions by the gate: at most {_percent(worst, 'gate')}**, with {worst.world}, n = {worst.rows}, "
        f"φ = {worst.phi:g}, {_told(worst)}. The promise is {PROMISE:.0%}. Power is the price, and it is in the tables: "
        "where rows follow each other closely, a few hundred of them say little. Candidates that are worse by just the "
        "margin, where a rule allows less, are among those that must not be promoted.",
        "",
        "![False promotions](false_promotions.png)",
        "![Power](power.png)",
    ]
    for world in WORLDS:
        chosen = [cell for cell in cells if cell.world == world.name]
        if chosen:
            lines += ["", f"## {world.name.capitalize()}", "", _world(world), "", *_table(chosen)]
    lines += ["", "## Moments: the exact size", "", *_exact()]
    return "\n".join(lines) + "\n"


def _world(world: World) -> str:
    told = " ".join((world.draw.__doc__ or "").replace("``", "`").split())
    if world.name != "detectors":
        return f"{told} Effects are in {world.unit}; the margin is {world.margin:g} of the objective."
    effects = (world.worse, *world.better)
    gains = ", ".join(f"{effect:+g}: {true_gain(effect):+.3f}" for effect in effects)
    return (
        f"{told} Effects are in units of signal; in average precision, of infinitely many rows, they are {gains}. The margin "
        f"is {world.margin:.3f} of average precision for the ranking and {DECISION_MARGIN:g} of rows for the decisions at "
        "the thresholds. The gate wants both of its tests passed; each is shown alone too. The naive t-test is that of "
        "right decisions, row by row."
    )


def _exact() -> list[str]:
    """What no simulation is needed for: the size of the test over time, for Gaussian gains."""
    lines = [
        "How often the test over moments calls a gain of nothing proved, asked for 2.5 %: computed, not simulated "
        "(Imhof's integral, [exact.py](exact.py)). By these figures the number of cosines is chosen.",
        "",
        "| gains | " + " | ".join(f"n = {moments:,}" for moments in MOMENTS) + " |",
        "|---|" + "---:|" * len(MOMENTS),
    ]
    least = LEAST_MEMORY["time"]
    terms = [str(OverTime(np.zeros(moments), least).terms) for moments in MOMENTS]
    lines.append("| *cosines, without overlap* | " + " | ".join(terms) + " |")
    for phi in EXACT_PHIS:
        sizes = [exact.size(exact.autoregression(moments, phi), least) for moments in MOMENTS]
        lines.append(f"| autoregression, φ = {phi:g} | " + " | ".join(f"{size:.1%}" for size in sizes) + " |")
    for share in OVERLAPS:
        horizons = [round(moments * share) for moments in MOMENTS]
        sizes = [
            exact.size(exact.overlap(moments, horizon), max(least, horizon))
            for moments, horizon in zip(MOMENTS, horizons, strict=True)
        ]
        told = f"horizons overlap for 1/{1 / share:.0f} of the holdout"
        lines.append(f"| {told} | " + " | ".join(f"{size:.1%}" for size in sizes) + " |")
    return lines


def _table(cells: list[Cell]) -> list[str]:
    methods = list(dict.fromkeys(method for cell in cells for method in cell.promoted))
    head = ["truth", "n", "φ", "repeats", *methods]
    lines = ["| " + " | ".join(head) + " |", "|---|---:|---:|---:" + "|---:" * len(methods) + "|"]
    for cell in sorted(
        cells, key=lambda cell: (cell.rule, cell.effect > 0, cell.effect, cell.rows, cell.phi)
    ):
        figures = [_percent(cell, method) if method in cell.promoted else "" for method in methods]
        row = [_told(cell), str(cell.rows), f"{cell.phi:g}", str(cell.repeats), *figures]
        lines.append("| " + " | ".join(row) + " |")
    return lines


def _told(cell: Cell) -> str:
    if cell.rule == NOT_INFERIOR:
        return "worse by the whole margin, under the rule *not inferior*"
    if cell.rule == ALARMS_WORSE:
        return f"ranking better by {cell.effect:g}, right decisions worse by the whole margin"
    if cell.effect == 0:
        return "equal candidate"
    return f"{'better' if cell.effect > 0 else 'worse'} by {abs(cell.effect):g}"


def _percent(cell: Cell, method: str) -> str:
    return f"{cell.share(method):.1%} ± {cell.error(method):.1%}"


def false_promotions(cells: list[Cell]) -> Figure:
    """Equal candidates: a panel per world, n on the x-axis, one line per method and φ."""
    figure, axes = _panels("False promotions of an equal candidate")
    for world, panel in zip(WORLDS, axes, strict=True):
        chosen = [cell for cell in cells if (cell.world, cell.rule, cell.effect) == (world.name, SUPERIOR, 0)]
        _lines(panel, chosen)
        panel.axhline(PROMISE, color=BLACK, linewidth=0.8, linestyle=":")
        panel.set(title=world.name, xlabel="rows in the holdout", ylim=(0, 0.6), xscale="log")
        panel.set_xticks([200, 500, 2000], ["200", "500", "2,000"])
        panel.minorticks_off()
    _finish(figure, axes)
    return figure


def power(cells: list[Cell]) -> Figure:
    """Promotions by the gate against the true effect: a panel per world, one line per n and φ."""
    figure, axes = _panels("Promotions by the gate against the true effect")
    shades = {200: SKY, 500: BLUE, 2000: BLACK}
    for world, panel in zip(WORLDS, axes, strict=True):
        for rows, colour in shades.items():
            for phi, style in ((0.0, "-"), (0.9, "--")):
                chosen = sorted(
                    (
                        cell
                        for cell in cells
                        if (cell.world, cell.rule, cell.rows, cell.phi) == (world.name, SUPERIOR, rows, phi)
                    ),
                    key=lambda cell: cell.effect,
                )
                panel.plot(
                    [cell.effect for cell in chosen],
                    [cell.share("gate") for cell in chosen],
                    style,
                    marker="o",
                    markersize=3,
                    color=colour,
                    label=f"n = {rows:,}, φ = {phi:g}",
                )
        panel.axhline(PROMISE, color=BLACK, linewidth=0.8, linestyle=":")
        panel.set(title=world.name, xlabel=world.unit, ylim=(-0.02, 1.02))
    _finish(figure, axes)
    return figure


def _lines(panel: Axes, cells: Iterable[Cell]) -> None:
    kept = list(cells)
    for method, colour in COLOURS.items():
        for phi, style in ((0.0, "-"), (0.9, "--")):
            chosen = sorted(
                (cell for cell in kept if method in cell.promoted and cell.phi == phi),
                key=lambda cell: cell.rows,
            )
            if chosen:
                panel.errorbar(
                    [cell.rows for cell in chosen],
                    [cell.share(method) for cell in chosen],
                    [2 * cell.error(method) for cell in chosen],
                    linestyle=style,
                    marker="o",
                    markersize=3,
                    color=colour,
                    label=f"{method}, φ = {phi:g}",
                )


def _panels(title: str) -> tuple[Figure, list[Axes]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure, list(figure.subplots(1, len(WORLDS), sharey=True))


def _finish(figure: Figure, axes: list[Axes]) -> None:
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(visible=True, color="#dddddd", linewidth=0.6)
        panel.set_axisbelow(True)
    axes[0].set_ylabel("share of holdouts")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
