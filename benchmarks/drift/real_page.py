"""REAL.md and its plot, from real.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from models.plots import BLUE, GREY, ORANGE, axes, quiet


def write(found: dict[str, Any], sources: dict[str, dict[str, Any]], folder: Path) -> None:
    weeks = found["weeks"]
    later = [week for week in weeks if week["number"]]
    text = [
        "# Consecutive weeks of real telemetry",
        "",
        f"Written by `python -m benchmarks.drift.real --data DATA`, seed {found['seed']}, {found['seconds']} s by the clock in one "
        "process, on two cores that others used too. A LightGBM forecast of the next hour, and the calibrated probability that "
        "this hour will be among the machine's highest tenth, learn from the first weeks and are left alone. Each further week "
        "is held against those weeks by the tests and estimators of `pipelines/monitor`: drift of the hourly metrics (the week "
        "and its last day, at the default rate), DLE for the forecast, CBPE for the probability.",
        "",
        _errors(later),
        "",
        "![Realised and estimated quality by week](real.png)",
        "",
        "| data | week | hours | metrics of the fleet that fired | machines that fired | WAPE | estimated | AP | estimated | "
        "its own error | WAPE ÷ holdout's, machines that fired | machines that did not |",
        "|---|---:|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for week in weeks:
        if week["number"] == 0:
            text.append(
                f"| {week['source']} | holdout | {week['hours']} |  |  | {week['wape']:.3f} | {week['wape_estimated']:.3f} | "
                f"{week['ap']:.3f} | {week['ap_estimated']:.3f} | {week['ap_error']:.3f} |  |  |"
            )
            continue
        fired = ", ".join(week["fired"][:4]) + (
            f" and {len(week['fired']) - 4} more" if len(week["fired"]) > 4 else ""
        )
        text.append(
            f"| {week['source']} | {week['number']} | {week['hours']} | {fired or 'none'} | "
            f"{week['machines_fired']} of {week['machines']} | {week['wape']:.3f} | {week['wape_estimated']:.3f} | "
            f"{week['ap']:.3f} | {week['ap_estimated']:.3f} | {week['ap_error']:.3f} | "
            f"{_ratio(week['wape_fired'])} | {_ratio(week['wape_calm'])} |"
        )
    text += [
        "",
        *(
            f"- `{name}`: {each['learn']} weeks are learned from, of which the last {each['holdout']} are the holdout; what is "
            f"forecast is `{each['column']}`."
            for name, each in sources.items()
        ),
        "",
        "The estimates of the holdout's row are of the rows that they were learned or calibrated from. *Its own error* is the "
        "standard deviation that CBPE gives itself: the chance of the draws alone. The ratios are medians over machines. Nobody "
        "knows which of these weeks drifted in truth: what can be read is whether a model loses where the tests fire.",
    ]
    (folder / "REAL.md").write_text("\n".join(text) + "\n", "utf-8")
    _plot(weeks, folder)


def _errors(weeks: list[dict[str, Any]]) -> str:
    parts = []
    for name in dict.fromkeys(week["source"] for week in weeks):
        mine = [week for week in weeks if week["source"] == name]
        sentences = []
        for kind, metric in (("DLE", "wape"), ("CBPE", "ap")):
            errors = np.array([week[f"{metric}_estimated"] - week[metric] for week in mine])
            sentences.append(
                f"{kind} was off by {np.mean(np.abs(errors)):.3f} on average ({np.mean(errors):+.3f} in the mean), while the figure "
                f"itself went from {min(week[metric] for week in mine):.3f} to {max(week[metric] for week in mine):.3f}"
            )
        parts.append(f"**{name}**: {'; '.join(sentences)}.")
    return " ".join(parts)


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _plot(weeks: list[dict[str, Any]], folder: Path) -> None:
    names = list(dict.fromkeys(week["source"] for week in weeks))
    figure, _ = axes("", "", "", height=2.6 * len(names) + 0.6, width=8.4)
    figure.clear()
    panels = figure.subplots(len(names), 2, squeeze=False)
    for row, name in zip(panels, names, strict=True):
        mine = [week for week in weeks if week["source"] == name]
        for plot, (metric, title) in zip(
            row, (("wape", "WAPE (DLE)"), ("ap", "average precision (CBPE)")), strict=True
        ):
            quiet(plot)
            at = [week["number"] for week in mine]
            plot.plot(at, [week[metric] for week in mine], "o-", color=BLUE, label="realised")
            plot.plot(
                at, [week[f"{metric}_estimated"] for week in mine], "s--", color=ORANGE, label="estimated"
            )
            for week in mine:
                if week["fired"]:
                    plot.axvspan(
                        week["number"] - 0.5, week["number"] + 0.5, color=GREY, alpha=0.12, linewidth=0
                    )
            plot.set_title(f"{name}: {title}", loc="left", fontsize=10)
            plot.set_xlabel(
                "week after training (0: holdout; shaded: the fleet's drift test fired)", fontsize=8
            )
            plot.set_ylim(bottom=0)
            plot.legend(frameon=False, fontsize=8)
    figure.savefig(folder / "real.png")
