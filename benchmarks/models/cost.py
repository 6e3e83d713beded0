"""cost: daily bills of mybinder.org, every day an origin, the 30 days after it forecast.

The model is fitted anew every four weeks on what was known by then, and answers the origins of the
four weeks that follow; its weights and intervals come from the same past. Protocol and baselines
are those of the data set's README: origins from 2018-06-30 on, which is 200 days into the series,
to 30 days before its end.
"""

from __future__ import annotations

import fnmatch
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import reduce
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from benchmarks.models.table import Row
from feature_repo.transformations import telemetry_features
from models.base import Answers, Observations, Task, builder_of
from models.cost.origins import origins_of
from models.cost.spec import SPEC
from models.folds import together
from models.manifest import FieldType, InputField
from models.plots import BLUE, GREY, ORANGE
from models.specs import ModelSpec
from models.targets import STEPS_AHEAD as STEP
from models.targets import Table
from pipelines.references import Window
from pipelines.settings import load_settings
from pipelines.snapshot.parts import observations
from pipelines.sources.base import open_source
from pipelines.sources.profile import load_profile

HISTORY_DAYS = 200
REFIT_DAYS = 28
VALID_DAYS = 56
SEED = 7
BLOCK_DAYS, RESAMPLES = 30, 2000
COVERAGES = ("coverage", "total_coverage")
TARGET_MEAN, TARGET_MEDIAN, NOMINAL, WITHIN = 0.075, 0.05, 0.80, 0.03


@dataclass(frozen=True)
class Wanted:
    """One figure of the table.

    Attributes:
        name: Among the task's metrics.
        interval: The metric that says how much of it the intervals cover.
        below: What the issue wants it to be below, if it does.
        around: What the issue wants it to be within three points of.
    """

    name: str
    title: str
    interval: str = ""
    below: float | None = None
    around: float | None = None

    @property
    def target(self) -> str:
        if self.below is not None:
            return f"< {self.below:g}"
        return "" if self.around is None else f"{self.around:g} ± {WITHIN:g}"

    def reached(self, value: float) -> bool | None:
        """Whether the target is met; None where there is none."""
        if self.below is not None:
            return value < self.below
        return None if self.around is None else abs(value - self.around) <= WITHIN


BRIEF = (
    Wanted("total_ape_median", "30-day total, median error (share)", "total_coverage"),
    Wanted("wape", "daily WAPE", "coverage"),
    Wanted("coverage", "coverage of days, 80 % interval"),
)
FULL = (
    Wanted("total_ape_mean", "30-day total, mean error (share)", "total_coverage", below=TARGET_MEAN),
    Wanted("total_ape_median", "30-day total, median error (share)", "total_coverage", below=TARGET_MEDIAN),
    Wanted("wape", "daily WAPE", "coverage"),
    Wanted("mape", "daily MAPE", "coverage"),
    Wanted("mase", "daily MASE (1: as good as the last week repeated, within the lags)"),
    Wanted("coverage", "coverage of days, 80 % interval", around=NOMINAL),
    Wanted("total_coverage", "coverage of 30-day totals, 80 % interval", around=NOMINAL),
)


@dataclass(frozen=True)
class Backtest:
    """Answers of all origins, the rows beside them, and how long it took."""

    rows: Observations
    ours: Answers
    baselines: dict[str, Answers]
    seconds: float


def run(data: Path, folder: Path, quick: bool) -> list[Row]:
    """Rows of the table; figures are saved in the folder. ``quick`` refits every twelve weeks."""
    rows: list[Row] = []
    for source in ("mybinder_billing", "mybinder_services"):
        observations, inputs, spec = observations_of(source, data)
        tested = backtest(observations, inputs, spec, REFIT_DAYS * (3 if quick else 1))
        rows += _rows(source, tested, spec)
        _plot(tested, folder / f"cost_{source}.png")
    return rows


def observations_of(source: str, data: Path) -> tuple[Observations, tuple[InputField, ...], ModelSpec]:
    """All rows of a bundled source with features and targets, its inputs, and the spec as the source has it."""
    profile = load_profile(source)
    spec = profile.spec_of(SPEC)
    dataset, grid = profile.dataset("billing"), profile.grid(spec.grid)
    everything = Window(start=datetime(2000, 1, 1, tzinfo=UTC), end=datetime(2100, 1, 1, tzinfo=UTC))
    read = open_source(profile, load_settings(shared_data=data)).read(dataset, everything)
    clean = read.with_columns(
        pl.col(dataset.event_time).cast(pl.Datetime("us")).dt.replace_time_zone("UTC"),
        pl.col("cost_usd").cast(pl.Float64),
    ).filter(pl.col("cost_usd") >= 0)
    features = telemetry_features(clean.lazy(), dataset, grid).collect()
    tables = {"billing": Table(dataset, clean.lazy())}
    until = features["event_time"].max()
    asked = spec.target.attach(features.select(dataset.entity, "event_time"), dataset.entity, tables, until)
    rows = asked.join(features, on=[dataset.entity, "event_time"]).sort(dataset.entity, "event_time", STEP)
    names = [name for pattern in spec.inputs for name in fnmatch.filter(features.columns, pattern)]
    inputs = tuple(
        InputField(name=name, type=FieldType.DOUBLE, required=name == STEP) for name in (*names, STEP)
    )
    return (
        observations(rows.with_columns(part=pl.lit("all"), weight=1.0), "all", dataset.entity, inputs),
        inputs,
        spec,
    )


def backtest(
    rows: Observations, inputs: tuple[InputField, ...], spec: ModelSpec, refit_days: int
) -> Backtest:
    """Rolling origin: fitted every ``refit_days`` on what was known, answered until the next fit."""
    builder, task, horizon = (
        builder_of(spec),
        builder_of(spec).task(spec),
        np.timedelta64(spec.target.horizon),
    )
    begin = time.perf_counter()
    judged: list[Observations] = []
    answered: list[Answers] = []
    baselines: list[dict[str, Answers]] = []
    first = rows.time.min() + np.timedelta64(HISTORY_DAYS - 1, "D")
    for cut in np.arange(first, rows.time.max() + np.timedelta64(1, "D"), np.timedelta64(refit_days, "D")):
        ahead = rows.rows((rows.time >= cut) & (rows.time < cut + np.timedelta64(refit_days, "D")))
        valid_from = cut - horizon - np.timedelta64(VALID_DAYS, "D")
        train = rows.rows(rows.time + horizon <= valid_from)
        valid = rows.rows((rows.time >= valid_from) & (rows.time + horizon <= cut))
        fitted = builder.fit(train, valid, inputs, builder.default_params(), SEED, spec)
        judged.append(ahead)
        answered.append(fitted.answer(ahead))
        baselines.append(task.baselines(train, ahead, inputs))
    return Backtest(
        rows=reduce(together, judged),
        ours=_joined(answered),
        baselines={name: _joined([each[name] for each in baselines]) for name in baselines[0]},
        seconds=time.perf_counter() - begin,
    )


def _joined(answers: list[Answers]) -> Answers:
    return {name: np.concatenate([each[name] for each in answers]) for name in answers[0]}


def _chosen(tested: Backtest, rows: NDArray[np.bool_]) -> Backtest:
    return Backtest(
        tested.rows.rows(rows),
        {name: values[rows] for name, values in tested.ours.items()},
        {
            name: {output: values[rows] for output, values in answers.items()}
            for name, answers in tested.baselines.items()
        },
        tested.seconds,
    )


def _whole_bill(tested: Backtest) -> Backtest:
    """All entities added up, without intervals: those of a sum are not the sums of intervals."""
    step = tested.rows.columns[STEP].astype(np.int64)
    key = tested.rows.time.astype("datetime64[D]").astype(np.int64) * 100 + step
    _, first, group = np.unique(key, return_index=True, return_inverse=True)

    def summed(values: NDArray) -> NDArray[np.float64]:
        return np.bincount(group.reshape(-1), weights=values)

    once = tested.rows.rows(first)
    lags = {name: summed(values) for name, values in tested.rows.columns.items() if "__lag_" in name}
    rows = replace(
        once,
        columns=once.columns | lags,
        targets={name: summed(values) for name, values in tested.rows.targets.items()},
        entity=np.full(len(first), "whole bill", dtype=object),
    )
    return Backtest(
        rows,
        {"forecast": summed(tested.ours["forecast"])},
        {name: {"forecast": summed(answers["forecast"])} for name, answers in tested.baselines.items()},
        tested.seconds,
    )


def _rows(source: str, tested: Backtest, spec: ModelSpec) -> list[Row]:
    """Figures of each entity and of all together; of projects also of the whole bill.

    The issue's targets are for projects. Services are told in fewer figures.
    """
    names = tested.rows.entity.astype(str)
    parts = {name: _chosen(tested, names == name) for name in np.unique(names)} | {"all": tested}
    if source == "mybinder_billing":
        parts["whole bill"] = _whole_bill(tested)
        return [
            row for name, part in parts.items() for row in _figures(f"{source}, {name}", part, spec, FULL)
        ]
    return [row for name, part in parts.items() for row in _figures(f"{source}, {name}", part, spec, BRIEF)]


def _figures(data: str, tested: Backtest, spec: ModelSpec, wanted: tuple[Wanted, ...]) -> list[Row]:
    """Rows of the wanted figures, each beside the best of the baselines."""
    task = builder_of(spec).task(spec)
    ours = task.metrics(tested.rows, tested.ours)
    theirs = {name: task.metrics(tested.rows, answers) for name, answers in tested.baselines.items()}
    origins = len(origins_of(tested.rows).rows)
    rows = []
    for figure in wanted:
        if figure.name not in ours:
            continue
        beside = {name: figures[figure.name] for name, figures in theirs.items() if figure.name in figures}
        notes = [f"{name} {value:.4g}" for name, value in beside.items()]
        if figure.name in COVERAGES:
            low, high = _interval_over_months(tested, task, figure.name)
            notes.append(f"95 %: {low:.3f} to {high:.3f}, 30 days of origins resampled at a time")
        rows.append(
            Row(
                model="cost",
                data=f"{data}, {origins} origins",
                metric=figure.title,
                baseline=min(beside.values(), default=None),
                ours=ours[figure.name],
                coverage=ours.get(figure.interval),
                target=figure.target,
                reached=figure.reached(ours[figure.name]),
                seconds=tested.seconds,
                note=", ".join(notes),
            )
        )
    return rows


def _interval_over_months(tested: Backtest, task: Task, name: str) -> tuple[float, float]:
    """95 % interval of a share of all rows, by a bootstrap of spans of 30 days: forecasts of a month hang together so long."""
    since = (tested.rows.time - tested.rows.time.min()) // np.timedelta64(BLOCK_DAYS, "D")
    shares, counts = [], []
    for block in np.unique(since):
        part = _chosen(tested, since == block)
        shares.append(task.metrics(part.rows, part.ours)[name])
        counts.append(len(part.rows))
    drawn = np.random.default_rng(SEED).integers(0, len(shares), (RESAMPLES, len(shares)))
    weight = np.array(counts, dtype=np.float64)[drawn]
    means = (np.array(shares)[drawn] * weight).sum(axis=1) / weight.sum(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def _plot(tested: Backtest, file: Path) -> None:
    """Truth, forecast and interval of a day a week ahead and of the 30-day total, by entity."""
    from matplotlib.figure import Figure

    entities = np.unique(tested.rows.entity.astype(str))
    figure = Figure(figsize=(12, 3.2 * len(entities)), layout="constrained")
    axes = figure.subplots(len(entities), 2, squeeze=False)
    day, steps = np.timedelta64(1, "D"), tested.rows.columns[STEP]
    for line, entity in zip(axes, entities, strict=True):
        of_entity = tested.rows.entity.astype(str) == entity
        weeks, months = of_entity & (steps == 7), of_entity & (steps == steps.max())
        truth = tested.rows.targets[SPEC.task.target]
        origins = origins_of(tested.rows.rows(of_entity))
        sums = origins.of(truth[of_entity]).sum(axis=1)
        for axis, rows, actual, names, title in (
            (line[0], weeks, truth[weeks], ("forecast", "lower", "upper"), "the day 7 days ahead"),
            (line[1], months, sums, ("total", "total_lower", "total_upper"), "the next 30 days, in sum"),
        ):
            when = tested.rows.time[rows] + (7 * day if rows is weeks else 0 * day)
            forecast, lower, upper = (tested.ours[name][rows] for name in names)
            axis.fill_between(when, lower, upper, color=BLUE, alpha=0.25, label="80 % interval")
            axis.plot(when, actual, color=GREY, linewidth=1, label="truth")
            axis.plot(when, forecast, color=ORANGE, linewidth=1, label="forecast")
            axis.set_title(f"{entity}: {title}")
            axis.set_ylabel("USD")
            axis.tick_params("x", rotation=30)
        line[0].legend(fontsize="small")
    figure.savefig(file, dpi=80)
