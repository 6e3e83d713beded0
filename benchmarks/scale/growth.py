"""Rows per second and memory of ingest, validate and features as a table grows: does a row cost the same?

One fleet, watched for longer and longer: 1,200 simulated machines send 345,600 rows a day, so 1 million
rows are 3 days, 10 million 29, 100 million 290. Each size runs in a home and a process of its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from pipelines.references import Window
from pipelines.settings import load_settings
from pipelines.sources.profile import BUNDLED

MACHINES = 1_200
ROWS_PER_DAY = MACHINES * 288
START = datetime(2026, 1, 1, tzinfo=UTC)
DATASET = "telemetry"


def measured(rows: int) -> dict[str, Any]:
    """Seconds per stage and peak memory (bytes) of one size, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scale.growth", "--rows", str(rows)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def run(rows: int, home: Path) -> dict[str, Any]:
    """The three stages over as many days as hold these rows, in this process."""
    from pipelines.adapters.lake import Lake
    from pipelines.features import job as features
    from pipelines.ingest import job as ingest
    from pipelines.validate import job as validate

    settings = load_settings({}, home=home, source=str(_profile(home)))
    window = Window(start=START, end=START + timedelta(days=max(1, round(rows / ROWS_PER_DAY))))
    began = time.perf_counter()
    ingested = ingest.run(settings.source, DATASET, window, settings)
    at_ingest = time.perf_counter()
    validated = validate.run(ingested, settings)
    at_validate = time.perf_counter()
    built = features.run(settings.source, window, settings, grids=["hourly"])
    at_features = time.perf_counter()
    lake = Lake(settings.lake)
    size = sum(path.stat().st_size for path in Path(lake.url).rglob("*") if path.is_file())
    return {
        "rows": ingested.raw.rows_added,
        "clean": validated.clean.rows_added,
        "quarantine": validated.quarantine.rows_added,
        "feature_rows": sum(table.rows_added for table in built.views.values()),
        "days": (window.end - window.start).days,
        "seconds": {
            "ingest": at_ingest - began,
            "validate": at_validate - at_ingest,
            "features": at_features - at_validate,
        },
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "lake_bytes": size,
    }


def _profile(home: Path) -> Path:
    """The simulated source with a larger fleet, and of its data sets telemetry and the events beside it."""
    fleet = yaml.safe_load((BUNDLED / "simulated.yaml").read_text("utf-8"))
    fleet["name"] = "fleet"
    fleet["origin"]["machines"] = MACHINES
    path = home / "fleet.yaml"
    path.write_text(yaml.safe_dump(fleet, sort_keys=False), "utf-8")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, required=True, help="Telemetry rows, about.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="headrace-growth-") as folder:
        print(json.dumps(run(arguments.rows, Path(folder))))


if __name__ == "__main__":
    main()
