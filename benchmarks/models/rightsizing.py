"""rightsizing: 180 virtual machines of a managed-hosting data centre, sized a week ahead.

Five folds by machine: each machine is answered once, by a forest that saw no row of it and was
calibrated on others again. An observation is a machine on a day, two days a week; features look back over the week
before, demand and class over the week after.

A week is short where CPU or memory use passes the size for more than 1 % of its time. The loss is
what a choice costs beyond the best one in hindsight: price, plus the price list's cost of a short
week. Baselines on the same rows: the 95th percentile plus 20 % headroom, at most the present size
(the cap only helps it), and the same rule with other headrooms and percentiles, as curves.
"""

from __future__ import annotations

import fnmatch
import time
from datetime import datetime, timedelta
from functools import reduce
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from benchmarks.models.clean import clean
from benchmarks.models.sizing_curves import SEED, Tested, against_best_rule, curves_of, on_curves
from benchmarks.models.table import Row
from feature_repo.definitions import EVENT_TIME
from feature_repo.transformations import inventory_features, telemetry_features
from models.base import Answers, Array, Observations
from models.folds import folds, together
from models.manifest import FieldType, InputField
from models.rightsizing.build import BUILDER
from models.rightsizing.classes import CLASSES, workload_class
from models.rightsizing.plots import regret as plot_regret
from models.rightsizing.plots import risk as plot_risk
from models.rightsizing.plots import trade_off as plot_trade_off
from models.rightsizing.spec import SPEC
from models.rightsizing.task import SizingTask
from models.specs import ModelSpec
from models.targets import Table as TargetTable
from models.targets import ValuesAhead
from pipelines.evaluate.steps import cluster_weights, clusters, paired_gain
from pipelines.settings import load_settings
from pipelines.snapshot.parts import observations
from pipelines.sources.profile import load_profile

SOURCE = "bitbrains_rnd"
FOLDS = 5
WEEK = timedelta(days=7)
#: Days of the week that are observed: a week's rows overlap, so that more of them say little more.
WEEKDAYS, QUICK_WEEKDAYS = (0, 3), (0,)


def run(data: Path, folder: Path, quick: bool) -> list[Row]:
    """Rows of the table; figures are saved in the folder. ``quick`` takes one day a week."""
    rows, inputs, spec = observations_of(data, QUICK_WEEKDAYS if quick else WEEKDAYS)
    task = BUILDER.task(spec)
    tested = cross_validated(rows, inputs, spec)
    _plot(tested, task, folder)
    return _rows(tested, task)


def observations_of(
    data: Path, weekdays: tuple[int, ...]
) -> tuple[Observations, tuple[InputField, ...], ModelSpec]:
    """All rows with a whole week behind and ahead of them, the inputs, and the spec as the source has it."""
    profile = load_profile(SOURCE)
    spec = profile.spec_of(SPEC)
    assert isinstance(spec.target, ValuesAhead)
    dataset = profile.dataset(spec.target.dataset)
    grid = profile.grid(spec.grid)
    settings = load_settings(shared_data=data)
    rows = clean(profile, dataset.name, settings)
    features = telemetry_features(rows.lazy(), dataset, grid).collect()
    first, last = rows[dataset.event_time].min(), rows[dataset.event_time].max()
    assert isinstance(first, datetime)
    assert isinstance(last, datetime)
    day = pl.col(EVENT_TIME).dt.epoch("d")
    asked = features.select(dataset.entity, EVENT_TIME).filter(
        pl.col(EVENT_TIME) >= first + WEEK, (day % 7).is_in(weekdays)
    )
    # The week is cut at the step before the last sample: it is the last one that is whole.
    labelled = spec.target.attach(
        asked, dataset.entity, {dataset.name: TargetTable(dataset, rows.lazy())}, last + timedelta(minutes=5)
    )
    table = labelled.join(features, on=[dataset.entity, EVENT_TIME], how="left")
    for other in profile.datasets:
        if other.kind == "inventory" and other.entity == dataset.entity:
            known = inventory_features(clean(profile, other.name, settings).lazy(), other).collect()
            table = table.sort(EVENT_TIME).join_asof(
                known.sort(EVENT_TIME), on=EVENT_TIME, by=dataset.entity, check_sortedness=False
            )
    table = table.sort(dataset.entity, EVENT_TIME)
    names = [
        name
        for name in table.columns
        if table[name].dtype.is_numeric()
        and not name.startswith("target__")
        and any(fnmatch.fnmatch(name, pattern) for pattern in spec.inputs)
    ]
    inputs = tuple(InputField(name=name, type=FieldType.DOUBLE, required=False) for name in names)
    all_rows = table.with_columns(part=pl.lit("all"), weight=1.0)
    found = observations(all_rows, "all", dataset.entity, inputs)
    # What was off all week has no size to be judged by.
    on = [resource.capacity.of_rows(found.columns) > 0 for resource in BUILDER.task(spec).resources(found)]
    return found.rows(np.all(on, axis=0)), inputs, spec


def cross_validated(rows: Observations, inputs: tuple[InputField, ...], spec: ModelSpec) -> Tested:
    """Each machine answered by what was learned, and calibrated, on others."""
    begin = time.perf_counter()
    horizon = np.timedelta64(spec.target.horizon)
    judged: list[Observations] = []
    answers: list[Answers] = []
    risks: list[Array] = []
    for others, judge in folds(rows, FOLDS, "entity", horizon, SEED):
        learn, valid = next(folds(others, 4, "entity", horizon, SEED + 1))
        model = BUILDER.fit(learn, valid, inputs, BUILDER.default_params(), SEED, spec)
        judged.append(judge)
        answers.append(model.answer(judge))
        risks.append(model.head.risk(judge.columns, model.votes(judge)))
    joined = {name: np.concatenate([each[name] for each in answers]) for name in answers[0]}
    return Tested(reduce(together, judged), joined, np.concatenate(risks), time.perf_counter() - begin)


def _rows(tested: Tested, task: SizingTask) -> list[Row]:
    rows, answers = tested.rows, tested.answers
    ours = task.metrics(rows, answers)
    baselines = task.baselines(rows, rows, ())
    rule = baselines["p95 plus 20 %"]
    theirs, present = task.metrics(rows, rule), task.metrics(rows, baselines["present size"])
    weights = cluster_weights(clusters(rows, None), 1000, SEED)
    gain, low, high = paired_gain(
        task.statistic(rows, answers), task.statistic(rows, rule), weights, len(rows)
    )
    common = {
        "model": "rightsizing",
        "data": f"{SOURCE}: {len(np.unique(rows.entity))} VMs, each held out, {len(rows)} VM-weeks",
        "seconds": tested.seconds,
    }
    judged = _has_last_week(rows)
    return [
        Row(
            **common,
            metric="regret, USD per VM and week",
            baseline=theirs["regret_usd_week"],
            ours=ours["regret_usd_week"],
            target="below the rule, with its interval",
            reached=low > 0,
            note=f"rule: p95 plus 20 %. Less by {gain:.2f} (95 %: {low:.2f} to {high:.2f}, resampled by VM). "
            f"A short week costs {task.prices.usd_per_short_week:g} USD and {task.prices.prices_per_short_week:g} times the "
            f"price of the size that would have held it",
        ),
        against_best_rule(tested, task, common),
        Row(
            **common,
            metric="share of short weeks",
            baseline=theirs["short_share"],
            ours=ours["short_share"],
            note=f"the rule's and ours; told in advance: {ours['risk']:.3f}",
        ),
        Row(
            **common,
            metric="price, USD per VM and week",
            baseline=theirs["price_usd_week"],
            ours=ours["price_usd_week"],
            note=f"the rule's and ours; present sizes {present['price_usd_week']:.2f}, best in hindsight "
            f"{ours['best_price_usd_week']:.2f}",
        ),
        *on_curves(tested, task, common),
        Row(
            **common,
            metric="workload class, accuracy",
            baseline=float(np.mean(_last_week(rows, task)[judged] == _truth(rows, task)[judged])),
            ours=float(np.mean(_told(answers)[judged] == _truth(rows, task)[judged])),
            note=f"baseline: last week's class stays. Balanced accuracy {ours['class_balanced_accuracy']:.3f}, "
            f"calibration error {ours['class_calibration_error']:.3f}. {_shares(rows, task)}",
        ),
        *(
            Row(
                **common,
                metric=f"80 % interval of {name} demand, share covered",
                baseline=None,
                ours=ours[f"{name}_coverage"],
                coverage=ours[f"{name}_coverage"],
                note="conformal, by held-out machines",
            )
            for name in ("cpu", "memory")
        ),
    ]


def _truth(rows: Observations, task: SizingTask) -> NDArray[np.intp]:
    return workload_class(rows.targets, task.resources(rows)[0], rows.columns)


def _told(answers: Answers) -> NDArray[np.intp]:
    return np.stack([answers[f"probability_{name}"] for name in CLASSES], axis=1).argmax(axis=1)


def _last_week(rows: Observations, task: SizingTask) -> NDArray[np.intp]:
    """The class of the week before, which is the label of the row seven days earlier; -1 where there is none."""
    truth = _truth(rows, task)
    known = {
        (name, day): int(place)
        for name, day, place in zip(rows.entity, rows.time.astype("datetime64[D]"), truth, strict=True)
    }
    before = rows.time.astype("datetime64[D]") - np.timedelta64(WEEK)
    return np.array(
        [known.get(key, -1) for key in zip(rows.entity, before.astype("datetime64[D]"), strict=True)]
    )


def _has_last_week(rows: Observations) -> NDArray[np.bool_]:
    days = rows.time.astype("datetime64[D]")
    known = set(zip(rows.entity, days, strict=True))
    before = (days - np.timedelta64(WEEK)).astype("datetime64[D]")
    return np.array([key in known for key in zip(rows.entity, before, strict=True)])


def _shares(rows: Observations, task: SizingTask) -> str:
    counts = np.bincount(_truth(rows, task), minlength=len(CLASSES)) / len(rows)
    return ", ".join(f"{name} {share:.0%}" for name, share in zip(CLASSES, counts, strict=True))


def _plot(tested: Tested, task: SizingTask, folder: Path) -> None:
    rows, answers = tested.rows, tested.answers
    rule = task.baselines(rows, rows, ())["p95 plus 20 %"]
    curves = {name: curve.means(np.ones(curve.count.size)) for name, curve in curves_of(tested, task).items()}
    marks = {
        name: (figures["price_usd_week"], figures["short_share"])
        for name, figures in (
            ("p95 plus 20 %", task.metrics(rows, rule)),
            ("ours as served", task.metrics(rows, answers)),
        )
    }
    plot_trade_off(curves, marks).savefig(folder / "rightsizing_trade_off.png", dpi=110)
    both = {"ours": task.regret(rows, answers), "p95 plus 20 %": task.regret(rows, rule)}
    plot_regret(both).savefig(folder / "rightsizing_regret.png", dpi=110)
    short = task.prices.short(task.chosen(answers), *task.demands(rows))
    plot_risk(answers["risk"], short).savefig(folder / "rightsizing_risk.png", dpi=110)
