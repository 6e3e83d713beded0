"""Measure serving: ours, the bar, and what else serves the same model, all in one run.

    python -m benchmarks.serving.report [--quick] [--rounds N] [--only NAMES] [--no-peers]

Each round starts one server after the other and asks it the same rows; figures are medians over the
rounds. CPU is that of all processes of the server, from ``/proc``. Validation, metrics and the log
of predictions are on for Headrace. Write ``RESULTS.md`` on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median

import numpy as np
from rich.console import Console

from benchmarks.serving import networks
from benchmarks.serving import servers as peers_of
from benchmarks.serving import workload as workloads
from benchmarks.serving.load import Plan, Seen
from benchmarks.serving.page import markdown, plot
from pipelines.adapters.signing import Signer
from pipelines.settings import load_settings

HERE = Path(__file__).parent
PAGE, PLOT, FIGURES = HERE / "RESULTS.md", HERE / "plot.png", HERE / "results.json"
PEERS = HERE / "peers.txt"
LIBRARIES = ("lightgbm", "onnxruntime", "uvicorn", "uvloop", "httptools", "orjson", "fastapi", "mlflow")

_FIRST_PORT = 18_300
_REQUESTS = 64  # different ones, sent in turn

console = Console()


@dataclass(frozen=True)
class Scenario:
    """Rows in a request, and callers at once."""

    rows: int
    connections: int


SINGLE_ROWS = (Scenario(1, 1), Scenario(1, 8), Scenario(1, 32))
SCENARIOS = (*SINGLE_ROWS, Scenario(100, 2), Scenario(1000, 2))


@dataclass(frozen=True)
class Figure:
    """One server asked in one way, in one scenario: medians over the rounds.

    Attributes:
        model: Kind of the model that answered.
        cpu_us: Of the server, for a request.
        errors: Of all rounds.
    """

    model: str
    server: str
    door: str
    rows: int
    connections: int
    cpu_us: float
    p50_ms: float
    p99_ms: float
    per_second: float
    errors: int
    start_seconds: float
    resident_mib: float


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one short round; figures are not kept")
    parser.add_argument("--rounds", type=int, default=5, help="of 5 s a scenario")
    parser.add_argument("--only", default="", help="servers, with commas between; default: all")
    parser.add_argument("--no-peers", action="store_true", help="none that needs an environment of its own")
    given = parser.parse_args()
    rounds, seconds = (1, 1.5) if given.quick else (given.rounds, 5.0)
    only = {name.strip() for name in given.only.split(",") if name.strip()}
    with tempfile.TemporaryDirectory(prefix="headrace-serving-") as name:
        folder = Path(name)
        settings = load_settings({}, home=folder / "home")
        signer = Signer.of(settings)
        built = [make(folder, signer) for make in (workloads.build, networks.lstm, networks.forest)]
        peers = {} if given.no_peers else environments(folder, only)
        figures = [figure for one in built for figure in in_process(one, 0.3 if given.quick else 2.0)]
        for one in built:
            figures += measured(one, folder, peers, only, rounds, seconds)
    text = markdown([asdict(figure) for figure in figures], conditions(rounds, seconds))
    console.print(text, markup=False)
    if not given.quick:
        FIGURES.write_text(json.dumps([asdict(figure) for figure in figures], indent=1) + "\n", "utf-8")
        plot(json.loads(FIGURES.read_text("utf-8")), PLOT)
        PAGE.write_text(text, "utf-8")
        console.print(f"written: {PAGE}")


def measured(
    built: workloads.Workload,
    folder: Path,
    peers: dict[str, Path],
    only: set[str],
    rounds: int,
    seconds: float,
) -> Iterable[Figure]:
    """All servers of a model in all its scenarios."""
    scenarios = SCENARIOS if built.model == workloads.BOOSTED else SINGLE_ROWS
    seen: dict[tuple[str, str, Scenario], list[tuple[Seen, float, float, float]]] = {}
    for number in range(rounds):
        for place, server in enumerate(peers_of.servers(built, folder, peers)):
            if only and server.name not in only:
                continue
            console.print(f"round {number + 1} of {rounds}, {built.model}: {server.name}")
            port = _FIRST_PORT + 10 * place
            try:
                with peers_of.started(server, port, built.rows, folder / f"{place}.log") as running:
                    for door_name, door in server.doors.items():
                        for scenario in scenarios:
                            result, cpu_us = ask(running, door, built.rows, scenario, seconds)
                            row = (result, cpu_us, running.start_seconds, running.resident_mib())
                            seen.setdefault((server.name, door_name, scenario), []).append(row)
            except RuntimeError as error:
                console.print(f"left out: {error}", style="red", markup=False)
    for (name, door_name, scenario), results in seen.items():
        yield _median_of(built.model, name, door_name, scenario, results)


def ask(
    running: peers_of.Running,
    door: peers_of.Door | peers_of.GrpcDoor,
    rows: np.ndarray,
    scenario: Scenario,
    seconds: float,
) -> tuple[Seen, float]:
    """Load from a process of its own; CPU of the server by its marks of beginning and end."""
    starts = [
        (number * scenario.rows) % len(rows) for number in range(_REQUESTS if scenario.rows < 1000 else 1)
    ]
    requests = [door.request(np.roll(rows, -start, axis=0)[: scenario.rows]) for start in starts]
    plan = Plan(
        "127.0.0.1",
        running.port + door.after,
        [base64.b64encode(request).decode() for request in requests],
        scenario.connections,
        seconds,
        min(1.0, seconds / 2),
    )
    generator = subprocess.Popen(
        [sys.executable, "-m", door.loader],
        cwd=peers_of.ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert generator.stdin is not None
    assert generator.stdout is not None
    assert generator.stderr is not None
    generator.stdin.write(json.dumps(asdict(plan)).encode())
    generator.stdin.close()
    began = _mark(generator.stderr.readline(), b"measuring", running)
    ended = _mark(generator.stderr.readline(), b"measured", running)
    told = generator.stdout.read()
    generator.wait()
    result = Seen(**json.loads(told))
    return result, (ended - began) / max(result.requests, 1) * 1e6


def _mark(line: bytes, expected: bytes, running: peers_of.Running) -> float:
    if line.strip() != expected:
        raise RuntimeError(f"the load generator said {line!r}")
    return running.cpu_seconds()


def _median_of(
    model: str, name: str, door: str, scenario: Scenario, results: Sequence[tuple[Seen, float, float, float]]
) -> Figure:
    return Figure(
        model,
        name,
        door,
        scenario.rows,
        scenario.connections,
        median(cpu for _, cpu, _, _ in results),
        median(seen.p50_ms for seen, _, _, _ in results),
        median(seen.p99_ms for seen, _, _, _ in results),
        median(seen.per_second for seen, _, _, _ in results),
        sum(seen.errors for seen, _, _, _ in results),
        median(start for _, _, start, _ in results),
        median(resident for _, _, _, resident in results),
    )


def in_process(built: workloads.Workload, seconds: float) -> Iterable[Figure]:
    """The limit: the predictor that serves, called without a server around it."""
    from pipelines.adapters.exports import load_export
    from pipelines.adapters.runtimes import Rows

    predictor = load_export(built.export)
    for rows in (1, 100, 1000) if built.model == workloads.BOOSTED else (1,):
        parts = [Rows(np.roll(built.rows, -start, axis=0)[:rows].copy()) for start in range(_REQUESTS)]
        took: list[float] = []
        ends, cpu, turn = time.perf_counter() + seconds, time.process_time(), 0
        while time.perf_counter() < ends:
            began = time.perf_counter()
            predictor.predict_rows(parts[turn % len(parts)])
            took.append(time.perf_counter() - began)
            turn += 1
        cpu_us = (time.process_time() - cpu) / turn * 1e6
        p50, p99 = (float(value) * 1000 for value in np.percentile(took, [50, 99]))
        yield Figure(built.model, "in process", "", rows, 1, cpu_us, p50, p99, turn / sum(took), 0, 0.0, 0.0)


def environments(folder: Path, only: set[str]) -> dict[str, Path]:
    """An environment for each section of ``peers.txt``; one that cannot be made is left out, in words."""
    sections: dict[str, list[str]] = {}
    for line in PEERS.read_text("utf-8").splitlines():
        if line.startswith("["):
            sections[line.strip("[]")] = []
        elif line and not line.startswith("#"):
            sections[next(reversed(sections))].append(line)
    made = {}
    uv = [sys.executable, "-m", "uv"]
    for name, packages in sections.items():
        if only and not any(name in server.lower() for server in only):
            continue
        place = folder / f"peer-{name}"
        console.print(f"making an environment for {name}")
        done = subprocess.run(
            [*uv, "venv", "--quiet", str(place), "--python", sys.executable], capture_output=True, check=False
        )
        if done.returncode == 0:
            install = [
                *uv,
                "pip",
                "install",
                "--quiet",
                "--compile-bytecode",
                "--python",
                str(place / "bin" / "python"),
            ]
            done = subprocess.run([*install, *packages], capture_output=True, check=False)
        if done.returncode:
            console.print(f"left out: {name}: {done.stderr.decode()[-500:]}", style="red", markup=False)
        else:
            made[name] = place
    return made


def conditions(rounds: int, seconds: float) -> str:
    versions = ", ".join(f"{library} {version(library)}" for library in LIBRARIES)
    peers = ", ".join(
        line for line in PEERS.read_text("utf-8").splitlines() if line.startswith(("mlserver==", "bentoml=="))
    )
    load = os.getloadavg()[2]
    return (
        f"`python -m benchmarks.serving.report` on {os.cpu_count()} cores that the load generator shares (load "
        f"average {load:.1f} at the end), Python {platform.python_version()}, {versions}; {peers}. Medians of "
        f"{rounds} rounds of {seconds:g} s."
    )


if __name__ == "__main__":
    main()
