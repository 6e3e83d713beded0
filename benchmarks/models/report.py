"""Measure every model of the catalogue on real telemetry and write one table.

    python -m benchmarks.models.report --data DATA [--only bandwidth,cost] [--quick]

Each model has a module of its name here, which evaluates the repository's builder and features by the
protocol of the data set's README, beside baselines on the same rows of the same run. One process per
model, so that none runs in the memory or with the settings of another. The rows of each are kept as
JSON in ``results/``; ``RESULTS.md`` is written from all that are there.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from rich.console import Console

from benchmarks.models.table import Row, markdown
from models.catalogue import CATALOGUE

HERE = Path(__file__).parent
RESULTS, PLOTS, PAGE = HERE / "results", HERE / "plots", HERE / "RESULTS.md"
COMMAND = "make bench-models DATA=folder"
LIBRARIES = ("lightgbm", "scikit-learn", "tensorflow-cpu", "numpy")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--only", default="", help="models, with commas between; default: all")
    parser.add_argument("--quick", action="store_true", help="less data; figures are not kept")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if not given.data.is_dir():
        parser.error(f"--data {given.data} is no folder")
    if given.one:
        measure(given.one, given.data, given.quick)
        return
    names = [name for name in given.only.split(",") if name] or list(CATALOGUE)
    if unknown := sorted(set(names) - set(CATALOGUE)):
        parser.error(f"--only: no models {unknown}; the catalogue has {sorted(CATALOGUE)}")
    failed = [name for name in names if not _in_own_process(name, given.data, given.quick)]
    if not given.quick:
        PAGE.write_text(page(), "utf-8")
        Console().print(f"written: {PAGE}")
    if failed:
        raise SystemExit(f"no figures of {failed}: see above")


def measure(name: str, data: Path, quick: bool) -> None:
    """Measure one model here; keep its rows, unless it was a quick look."""
    PLOTS.mkdir(exist_ok=True)
    rows: list[Row] = importlib.import_module(f"benchmarks.models.{name}").run(data, PLOTS, quick)
    print(markdown(rows))
    if not quick:
        RESULTS.mkdir(exist_ok=True)
        content = json.dumps([asdict(row) for row in rows], indent=1, ensure_ascii=False)
        (RESULTS / f"{name}.json").write_text(content + "\n", "utf-8")


def page() -> str:
    """The page, from the rows that are kept."""
    kept = {name: RESULTS / f"{name}.json" for name in CATALOGUE}
    rows = [
        Row(**row) for path in kept.values() if path.is_file() for row in json.loads(path.read_text("utf-8"))
    ]
    missing = [name for name, path in kept.items() if not path.is_file()]
    versions = ", ".join(f"{library} {version(library)}" for library in LIBRARIES)
    lines = [
        "# Every model on real telemetry",
        "",
        f"Written by `{COMMAND}` on {os.cpu_count()} cores, Python {platform.python_version()}, {versions}. Baselines are "
        "measured on the same rows in the same run, unless the note says that they are the data set's published ones. "
        "A ratio is ours over the baseline.",
        "",
        *(
            [f"Not measured yet: {', '.join(missing)}; what is known of them stands in their cards.", ""]
            if missing
            else []
        ),
        markdown(rows),
    ]
    for name in CATALOGUE:
        plots = sorted(PLOTS.glob(f"{name}_*.png"))
        if plots:
            lines += [f"## {name}", "", *(f"![{plot.stem}](plots/{plot.name})" for plot in plots), ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def _in_own_process(name: str, data: Path, quick: bool) -> bool:
    command = [sys.executable, "-m", "benchmarks.models.report", "--data", str(data.resolve()), "--one", name]
    console = Console()
    console.rule(name)
    # TensorFlow tells of the processor on every start; a table has no room for it.
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    done = subprocess.run([*command, *(["--quick"] if quick else [])], env=environment, check=False)
    return done.returncode == 0


if __name__ == "__main__":
    main()
