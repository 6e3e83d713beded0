"""RESULTS.md and its plots, from results.json."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

STAGES = ("ingest", "validate", "features")
GIB = 2**30

Found = dict[str, Any]


def write(found: Found, folder: Path) -> None:
    """The page, with the parts that were measured."""
    text = [
        "# What a row costs as data grow",
        "",
        "Written by `make bench-scale` (`python -m benchmarks.scale.report`) from `results.json`. Each figure is of a process of "
        "its own; peers ran in the same run, one after the other, on the same files.",
        "",
    ]
    for part, written in (
        ("growth", _growth),
        ("join", _join),
        ("online", _online),
    ):
        if found.get(part):
            text += written(found[part], folder)
    (folder / "RESULTS.md").write_text("\n".join(text).rstrip() + "\n", "utf-8")


def _growth(rows: list[Found], folder: Path) -> list[str]:
    def rate(row: Found, stages: Iterable[str] = STAGES) -> float:
        return float(row["rows"] / sum(row["seconds"][stage] for stage in stages))

    rates = [rate(row) for row in rows]
    spread = max(rates) / min(rates) - 1
    peak = max(row["peak_bytes"] for row in rows) / GIB
    text = [
        "## Ingest, validate, features",
        "",
        f"1,200 simulated machines, watched for longer and longer. Rows per second differ by {spread:.0%} between the sizes; "
        f"at most {peak:.2f} GiB of memory.",
        "",
        "![Rows per second](growth.png)",
        "",
        "| telemetry rows | days | feature rows | ingest, s | validate, s | features, s | rows/s | peak memory, GiB | lake, GiB |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        seconds = " | ".join(f"{row['seconds'][stage]:.1f}" for stage in STAGES)
        text.append(
            f"| {row['rows']:,} | {row['days']} | {row['feature_rows']:,} | {seconds} | {rate(row):,.0f} | "
            f"{row['peak_bytes'] / GIB:.2f} | {row['lake_bytes'] / GIB:.2f} |"
        )
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.4), layout="constrained")
    plot = figure.subplots()
    sizes = [row["rows"] for row in rows]
    for stage in STAGES:
        plot.plot(sizes, [rate(row, [stage]) for row in rows], "o-", label=stage)
    plot.plot(sizes, rates, "ks--", label="all three")
    plot.set(xscale="log", yscale="log", xlabel="telemetry rows", ylabel="rows per second")
    plot.legend(frameon=False, ncols=2)
    figure.savefig(folder / "growth.png", dpi=110)
    return [*text, ""]


def _join(rows: list[Found], folder: Path) -> list[str]:
    text = [
        "## Point-in-time join",
        "",
        "1,000 entities, 4 features, a time to live of 2 days; one label row in a thousand comes twice. The right answer is that of "
        "`pandas.merge_asof`. Lost: label rows that did not come back.",
        "",
        "![Seconds of a join](join.png)",
        "",
        "| feature rows | label rows | store | seconds | beside ours | peak memory, GiB | lost | doubled | other values |",
        "|---:|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        ours = next(
            each
            for each in rows
            if (each["rows"], each["labels"], each["store"]) == (row["rows"], row["labels"], "Headrace")
        )
        about = f"| {row['rows']:,} | {row['labels']:,} | {row['store']} "
        if "ended" in row:
            text.append(f"{about}| did not end: {row['ended']} | | | | | |")
            continue
        text.append(
            f"{about}| {row['seconds']:.2f} | {row['seconds'] / ours['seconds']:.1f} x | {row['peak_bytes'] / GIB:.2f} | "
            f"{row['lost']:,} | {row['doubled']:,} | {row['different']:,} |"
        )
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.4), layout="constrained")
    plot = figure.subplots()
    for store in dict.fromkeys(row["store"] for row in rows):
        mine = [row for row in rows if row["store"] == store and "seconds" in row]
        plot.plot(
            [f"{row['rows']:,}\nx {row['labels']:,}" for row in mine],
            [row["seconds"] for row in mine],
            "o-",
            label=store,
        )
    plot.set(yscale="log", xlabel="feature rows x label rows", ylabel="seconds")
    plot.legend(frameon=False)
    figure.savefig(folder / "join.png", dpi=110)
    return [*text, ""]


def _online(rows: list[Found], folder: Path) -> list[str]:
    text = [
        "## Online store",
        "",
        "The newest row of each entity, 4 features, from the offline into the online store; then reads of 1 and of 100 entities at random.",
        "",
        "![Rows per second into the online store](online.png)",
        "",
        "| entities | store | by | seconds | rows/s | beside ours | 1 entity p50 / p99, ms | 100 entities p50 / p99, ms |",
        "|---:|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        about = f"| {row['entities']:,} | {row['store']} | {row['by']} "
        if "ended" in row:
            text.append(f"{about}| did not end: {row['ended']} | | | | |")
            continue
        ours = next(
            each
            for each in rows
            if (each["entities"], each["store"], each["by"]) == (row["entities"], row["store"], "Headrace")
        )
        looks = " | ".join(f"{row[f'p50_ms_{n}']:.2f} / {row[f'p99_ms_{n}']:.2f}" for n in (1, 100))
        text.append(
            f"{about}| {row['seconds']:.2f} | {row['rows'] / row['seconds']:,.0f} | "
            f"{row['seconds'] / ours['seconds']:.1f} x | {looks} |"
        )
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.4), layout="constrained")
    plot = figure.subplots()
    done = [row for row in rows if "seconds" in row]
    plot.barh(
        [f"{row['by']}, {row['store']}, {row['entities']:,}" for row in done],
        [row["rows"] / row["seconds"] for row in done],
        color=["#0072B2" if row["by"] == "Headrace" else "#D55E00" for row in done],
    )
    plot.invert_yaxis()
    plot.set(xlabel="rows per second", xscale="log")
    figure.savefig(folder / "online.png", dpi=110)
    return [*text, ""]
