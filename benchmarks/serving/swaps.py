"""Alias moves under load: what clients see, and how far the server is behind.

    python -m benchmarks.serving.swaps [--moves 100] [--seconds 60] [--per-second 500] [--shadow]

MLflow's own client moves ``production`` among five versions, as the MLflow UI does, while callers ask at a
steady rate. Each answer has three rows, and each row is held against what the version that the answer
names must say: an answer that mixed versions would show. With ``--shadow`` a challenger is asked all of it beside.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import httpx
import numpy as np
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

from benchmarks.serving.live import Answers, Live, live
from benchmarks.serving.workload import MODEL
from pipelines.adapters.traffic import SHADOW, TRAFFIC_TAG

_VERSIONS = 5
_QUIET_SECONDS = 12.0  # without a move, to compare with; the first two are the warm-up


def lags(answers: Answers, moves: list[tuple[float, str]]) -> list[float]:
    """Seconds from each move's call to the first answer of the version that it named, or of a later one.

    Args:
        moves: When the call was made (s, monotonic) and to which version; neighbours differ.
    """
    found = []
    answered = sorted(
        (due + seconds, version) for due, seconds, status, version, _ in answers.rows if status == 200
    )
    times = [moment for moment, _ in answered]
    for place, (moment, _) in enumerate(moves):
        later = {version for _, version in moves[place : place + _VERSIONS - 1]}
        start = int(np.searchsorted(times, moment))
        first = next((when for when, version in answered[start:] if version in later), None)
        found.append(float("inf") if first is None else first - moment)
    return found


def challenge(system: Live, version: str) -> None:
    """Give a version the shadow of all requests."""
    system.registry.set_version_tag(MODEL, version, TRAFFIC_TAG, SHADOW)
    system.registry.set_alias(MODEL, "challenger", version)
    time.sleep(3)


def mirrors(system: Live) -> dict[str, int]:
    """What became of mirrored requests with the champion that answers now."""
    found = {"mirrored": 0, "not_mirrored": 0}
    text = httpx.get(f"{system.server.url}/metrics", trust_env=False).text
    for sample in (sample for family in text_string_to_metric_families(text) for sample in family.samples):
        if sample.name == "headrace_trial_requests_total" and sample.labels["how"] == "mirrored":
            found["mirrored"] += int(sample.value)
        if sample.name == "headrace_trial_mirrors_dropped_total":
            found["not_mirrored"] += int(sample.value)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--moves", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--per-second", type=float, default=500.0)
    parser.add_argument("--shadow", action="store_true", help="with a challenger in the shadow")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, live(Path(folder), s3=False) as system:
        versions = ["1", *(system.add(1.0 + 0.1 * n) for n in range(1, _VERSIONS))]
        if given.shadow:
            challenge(system, system.add(2.0))
        moves: list[tuple[float, str]] = []
        with system.callers(given.per_second) as callers:
            time.sleep(_QUIET_SECONDS)
            began = time.monotonic()
            for number in range(given.moves):
                time.sleep(max(0.0, began + number * given.seconds / given.moves - time.monotonic()))
                version = versions[(number + 1) % _VERSIONS]
                moves.append((time.monotonic(), version))
                system.alias(version)
            time.sleep(3)
            ended = time.monotonic()
        mirrored = mirrors(system)
        answers = callers.seen()
        seen = answers.between(began, ended - 1)
        quiet = answers.between(began - _QUIET_SECONDS + 2, began)
        log = (Path(folder) / "server.log").read_text("utf-8")
    behind = lags(seen, moves)
    p50, p99 = seen.latency_ms(50, 99)
    figures: dict[str, float] = {
        "moves": len(moves),
        "seconds": round(moves[-1][0] - moves[0][0], 1),
        "requests": len(seen.rows),
        "requests_per_second": round(len(seen.rows) / (ended - 1 - began), 1),
        "failed": seen.failed,
        "mixed": seen.mixed,
        "switches": log.count("production of bench: version"),
        "lag_p50_seconds": round(float(np.percentile(behind, 50)), 3),
        "lag_p99_seconds": round(float(np.percentile(behind, 99)), 3),
        "lag_most_seconds": round(max(behind), 3),
        "latency_p50_ms": round(p50, 2),
        "latency_p99_ms": round(p99, 2),
        "latency_p99_ms_without_moves": round(quiet.latency_ms(99)[0], 2),
    }
    figures |= mirrored if given.shadow else {}
    table = Table("figure", "value", title="Alias moves under load")
    for name, value in figures.items():
        table.add_row(name, str(value))
    Console(width=80).print(table)
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
