"""Consecutive weeks of real telemetry: what fires, what a model trained before loses, and how good the estimates are.

    python -m benchmarks.drift.real --data DATA [--only smd] [--page]

The tests and estimators are those that monitor runs. A LightGBM model learns from the first weeks and is left
alone; each further week is held against those weeks, as monitor does: drift of the hourly metrics, estimated and
realised quality. ``REAL.md`` and its plot are written from ``real.json``.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.drift import real_page
from models.base import Array, Observations
from models.heads import ProbabilityHead
from models.specs import Classification, DriftTest
from models.tasks.classification import ClassificationTask
from pipelines.monitor import drift, quality
from pipelines.monitor.drift import Finding
from pipelines.monitor.reference import WEEK, of_columns, window_of
from pipelines.references import Window
from pipelines.settings import load_settings
from pipelines.sources.base import open_source
from pipelines.sources.profile import load_profile

HERE = Path(__file__).parent
SEED = 20261121
TEST = DriftTest()
DAY = 24
LAGS = (1, 2, 3, 24)
TARGET = "target"


@dataclass(frozen=True)
class Source:
    """A data set, and how its weeks are used.

    Attributes:
        column: Whose next hour is forecast, and whose next hour above its machine's 90th percentile is the event.
        learn: Weeks that the model learns from; the last of them are its holdout.
        holdout: Weeks of those, that the estimate of losses learns from.
    """

    name: str
    column: str
    learn: int
    holdout: int


SOURCES = (Source("bitbrains_rnd", "cpu_percent", 6, 2), Source("smd", "m01", 3, 1))


@dataclass
class Week:
    """A span after those that the model learned from.

    Attributes:
        hours: Its length.
        fired: Metrics of the whole fleet that drifted.
        machines: Machines that were looked at by themselves, and how many of them fired.
        wape, wape_estimated, ap, ap_estimated: Realised, and as estimated before labels.
        wape_fired, wape_calm: Of machines that fired, and of those that did not, as a multiple of their holdout's.
    """

    source: str
    number: int
    hours: int
    fired: list[str] = field(default_factory=list)
    score: float | None = None
    machines: int = 0
    machines_fired: int = 0
    wape: float = float("nan")
    wape_estimated: float = float("nan")
    ap: float = float("nan")
    ap_estimated: float = float("nan")
    ap_error: float = float("nan")
    wape_fired: float | None = None
    wape_calm: float | None = None


def hourly(source: Source, data: Path) -> tuple[pl.DataFrame, list[str]]:
    """Mean of each metric per machine and hour; ``hour`` counts from the first."""
    profile = load_profile(source.name)
    dataset = profile.dataset("telemetry")
    assert profile.window_start is not None
    assert profile.window_end is not None
    window = Window(start=profile.window_start, end=profile.window_end)
    rows = open_source(profile, load_settings(shared_data=data.resolve())).read(dataset, window)
    metrics = [column.name for column in dataset.columns if column.role.value == "gauge"]
    metrics = [name for name in metrics if name in rows.columns and rows[name].n_unique() > 2]
    first = rows[dataset.event_time].min()
    hours = (
        rows.with_columns(
            machine=pl.col(dataset.entity).cast(pl.String),
            hour=(pl.col(dataset.event_time) - first).dt.total_hours(),
        )
        .group_by("machine", "hour")
        .agg(pl.col(metrics).cast(pl.Float64).mean())
        .sort("machine", "hour")
    )
    return hours, metrics


def examples(hours: pl.DataFrame, metrics: list[str], column: str, until: int) -> pl.DataFrame:
    """Rows with what is known at the end of an hour, the next hour's value, and whether it is a high one.

    Args:
        until: Hour that the machine's own 90th percentile is of before.
    """
    level = hours.filter(pl.col("hour") < until).group_by("machine").agg(high=pl.col(column).quantile(0.9))
    rows = hours.join(level, on="machine", how="inner").sort("machine", "hour")
    rows = rows.with_columns(
        *(pl.col(column).shift(lag).over("machine").alias(f"lag_{lag}") for lag in LAGS),
        next=pl.col(column).shift(-1).over("machine"),
        next_hour=pl.col("hour").shift(-1).over("machine"),
        of_day=pl.col("hour") % 24,
    ).filter(
        pl.col("next_hour") == pl.col("hour") + 1, pl.col("next").is_finite(), pl.col("high").is_finite()
    )
    return rows.with_columns(event=(pl.col("next") > pl.col("high")).cast(pl.Float64))


@dataclass
class Model:
    """A forecaster and a classifier of the same inputs, with what estimates their quality."""

    inputs: list[str]
    forecaster: Any
    classifier: Any
    head: ProbabilityHead
    losses: Any
    task: ClassificationTask

    @classmethod
    def trained(cls, rows: pl.DataFrame, metrics: list[str], cut: int) -> Model:
        """On rows before ``cut``; calibrated on, and losses learned from, the rows since."""
        import lightgbm
        from sklearn.linear_model import LogisticRegression

        inputs = [*metrics, *(f"lag_{lag}" for lag in LAGS), "high", "of_day"]
        train, held = rows.filter(pl.col("hour") < cut), rows.filter(pl.col("hour") >= cut)
        settings = {"num_leaves": 31, "learning_rate": 0.06, "min_data_in_leaf": 100, "verbose": -1,
                    "seed": SEED, "deterministic": True, "num_threads": 1}  # fmt: skip

        def fit(objective: str, target: str) -> Any:
            data = lightgbm.Dataset(_inputs(train, inputs), train[target].to_numpy())
            return lightgbm.train({**settings, "objective": objective}, data, num_boost_round=200)

        forecaster, classifier = fit("l1", "next"), fit("binary", "event")
        score = np.asarray(classifier.predict(_inputs(held, inputs), raw_score=True))
        platt = LogisticRegression(C=1e6).fit(score[:, None], held["event"].to_numpy())
        head = ProbabilityHead(
            slope=float(platt.coef_[0, 0]), intercept=float(platt.intercept_[0]), alarm_threshold=0.5
        )
        columns = {name: held[name].to_numpy() for name in inputs}
        forecast = np.asarray(forecaster.predict(_inputs(held, inputs)))
        losses = quality.learn_losses(columns, forecast, held["next"].to_numpy(), SEED)
        return cls(inputs, forecaster, classifier, head, losses, ClassificationTask(Classification(), TARGET))

    def wape(self, rows: pl.DataFrame) -> float:
        truth, said = rows["next"].to_numpy(), np.asarray(self.forecaster.predict(_inputs(rows, self.inputs)))
        return float(np.sum(np.abs(truth - said)) / np.sum(np.abs(truth)))

    def judge(self, rows: pl.DataFrame, week: Week) -> None:
        """Realised and estimated figures of a week's rows."""
        columns = {name: rows[name].to_numpy() for name in self.inputs}
        forecast = np.asarray(self.forecaster.predict(_inputs(rows, self.inputs)))
        week.wape = self.wape(rows)
        week.wape_estimated = quality.direct_loss(self.losses, columns, forecast).values["wape"]
        score = np.asarray(self.classifier.predict(_inputs(rows, self.inputs), raw_score=True))
        answers = self.head.answer({}, {self.head.estimator: score})
        part = Observations(
            {}, {TARGET: rows["event"].to_numpy()}, np.ones(rows.height), rows["machine"].to_numpy()
        )
        week.ap = float(self.task.metrics(part, answers)["average_precision"])
        estimate = quality.confidence_based(self.task, part, answers, TARGET, SEED)
        week.ap_estimated = estimate.values["average_precision"]
        week.ap_error = estimate.errors["average_precision"]


def _inputs(rows: pl.DataFrame, names: list[str]) -> Array:
    return rows.select(names).cast(pl.Float64).to_numpy()


def check(hours: pl.DataFrame, metrics: list[str], known: int, end: int, length: int) -> list[Finding]:
    """Drift of the metrics over the hours up to ``end`` against those before ``known``: the week and its last day."""
    past, columns = hours.filter(pl.col("hour") < known), {}
    reference = of_columns({name: past[name].to_numpy() for name in metrics}, past["hour"].to_numpy(), known)
    looks = []
    for span in (DAY, length):
        now = hours.filter(pl.col("hour") >= end - span, pl.col("hour") < end)
        columns = {name: now[name].to_numpy() for name in metrics}
        window = window_of(reference, columns, now["hour"].to_numpy() - (end - span), span)
        looks.append(drift.check(reference, window, (end - span) % reference.period, TEST, {}))
    return drift.together(looks, TEST)


def measure(source: Source, data: Path) -> list[Week]:
    hours, metrics = hourly(source, data)
    known, cut = source.learn * WEEK, (source.learn - source.holdout) * WEEK
    last = int(hours["hour"].max()) + 1  # type: ignore[arg-type]
    rows = examples(hours, metrics, source.column, known)
    learned = rows.filter(pl.col("hour") < known - 1)
    model = Model.trained(learned, metrics, cut)
    usual = _by_machine(model, learned.filter(pl.col("hour") >= cut))
    holdout = Week(source.name, 0, source.holdout * WEEK)
    model.judge(learned.filter(pl.col("hour") >= cut), holdout)
    found = [holdout]
    for number, start in enumerate(range(known, last - 2 * DAY, WEEK), start=1):
        end = min(start + WEEK, start + (last - start) // DAY * DAY)
        week = Week(source.name, number, end - start)
        fleet = check(hours, metrics, known, end, end - start)
        week.fired = [each.column for each in fleet if each.drifted]
        tested = [each for each in fleet if each.p_value is not None]
        week.score = sum(each.drifted for each in tested) / len(tested) if tested else None
        mine = rows.filter(pl.col("hour") >= start, pl.col("hour") < end)
        model.judge(mine, week)
        _machines(hours, metrics, known, end, mine, model, usual, week)
        found.append(week)
        print(f"{source.name}, week {number}: {asdict(week)}", flush=True)
    return found


def _machines(
    hours: pl.DataFrame, metrics: list[str], known: int, end: int, rows: pl.DataFrame, model: Model,
    usual: dict[str, float], week: Week,
) -> None:  # fmt: skip
    """Each machine by itself: whether it fired, and what the model lost there."""
    ratios: dict[bool, list[float]] = {True: [], False: []}
    now = _by_machine(model, rows)
    for (name,), mine in hours.group_by("machine", maintain_order=True):
        found = check(mine, metrics, known, end, week.hours)
        if all(each.p_value is None for each in found):
            continue
        fired = any(each.drifted for each in found)
        week.machines += 1
        week.machines_fired += fired
        if str(name) in now and usual.get(str(name), 0.0) > 0:
            ratios[fired].append(now[str(name)] / usual[str(name)])
    week.wape_fired, week.wape_calm = (
        float(np.median(ratios[fired])) if ratios[fired] else None for fired in (True, False)
    )


def _by_machine(model: Model, rows: pl.DataFrame) -> dict[str, float]:
    """WAPE of the forecasts by machine, where there is anything to forecast."""
    return {
        str(name): model.wape(mine)
        for (name,), mine in rows.group_by("machine")
        if mine.height >= DAY and float(mine["next"].abs().sum()) > 0
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder that holds bitbrains_rnd/ and smd/")
    parser.add_argument("--only", default="", help="one of them; nothing is kept")
    parser.add_argument("--page", action="store_true", help="write the page anew from real.json")
    given = parser.parse_args()
    kept = HERE / "real.json"
    if not given.page:
        if given.data is None:
            parser.error("--data is wanted: the folder that holds bitbrains_rnd/ and smd/")
        began = time.perf_counter()
        weeks = [
            asdict(week)
            for source in SOURCES
            if given.only in {"", source.name}
            for week in measure(source, given.data)
        ]
        if given.only:
            return
        found = {"seed": SEED, "seconds": round(time.perf_counter() - began), "weeks": weeks}
        kept.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    real_page.write(json.loads(kept.read_text("utf-8")), {each.name: asdict(each) for each in SOURCES}, HERE)


if __name__ == "__main__":
    main()
