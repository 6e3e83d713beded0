"""performance: what-if answers on the simulated fleet, where the truth of another load is known, and on petshop.

Simulated fleet: trained on the older part of the default window, judged on the newest quarter. Then
asked what had been: the same fleet is simulated again with its load scaled from the holdout's start
on, everything else being equal, and the model, which sees the past of the unscaled fleet only, is
asked about that load. Petshop (AWS, two scenarios of two days) has requests and latencies of the
components of an application, but no use of processors and no sizes: there the model is its quantiles of
latency at a load, half an hour ahead, learned on the first 70 % of each scenario.

Baselines on the same rows: the last value, as a forecast; for the probability of passing a limit,
the share of training rows that passed theirs; for the pinball loss, the last value moved by the
quantiles of its own errors in training.
"""

from __future__ import annotations

import fnmatch
import tempfile
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

from benchmarks.models.clean import clean
from benchmarks.models.table import Row
from feature_repo.datasets import Column, ColumnRole, ColumnType, Dataset, DatasetKind, Family, FeatureGrid
from feature_repo.definitions import EVENT_TIME
from feature_repo.transformations import inventory_features, telemetry_features
from models import plots
from models.base import Answers, Array, Observations
from models.manifest import FieldType, InputField
from models.performance.build import BUILDER
from models.performance.plots import what_if as plot_what_if
from models.performance.spec import SPEC
from models.performance.task import MEDIAN, TAIL, slo_passed
from models.specs import ModelSpec
from models.targets import PREFIX, Table, ValuesAhead
from models.tasks.forecast import pinball
from pipelines.evaluate.steps import cluster_weights, clusters, paired_gain
from pipelines.references import Window
from pipelines.settings import load_settings
from pipelines.snapshot import steps
from pipelines.snapshot.parts import observations
from pipelines.sources.profile import SourceProfile, load_profile

SEED = 7
END = datetime(2026, 11, 21, tzinfo=UTC)
FACTORS = (0.6, 1.25, 1.5)
LOAD = "load_rps"
PETSHOP_GRID = FeatureGrid(
    every=timedelta(minutes=30),
    windows=(timedelta(hours=1), timedelta(hours=6)),
    ttl=timedelta(hours=1),
    families=(Family.BASIC,),
)
PETSHOP_LEARN, PETSHOP_VALID = 0.5, 0.7
#: Fewer rows with a latency, or fewer requests in five minutes, are no service to speak of.
PETSHOP_MIN_ROWS, PETSHOP_MIN_REQUESTS = 300, 10.0


@dataclass(frozen=True)
class Judged:
    """Rows that the model did not see, its answers, and what the baselines learned on the rows that it did."""

    train: Observations
    rows: Observations
    answers: Answers
    seconds: float


def run(data: Path, folder: Path, quick: bool) -> list[Row]:
    """Rows of the table; figures are saved in the folder. ``quick`` simulates three weeks instead of six."""
    return [*_simulated(folder, timedelta(days=21 if quick else 42)), *_petshop(data, folder)]


def _simulated(folder: Path, span: timedelta) -> list[Row]:
    profile = load_profile("simulated")
    window = Window(start=END - span, end=END)
    world = _World(profile, window)
    table = world.labelled(world.telemetry)
    cuts = steps.cut_times(table, SPEC.split)
    parted = steps.assign_parts(table, "machine_id", SPEC.split, cuts, SPEC.target.horizon, SEED)
    thinned = steps.thin(parted, "machine_id", SPEC.split, SEED)
    inputs = world.inputs
    train, valid, holdout = (
        observations(thinned, part, "machine_id", inputs) for part in ("train", "valid", "holdout")
    )
    begin = time.perf_counter()
    model = BUILDER.fit(train, valid, inputs, BUILDER.default_params(), SEED, SPEC)
    judged = Judged(train, holdout, model.answer(holdout), time.perf_counter() - begin)
    machines = len(np.unique(holdout.entity))
    found = _rows(judged, f"simulated fleet: newest quarter of {span.days} days, {machines} machines", SPEC)
    asked: dict[str, tuple[Array, Array, Array]] = {}
    for factor in FACTORS:
        other = world.labelled(world.scaled(factor, cuts.holdout_from))
        part = steps.assign_parts(other, "machine_id", SPEC.split, cuts, SPEC.target.horizon, SEED)
        rows = observations(steps.thin(part, "machine_id", SPEC.split, SEED), "holdout", "machine_id", inputs)
        begin = time.perf_counter()
        answered = Judged(train, rows, model.answer(rows), judged.seconds)
        name = f"simulated fleet, load times {factor:g} from the holdout on"
        found += _rows(answered, name, SPEC)[:1]
        usual = rows.columns["latency_p95_ms__mean_24h"]
        asked[f"load times {factor:g}"] = (usual, rows.targets[TAIL], answered.answers[TAIL])
    _plot(judged, folder, "performance_simulated")
    plot_what_if(asked).savefig(folder / "performance_what_if.png", dpi=110)
    return found


class _World:
    """One simulated fleet: what is known at each hour, and what followed, also under another load."""

    def __init__(self, profile: SourceProfile, window: Window) -> None:
        self._profile, self._window = profile, window
        self.telemetry = clean(profile, "telemetry", load_settings(), window)
        dataset, grid = profile.dataset("telemetry"), profile.grid(SPEC.grid)
        features = telemetry_features(self.telemetry.lazy(), dataset, grid).collect()
        machines = profile.dataset("machines")
        known = inventory_features(clean(profile, "machines", load_settings(), window).lazy(), machines)
        self._features = features.sort(EVENT_TIME).join_asof(
            known.collect().sort(EVENT_TIME), on=EVENT_TIME, by="machine_id", check_sortedness=False
        )
        names = [
            name
            for name in self._features.columns
            if any(fnmatch.fnmatch(name, pattern) for pattern in SPEC.inputs)
        ]
        self.inputs = tuple(
            InputField(name=name, type=FieldType.DOUBLE, required=name == LOAD) for name in (*names, LOAD)
        )

    def labelled(self, telemetry: pl.DataFrame) -> pl.DataFrame:
        """What is known at each hour of this world, with load and latencies of the telemetry given."""
        asked = self._features.select("machine_id", EVENT_TIME)
        return _labelled(asked, self._profile.dataset("telemetry"), telemetry, SPEC, self._window.end).join(
            self._features, on=["machine_id", EVENT_TIME]
        )

    def scaled(self, factor: float, start: datetime) -> pl.DataFrame:
        """Telemetry of the same fleet whose load is scaled from a time on."""
        with tempfile.TemporaryDirectory(prefix="headrace-") as folder:
            script = Path(folder) / "load.yaml"
            regime = {"kind": "load_scale", "from": start.isoformat(), "factor": factor}
            script.write_text(yaml.safe_dump({"regimes": [regime]}), "utf-8")
            origin = self._profile.origin.model_copy(update={"regimes": str(script)})
            other = self._profile.model_copy(update={"origin": origin})
            return clean(other, "telemetry", load_settings(), Window(start=start, end=self._window.end))


def _labelled(
    asked: pl.DataFrame, dataset: Dataset, telemetry: pl.DataFrame, spec: ModelSpec, until: datetime
) -> pl.DataFrame:
    """Observations with targets, and the load over the same span as an input."""
    target = spec.target
    assert isinstance(target, ValuesAhead)
    tables = {dataset.name: Table(dataset, telemetry.lazy())}
    load = target.model_copy(update={"columns": tuple(spec.given.values())})
    loads = load.attach(asked, dataset.entity, tables, until).rename(
        {f"{PREFIX}{column}": name for name, column in spec.given.items()}
    )
    return target.attach(asked, dataset.entity, tables, until).join(loads, on=[dataset.entity, EVENT_TIME])


def _petshop(data: Path, folder: Path) -> list[Row]:
    dataset = _petshop_dataset()
    telemetry = _petshop_rows(data)
    features = telemetry_features(telemetry.lazy(), dataset, PETSHOP_GRID).collect()
    half_an_hour = SPEC.target.model_copy(update={"ahead": timedelta(minutes=30)})
    spec = SPEC.model_copy(update={"target": half_an_hour})
    until = telemetry[EVENT_TIME].max()
    assert isinstance(until, datetime)
    asked = features.select(dataset.entity, EVENT_TIME)
    table = (
        _labelled(asked, dataset, telemetry, spec, until)
        .join(features, on=[dataset.entity, EVENT_TIME])
        .filter(pl.col("latency_p95_ms__mean_6h") > 0)
        .sort(dataset.entity, EVENT_TIME)
    )
    names = [name for name in features.columns if name not in (dataset.entity, EVENT_TIME)]
    inputs = tuple(
        InputField(name=name, type=FieldType.DOUBLE, required=name == LOAD) for name in (*names, LOAD)
    )
    scenario = pl.col(dataset.entity).str.split(" ").list.first()
    begin, end = pl.col(EVENT_TIME).min().over(scenario), pl.col(EVENT_TIME).max().over(scenario)
    share = (pl.col(EVENT_TIME) - begin) / (end - begin)
    part = (
        pl.when(share <= PETSHOP_LEARN)
        .then(pl.lit("train"))
        .when(share <= PETSHOP_VALID)
        .then(pl.lit("valid"))
        .otherwise(pl.lit("holdout"))
    )
    parted = table.with_columns(part=part, weight=1.0)
    train, valid, holdout = (
        observations(parted, name, dataset.entity, inputs) for name in ("train", "valid", "holdout")
    )
    start = time.perf_counter()
    model = BUILDER.fit(train, valid, inputs, BUILDER.default_params(), SEED, spec)
    judged = Judged(train, holdout, model.answer(holdout), time.perf_counter() - start)
    _plot(judged, folder, "performance_petshop")
    services = len(np.unique(holdout.entity))
    return _rows(judged, f"petshop: last 30 % of both scenarios, {services} components", spec)


def _petshop_dataset() -> Dataset:
    gauges = ("requests_per_second", TAIL, MEDIAN, "error_percent")
    return Dataset(
        name="telemetry",
        kind=DatasetKind.TELEMETRY,
        description="Components of the application, each 5 minutes.",
        key=("component", EVENT_TIME),
        columns=(
            Column(name="component", type=ColumnType.STRING, role=ColumnRole.ENTITY),
            Column(name=EVENT_TIME, type=ColumnType.TIMESTAMP, role=ColumnRole.EVENT_TIME),
            *(
                Column(name=name, type=ColumnType.FLOAT, role=ColumnRole.GAUGE, nullable=True)
                for name in gauges
            ),
        ),
    )


def _petshop_rows(data: Path) -> pl.DataFrame:
    """One row per component and 5 minutes, in the columns of the fleet's telemetry."""
    read = pl.read_parquet(data / "petshop" / "normal.parquet").with_columns(
        pl.col("scenario", "node", "metric", "statistic").cast(pl.String)
    )
    wide = read.with_columns(figure=pl.col("metric") + "_" + pl.col("statistic")).pivot(
        on="figure", index=["scenario", "node", "timestamp"], values="value", aggregate_function="first"
    )
    rows = wide.select(
        component=pl.col("scenario") + " " + pl.col("node"),
        event_time=pl.col("timestamp").cast(pl.Datetime("us", "UTC")),
        requests_per_second=pl.col("requests_Sum").cast(pl.Float64) / 300,
        latency_p95_ms=pl.col("latency_p95").cast(pl.Float64) * 1000,
        latency_p50_ms=pl.col("latency_p50").cast(pl.Float64) * 1000,
        error_percent=100 - pl.col("availability_Average").cast(pl.Float64),
    )
    enough = (pl.col(TAIL).count() >= PETSHOP_MIN_ROWS) & (
        pl.col("requests_per_second").mean() * 300 >= PETSHOP_MIN_REQUESTS
    )
    return (
        rows.filter(enough.over("component"))
        .sort("component", EVENT_TIME)
        .with_columns(slice_start=pl.col(EVENT_TIME), ordinal=pl.int_range(pl.len()))
    )


def _rows(judged: Judged, data: str, spec: ModelSpec) -> list[Row]:
    """WAPE of the tail first; then pinball loss, the median latency, coverage and the service level."""
    task, rows, answers = BUILDER.task(spec), judged.rows, judged.answers
    figures = task.metrics(rows, answers)
    last = {TAIL: _last(rows, TAIL), MEDIAN: _last(rows, MEDIAN)}
    usual = task.metrics(rows, {TAIL: _usual(rows, TAIL), MEDIAN: _usual(rows, MEDIAN)})
    weights = cluster_weights(clusters(rows, None), 1000, SEED)
    gain = paired_gain(task.statistic(rows, answers), task.statistic(rows, last), weights, len(rows))
    size = float(np.sum(rows.targets[TAIL]))
    losses = [_pinball(rows, each) for each in (answers, _last_with_interval(judged))]
    loss_gain = paired_gain(
        *((lambda weight, loss=loss: -float(np.sum(weight * loss) / size)) for loss in losses),
        weights,
        len(rows),
    )
    passed_before = float(np.mean(slo_passed(judged.train, {"slo_ms": 1.5 * _usual(judged.train)})))
    passed = slo_passed(rows, answers)
    common: dict[str, Any] = {
        "model": "performance",
        "data": f"{data}, {len(rows)} rows",
        "seconds": judged.seconds,
    }
    return [
        Row(
            **common,
            metric="p95 latency, WAPE",
            baseline=task.metrics(rows, last)["wape"],
            ours=figures["wape"],
            coverage=figures["coverage"],
            target="below last value, with its interval",
            reached=gain[1] > 0,
            note=f"last value. Less by {gain[0]:.4f} (95 %: {gain[1]:.4f} to {gain[2]:.4f}, resampled by entity); "
            f"the mean of the longest window {usual['wape']:.4f}; coverage is of the 80 % interval",
        ),
        Row(
            **common,
            metric="p95 latency, pinball loss at 10 % and 90 % over the mean",
            baseline=float(np.sum(losses[1])) / size,
            ours=float(np.sum(losses[0])) / size,
            target="below last value, with its interval",
            reached=loss_gain[1] > 0,
            note=f"last value with the quantiles of its errors in training. Less by {loss_gain[0]:.4f} "
            f"(95 %: {loss_gain[1]:.4f} to {loss_gain[2]:.4f})",
        ),
        Row(
            **common,
            metric="p50 latency, WAPE",
            baseline=task.metrics(rows, last)["p50_wape"],
            ours=figures["p50_wape"],
            note=f"last value; the mean of the longest window {usual['p50_wape']:.4f}",
        ),
        Row(
            **common,
            metric="probability of passing 1.5 times the usual p95, Brier score",
            baseline=float(np.mean((passed_before - passed) ** 2)),
            ours=figures["slo_brier"],
            note=f"baseline: the share in training. Passed in {figures['slo_share']:.4f} of rows; calibration error "
            f"{figures['slo_calibration_error']:.4f}",
        ),
    ]


def _usual(rows: Observations, gauge: str = TAIL) -> Array:
    """The mean over the longest window, which the default limit is relative to."""
    names = [name for name in rows.columns if name.startswith(f"{gauge}__mean_")]
    return np.asarray(rows.columns[names[-1]], dtype=np.float64)


def _last(rows: Observations, gauge: str) -> Array:
    """The newest value, or where there is none the usual one."""
    newest = rows.columns[f"{gauge}__last"].astype(np.float64)
    return np.where(np.isfinite(newest), newest, _usual(rows, gauge))


def _pinball(rows: Observations, answers: Answers) -> Array:
    truth = rows.targets[TAIL]
    return (pinball(truth, answers["lower"], 0.1) + pinball(truth, answers["upper"], 0.9)) / 2


def _last_with_interval(judged: Judged) -> Answers:
    with np.errstate(divide="ignore", invalid="ignore"):
        errors = np.log(judged.train.targets[TAIL] / _last(judged.train, TAIL))
    low, high = np.quantile(errors[np.isfinite(errors)], [0.1, 0.9])
    last = _last(judged.rows, TAIL)
    return {"lower": last * np.exp(low), "upper": last * np.exp(high)}


def _plot(judged: Judged, folder: Path, name: str) -> None:
    rows, answers = judged.rows, judged.answers
    plots.calibration(slo_passed(rows, answers), answers["slo_probability"], rows.weight).savefig(
        folder / f"{name}_slo_calibration.png", dpi=110
    )
    entity = rows.entity == rows.entity[len(rows) // 2]
    shown = replace(rows.rows(entity))
    chosen = {output: values[entity] for output, values in answers.items()}
    plots.forecast(shown, shown.targets[TAIL], chosen, SPEC.task).savefig(
        folder / f"{name}_forecast.png", dpi=110
    )
