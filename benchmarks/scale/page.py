"""RESULTS.md and its plots, from results.json."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

STAGES = ("ingest", "validate", "features")
GIB = 2**30
ORCHESTRATION = {
    "steps": "a task's function, without its imports",
    "imports": "imports within a task's function",
    "parse": "reading the DAG file, in each task's process",
    "process": "start and end of a task's process, and what Airflow does there",
    "queue": "a task is queued, and no process is there yet",
    "schedule": "no task is queued or runs: Airflow decides what comes next",
}

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
        ("orchestration", _orchestration),
        ("workers", _workers),
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


def _orchestration(rows: list[Found], folder: Path) -> list[str]:
    warm = [row for row in rows if row["warm"]]
    ours = {row["pair"]: row for row in warm if row["by"] == "headrace train"}
    theirs = [row for row in warm if row["by"] == "Airflow" and row["pair"] in ours]
    more = [row["seconds"] - ours[row["pair"]]["seconds"] for row in theirs]
    if not more:
        return []  # the run ended before there was a pair
    text = [
        "## Airflow",
        "",
        f"The DAG `train_failure` on the embedded default beside `headrace train failure` on the same data: windows of "
        f"{rows[0]['days']} days, each a week later than the one before it. Both homes had trained once before. Airflow adds "
        f"{min(more):.1f} to {max(more):.1f} s, from the trigger to the end of the run. `headrace train` starts a process of "
        "its own, which is in its time.",
        "",
        "![Where the time goes](orchestration.png)",
        "",
        "| window | Airflow, s | headrace train, s | Airflow adds, s |",
        "|---:|---:|---:|---:|",
        *(
            f"| {row['pair']} | {row['seconds']:.1f} | {ours[row['pair']]['seconds']:.1f} | {added:.1f} |"
            for row, added in zip(theirs, more, strict=True)
        ),
        "",
        "Where it goes, of each window; every moment counts once, and where tasks run side by side for the part that is "
        "first in this table. `headrace train` imports once what each task's process imports for itself.",
        "",
        "| part | what it is | "
        + " | ".join(f"window {row['pair']}, s" for row in theirs)
        + " | headrace train, s |",
        "|---|---|" + "---:|" * (len(theirs) + 1),
    ]
    by_hand = {
        "imports": _mean(row["imports"] for row in ours.values()),
        "steps": _mean(row["seconds"] - row["imports"] for row in ours.values()),
    }
    for part, about in ORCHESTRATION.items():
        seconds = " | ".join(f"{row['parts'][part]:.1f}" for row in theirs)
        text.append(f"| {part} | {about} | {seconds} | {f'{by_hand[part]:.1f}' if part in by_hand else ''} |")
    text += [
        "",
        f"By task, of window {theirs[-1]['pair']}:",
        "",
        "| task | begins at, s | queue | process | parse | imports | steps |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for task in theirs[-1]["tasks"]:
        name = task["task"] if task["index"] < 0 else f"{task['task']} {task['index']}"
        seconds = " | ".join(
            f"{task.get(part, 0.0):.2f}" for part in ("queue", "process", "parse", "imports", "steps")
        )
        text.append(f"| {name} | {task['begin']:.1f} | {seconds} |")
    _draw_orchestration(theirs, ours, folder)
    return [*text, ""]


def _draw_orchestration(theirs: list[Found], ours: dict[int, Found], folder: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.0), layout="constrained")
    plot = figure.subplots()
    bars = [
        *((f"Airflow, window {row['pair']}", row["parts"]) for row in theirs),
        *(
            (
                f"headrace train, window {pair}",
                {"steps": row["seconds"] - row["imports"], "imports": row["imports"]},
            )
            for pair, row in ours.items()
        ),
    ]
    left = [0.0] * len(bars)
    colours = ("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#999999")
    for part, colour in zip(ORCHESTRATION, colours, strict=True):
        widths = [parts.get(part, 0.0) for _, parts in bars]
        plot.barh([name for name, _ in bars], widths, left=left, label=part, color=colour)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    plot.invert_yaxis()
    plot.set(xlabel="seconds")
    figure.legend(frameon=False, ncols=6, loc="outside lower center")
    figure.savefig(folder / "orchestration.png", dpi=110)


def _mean(figures: Iterable[float]) -> float:
    found = list(figures)
    return sum(found) / len(found)


def _workers(rows: list[Found], folder: Path) -> list[str]:
    one = rows[0]
    text = [
        "## Two workers",
        "",
        f"{one['trials']} trials of one study of `failure` on {one['days']} days of telemetry: Airflow with Celery (Redis) on "
        "PostgreSQL, the study on PostgreSQL, one task at a time per worker and one thread per fit. In the second row two workers "
        "were given the parameters that the one had tried: equal work. In the third they searched freely.",
        "",
        "![Seconds of tuning](workers.png)",
        "",
        "| workers | trials of each | of the tasks, s | faster | of the trials, s | faster | complete / pruned | best value | "
        "same parameters | both completed | largest difference of values |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        alike = "" if row is one else f"{row['same_params']} of {row['trials']}"
        both = "" if row is one else str(row["completed_in_both"])
        apart = "" if row is one or row["largest_difference"] is None else f"{row['largest_difference']:.3g}"
        text.append(
            f"| {row['arm']} | {' + '.join(str(count) for count in row['by_worker'])} | {row['seconds']:.1f} | "
            f"{one['seconds'] / row['seconds']:.2f} x | {row['trial_seconds']:.1f} | "
            f"{one['trial_seconds'] / row['trial_seconds']:.2f} x | {row['complete']} / {row['pruned']} | "
            f"{row['best_value']:.6f} | {alike} | {both} | {apart} |"
        )
    text += [
        "",
        "*Of the tasks*: from the first one's start to the last one's end, with the start of their processes and the reading of the "
        "snapshot. *Of the trials*: from the first one's start to the last one's end.",
        "",
        "The same for any number of workers: the study (one, in one storage), how many trials it has, which parameters are tried "
        "first, and the value of a trial that was given the same parameters. Not the same: which parameters the sampler draws after "
        "that. It learns from the trials that are ended when it is asked, and that depends on who is quicker; so does which trials "
        "are pruned, as the median is that of the trials so far.",
    ]
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.4), layout="constrained")
    plot = figure.subplots()
    names = [row["arm"] for row in rows]
    plot.barh(names, [row["seconds"] for row in rows], color="#56B4E9", label="tasks")
    plot.barh(names, [row["trial_seconds"] for row in rows], color="#0072B2", height=0.4, label="trials")
    plot.invert_yaxis()
    plot.set(xlabel="seconds")
    plot.legend(frameon=False)
    figure.savefig(folder / "workers.png", dpi=110)
    return [*text, ""]
