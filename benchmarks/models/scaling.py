"""scaling: load 30 minutes ahead, and the action policy replayed, on real web sites and clouds.

Protocol of the data sets' READMEs: the mean load of the 5 minutes that end 30 minutes ahead, tested on
the newest part of each series. Each series is fitted by itself. The World Cup site, whose load grows a
hundredfold within the test, is refitted every week on what was known by then, as the pipeline does; a
further row shows what a single fit comes to. Of the other series further rows judge an earlier part.

The action policy is replayed beside a reactive autoscaler (:mod:`benchmarks.models.autoscaling`).
"""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import reduce
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from benchmarks.models.autoscaling import (
    STARTUPS,
    Replays,
    Series,
    Tested,
    plot_curves,
    policy_rows,
    replayed,
    step_for,
    steps_of,
)
from benchmarks.models.table import Row
from feature_repo.transformations import telemetry_features
from models.base import Answers, Array, Observations, builder_of
from models.folds import together
from models.manifest import FieldType, InputField
from models.plots import BLUE, GREY, ORANGE
from models.scaling.build import ScalingModel
from models.scaling.policy import Outlook
from models.scaling.spec import SPEC
from models.specs import ModelSpec
from models.targets import STEPS_AHEAD as STEP
from models.targets import Table
from pipelines.references import Window
from pipelines.settings import load_settings
from pipelines.snapshot.parts import observations
from pipelines.sources.base import open_source
from pipelines.sources.profile import load_profile

SOURCES = ("web_requests", "datacenter_aggregates")
SEED = 7
VALID_DAYS = 3
WARM_UP = np.timedelta64(1, "D")
REFIT_DAYS = {"worldcup98": 7}
#: First moment that is tested, in the profile's times; other series, and others dates: the last third.
TEST_FROM = {"nasa": np.datetime64("1998-07-15T04:00"), "worldcup98": np.datetime64("1998-06-01T00:00")}
TARGET_RATIO = 0.9


def run(data: Path, folder: Path, quick: bool) -> list[Row]:
    """Rows of the table; figures are saved in the folder. ``quick`` leaves out the World Cup and earlier parts."""
    rows: list[Row] = []
    for series in (each for source in SOURCES for each in series_of(source, data)):
        if quick and series.name == "worldcup98":
            continue
        start = test_start(series)
        end, refit_days = series.rows.time.max(), REFIT_DAYS.get(series.name)
        tested = rolling(series, start, end, refit_days)
        fits = f", refitted every {refit_days} days" if refit_days else ""
        rows += _forecast_rows(series, tested, f"{series.name}, from {_day(start)}{fits}", judged=True)
        replays = [replayed(series, tested, startup) for startup in STARTUPS]
        rows += [row for each in replays for row in policy_rows(series, each)]
        _plot(series, tested, replays, folder / f"scaling_{series.name}.png")
        if quick:
            continue
        if refit_days:
            once = rolling(series, start, end)
            rows += _forecast_rows(
                series, once, f"{series.name}, from {_day(start)}, fitted once", judged=False
            )
        else:
            earlier = start - (end - start)
            before = rolling(series, earlier, start)
            rows += _forecast_rows(series, before, f"{series.name}, from {_day(earlier)}", judged=False)
    return rows


def series_of(source: str, data: Path) -> list[Series]:
    """The series of a bundled source, each with features and targets as its profile defines them."""
    profile = load_profile(source)
    spec = profile.spec_of(SPEC)
    dataset, grid = profile.dataset("telemetry"), profile.grid(spec.grid)
    everything = Window(start=datetime(1970, 1, 1, tzinfo=UTC), end=datetime(2100, 1, 1, tzinfo=UTC))
    read = open_source(profile, load_settings(shared_data=data)).read(dataset, everything)
    clean = read.with_columns(
        pl.col(dataset.event_time).cast(pl.Datetime("us")).dt.replace_time_zone("UTC"),
        pl.col("load").cast(pl.Float64),
        slice_start=pl.col(dataset.event_time).cast(pl.Datetime("us")).dt.replace_time_zone("UTC"),
        ordinal=pl.lit(0, pl.Int64),
    )
    features = telemetry_features(clean.lazy(), dataset, grid).collect()
    asked = spec.target.attach(
        features.select(dataset.entity, "event_time"),
        dataset.entity,
        {"telemetry": Table(dataset, clean.lazy())},
        features["event_time"].max(),
    )
    rows = asked.join(features, on=[dataset.entity, "event_time"]).sort(dataset.entity, "event_time", STEP)
    wanted = {name for pattern in spec.inputs for name in fnmatch.filter(features.columns, pattern)}
    names = [name for name in features.columns if name in wanted]
    inputs = tuple(
        InputField(name=name, type=FieldType.DOUBLE, required=name == STEP) for name in (*names, STEP)
    )
    rows = rows.with_columns(part=pl.lit("all"), weight=1.0)
    return [
        _one(entity, rows, clean, dataset.entity, inputs, spec)
        for entity in sorted(rows[dataset.entity].unique().to_list())
    ]


def _one(
    name: str,
    rows: pl.DataFrame,
    clean: pl.DataFrame,
    entity: str,
    inputs: tuple[InputField, ...],
    spec: ModelSpec,
) -> Series:
    own = clean.filter(pl.col(entity) == name).sort("event_time")
    at = own["event_time"].dt.replace_time_zone(None).to_numpy()
    return Series(
        name=name,
        rows=observations(rows.filter(pl.col(entity) == name), "all", entity, inputs),
        inputs=inputs,
        spec=spec,
        at=at,
        load=own["load"].to_numpy(),
        step_minutes=int(np.median(np.diff(at)) / np.timedelta64(1, "m")),
    )


def test_start(series: Series) -> np.datetime64:
    """First moment tested: the README's, or the last third where that leaves nothing to learn or to test."""
    first, last = series.rows.time.min(), series.rows.time.max()
    known = TEST_FROM.get(series.name)
    week = np.timedelta64(7, "D")
    return known if known is not None and first + week < known < last else last - (last - first) / 3


def rolling(
    series: Series, start: np.datetime64, end: np.datetime64, refit_days: int | None = None
) -> Tested:
    """Fit on what was known at the start, answer the targets from then on, refit from time to time."""
    builder, spec = builder_of(series.spec), series.spec
    begin = time.perf_counter()
    rows = series.rows
    until = _target_time(series)
    known_from = rows.time.min() + WARM_UP
    step = np.timedelta64(refit_days or 100_000, "D")
    parts: list[Observations] = []
    answers: list[Answers] = []
    told: list[tuple[Observations, ScalingModel]] = []
    for cut in np.arange(start, end, step):
        valid_from = cut - np.timedelta64(VALID_DAYS, "D")
        train = rows.rows((rows.time >= known_from) & (until <= valid_from))
        valid = rows.rows((rows.time >= valid_from) & (until <= cut))
        fitted = builder.fit(train, valid, series.inputs, builder.default_params(), SEED, spec)
        assert isinstance(fitted, ScalingModel)
        ahead = rows.rows((until > cut) & (until <= min(cut + step, end)))
        parts.append(ahead)
        answers.append(fitted.answer(ahead))
        now = rows.rows((rows.time >= cut) & (rows.time < min(cut + step, end)) & (rows.columns[STEP] == 1))
        told.append((now, fitted))
    joined = {name: np.concatenate([each[name] for each in answers]) for name in answers[0]}
    seconds = time.perf_counter() - begin
    asked = sorted({step_for(startup, spec) for startup in STARTUPS})
    return Tested(
        reduce(together, parts),
        joined,
        {step: _outlook([(_asking(now, step), fitted) for now, fitted in told]) for step in asked},
        np.concatenate([now.time for now, _ in told]),
        seconds,
    )


def _asking(rows: Observations, step: int) -> Observations:
    return replace(rows, columns={**rows.columns, STEP: np.full(len(rows), float(step))})


def _outlook(told: Sequence[tuple[Observations, ScalingModel]]) -> Outlook:
    parts = [fitted.outlook(rows) for rows, fitted in told]
    values = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("now", "forecast", "lower", "upper")
    }
    return Outlook(**values, coverage=parts[0].coverage)


def _target_time(series: Series) -> NDArray[np.datetime64]:
    """End of the span that each row's target is of, shape (n,)."""
    ahead = np.timedelta64(series.spec.target.horizon) / steps_of(series.spec)
    moments: NDArray[np.datetime64] = series.rows.time + series.rows.columns[STEP].astype(np.int64) * ahead
    return moments


def _forecast_rows(series: Series, tested: Tested, data: str, *, judged: bool) -> list[Row]:
    """WAPE by step, of the last step beside the naive and the seasonal-naive forecast."""
    rows: list[Row] = []
    steps = steps_of(series.spec)
    minutes = series.spec.target.horizon.total_seconds() / 60 / steps
    task = builder_of(series.spec).task(series.spec)
    for step in (steps,) if judged is False else range(1, steps + 1):
        ahead = round(step * minutes)
        yesterday = f"load__lag_{288 - ahead // 5}"
        usable = tested.rows.columns[STEP] == step
        for column in ("load__lag_0", yesterday):
            usable &= np.isfinite(tested.rows.columns.get(column, np.zeros(len(tested.rows))))
        part = tested.rows.rows(usable)
        ours = task.metrics(part, {name: values[usable] for name, values in tested.answers.items()})
        naive = task.metrics(part, {"forecast": part.columns["load__lag_0"]})["wape"]
        note = "baseline: the last 5 minutes repeated"
        if yesterday in part.columns:
            note += f"; the same 5 minutes a day ago {task.metrics(part, {'forecast': part.columns[yesterday]})['wape']:.4g}"
        low, high = _ratio_interval(part, tested.answers["forecast"][usable])
        note += f"; ratio {low:.3f} to {high:.3f} (95 %, whole days resampled)"
        of_target = judged and step == steps
        rows.append(
            Row(
                model="scaling",
                data=data,
                metric=f"WAPE, {ahead} min ahead",
                baseline=naive,
                ours=ours["wape"],
                coverage=ours["coverage"],
                target=f"<= {TARGET_RATIO:g} of naive" if of_target else "",
                reached=ours["wape"] <= TARGET_RATIO * naive if of_target else None,
                seconds=tested.seconds,
                note=note,
            )
        )
    return rows


def _ratio_interval(part: Observations, forecast: Array) -> tuple[float, float]:
    """95 % interval of the ratio of absolute errors, ours over naive, by a bootstrap over days."""
    truth = part.targets["load"]
    _, day = np.unique(part.time.astype("datetime64[D]"), return_inverse=True)
    ours, naive = (
        np.bincount(day, np.abs(truth - answer)) for answer in (forecast, part.columns["load__lag_0"])
    )
    drawn = np.random.default_rng(SEED).integers(0, len(ours), (2000, len(ours)))
    low, high = np.quantile(ours[drawn].sum(axis=1) / naive[drawn].sum(axis=1), (0.025, 0.975))
    return float(low), float(high)


def _day(moment: np.datetime64) -> str:
    return str(moment.astype("datetime64[D]"))


def _plot(series: Series, tested: Tested, replays: list[Replays], file: Path) -> None:
    """Four days of truth, forecast and interval; and what each autoscaler costs and lacks."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 4), layout="constrained")
    left, *others = figure.subplots(1, 1 + len(replays), width_ratios=(3, *(2 for _ in replays)))
    last = tested.rows.columns[STEP] == steps_of(series.spec)
    shown = last & (tested.rows.time < tested.rows.time.min() + np.timedelta64(4, "D"))
    when = tested.rows.time[shown] + np.timedelta64(series.spec.target.horizon)
    lower, forecast, upper = (tested.answers[name][shown] for name in ("lower", "forecast", "upper"))
    left.fill_between(when, lower, upper, color=BLUE, alpha=0.25, label="80 % interval")
    left.plot(when, tested.rows.targets["load"][shown], color=GREY, linewidth=1, label="truth")
    left.plot(when, forecast, color=ORANGE, linewidth=1, label="forecast of 30 min before")
    left.set_title(f"{series.name}: load")
    left.tick_params("x", rotation=30)
    left.legend(fontsize="small")
    for axis, each in zip(others, replays, strict=True):
        plot_curves(axis, each)
    figure.savefig(file, dpi=80)
