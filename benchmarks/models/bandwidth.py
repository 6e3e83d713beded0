"""bandwidth: throughput of virtual machines that the model never saw, in a month that it never saw.

Protocol of the data set's README: the sum of traffic received and sent, third 5-minute step ahead,
September 2013, network-active machines, every 5-minute row. On top of it the machines are dealt into
groups: those of one group are forecast by a model that learned July and August of the others, so each
machine is held out entirely, once. Percentage errors are of samples of at least 1 KB/s.
"""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
from numpy.typing import NDArray

from benchmarks.models.clean import clean
from benchmarks.models.table import Row
from feature_repo.transformations import telemetry_features
from models.bandwidth.build import LSTM, TREES, BandwidthBuilder, BandwidthModel
from models.bandwidth.spec import SPEC
from models.bandwidth.task import BandwidthTask
from models.base import Answers, Array, Observations
from models.encoding import estimator_matrix
from models.folds import together
from models.heads.interval import Member
from models.manifest import FieldType, InputField
from models.plots import BLUE, GREY, ORANGE
from models.specs import ModelSpec
from models.targets import Table, ValuesAhead
from pipelines.adapters.runtimes.onnx import OnnxRuntime
from pipelines.settings import load_settings
from pipelines.sources.profile import SourceProfile, load_profile

SOURCE = "bitbrains_rnd"
TEST_FROM = datetime(2013, 9, 1, tzinfo=UTC)
GROUPS, VALID_SHARE, SEED = 5, 0.2, 7
LEARNED_ROWS_PER_MACHINE = 1_500
LEAST_KBPS = 1.0
PARAMS: dict[str, float | int | str | bool] = {"tree_rows": 80_000, "rounds": 160, "lstm_rows": 30_000}
PLOTTED_MACHINES, PLOTTED_HOURS = 3, 48


@dataclass(frozen=True)
class Machines:
    """Rows of all network-active machines, each once.

    Attributes:
        learned: A draw of rows of July and August.
        tested: All rows of September.
    """

    learned: Observations
    tested: Observations
    inputs: tuple[InputField, ...]
    spec: ModelSpec


@dataclass(frozen=True)
class HeldOut:
    """September of each machine, answered by a model that knows neither.

    Attributes:
        answers: Of the blend; ``trees`` and ``lstm`` are the forecasts of one member alone.
        group: Number of each row's group, shape (n,).
        shares: Weight of the network in the blend of each group's model.
        difference: Largest difference of exported to native answers of the first group's model, over the answer.
    """

    rows: Observations
    answers: Answers
    group: NDArray[np.int64]
    shares: tuple[float, ...]
    difference: float
    seconds: float


def run(data: Path, folder: Path, quick: bool) -> list[Row]:
    """Rows of the table; a figure is saved in the folder. ``quick``: two of the groups, fewer rows."""
    machines = load(data, 500 if quick else LEARNED_ROWS_PER_MACHINE)
    held_out = hold_out(machines, GROUPS, 2 if quick else GROUPS, seed=SEED)
    plot(held_out, machines.spec, folder / f"bandwidth_{SOURCE}.png")
    return rows_of(held_out, machines.spec)


def load(data: Path, learned_rows: int) -> Machines:
    """Features and targets of the network-active machines, as the bundled profile defines them."""
    profile = load_profile(SOURCE)
    spec = profile.spec_of(SPEC)
    described = pl.read_parquet(data / "bitbrains_rnd" / "vms.parquet")
    active = described.filter("network_active")["vm_id"].cast(pl.String)
    telemetry = clean(profile, "telemetry", load_settings(shared_data=data))
    telemetry = telemetry.filter(pl.col("vm_id").is_in(active.implode()))
    learned, tested = [], []
    # One machine after the other: what a window is summed over then stays in the processor's cache.
    for number, rows in enumerate(machine_rows(telemetry, profile, spec)):
        before = rows.filter(pl.col("event_time") + spec.target.horizon <= TEST_FROM)
        learned.append(before.sample(min(learned_rows, len(before)), seed=SEED + number))
        tested.append(rows.filter(pl.col("event_time") >= TEST_FROM))
    columns = [
        name for name in learned[0].columns if not name.startswith(("target__", "vm_id", "event_time"))
    ]
    inputs = tuple(
        InputField(name=name, type=FieldType.DOUBLE, required=False, unit="KB/s" if "network" in name else "")
        for name in columns
    )
    return Machines(_observations(learned, columns), _observations(tested, columns), inputs, spec)


def machine_rows(telemetry: pl.DataFrame, profile: SourceProfile, spec: ModelSpec) -> Iterator[pl.DataFrame]:
    """Per machine: ``vm_id``, ``event_time``, the model's inputs as float32, and the target."""
    dataset, grid = profile.dataset("telemetry"), profile.grid(spec.grid)
    assert isinstance(spec.target, ValuesAhead)
    for own in telemetry.partition_by("vm_id"):
        features = telemetry_features(own.lazy(), dataset, grid).collect()
        names = [
            name for name in features.columns if any(fnmatch.fnmatch(name, each) for each in spec.inputs)
        ]
        asked = spec.target.attach(
            features.select("vm_id", "event_time"),
            "vm_id",
            {"telemetry": Table(dataset, own.lazy())},
            features["event_time"].max(),  # type: ignore[arg-type]
        )
        narrow = features.select("vm_id", "event_time", pl.col(names).cast(pl.Float32))
        yield asked.join(narrow, on=["vm_id", "event_time"]).sort("event_time")


def _observations(parts: list[pl.DataFrame], columns: list[str]) -> Observations:
    rows = pl.concat(parts)
    return Observations(
        {name: rows[name].to_numpy() for name in columns},
        {"throughput": rows["target__throughput"].to_numpy()},
        np.ones(len(rows)),
        rows["vm_id"].to_numpy(),
        rows["event_time"].dt.replace_time_zone(None).to_numpy(),
    )


def hold_out(machines: Machines, groups: int, answered: int, seed: int) -> HeldOut:
    """Fit on the machines outside of each group, answer September of those in it."""
    begin = time.perf_counter()
    rng, builder = np.random.default_rng(seed), BandwidthBuilder()
    names = rng.permutation(np.unique(machines.tested.entity.astype(str)))
    parts, answers, group, shares, difference = [], [], [], [], 0.0
    for number in range(answered):
        inside, outside = names[number::groups], np.setdiff1d(names, names[number::groups])
        valid = rng.permutation(outside)[: int(VALID_SHARE * len(outside))]
        learn, judge = (
            machines.learned.rows(np.isin(machines.learned.entity.astype(str), some))
            for some in (np.setdiff1d(outside, valid), valid)
        )
        fitted = builder.fit(learn, judge, machines.inputs, PARAMS, seed, machines.spec)
        part = machines.tested.rows(np.isin(machines.tested.entity.astype(str), inside))
        raw = fitted.raw(part)
        answer = fitted.head.answer(part.columns, raw)
        for name in (TREES, LSTM):
            alone = (Member(estimator=name, output=1),)
            only = fitted.head.model_copy(update={"forecast": alone})
            answer[name] = only.answer(part.columns, raw)["forecast"]
        if number == 0:
            difference = largest_difference(fitted, part)
        parts.append(part)
        answers.append(answer)
        group.append(np.full(len(part), number))
        shares.append(fitted.head.forecast[-1].weight)
    rows = parts[0]
    for part in parts[1:]:
        rows = together(rows, part)
    return HeldOut(
        rows,
        {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]},
        np.concatenate(group),
        tuple(shares),
        difference,
        time.perf_counter() - begin,
    )


def largest_difference(fitted: BandwidthModel, part: Observations) -> float:
    """Of the exported model's answers to the native ones, as a share of the larger of answer and 1."""
    native = fitted.answer(part)
    with TemporaryDirectory() as folder:
        served = fitted.save(Path(folder))
        raw = {
            estimator.name: OnnxRuntime(estimator, Path(folder)).raw(
                estimator_matrix(part.columns, fitted.inputs, estimator)
            )
            for estimator in served.estimators
        }
    exported = served.head.answer(part.columns, raw)
    return max(
        float(np.max(np.abs(exported[name] - native[name]) / np.maximum(native[name], 1.0)))
        for name in native
    )


def rows_of(held_out: HeldOut, spec: ModelSpec) -> list[Row]:
    """The figures, each beside the last value's on the same rows."""
    rows, answers = held_out.rows, held_out.answers
    truth, forecast = rows.targets["throughput"], answers["forecast"]
    assert isinstance(spec.target, ValuesAhead)
    task = BandwidthTask(spec.task, traffic=spec.target.columns)  # type: ignore[arg-type]
    naive = task.naive(rows)
    covered = (truth >= answers["lower"]) & (truth <= answers["upper"])
    coverage = float(covered.mean())
    by_group = [
        wape(truth[held_out.group == number], forecast[held_out.group == number])
        / wape(truth[held_out.group == number], naive[held_out.group == number])
        for number in np.unique(held_out.group)
    ]
    group_coverage = [float(covered[held_out.group == number].mean()) for number in np.unique(held_out.group)]
    low, high = ratio_interval(rows.entity, truth, forecast, naive)
    ratio = wape(truth, forecast) / wape(truth, naive)
    data = f"{SOURCE}, {len(np.unique(rows.entity.astype(str)))} machines held out entirely, September"
    width = float(np.sum(answers["upper"] - answers["lower"]) / np.sum(truth))

    def row(metric: str, baseline: float | None, ours: float, note: str, **more: object) -> Row:
        return Row("bandwidth", data, metric, baseline, ours, held_out.seconds, note=note, **more)  # type: ignore[arg-type]

    groups = ", ".join(f"{each:.3f}" for each in by_group)
    return [
        row(
            "pooled WAPE, lower is better",
            wape(truth, naive),
            wape(truth, forecast),
            f"baseline: last value; ratio {low:.3f} to {high:.3f} (95 %, bootstrap of machines); by group: {groups}; "
            f"network's share: {', '.join(f'{share:.2f}' for share in held_out.shares)}",
            coverage=coverage,
            target="at most 0.85 of naive",
            reached=ratio <= 0.85,
        ),
        row("pooled WAPE, trees alone", wape(truth, naive), wape(truth, answers[TREES]), "LightGBM"),
        row("pooled WAPE, network alone", wape(truth, naive), wape(truth, answers[LSTM]), "Keras LSTM"),
        row(
            "pooled WAPE, mean of 15 minutes",
            wape(truth, naive),
            wape(truth, task.naive(rows, steps=3)),
            "a baseline",
        ),
        row(
            "median APE of samples from 1 KB/s on, lower is better",
            float(np.median(relative(truth, naive))),
            float(np.median(relative(truth, forecast))),
            "all samples",
            target="below 0.12",
            reached=bool(np.median(relative(truth, forecast)) < 0.12),
        ),
        row(
            "median APE of the median machine, lower is better",
            machine_median(rows.entity, truth, naive),
            machine_median(rows.entity, truth, forecast),
            "median over machines of each one's median APE",
        ),
        row(
            "share of truths in the 80 % interval",
            None,
            coverage,
            f"by group: {', '.join(f'{each:.3f}' for each in group_coverage)}; mean width {width:.2f} of mean traffic",
            coverage=coverage,
            target="0.78 to 0.82",
            reached=0.78 <= coverage <= 0.82,
        ),
        row(
            "largest difference of exported to native answers, over the answer",
            None,
            held_out.difference,
            "machines of the first group",
        ),
    ]


def wape(truth: Array, forecast: Array) -> float:
    """Sum of absolute errors over sum of truths."""
    return float(np.sum(np.abs(truth - forecast)) / np.sum(truth))


def relative(truth: Array, forecast: Array) -> Array:
    """Absolute percentage errors of the samples that have one worth the name, as shares."""
    rows = truth >= LEAST_KBPS
    error: Array = np.abs(truth - forecast)[rows] / truth[rows]
    return error


def machine_median(entity: NDArray, truth: Array, forecast: Array) -> float:
    """Median over machines of the median absolute percentage error of each."""
    medians = [
        np.median(errors)
        for name in np.unique(entity.astype(str))
        if len(errors := relative(truth[entity == name], forecast[entity == name]))
    ]
    return float(np.median(medians))


def ratio_interval(entity: NDArray, truth: Array, forecast: Array, naive: Array) -> tuple[float, float]:
    """95 % interval of the pooled WAPE over naive: machines are drawn again, with replacement."""
    _, index = np.unique(entity.astype(str), return_inverse=True)
    ours, theirs = (np.bincount(index, np.abs(truth - answer)) for answer in (forecast, naive))
    drawn = np.random.default_rng(SEED).integers(0, len(ours), (2_000, len(ours)))
    low, high = np.quantile(ours[drawn].sum(axis=1) / theirs[drawn].sum(axis=1), [0.025, 0.975])
    return float(low), float(high)


def plot(held_out: HeldOut, spec: ModelSpec, file: Path) -> None:
    """Two days of the machines with the most traffic of three groups: truth, forecast, interval."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, answers = held_out.rows, held_out.answers
    truth, entity = rows.targets["throughput"], rows.entity.astype(str)
    names = np.unique(entity)
    chosen = sorted(names, key=lambda name: -float(truth[entity == name].sum()))[:PLOTTED_MACHINES]
    figure = Figure(figsize=(9, 2.6 * len(chosen)), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    for axes, name in zip(figure.subplots(len(chosen), squeeze=False)[:, 0], chosen, strict=True):
        own = np.flatnonzero(entity == name)
        own = own[np.argsort(rows.time[own])][: PLOTTED_HOURS * 12]
        at = rows.time[own] + np.timedelta64(spec.target.horizon)
        axes.fill_between(
            at,
            answers["lower"][own],
            answers["upper"][own],
            color=BLUE,
            alpha=0.18,
            linewidth=0,
            label="80 % interval",
        )
        axes.plot(at, truth[own], color=GREY, linewidth=0.9, label="what came")
        axes.plot(
            at, answers["forecast"][own], color=ORANGE, linewidth=0.9, label="forecast, 15 minutes before"
        )
        axes.set_title(f"Machine {name}, never seen by the model", loc="left", fontweight="bold")
        axes.set_ylabel("KB/s")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, ncols=3, fontsize=8)
    figure.savefig(file)
