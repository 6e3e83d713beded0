"""Time and memory of a check of 1,000,000 rows with 50 columns: `python -m benchmarks.drift.size`.

The reference is of six weeks and the window of one, 1,000 machines hourly; both are worked out here, though the
reference is kept once per version. Drawing is of the sample that a report shows.
"""

from __future__ import annotations

import resource
import time

import numpy as np
import polars as pl

from models.specs import DriftTest
from pipelines.monitor import drift
from pipelines.monitor.evidence import ROWS, drawn
from pipelines.monitor.reference import of_columns, window_of

MACHINES, COLUMNS, WEEK, WEEKS = 1_000, 50, 168, 5


def main() -> None:
    random = np.random.default_rng(20260101)
    hours = WEEK * WEEKS
    hour = np.tile(np.arange(hours), MACHINES)
    wave = np.sin(2 * np.pi * np.arange(hours) / 24)
    columns = {
        f"f{number:02}": (
            random.normal(size=(MACHINES, 1)) + wave + random.normal(size=(MACHINES, hours))
        ).ravel()
        for number in range(COLUMNS)
    }
    print(f"{len(hour):,} rows of reference, {MACHINES * WEEK:,} of the window, {COLUMNS} columns")
    began = time.perf_counter()
    reference = of_columns(columns, hour, hours)
    print(f"reference, once per version: {time.perf_counter() - began:.1f} s")

    rows = 1_000_000
    now = {name: np.resize(values, rows) + 0.5 * (name == "f00") for name, values in columns.items()}
    place = np.resize(np.arange(WEEK), rows)
    began = time.perf_counter()
    found = drift.check(reference, window_of(reference, now, place, WEEK), 0, DriftTest(), {})
    print(
        f"check of {rows:,} rows: {time.perf_counter() - began:.1f} s; drifted: {[each.column for each in found if each.drifted]}"
    )
    began = time.perf_counter()
    sides = [pl.DataFrame({name: values[:ROWS] for name, values in side.items()}) for side in (now, columns)]
    drawn(sides[0], sides[1], found)
    print(f"report by Evidently, {ROWS:,} rows a side, imports included: {time.perf_counter() - began:.1f} s")
    print(
        f"peak memory, the data included: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB"
    )


if __name__ == "__main__":
    main()
