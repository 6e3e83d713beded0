"""What clients see while things break: callers at a steady rate, and one fault after another.

    python -m benchmarks.serving.resilience [--outage 60] [--per-second 200]

1. MLflow and the object store are killed, and started again after a minute.
2. ``production`` is moved to a version whose file is cut short in the object store; to one of whose file a byte was
   changed there; to one that answers its own sample wrongly though every file is signed. Then to a sound one.
3. The server is killed with SIGKILL while MLflow is down, and started again from its cache.

Each answer is held against what the version that it names must say.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

from benchmarks.serving.live import BUCKET, Live, live
from benchmarks.serving.workload import MODEL

_REFUSAL_SECONDS = 6.0  # the load, its refusal and the next attempt


def outage(system: Live, seconds: float) -> dict[str, object]:
    """MLflow and the object store are gone, and come back; a move made then is followed."""
    system.store.kill()
    system.mlflow.kill()
    time.sleep(seconds)
    ready = httpx.get(f"{system.server.url}/v2/health/ready", trust_env=False)
    system.store.start()  # what it held in memory is gone: what serves lies in the server's cache
    system.mlflow.start()
    return {
        "ready meanwhile": ready.json()["ready"],
        "said so": bool(ready.json()["warnings"]),
    }


def refused(system: Live, version: str) -> dict[str, object]:
    """``production`` names a version that must not serve."""
    before = system.serving()
    system.alias(version)
    time.sleep(_REFUSAL_SECONDS)
    state = httpx.get(f"{system.server.url}/v2/health/ready", trust_env=False).json()
    pointer = state["models"][MODEL]["production"]
    found = {
        "serves on": system.serving() == before,
        "attempts": pointer["failures"],
        "said": (pointer["failure"] or "").rpartition("/")[2][:120],  # without the folder of the download
    }
    system.alias(str(before))
    time.sleep(1.5)
    return found


def truncated(system: Live, version: str) -> None:
    key = system.stored(version, "model.txt")
    content = system.bucket().get_object(Bucket=BUCKET, Key=key)["Body"].read()
    system.bucket().put_object(Bucket=BUCKET, Key=key, Body=content[: len(content) // 2])


def tampered(system: Live, version: str) -> None:
    key = system.stored(version, "model.txt")
    content = bytearray(system.bucket().get_object(Bucket=BUCKET, Key=key)["Body"].read())
    content[len(content) // 2] ^= 1
    system.bucket().put_object(Bucket=BUCKET, Key=key, Body=bytes(content))


def killed(system: Live) -> dict[str, object]:
    """The server dies while MLflow is down, and starts again from its cache."""
    before = system.serving()
    system.mlflow.kill()
    system.store.kill()
    system.server.kill()
    seconds = system.server.start()
    return {"ready again, s": round(seconds, 2), "same version": system.serving() == before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--outage", type=float, default=60.0, help="seconds")
    parser.add_argument("--per-second", type=float, default=200.0)
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    given = parser.parse_args()
    found: dict[str, dict[str, object]] = {}
    spans: dict[str, tuple[float, float]] = {}

    with tempfile.TemporaryDirectory() as folder, live(Path(folder)) as system:
        bad = {name: system.add(1.1 + 0.1 * n) for n, name in enumerate(("truncated", "tampered"))}
        bad["answers its sample wrongly"] = system.add(1.5, lies=True)
        sound = system.add(1.7)
        truncated(system, bad["truncated"])
        tampered(system, bad["tampered"])
        with system.callers(given.per_second) as callers:

            def phase(name: str, work: Callable[[], dict[str, object]]) -> None:
                began = time.monotonic()
                found[name] = work()
                time.sleep(1.0)
                spans[name] = (began, time.monotonic())

            time.sleep(2)
            for name, version in bad.items():
                phase(name, lambda version=version: refused(system, version))  # type: ignore[misc]
            system.alias(sound)
            phase("a sound one", lambda: {"answers after, s": round(system.wait_for(sound), 2)})
            phase("MLflow and store away", lambda: outage(system, given.outage))
            phase("server killed, MLflow away", lambda: killed(system))
        answers = callers.seen()
    for name, span in spans.items():
        seen = answers.between(*span)
        counted = {"requests": len(seen.rows), "failed": seen.failed, "mixed": seen.mixed}
        found[name] = counted | {"p99_ms": round(seen.latency_ms(99)[0], 1)} | found[name]
    table = Table("fault", "requests", "failed", "mixed", "p99, ms", "what the server did")
    for name, figures in found.items():
        rest = {
            key: value
            for key, value in figures.items()
            if key not in {"requests", "failed", "mixed", "p99_ms"}
        }
        told = ", ".join(f"{key}: {value}" for key, value in rest.items())
        table.add_row(name, *(str(figures[key]) for key in ("requests", "failed", "mixed", "p99_ms")), told)
    Console(width=130).print(table)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
