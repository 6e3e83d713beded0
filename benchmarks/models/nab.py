"""nab: a model for each series, of its first 15 %; windows found, and alarms outside of them."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from benchmarks.models.detectors import SEED, VALID_SHARE
from benchmarks.models.servers import observed, read
from benchmarks.models.table import Row
from models.anomaly.build import BUILDER
from models.anomaly.spec import SPEC
from models.base import Observations
from models.folds import together
from models.specs import Detection
from pipelines.sources.profile import load_profile

#: As NAB's probation.
NAB_LEARNED_SHARE = 0.15


def figures_of_series(data: Path) -> list[Row]:
    """Windows found, and alarms a day outside of them; the first 15 % of each series teach, as NAB's probation."""
    profile = load_profile("nab")
    spec = profile.spec_of(SPEC)
    assert isinstance(spec.task, Detection)
    budget = spec.task.max_false_positive_rate
    rows = read(profile, data)
    windows = pl.read_parquet(data / "nab" / "windows.parquet")
    keys = tuple(sorted(rows["series"].unique().to_list()))
    begin = time.perf_counter()
    tested: list[Observations] = []
    ours: list[NDArray[np.bool_]] = []
    naive: list[NDArray[np.bool_]] = []
    for key in keys:
        inputs, seen = observed(rows.filter(pl.col("series") == key), profile, (key,))
        order, learned = np.arange(len(seen)), len(seen) * NAB_LEARNED_SHARE
        train = seen.rows(order < int(learned * (1 - VALID_SHARE)))
        valid = seen.rows((order >= len(train)) & (order < int(learned)))
        later = seen.rows(order >= int(learned))
        # A model each: the series share a name, and neither meaning nor unit.
        model = BUILDER.fit(train, valid, inputs, BUILDER.default_params(), SEED, spec)
        tested.append(later)
        ours.append(model.answer(later)["abnormal"])
        naive.append(_unusual(together(train, valid), later, budget))
    seconds = time.perf_counter() - begin
    figures = []
    for alarms in (naive, ours):
        found = total = episodes = 0
        days = 0.0
        for key, part, alarm in zip(keys, tested, alarms, strict=True):
            inside = np.zeros(len(part), dtype=bool)
            for start, end in windows.filter(pl.col("series") == key).select("start", "end").iter_rows():
                within = (part.time >= np.datetime64(start)) & (part.time <= np.datetime64(end))
                if within.any():
                    total, found, inside = total + 1, found + bool(alarm[within].any()), inside | within
            outside = alarm & ~inside
            episodes += int(outside[0]) + int(np.sum(outside[1:] & ~outside[:-1]))
            days += float(np.sum(~inside)) * 5 / 1440
        figures.append((found / total, episodes / days, total))
    (baseline, baseline_rate, total), (share, rate, _) = figures
    about = f"nab, {len(keys)} series, {total} windows"
    note = "baseline: beyond the quantiles of the training part that the budget leaves"
    return [
        Row("anomaly", about, "windows with an alarm", baseline, share, seconds, note=note),
        Row(
            "anomaly",
            about,
            "alarms a day outside windows, lower is better",
            baseline_rate,
            rate,
            seconds,
            note=note + "; runs of alarms count once",
        ),
    ]


def _unusual(learned: Observations, tested: Observations, budget: float) -> NDArray[np.bool_]:
    low, high = np.nanquantile(learned.columns["value__lag_0"], [budget / 2, 1 - budget / 2])
    values = tested.columns["value__lag_0"]
    return (values < low) | (values > high)
