"""What the prediction log costs, and what a kill -9 takes of it.

    python -m benchmarks.serving.prediction_log [--answers 20000] [--kills 5]

Per answer, in microseconds of CPU: on the request's path (ids and ``record``), and in all, with the
thread that encodes and writes. ``uuid4`` as text, timed in the same run, tells how fast the machine
is just now. Then processes that log as fast as they can answer are killed, and what they had told but
not written is counted.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
import timeit
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import numpy as np
from rich.console import Console
from rich.table import Table

from models.manifest import FieldType
from pipelines.adapters.spool.records import Damage, decode
from pipelines.adapters.spool.segments import spool_size, streams
from serving.prediction_log import PredictionLog

OPTIONS: dict[str, Any] = {
    "flush_seconds": 0.05,
    "fsync_seconds": 1.0,
    "queue_bytes": 64 * 2**20,
    "spool_bytes": 4 * 2**30,
    "segment_seconds": 60.0,
}
_ANSWERS_PER_PAUSE = 200
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Cost:
    """Of one answer, microseconds of CPU and bytes on the disk."""

    path: float
    total: float
    size: float


def version_of(features: int) -> Any:
    inputs = [SimpleNamespace(name=f"feature_{n:03d}", type=FieldType.DOUBLE) for n in range(features)]
    outputs = [
        SimpleNamespace(name="probability", type=FieldType.DOUBLE),
        SimpleNamespace(name="alarm", type=FieldType.BOOLEAN),
    ]
    manifest = SimpleNamespace(inputs=inputs, outputs=outputs)
    return SimpleNamespace(
        name="bench", version="1", manifest_sha256="0" * 64, predictor=SimpleNamespace(manifest=manifest)
    )


def cost(features: int, rows: int, entities: bool, answers: int) -> Cost:
    """Logs so many answers of so many rows, with pauses in which the writer works as it does in a server."""
    version, matrix = version_of(features), np.random.default_rng(0).random((rows, features))
    outputs = {"probability": np.full(rows, 0.5), "alarm": np.full(rows, True)}
    keys = [f"m{n:05d}" for n in range(rows)] if entities else None
    with tempfile.TemporaryDirectory() as folder:
        log = PredictionLog(Path(folder) / "replica", **OPTIONS)
        log.start()
        before, path = time.process_time(), 0.0
        for n in range(answers):
            began = time.thread_time_ns()
            log.record(
                version,
                "production",
                log.ids(rows),
                matrix,
                outputs,
                seconds=0.001,
                transport="rest",
                entities=keys,
            )
            path += time.thread_time_ns() - began
            if n % _ANSWERS_PER_PAUSE == 0 or log.queued_bytes > OPTIONS["queue_bytes"] // 2:
                time.sleep(OPTIONS["flush_seconds"] / 5)
        log.stop()
        total = time.process_time() - before
        assert log.counts.written == answers * rows, log.counts
        size, _ = spool_size(Path(folder) / "replica")
    clock = min(timeit.repeat(time.thread_time_ns, number=1000, repeat=5)) / 1000
    return Cost(path / answers / 1e3 - clock * 1e6, total / answers * 1e6 - 2 * clock * 1e6, size / answers)


def kill(flush_seconds: float) -> tuple[int, float]:
    """Answers that a killed process told and did not write, and how far back they reach in milliseconds."""
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "told").open("w+b") as told:
        command = [sys.executable, "-m", __spec__.name, "--child", folder, "--flush", str(flush_seconds)]
        child = subprocess.Popen(command, stdout=told, cwd=_ROOT)
        while told.seek(0, os.SEEK_END) < 200_000:
            assert child.poll() is None
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
        child.wait()
        told.seek(0)
        lines = [line.split() for line in told.read().decode().splitlines() if line.count(" ") == 1]
        held = {
            record.ids[0]
            for stream in streams(Path(folder) / "spool")
            for segment in stream.segments
            for record in decode(segment.path.read_bytes(), Damage())
        }
    lost = [float(moment) for identity, moment in lines if identity not in held]
    return len(lost), (float(lines[-1][1]) - lost[0]) * 1e3 if lost else 0.0


def child(folder: Path, flush_seconds: float) -> None:
    """About 2,000 answers a second, each told at once, until it is killed."""
    version, matrix = version_of(40), np.random.default_rng(0).random((1, 40))
    outputs = {"probability": np.array([0.5]), "alarm": np.array([True])}
    log = PredictionLog(folder / "spool" / "replica", **OPTIONS | {"flush_seconds": flush_seconds})
    log.start()
    while True:
        ids = log.ids()
        log.record(version, "production", ids, matrix, outputs, seconds=0.001, transport="rest")
        os.write(1, f"{ids[0]} {time.monotonic()}\n".encode())
        time.sleep(0.0004)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--answers", type=int, default=20_000, help="single rows; fewer where rows are many")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--flush", type=float, default=0.05, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child, given.flush)
    reference = min(timeit.repeat(lambda: str(uuid4()), number=2000, repeat=5)) / 2000 * 1e6
    table = Table("features", "rows", "entities", "µs on the path", "µs in all", "bytes", title="Per answer")
    for features, rows, entities in (
        (10, 1, False),
        (40, 1, False),
        (40, 1, True),
        (200, 1, False),
        (40, 100, False),
        (40, 1000, True),
    ):
        found = cost(features, rows, entities, max(200, given.answers // rows))
        table.add_row(
            *(str(features), str(rows), "yes" if entities else "no"),
            *(f"{found.path:.2f}", f"{found.total:.2f}", f"{found.size:.0f}"),
        )
    console = Console(width=100)
    console.print(table)
    console.print(f"str(uuid4()) in the same run: {reference:.2f} µs")
    table = Table(
        "flush, ms",
        "answers lost, by kill",
        "reach back, ms",
        title="kill -9 at about 2,000 answers a second",
    )
    for flush_seconds in (0.01, 0.05, 0.5):
        kills = [kill(flush_seconds) for _ in range(given.kills)]
        table.add_row(
            f"{flush_seconds * 1e3:.0f}",
            ", ".join(str(lost) for lost, _ in kills),
            ", ".join(f"{reach:.0f}" for _, reach in kills),
        )
    console.print(table)


if __name__ == "__main__":
    main()
