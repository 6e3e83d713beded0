"""RESULTS.md and its plot, from results.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

METHODS = (
    ("headrace day", "Headrace, day"),
    ("headrace week", "Headrace, week"),
    ("headrace both", "Headrace, both (default)"),
    ("evidently day, any column", "Evidently, day"),
    ("evidently week, any column", "Evidently, week"),
    ("evidently week, half of them", "Evidently, week, half of the columns"),
    ("3 sigma day", "±3 sd, day"),
    ("3 sigma week", "±3 sd, week"),
)


def write(found: dict[str, Any], folder: Path) -> None:
    rows = found["rows"]
    null = [row for row in rows if not row["changed"]]
    asked = [row for row in null if row["truth"] == "nothing"]
    worst = {name: max(row["shares"].get(name, 0.0) for row in null) for name, _ in METHODS}
    worst_asked = max(
        row["shares"][name] for row in asked for name in ("headrace day", "headrace week", "headrace both")
    )
    repeats = max(row["repeats"] for row in asked)
    text = [
        "# How often drift is seen where there is none, and how soon where there is",
        "",
        f"Written by `make bench-drift`, seed {found['seed']}, {found['seconds']} s by the clock in one process, on two cores that others used too. Each figure is the share of "
        "simulated checks in which a method flagged at least one column. What the worlds are like is in "
        "[worlds.py](worlds.py); the method is told in [decision record 0021](../../docs/decisions/0021-calibrated-drift.md).",
        "",
        f"**False alarms per check, nothing has changed: at most {worst_asked:.1%} by Headrace** over the worlds of "
        f"{repeats} repeats each that were asked for (standard error {np.sqrt(0.02 * 0.98 / repeats):.1%} at 2 %), at most "
        f"{max(worst[name] for name, _ in METHODS[:3]):.1%} with the harder ones beside them; Evidently's defaults up to "
        f"{max(worst['evidently day, any column'], worst['evidently week, any column']):.0%}, ±3 sd up to "
        f"{max(worst['3 sigma day'], worst['3 sigma week']):.0%} (the rivals on the first 50 of each). These are single checks; an alarm asks for two of the "
        "last five and the latest.",
        "",
        "![False alarms and power](drift.png)",
        "",
        "| truth | φ | features | repeats | "
        + " | ".join(title for _, title in METHODS)
        + " | alarm within 14 days | after, days |",
        "|---|---:|---:|---:|" + "---:|" * (len(METHODS) + 2),
    ]
    for row in rows:
        shares = [f"{row['shares'][name]:.1%}" if name in row["shares"] else "" for name, _ in METHODS]
        alarmed = "" if row["alarmed"] is None else f"{row['alarmed']:.0%}"
        delay = "" if row["delay_days"] is None else f"{row['delay_days']:g}"
        text.append(
            f"| {row['truth']} | {row['phi']} | {row['features']} | {row['repeats']} | "
            + " | ".join(shares)
            + f" | {alarmed} | {delay} |"
        )
    text += [
        "",
        "The day is the first after the change, the week the first whole one. Evidently flags a column by the normed "
        "Wasserstein or Jensen-Shannon distance above 0.1, its choice above 1,000 rows of reference, and a data set where "
        "half of its columns drift; ±3 sd flags a column whose Jensen-Shannon distance leaves mean ± 3 standard deviations "
        "of the history's chunks, as NannyML does. A rival that flags nearly every unchanged window also flags nearly every "
        "changed one: its power means nothing.",
        "",
        "Where φ is 0.98, values hang together over four hours, and a day holds some three independent ones: a shift of "
        "1 sd cannot be told from a usual day. A check names the columns that its window is blind for, and the week sees "
        "more. Concept drift with unchanged inputs is invisible in the inputs, as it must be; the series of realised errors shows it (the same test on absolute errors; monitor itself compares realised quality with its floor). A stuck sensor is named by the check of broken data "
        "(`pipelines/monitor/data_quality.py`), whatever value it got stuck at; the row here is of the drift test alone.",
    ]
    (folder / "RESULTS.md").write_text("\n".join(text) + "\n", "utf-8")
    _plot(rows, folder / "drift.png")


def _plot(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    null = [row for row in rows if row["truth"] == "nothing"]
    shown = [METHODS[0], METHODS[1], METHODS[2], METHODS[3], METHODS[4], METHODS[6], METHODS[7]]
    width = 0.8 / max(len(null), 1)
    for place, row in enumerate(null):
        left.bar(
            np.arange(len(shown)) + place * width,
            [100 * row["shares"].get(name, np.nan) for name, _ in shown],
            width,
            label=f"φ = {row['phi']}, {row['features']} features",
        )
    left.axhline(2, color="black", linewidth=1, linestyle="--")
    left.set_yscale("symlog", linthresh=2)
    left.set_ylim(0, 110)
    left.set_yticks([0, 1, 2, 5, 10, 50, 100], ["0", "1", "2", "5", "10", "50", "100"])
    left.set_xticks(np.arange(len(shown)) + 0.3, [title for _, title in shown], rotation=30, ha="right")
    left.set_ylabel("false alarms per check, %")
    left.set_title("Nothing has changed (dashed: 2 %)")
    left.legend(fontsize=8)
    for phi, style in ((0.9, "-"), (0.98, "--")):
        for name, title, colour in (
            ("headrace day", "day", "tab:blue"),
            ("headrace week", "week", "tab:orange"),
            ("headrace both", "both", "tab:green"),
        ):
            points = [
                (size, row["shares"][name])
                for size in (0.5, 1, 2)
                for row in rows
                if row["truth"] == f"one feature shifted by {size:g} sd" and row["phi"] == phi
            ]
            right.plot(
                *zip(*points, strict=True), style, marker="o", color=colour, label=f"{title}, φ = {phi}"
            )
    right.set_xlabel("shift of one of ten features, sd")
    right.set_ylabel("share of checks that see it")
    right.set_ylim(-0.03, 1.03)
    right.set_title("Headrace: power")
    right.legend(fontsize=8)
    figure.savefig(path, dpi=90)
    plt.close(figure)
