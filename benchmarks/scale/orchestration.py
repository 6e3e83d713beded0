"""What Airflow adds to a training: the DAG train_failure beside `headrace train failure`, and where the time goes.

    python -m benchmarks.scale.orchestration [--days 42] [--pairs 2]

Two homes with the same simulated fleet: in one the DAG runs, on the embedded default and alone, in the other the same
chain without Airflow. Both train once on a window before anything is measured; each pair is then another window,
a week later than the one before it, so that all stages have work. The last line of the output is JSON.

Every moment of a run, from the trigger to its end, counts for one part: the first of :data:`PARTS` that any
task is at.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.scale import import_times
from benchmarks.scale.homes import Home, alone, finished, free_ports, up
from headrace.airflow_api import DagRun, TaskInstance

DAG = "train_failure"
RUN_SECONDS = 1_200
STEP = timedelta(days=7)
PARTS = ("steps", "imports", "parse", "process", "queue", "schedule")
# Where nobody answers: `headrace up` starts no Airflow where it runs elsewhere.
NO_AIRFLOW = "http://127.0.0.1:9"


@dataclass(frozen=True)
class Span:
    """Seconds of the Unix clock in which a task was at one part."""

    begin: float
    end: float
    part: str


def measure(days: int, pairs: int, keep: Callable[[dict[str, Any]], None]) -> None:
    """Both ways, one after the other; a row each time."""
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    first = today - timedelta(days=days) - pairs * STEP
    windows = [
        (first + number * STEP, first + number * STEP + timedelta(days=days)) for number in range(pairs + 1)
    ]
    with tempfile.TemporaryDirectory(prefix="headrace-orchestration-") as name:
        folder = Path(name)
        for by, way in (("Airflow", by_airflow), ("headrace train", by_hand)):
            for number, row in enumerate(way(folder / by.replace(" ", "-"), windows)):
                about = {"by": by, "pair": number, "warm": number > 0, "days": days}
                keep(about | row)


def by_airflow(folder: Path, windows: list[tuple[datetime, datetime]]) -> Iterator[dict[str, Any]]:
    with watched_imports(folder) as (variables, imports):
        home = Home(folder / "home", free_ports() | {"HEADRACE_EVIDENTLY_PORT": 0} | variables)
        with up(home), home.airflow() as airflow:
            alone(airflow, DAG)
            for number, (start, end) in enumerate(windows):
                run_id = f"pair_{number}"
                airflow.trigger(DAG, run_id, _window(start, end))
                run = finished(airflow, DAG, run_id, RUN_SECONDS)
                yield told_of(run, airflow.tasks(DAG, run_id), home.folder / "logs" / "tasks", imports)


def by_hand(folder: Path, windows: list[tuple[datetime, datetime]]) -> Iterator[dict[str, Any]]:
    with watched_imports(folder) as (variables, imports):
        elsewhere = {"HEADRACE_AIRFLOW_URL": NO_AIRFLOW, "HEADRACE_EVIDENTLY_PORT": 0}
        with up(Home(folder / "home", free_ports() | elsewhere)) as home:
            home.set(**variables)
            for start, end in windows:
                for path in imports.iterdir():
                    path.unlink()
                window = _window(start, end)
                seconds = home.headrace(
                    *("train", "failure", "--json"),
                    *("--window-start", window["window_start"], "--window-end", window["window_end"]),
                )
                imported = sum(end - begin for path in imports.iterdir() for begin, end in _imports(path))
                yield {"seconds": seconds, "imports": imported}


def _window(start: datetime, end: datetime) -> dict[str, str]:
    return {"window_start": start.date().isoformat(), "window_end": end.date().isoformat()}


@contextmanager
def watched_imports(folder: Path) -> Iterator[tuple[dict[str, str], Path]]:
    """Variables under which processes tell of their imports, and the folder where they do."""
    site, told = folder / "site", folder / "imports"
    site.mkdir(parents=True)
    told.mkdir()
    (site / "sitecustomize.py").write_text(Path(import_times.__file__).read_text("utf-8"), "utf-8")
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    yield {"PYTHONPATH": path, "IMPORT_TIMES": str(told)}, told


def told_of(run: DagRun, tasks: list[TaskInstance], logs: Path, imports: Path) -> dict[str, Any]:
    """Seconds of a run, of each part of it, and of each task alone."""
    if run.queued_at is None or run.ended_at is None:
        raise ValueError(f"{run.run_id} has not ended")
    begin, end = run.queued_at.timestamp(), run.ended_at.timestamp()
    spans = {(task.task_id, task.map_index): list(spans_of(run, task, logs, imports)) for task in tasks}
    every = [span for found in spans.values() for span in found]
    return {
        "seconds": end - begin,
        "parts": by_part(begin, end, every),
        "tasks": [
            {"task": name, "index": index, "begin": found[0].begin - begin} | _alone(found)
            for (name, index), found in sorted(spans.items(), key=lambda item: _first(item[1]))
            if found
        ],
    }


def _first(spans: list[Span]) -> float:
    return min((span.begin for span in spans), default=0.0)


def _alone(spans: Iterable[Span]) -> dict[str, float]:
    seconds: dict[str, float] = defaultdict(float)
    for span in spans:
        if span.part != "steps":
            seconds[span.part] += span.end - span.begin
    found = list(spans)
    function = sum(span.end - span.begin for span in found if span.part == "steps")
    return dict(seconds) | {"steps": function - seconds["imports"]}


def by_part(begin: float, end: float, spans: list[Span]) -> dict[str, float]:
    """Seconds between two moments by part; they add up to all of them.

    Where tasks run side by side, a moment counts for the part that is first in :data:`PARTS`; where no task is
    queued or runs, Airflow decides what comes next: ``schedule``. Imports lie within a task's function.
    """
    edges = sorted(
        {begin, end, *(edge for span in spans for edge in (span.begin, span.end) if begin < edge < end)}
    )
    seconds = dict.fromkeys(PARTS, 0.0)
    for left, right in pairwise(edges):
        at = [span for span in spans if span.begin <= left and right <= span.end]
        seconds[_part(at)] += right - left
    return seconds


def _part(at: list[Span]) -> str:
    parts = [span.part for span in at]
    # Of a task that imports, the function is going on, too.
    if parts.count("steps") > parts.count("imports"):
        return "steps"
    return min((part for part in parts if part != "steps"), key=PARTS.index, default="schedule")


def spans_of(run: DagRun, task: TaskInstance, logs: Path, imports: Path) -> Iterator[Span]:
    """What one task was at, and when: by Airflow's times of it, its log, and what it told of its imports."""
    if task.started_at is None or task.ended_at is None:
        return  # skipped, or nothing to do
    started, ended = task.started_at.timestamp(), task.ended_at.timestamp()
    if task.queued_at is not None:
        yield Span(task.queued_at.timestamp(), started, "queue")
    log = _log(logs, run, task)
    marks = {str(line.get("event", "")): line for line in reversed(log)}  # the first of each
    parsed, begun, done = (
        _moment(marks[event])
        for event in ("Worker startup parse complete", "::endgroup::", "::group::Post Execute")
    )
    parsing = float(marks["Worker startup parse complete"]["dag_file_parse_ms"]) / 1_000
    yield Span(started, parsed - parsing, "process")
    yield Span(parsed - parsing, parsed, "parse")
    yield Span(parsed, begun, "process")
    yield Span(begun, done, "steps")
    yield Span(done, ended, "process")
    path = imports / str(task.pid)
    for begin, end in _imports(path) if path.exists() else ():
        # A pid may come again, and the fork that imports has the number of the process.
        if begun <= begin and end <= done:
            yield Span(begin, end, "imports")


def _log(logs: Path, run: DagRun, task: TaskInstance) -> list[dict[str, Any]]:
    folder = logs / f"dag_id={run.dag_id}" / f"run_id={run.run_id}" / f"task_id={task.task_id}"
    if task.map_index >= 0:
        folder /= f"map_index={task.map_index}"
    lines = (folder / f"attempt={task.try_number}.log").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def _moment(line: dict[str, Any]) -> float:
    return datetime.fromisoformat(line["timestamp"]).timestamp()


def _imports(path: Path) -> list[tuple[float, float]]:
    lines = [line.split() for line in path.read_text("utf-8").splitlines()]
    return [(float(line[0]), float(line[1])) for line in lines]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--days", type=int, default=42, help="Of a window.")
    parser.add_argument("--pairs", type=int, default=2, help="Windows that are measured, both ways.")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []

    def keep(row: dict[str, Any]) -> None:
        print(json.dumps(row), file=sys.stderr)
        rows.append(row)

    measure(arguments.days, arguments.pairs, keep)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
