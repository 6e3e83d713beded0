"""The page of figures: tables and one plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.serving.workload import BOOSTED

Figures = Sequence[dict[str, Any]]

_BAR, _OURS, _LIMIT = "bare ASGI", "Headrace", "in process"
_INTRODUCTION = f"""# Serving: what a prediction costs

One model ({{model}}), the same rows for every server. *CPU* is that of all processes of the server, for one request.
*In process* is the predictor without a server: the limit. *{_BAR}* is uvicorn (uvloop, httptools) with a hand-written
application around the same predictor: the bar. Headrace validates, counts and logs every prediction.
"""


def markdown(figures: Figures, conditions: str) -> str:
    """The page."""
    others = [figure for figure in figures if figure["model"] != BOOSTED]
    figures = [figure for figure in figures if figure["model"] == BOOSTED]
    lines = [
        _INTRODUCTION.format(model="LightGBM, 40 features, 300 trees of 31 leaves"),
        conditions,
        "",
        "![CPU for a request of one row](plot.png)",
        "",
        "## One row",
        "",
        *_table([figure for figure in figures if figure["rows"] == 1]),
        "",
        "## Headrace against the others, one row at 32 connections",
        "",
        *_ratios(figures),
        "",
        "## Batches",
        "",
        "*Share* is rows a second of those that the predictor does in process.",
        "",
        *_batches(figures),
        "",
        "## Other kinds of models, one row",
        "",
        "The LSTM has two layers over (10, 4) windows, the isolation forest 100 trees; both take the same 40 numbers.",
        "",
        *_kinds(others),
        "",
        "## Start and memory",
        "",
        "From the command to the first answer, and resident memory of all processes after the load.",
        "",
        *_starts(figures),
        "",
    ]
    return "\n".join(lines)


def plot(figures: Figures, path: Path) -> None:
    """CPU for a request of one row at 32 connections, on a logarithmic axis."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    boosted = [figure for figure in figures if figure["model"] == BOOSTED]
    chosen = sorted(_at(boosted, 1, 32), key=lambda figure: -figure["cpu_us"])
    names = [_name(figure) for figure in chosen]
    colours = ["#1f77b4" if figure["server"] == _OURS else "#999999" for figure in chosen]
    drawing, axes = pyplot.subplots(figsize=(9, 0.45 * len(chosen) + 1.2))
    bars = axes.barh(names, [figure["cpu_us"] for figure in chosen], color=colours)
    axes.bar_label(bars, [f"{figure['cpu_us']:,.0f}" for figure in chosen], padding=3)
    axes.set_xscale("log")
    axes.set_xlabel("CPU of the server for a request of one row, µs (32 connections)")
    axes.spines[["top", "right"]].set_visible(False)
    drawing.tight_layout()
    drawing.savefig(path, dpi=120)
    pyplot.close(drawing)


def _name(figure: dict[str, Any]) -> str:
    return f"{figure['server']}, {figure['door']}" if figure["door"] else figure["server"]


def _at(figures: Figures, rows: int, connections: int) -> list[dict[str, Any]]:
    return [figure for figure in figures if (figure["rows"], figure["connections"]) == (rows, connections)]


def _table(figures: Figures) -> list[str]:
    lines = [
        "| server | body | connections | CPU, µs | p50, ms | p99, ms | requests/s | errors |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for figure in figures:
        lines.append(
            f"| {figure['server']} | {figure['door']} | {figure['connections']} | {figure['cpu_us']:,.0f} "
            f"| {figure['p50_ms']:.2f} | {figure['p99_ms']:.2f} | {figure['per_second']:,.0f} | {figure['errors']} |"
        )
    return lines


def _kinds(figures: Figures) -> list[str]:
    if not figures:
        return ["Not measured."]
    lines = [f"| model {_table([])[0]}", f"|---{_table([])[1]}"]
    for figure in figures:
        (row,) = _table([figure])[2:]
        lines.append(f"| {figure['model']} {row}")
    return lines


def _ratios(figures: Figures) -> list[str]:
    """Others' CPU in multiples of ours; where a server is asked in the same way as we are, of ours asked so."""
    ours = {figure["door"]: figure["cpu_us"] for figure in _at(figures, 1, 32) if figure["server"] == _OURS}
    lines = ["| server | body | its CPU / ours | its p99 / ours |", "|---|---|---:|---:|"]
    p99 = {figure["door"]: figure["p99_ms"] for figure in _at(figures, 1, 32) if figure["server"] == _OURS}
    for figure in _at(figures, 1, 32):
        if figure["server"] != _OURS and ours:
            door = figure["door"] if figure["door"] in ours else next(iter(ours))
            lines.append(
                f"| {figure['server']} | {figure['door']} | {figure['cpu_us'] / ours[door]:.2f} "
                f"| {figure['p99_ms'] / p99[door]:.2f} |"
            )
    return lines


def _batches(figures: Figures) -> list[str]:
    lines = [
        "| server | body | rows | CPU, ms | p50, ms | p99, ms | rows/s | share | errors |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    limits = {
        figure["rows"]: figure["per_second"] * figure["rows"]
        for figure in figures
        if figure["server"] == _LIMIT
    }
    for figure in figures:
        if figure["rows"] > 1:
            per_second = figure["per_second"] * figure["rows"]
            lines.append(
                f"| {figure['server']} | {figure['door']} | {figure['rows']:,} | {figure['cpu_us'] / 1000:.2f} "
                f"| {figure['p50_ms']:.1f} | {figure['p99_ms']:.1f} | {per_second:,.0f} "
                f"| {per_second / limits[figure['rows']]:.0%} | {figure['errors']} |"
            )
    return lines


def _starts(figures: Figures) -> list[str]:
    lines = ["| server | start, s | memory, MiB |", "|---|---:|---:|"]
    told = {}
    for figure in figures:
        if figure["server"] != _LIMIT:
            told[figure["server"]] = (figure["start_seconds"], figure["resident_mib"])
    return lines + [f"| {name} | {start:.1f} | {memory:,.0f} |" for name, (start, memory) in told.items()]
