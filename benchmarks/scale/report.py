"""What a row costs as data grow, beside Feast's own stores: `make bench-scale`.

    python -m benchmarks.scale.report [--quick] [--only growth|join|online|orchestration|workers]

Everything runs in processes of its own, one after the other. Feast's DuckDB store lives in an environment
that is made of ``peers.txt`` in a temporary folder. ``RESULTS.md`` and the plots are written from
``results.json``, which is kept as the run goes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from benchmarks.scale import growth, orchestration, page, workers, worlds
from benchmarks.scale.homes import redis_server

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
# A peer that takes more than this is ended, and that is what is told of it.
PEER_SECONDS, PEER_BYTES = 1_800, 16 * 2**30
SIZES = (1_000_000, 10_000_000, 100_000_000)
JOINS = (
    (100_000, 10_000),
    (1_000_000, 100_000),
    (1_000_000, 1_000_000),
    (10_000_000, 100_000),
    (10_000_000, 1_000_000),
)
ENTITIES_ONLINE = (10_000, 200_000)
PARTS = ("growth", "join", "online", "orchestration", "workers")
ORCHESTRATION, WORKERS = (42, 2), (42, 32)  # days and pairs, days and trials
QUICK_ORCHESTRATION, QUICK_WORKERS = (7, 1), (7, 4)
QUICK_SIZES, QUICK_JOINS, QUICK_ONLINE = (350_000,), ((100_000, 10_000),), (10_000,)

Found = dict[str, Any]


def grown(sizes: tuple[int, ...], keep: Callable[[Found], None]) -> None:
    for rows in sizes:
        print(f"growth: {rows:,} rows …", file=sys.stderr)
        keep(growth.measured(rows))


def joined(joins: tuple[tuple[int, int], ...], peers: Path, keep: Callable[[Found], None]) -> None:
    """Point-in-time joins, each by all stores on the same files, and whether the rows are the right ones."""
    for rows, labels in joins:
        with tempfile.TemporaryDirectory(prefix="headrace-join-") as name:
            folder = Path(name)
            print(f"join: {rows:,} feature rows, {labels:,} label rows …", file=sys.stderr)
            worlds.make(folder, rows, labels)
            right = worlds.expected(folder)
            for title, command, result in _stores(peers, folder):
                found = _run(command)
                if "seconds" in found:
                    found |= _differences(folder / result, right)
                keep({"rows": rows, "labels": labels, "store": title} | found)


def _stores(peers: Path, folder: Path) -> Iterator[tuple[str, list[str], str]]:
    ours = [sys.executable, "-m", "benchmarks.scale.ours", "join", "delta", str(folder)]
    yield "Headrace", ours, "joined-delta.parquet"
    for title, store in (("Feast, DuckDB", "duckdb"), ("Feast, default (dask)", "file")):
        yield (
            title,
            [str(peers), str(HERE / "feast_own.py"), "join", store, str(folder)],
            f"joined-{store}.parquet",
        )


def _differences(path: Path, right: Any) -> Found:
    """Rows that are lost or doubled, and rows of other values than ``merge_asof`` gives."""
    import polars as pl

    got = pl.read_parquet(path).select(right.columns)
    names = [name for name in right.columns if name.startswith("f")]
    both = right.join(got.unique("label"), on="label", how="inner", suffix="_got")
    other = both.select(
        pl.any_horizontal(~pl.col(name).eq_missing(pl.col(f"{name}_got")) for name in names).sum()
    ).item()
    return {
        "lost": right.height - got["label"].n_unique(),
        "doubled": got.height - got["label"].n_unique(),
        "different": other,
    }


def published(sizes: tuple[int, ...], peers: Path, keep: Callable[[Found], None]) -> None:
    """The newest rows of entities into the online stores, and reads from there."""
    for entities in sizes:
        with (
            tempfile.TemporaryDirectory(prefix="headrace-online-") as name,
            redis_server(Path(name)) as redis,
        ):
            folder = Path(name)
            print(f"online: {entities:,} entities …", file=sys.stderr)
            worlds.make(folder, entities, 0, entities=entities)
            for kind, ours, theirs in (
                ("SQLite", f"sqlite:{folder}/ours.db", f"sqlite:{folder}/feast.db"),
                ("Redis", f"redis://127.0.0.1:{redis}/1", f"redis:127.0.0.1:{redis},db=2"),
            ):
                if kind == "Redis" and redis is None:
                    continue
                for title, command in (
                    (
                        "Headrace",
                        [sys.executable, "-m", "benchmarks.scale.ours", "online", ours, str(folder)],
                    ),
                    ("Feast", [str(peers), str(HERE / "feast_own.py"), "online", theirs, str(folder)]),
                ):
                    keep({"entities": entities, "store": kind, "by": title} | _run(command))


def _run(command: list[str]) -> Found:
    """The last line of a process, or how it ended. Its memory is watched, or one peer would take the machine's."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)} if command[0] == sys.executable else {**os.environ}
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True, env=environment)
        watched, began = psutil.Process(process.pid), time.monotonic()
        ended = ""
        while process.poll() is None and not ended:
            time.sleep(0.2)
            with suppress(psutil.NoSuchProcess):  # it ended meanwhile
                if watched.memory_info().rss > PEER_BYTES:
                    ended = f"more than {PEER_BYTES / 2**30:.0f} GiB of memory after {time.monotonic() - began:.0f} s"
            if time.monotonic() - began > PEER_SECONDS:
                ended = f"more than {PEER_SECONDS} s"
        if ended:
            process.kill()
        output, _ = process.communicate()
        said.seek(0)
        if not ended and process.returncode:
            ended = (said.read().strip() or "killed").splitlines()[-1][:200]
    if ended:
        return {"ended": ended}
    found: Found = json.loads(output.splitlines()[-1])
    return found


def environment_of_peers(folder: Path) -> Path:
    """Python of an environment with what ``peers.txt`` names."""
    python = folder / "bin" / "python"
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "--quiet", str(folder), "--python", sys.executable], check=True)
    install = [*uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", str(python)]
    subprocess.run([*install, "-r", str(HERE / "peers.txt")], check=True)
    return python


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="Small sizes, to see that it runs; writes nothing."
    )
    parser.add_argument("--only", choices=PARTS, help="One part; the others stay as they are.")
    parser.add_argument("--rows", type=int, action="append", help="Sizes of growth, instead of its own.")
    parser.add_argument(
        "--peers", type=Path, help="Python that has Feast with DuckDB, instead of one made for this."
    )
    arguments = parser.parse_args()
    kept = HERE / "results.json"
    found: Found = json.loads(kept.read_text("utf-8")) if arguments.only and kept.exists() else {}
    parts = (arguments.only,) if arguments.only else PARTS

    def keep(part: str) -> Callable[[Found], None]:
        found[part] = []

        def add(row: Found) -> None:
            print(json.dumps(row), file=sys.stderr)
            found[part].append(row)
            if not arguments.quick:
                kept.write_text(json.dumps(found, indent=1) + "\n", "utf-8")

        return add

    quick = arguments.quick
    try:
        if "growth" in parts:
            grown(tuple(arguments.rows or (QUICK_SIZES if quick else SIZES)), keep("growth"))
        with tempfile.TemporaryDirectory(prefix="headrace-peers-") as name:
            wants_peers = {"join", "online"} & set(parts)
            peers = arguments.peers or (environment_of_peers(Path(name)) if wants_peers else Path())
            if "join" in parts:
                joined(QUICK_JOINS if quick else JOINS, peers, keep("join"))
            if "online" in parts:
                published(QUICK_ONLINE if quick else ENTITIES_ONLINE, peers, keep("online"))
        if "orchestration" in parts:
            orchestration.measure(*(QUICK_ORCHESTRATION if quick else ORCHESTRATION), keep("orchestration"))
        if "workers" in parts:
            workers.measure(*(QUICK_WORKERS if quick else WORKERS), keep("workers"))
    finally:  # what was measured before a part that failed is told
        if not quick:
            page.write(found, HERE)


if __name__ == "__main__":
    main()
