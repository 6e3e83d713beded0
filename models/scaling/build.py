"""scaling: boosted quantiles of the load at several steps ahead, relative to the present load.

One booster per step and quantile. The trees see past loads as ratios to the newest ones, so that
they tell the shape of a rise and not its height, and learn the change relative to the present load:
a site that has grown tenfold since it was trained on is still answered in proportion. Newer rows
count more, for traffic changes its habits. Conformal offsets from the valid part mend the ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import lightgbm as lgb
import numpy as np

from models.base import Answers, Array, Observations, Params, Task
from models.boosters import gain_shares, reproducible
from models.conformal import calibrated
from models.heads import ActionHead, IntervalHead
from models.heads.action import CURRENT_LOAD
from models.heads.interval import Encoding, Level, Member
from models.manifest import FieldType, InputField, ServingParts
from models.scaling.policy import SITUATION, Outlook, ScalingPolicy
from models.specs import Forecast, ModelSpec
from models.targets import STEPS_AHEAD, ValuesAhead
from models.tasks import task_of
from models.tree_graph import Ratio, TreeInputs, booster_trees, save_trees

if TYPE_CHECKING:
    import optuna

ESTIMATOR = "boosters"
MAX_BIN = 127
#: Rows that the boosters of one step learn from; more cost time and gain next to nothing.
MAX_ROWS = 20_000
PRESENT_LAGS = 3
#: Where the caller names no capacity: the busiest 1 % of the training rows keep so many replicas full.
REPLICAS_AT_PEAK = 10
#: Loads below this share of the mean are no unit to divide by.
SMALLEST_SHARE = 1e-3
#: float32 sums of some hundred leaves, relative to the largest load.
RELATIVE_TOLERANCE = 1e-5


class ScalingModel:
    """Boosters, step by step and quantile by quantile, with their head."""

    def __init__(
        self,
        boosters: Sequence[lgb.Booster],
        seen: TreeInputs,
        inputs: tuple[InputField, ...],
        head: ActionHead,
        tolerance: float,
    ) -> None:
        self._boosters, self._seen, self._inputs = tuple(boosters), seen, inputs
        self._head, self._tolerance = head, tolerance

    @property
    def inputs(self) -> tuple[InputField, ...]:
        return self._inputs

    @property
    def head(self) -> ActionHead:
        return self._head

    def answer(self, observations: Observations) -> Answers:
        raw = told(self._boosters, self._seen, observations)
        return self._head.answer(observations.columns, {ESTIMATOR: raw})

    def outlook(self, observations: Observations) -> Outlook:
        """What the policy is told of each row."""
        raw = told(self._boosters, self._seen, observations)
        return self._head.outlook(observations.columns, {ESTIMATOR: raw})

    def importance(self) -> dict[str, float]:
        """Gain of all boosters; that of a ratio counts for the input above the line."""
        return gain_shares(self._boosters, self._seen.owners, (field.name for field in self._inputs))

    def save(self, folder: Path) -> ServingParts:
        trees = [
            tree for place, booster in enumerate(self._boosters) for tree in booster_trees(booster, place)
        ]
        estimator = save_trees(ESTIMATOR, self._seen, trees, len(self._boosters), folder)
        return ServingParts((estimator,), self._head, self._tolerance)


class ScalingBuilder:
    """Quantile boosters per step; the ends' offsets from the valid part."""

    def default_params(self) -> Params:
        return {
            "learning_rate": 0.05,
            "rounds": 180,
            "num_leaves": 15,
            "min_child_samples": 150,
            "feature_fraction": 0.5,
            "lambda_l2": 10.0,
            "half_life_days": 15.0,
        }

    def suggest(self, trial: optuna.Trial) -> Params:
        return {
            "learning_rate": trial.suggest_float("learning_rate", 0.03, 0.12, log=True),
            "rounds": trial.suggest_int("rounds", 100, 240, step=20),
            "num_leaves": trial.suggest_int("num_leaves", 7, 31, log=True),
            "min_child_samples": trial.suggest_int("min_child_samples", 20, 400, log=True),
            "feature_fraction": trial.suggest_float("feature_fraction", 0.3, 1.0),
            "lambda_l2": trial.suggest_float("lambda_l2", 0.1, 100.0, log=True),
            "half_life_days": trial.suggest_float("half_life_days", 4.0, 60.0, log=True),
        }

    def fit(
        self,
        train: Observations,
        valid: Observations,
        inputs: tuple[InputField, ...],
        params: Params,
        seed: int,
        spec: ModelSpec,
        trial: optuna.Trial | None = None,
    ) -> ScalingModel:
        gauge, steps, coverage = _asked(spec)
        present = present_load(gauge, inputs, _smallest(train.targets[gauge]))
        seen = tree_inputs(gauge, inputs, present.floor or 0.0)
        levels = (0.5, (1 - coverage) / 2, (1 + coverage) / 2)
        intervals = tuple(_interval(step, present, coverage, _unit(inputs)) for step in range(steps))
        boosters = [
            _booster(rows, gauge, seen, intervals[step].encoding, level, params, seed)
            for step in range(steps)
            for rows in [_sampled(_of_step(train, step, steps), seed)]
            for level in levels
        ]
        truth = valid.targets[gauge]
        raw = told(boosters, seen, valid)
        ends = []
        for step, interval in enumerate(intervals):
            rows = _is_step(valid, step, steps)
            part = valid.rows(rows)
            ends.append(
                calibrated(interval, part.columns, {ESTIMATOR: raw[rows]}, truth[rows], symmetric=False)
            )
        now = present.of(train.columns)
        capacity = max(float(np.quantile(now, 0.99)), present.floor or 0.0) / REPLICAS_AT_PEAK
        head = ActionHead(steps=tuple(ends), now=present, policy=ScalingPolicy(capacity_per_replica=capacity))
        largest = float(np.nanmax(np.abs(np.concatenate([train.targets[gauge], truth]))))
        return ScalingModel(
            boosters,
            seen,
            (*_used(inputs, seen, present), *_optional(steps, _unit(inputs))),
            head,
            RELATIVE_TOLERANCE * max(largest, 1.0),
        )

    def task(self, spec: ModelSpec) -> Task:
        return task_of(spec)


def tree_inputs(gauge: str, inputs: tuple[InputField, ...], floor: float) -> TreeInputs:
    """What the trees see of the features at hand.

    Past loads, means and deviations over the mean of the shortest window; of a day ago also the loads
    of the half hours around over the load at this time of day, which is how yesterday went on. The
    calendar as it is.

    Raises:
        ValueError: the features have no mean of the gauge.
    """
    numbers = [
        field.name for field in inputs if field.type is not FieldType.STRING and field.name != STEPS_AHEAD
    ]
    own = [name for name in numbers if name.startswith(f"{gauge}__")]
    means = sorted((name for name in own if "__mean_" in name), key=_minutes)
    if not means:
        raise ValueError(f"the grid has no mean of {gauge} over any window; it has {own[:8]}")
    unit, *longer = means
    ratios = [Ratio(f"{name} over {unit}", (name,), (unit,), floor) for name in own if name != unit]
    yesterday = f"{gauge}__lag_{_LAGS_A_DAY}"
    if yesterday in own:
        ratios += [
            Ratio(f"{name} over {yesterday}", (name,), (yesterday,), floor)
            for name in own
            if name.startswith(f"{gauge}__lag_") and 0 < abs(_lag(name) - _LAGS_A_DAY) <= _AROUND
        ]
    return TreeInputs(
        columns=tuple(name for name in numbers if name not in own),
        ratios=tuple(ratios),
        stand_ins={unit: longer[0]} if longer else {},
    )


_LAGS_A_DAY = 288  # on a grid of 5 minutes
_AROUND = 12


def present_load(gauge: str, inputs: tuple[InputField, ...], floor: float) -> Level:
    """Mean of the newest quarter of an hour, or of what there is of it.

    Raises:
        ValueError: the grid has no lags of the gauge.
    """
    names = {field.name for field in inputs}
    lags = tuple(name for k in range(PRESENT_LAGS) if (name := f"{gauge}__lag_{k}") in names)
    if not lags:
        raise ValueError(f"the grid has no lags of {gauge}: set `lags` of the grid")
    return Level(columns=lags, combine="mean", floor=floor)


def told(boosters: Sequence[lgb.Booster], seen: TreeInputs, part: Observations) -> Array:
    """Raw answers, shape (n, boosters)."""
    matrix = seen.matrix(part.columns).astype(np.float64)
    # The steps of one time are rows side by side that the trees cannot tell apart: they are asked once.
    first = np.ones(len(matrix), dtype=np.bool_)
    first[1:] = np.any(matrix[1:] != matrix[:-1], axis=1)
    asked = matrix[first]
    raw = [np.asarray(booster.predict(asked, raw_score=True, num_threads=1)) for booster in boosters]
    answers: Array = np.stack(raw, axis=1)[np.cumsum(first) - 1]
    return answers


def _booster(
    rows: Observations,
    gauge: str,
    seen: TreeInputs,
    encoding: Encoding,
    level: float,
    params: Params,
    seed: int,
) -> lgb.Booster:
    settings = {name: value for name, value in params.items() if name not in ("rounds", "half_life_days")}
    data = lgb.Dataset(
        seen.matrix(rows.columns).astype(np.float64),
        encoding.encode(rows.targets[gauge], rows.columns),
        weight=rows.weight * _recency(rows.time, float(params["half_life_days"])),
        params={"max_bin": MAX_BIN},
    )
    return lgb.train(
        {
            "objective": "quantile",
            "alpha": level,
            "bagging_freq": 1,
            "bagging_fraction": 0.7,
            "max_bin": MAX_BIN,
            **reproducible(seed),
            **settings,
        },
        data,
        num_boost_round=int(params["rounds"]),
    )


def _recency(time: np.ndarray, half_life_days: float) -> Array:
    age = (time.max() - time) / np.timedelta64(1, "D")
    return np.asarray(0.5 ** (age / half_life_days), dtype=np.float64)


def _interval(step: int, present: Level, coverage: float, unit: str) -> IntervalHead:
    """Head of one step; its offsets are still to be found."""
    middle, lower, upper = (Member(estimator=ESTIMATOR, output=3 * step + place) for place in range(3))
    return IntervalHead(
        forecast=(middle,),
        lower=(lower,),
        upper=(upper,),
        encoding=Encoding(base=present, scale=present),
        coverage=coverage,
        unit=unit,
    )


def _asked(spec: ModelSpec) -> tuple[str, int, float]:
    """Gauge, number of steps, nominal coverage."""
    if not isinstance(spec.target, ValuesAhead) or not isinstance(spec.task, Forecast):
        raise TypeError(
            f"{spec.name} forecasts values ahead; its spec says {spec.target.kind}, {spec.task.kind}"
        )
    return spec.target.columns[0], spec.target.steps, spec.task.coverage


def _smallest(load: Array) -> float:
    return max(SMALLEST_SHARE * float(np.nanmean(np.abs(load))), 1e-9)


def _is_step(part: Observations, step: int, steps: int) -> np.ndarray:
    known = np.isfinite(next(iter(part.targets.values())))
    return known & (part.columns[STEPS_AHEAD] == step + 1) if steps > 1 else known


def _of_step(part: Observations, step: int, steps: int) -> Observations:
    return part.rows(_is_step(part, step, steps))


def _sampled(rows: Observations, seed: int) -> Observations:
    if len(rows) <= MAX_ROWS:
        return rows
    return rows.rows(np.sort(np.random.default_rng(seed).choice(len(rows), MAX_ROWS, replace=False)))


def _used(inputs: tuple[InputField, ...], seen: TreeInputs, present: Level) -> tuple[InputField, ...]:
    names = {*seen.sources, *present.columns}
    return tuple(field for field in inputs if field.name in names)


def _optional(steps: int, unit: str) -> tuple[InputField, ...]:
    """What only the head takes: how far ahead, and what there is to scale."""
    units = {CURRENT_LOAD: unit, "capacity_per_replica": unit, "minutes_since_action": "min"}
    ahead = InputField(name=STEPS_AHEAD, type=FieldType.DOUBLE, required=False, minimum=1, maximum=steps)
    return (
        ahead,
        *(
            InputField(
                name=name, type=FieldType.DOUBLE, required=False, unit=units.get(name, "count"), minimum=0
            )
            for name in (CURRENT_LOAD, *SITUATION)
        ),
    )


def _unit(inputs: tuple[InputField, ...]) -> str:
    return next((field.unit for field in inputs if "__lag_" in field.name), "")


def _lag(name: str) -> int:
    return int(name.rsplit("_", 1)[1])


def _minutes(name: str) -> float:
    """Length of the window that a feature's name ends with, in minutes."""
    text = name.rsplit("_", 1)[1]
    for suffix, minutes in (("min", 1.0), ("h", 60.0), ("d", 1440.0), ("s", 1 / 60)):
        if text.endswith(suffix):
            return float(text.removesuffix(suffix)) * minutes
    raise ValueError(f"{name} does not end with a window")


BUILDER = ScalingBuilder()
