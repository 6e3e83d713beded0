"""cost: robust smoothings, exponential smoothing fitted by statsforecast, and LightGBM; weights from a backtest."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import lightgbm as lgb
import numpy as np
from numpy.typing import NDArray

from models.base import Answers, Array, Observations, Params, Task
from models.boosters import gain_shares, reproducible, save_booster
from models.cost.calibration import adaptive_spreads
from models.cost.origins import asked_once, lag_names, side_by_side, truth_of
from models.cost.smoothing import KINDS, WARM_UP, Smoothing
from models.cost.spec import STEPS
from models.cost.task import CostTask
from models.encoding import encode
from models.folds import folds, together
from models.heads.cost import CostHead, CostMember, Spread, offset_of
from models.manifest import InputField, ServingParts
from models.specs import Forecast, ModelSpec
from models.targets import STEPS_AHEAD

if TYPE_CHECKING:
    import optuna

# Costs are sums of products of a hundred doubles; the text format of the trees is exact.
TOLERANCE = 1e-6
# From a month to two days of memory: no one speed suits calm and rough months, and their mean does.
LEVELS = (0.03, 0.05, 0.1, 0.2, 0.3, 0.5)
SEASON_SHARE = 0.2
LIMIT = 2.0
SCALES = (0.1, 0.3)
TREE_LAGS = 35  # older days tell a tree nothing that five weeks do not
FOLDS = 3
_FEWEST_ORIGINS = 60  # before the trees are grown on them
_LARGEST_DRIFT = 1.0
_SMALLEST_SHARE = 1e-3
_LARGEST_RATIO = 3.0  # of a forecast to the truth; a bill of next to nothing must not decide the weights
# The library knows no spikes and no holidays: a tenth each, and the rest to the two that do.
_PRIOR = {"levels": 0.4, "exponential_smoothing": 0.1, "damped_trend": 0.1, "lightgbm": 0.4}
_PLACE = "place"


class CostModel:
    """The head with the boosters of the drifts."""

    def __init__(
        self, boosters: tuple[lgb.Booster, ...], inputs: tuple[InputField, ...], head: CostHead
    ) -> None:
        self._boosters = boosters
        self._inputs = inputs
        self._head = head

    @property
    def inputs(self) -> tuple[InputField, ...]:
        return self._inputs

    @property
    def head(self) -> CostHead:
        return self._head

    def answer(self, observations: Observations) -> Answers:
        matrix = encode(observations.columns, _tree_inputs(self._inputs))
        raw = {
            name: np.asarray(booster.predict(matrix, raw_score=True))
            for name, booster in zip(_drift_names(self._head.groups), self._boosters, strict=True)
        }
        return self._head.answer(observations.columns, raw)

    def importance(self) -> dict[str, float]:
        """The trees' share by their gain; that of smoothings by how much of a level each day makes up."""
        shares = dict.fromkeys((field.name for field in self._inputs), 0.0)
        everything = sum(member.weight for member in self._head.members)
        for member in self._head.members:
            weight = member.weight / everything
            if member.drifts:
                names = [field.name for field in _tree_inputs(self._inputs)]
                for name, gain in gain_shares(self._boosters, names, names).items():
                    shares[name] += weight * gain
                continue
            for smoothing in member.smoothings:
                past = smoothing.level * (1 - smoothing.level) ** np.arange(len(self._head.lags))
                for name, share in zip(self._head.lags, past / past.sum(), strict=True):
                    shares[name] += weight * float(share) / len(member.smoothings)
        total = sum(shares.values())
        return {name: share / total for name, share in shares.items()}

    def save(self, folder: Path) -> ServingParts:
        names = tuple(field.name for field in _tree_inputs(self._inputs))
        estimators = tuple(
            save_booster(name, booster, names, folder)
            for name, booster in zip(_drift_names(self._head.groups), self._boosters, strict=True)
        )
        return ServingParts(estimators, self._head, TOLERANCE)


class CostBuilder:
    """Members, their weights from a rolling backtest, and intervals from its errors."""

    def default_params(self) -> Params:
        return {
            "rounds": 60,
            "learning_rate": 0.05,
            "num_leaves": 4,
            "min_child_samples": 60,
            "shrinkage": 0.1,
        }

    def suggest(self, trial: optuna.Trial) -> Params:
        return {
            "rounds": trial.suggest_int("rounds", 20, 200, log=True),
            "learning_rate": trial.suggest_float("learning_rate", 0.02, 0.1, log=True),
            "num_leaves": trial.suggest_int("num_leaves", 3, 15, log=True),
            "min_child_samples": trial.suggest_int("min_child_samples", 40, 160, log=True),
            "shrinkage": trial.suggest_float("shrinkage", 0.02, 1.0, log=True),
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
    ) -> CostModel:
        """Smoothings and trees learn from train; weights and intervals from rolling forecasts of train and valid.

        The trees of a rolling forecast were grown on what was known before it. A trial is never
        pruned: a fit takes seconds.

        Raises:
            ValueError: the inputs have too few lags, or too few outcomes are known for intervals.
        """
        config = _forecast(spec)
        lags = tuple(lag_names(field.name for field in inputs))
        past, newest = (asked_once(part, config.target, STEPS) for part in (train, valid))
        head = _unweighted(lags, config.coverage, fitted_smoothings(past, lags))
        boosters = _grown(head, past, inputs, params, seed)
        known = together(past, newest)
        raw = _rolling_drifts(head, past, newest, boosters, inputs, params, seed)
        judged = _Judged.of(head, known, raw)
        weighted = _weighted(head, judged, float(params["shrinkage"]))
        return CostModel(boosters, inputs, _calibrated(weighted, judged))

    def task(self, spec: ModelSpec) -> Task:
        return CostTask(_forecast(spec))


def fitted_smoothings(past: Observations, lags: tuple[str, ...]) -> tuple[Smoothing, Smoothing]:
    """What statsforecast fits to the entities: one without a trend, and one with a damped trend.

    The parameters are the means over the entities, so that they hold for an entity that comes new.
    """
    from statsforecast.models import AutoETS

    plain, damped = [], []
    for series in _series(past, lags):
        logs = np.log(series + offset_of(series[None])[0])
        plain.append(AutoETS(season_length=KINDS, model="ANA").fit(logs).model_["par"])
        damped.append(AutoETS(season_length=KINDS, model="AAA", damped=True).fit(logs).model_["par"])
    if not plain:
        raise ValueError(f"no entity has {WARM_UP} days of cost to fit exponential smoothing to")
    return _mean_of(plain), _mean_of(damped)


def _mean_of(parameters: list[Array]) -> Smoothing:
    """statsforecast's order: alpha, beta, gamma, phi; NaN for what the model does not have.

    A series that never changes gets a model without season and trend, whatever was asked for.
    """
    values = np.array([found[:4] for found in parameters])
    level, trend, season, damping = np.mean(
        np.where(np.isfinite(values), values, (1.0, 0.0, 0.0, 1.0)), axis=0
    )
    level = float(np.clip(level, _SMALLEST_SHARE, 1.0))
    return Smoothing(
        level=level,
        season=float(np.clip(season, 0.0, 1 - level)),
        trend=float(np.clip(trend, 0.0, 1.0)),
        damping=float(np.clip(damping, _SMALLEST_SHARE, 1.0)),
    )


def _series(past: Observations, lags: tuple[str, ...]) -> Iterator[Array]:
    """Each entity's daily costs, oldest first, with gaps filled in a straight line."""
    matrix = side_by_side(past.columns, lags)
    day = past.time.astype("datetime64[D]").astype(np.int64)
    for entity in np.unique(past.entity.astype(str)):
        rows = np.flatnonzero(past.entity.astype(str) == entity)
        days = (day[rows, None] - np.arange(len(lags))).ravel()
        costs = matrix[rows].ravel()
        there = np.isfinite(costs)
        if not there.any():
            continue
        known, place = np.unique(days[there], return_index=True)
        whole = np.arange(known[0], known[-1] + 1)
        if len(whole) >= WARM_UP:
            yield np.interp(whole, known, np.maximum(costs[there][place], 0.0))


def _unweighted(lags: tuple[str, ...], coverage: float, fitted: tuple[Smoothing, Smoothing]) -> CostHead:
    """The members with their prior weights, and intervals of no width."""
    plain, damped = fitted
    levels = tuple(
        Smoothing(level=level, season=SEASON_SHARE * (1 - level), damping=1.0, limit=LIMIT)
        for level in LEVELS
    )
    groups = CostHead.model_fields["groups"].default
    nothing = (Spread(lower=0.0, upper=0.0),) * len(groups)
    return CostHead(
        lags=lags,
        groups=groups,
        members=(
            CostMember(name="levels", smoothings=levels, corrected=True, weight=_PRIOR["levels"]),
            CostMember(
                name="exponential_smoothing", smoothings=(plain,), weight=_PRIOR["exponential_smoothing"]
            ),
            CostMember(name="damped_trend", smoothings=(damped,), weight=_PRIOR["damped_trend"]),
            CostMember(
                name="lightgbm",
                smoothings=levels,
                corrected=True,
                drifts=_drift_names(groups),
                weight=_PRIOR["lightgbm"],
            ),
        ),
        scale_by=tuple(smoothing for smoothing in levels if smoothing.level in SCALES),
        daily=nothing,
        total=nothing,
        coverage=coverage,
    )


def _grown(
    head: CostHead,
    past: Observations,
    inputs: tuple[InputField, ...],
    params: Params,
    seed: int,
) -> tuple[lgb.Booster, ...]:
    """One booster a group of days: the log ratio of the mean cost to what the levels say of it."""
    drifts = _true_drifts(head, past)
    fields = _tree_inputs(inputs)
    matrix, names = encode(past.columns, fields), [field.name for field in fields]
    return tuple(_booster(matrix, drifts[:, group], names, params, seed) for group in range(drifts.shape[1]))


def _booster(matrix: Array, drift: Array, names: list[str], params: Params, seed: int) -> lgb.Booster:
    known = np.isfinite(drift)
    return lgb.train(
        {
            "objective": "regression_l1",
            "learning_rate": params["learning_rate"],
            "num_leaves": params["num_leaves"],
            "min_child_samples": params["min_child_samples"],
            "feature_fraction": 0.7,
            "bagging_fraction": 0.7,
            "bagging_freq": 1,
            "lambda_l2": 10.0,
            **reproducible(seed),
        },
        lgb.Dataset(matrix[known], drift[known], feature_name=names),
        num_boost_round=int(params["rounds"]),
    )


def _true_drifts(head: CostHead, once: Observations) -> Array:
    """What the boosters learn, shape (origins, groups); NaN where a day of the group is not known."""
    windows = head.windows(once.columns)
    path, offset = (
        head.member_path(head.members[0], windows, {})[windows.of_row],
        windows.offset[windows.of_row],
    )
    truth, of_step = truth_of(once), head.group_of_step
    ratios = [
        np.log(truth[:, of_step == group].mean(axis=1) + offset[:, 0])
        - np.log(path[:, of_step == group].mean(axis=1) + offset[:, 0])
        for group in range(len(head.groups))
    ]
    return np.asarray(np.clip(np.stack(ratios, axis=1), -_LARGEST_DRIFT, _LARGEST_DRIFT))


def _rolling_drifts(
    head: CostHead,
    past: Observations,
    newest: Observations,
    boosters: tuple[lgb.Booster, ...],
    inputs: tuple[InputField, ...],
    params: Params,
    seed: int,
) -> dict[str, Array]:
    """Drifts of all origins, each from trees that had not seen it; 0 before there were any."""
    told = Observations(
        past.columns | {_PLACE: np.arange(len(past), dtype=np.float64)},
        past.targets,
        past.weight,
        past.entity,
        past.time,
    )
    raw = np.zeros((len(past) + len(newest), len(head.groups)))
    for learn, judge in folds(told, FOLDS, "time", np.timedelta64(STEPS, "D"), seed):
        if len(learn) >= _FEWEST_ORIGINS:
            grown = _grown(head, learn, inputs, params, seed)
            raw[judge.columns[_PLACE].astype(np.intp)] = _predicted(grown, judge, inputs)
    raw[len(past) :] = _predicted(boosters, newest, inputs)
    return {name: raw[:, group] for group, name in enumerate(_drift_names(head.groups))}


def _predicted(
    boosters: tuple[lgb.Booster, ...], once: Observations, inputs: tuple[InputField, ...]
) -> Array:
    matrix = encode(once.columns, _tree_inputs(inputs))
    return np.stack([np.asarray(booster.predict(matrix, raw_score=True)) for booster in boosters], axis=1)


@dataclass(frozen=True)
class _Judged:
    """Rolling forecasts with their outcomes, by origin.

    Attributes:
        paths: Shape (origins, h) by member.
        scale: Shape (origins, g).
        offset: Shape (origins, 1).
        truth: Shape (origins, h).
        day: Shape (origins,), days since 1970.
        long_enough: Shape (origins,), whether the window holds enough days to have been forecast from.
    """

    paths: dict[str, Array]
    scale: Array
    offset: Array
    truth: Array
    day: NDArray[np.int64]
    long_enough: NDArray[np.bool_]

    @classmethod
    def of(cls, head: CostHead, once: Observations, raw: dict[str, Array]) -> _Judged:
        windows = head.windows(once.columns)
        paths = {
            member.name: head.member_path(member, windows, raw)[windows.of_row] for member in head.members
        }
        return cls(
            paths,
            head.scale(windows)[windows.of_row],
            windows.offset[windows.of_row],
            truth_of(once),
            once.time.astype("datetime64[D]").astype(np.int64),
            (np.isfinite(windows.cost).sum(axis=1) >= WARM_UP)[windows.of_row],
        )


def _weighted(head: CostHead, judged: _Judged, shrinkage: float) -> CostHead:
    """Weights that make the sum over the horizon right in the backtest, held near the prior ones.

    Least absolute relative error over all weights in tenths, times 1 + ``shrinkage`` for each unit
    of weight that is moved away from the prior: a bill of a year holds a dozen months that are
    independent, too few to find weights from nothing (Smith and Wallis, 2009).
    """
    total = judged.truth.sum(axis=1)
    usable = np.isfinite(total) & (total > 0)
    if not usable.any():
        return head
    ratios = np.stack(
        [judged.paths[member.name][usable].sum(axis=1) / total[usable] for member in head.members], axis=1
    )
    prior = np.array([member.weight for member in head.members])
    grid = _tenths(len(prior))
    error = np.abs(np.minimum(ratios, _LARGEST_RATIO) @ grid.T - 1).mean(axis=0)
    best = grid[np.argmin(error * (1 + shrinkage * np.abs(grid - prior).sum(axis=1)))]
    members = tuple(
        member.model_copy(update={"weight": float(weight)})
        for member, weight in zip(head.members, best, strict=True)
    )
    return head.model_copy(update={"members": members})


def _tenths(parts: int) -> Array:
    """All ways to part 1 into multiples of 0.1, shape (ways, parts)."""
    whole = [way for way in itertools.product(range(11), repeat=parts) if sum(way) == 10]
    return np.array(whole) / 10


def _calibrated(head: CostHead, judged: _Judged) -> CostHead:
    """The head with intervals from its own rolling errors."""
    weights = [member.weight for member in head.members]
    path = np.average([judged.paths[member.name] for member in head.members], axis=0, weights=weights)
    scale = judged.scale[:, head.group_of_step]
    days = np.arange(1, head.horizon + 1)

    def scores(truth: Array, forecast: Array, offset: Array) -> Array:
        return np.asarray((np.log(truth + offset) - np.log(forecast + offset)) / scale)

    truth = np.where(judged.long_enough[:, None], judged.truth, np.nan)
    daily = scores(truth, path, judged.offset)
    total = scores(np.cumsum(truth, axis=1), np.cumsum(path, axis=1), judged.offset * days)
    spreads = {
        name: adaptive_spreads(found, judged.day, head.group_of_step, head.coverage)
        for name, found in (("daily", daily), ("total", total))
    }
    return head.model_copy(update=spreads)


def _drift_names(groups: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(f"drift_to_day_{end}" for end in groups)


def _tree_inputs(inputs: tuple[InputField, ...]) -> tuple[InputField, ...]:
    """Recent lags and the calendar. Not the step: a booster says one thing of all days of its group."""
    old = set(lag_names(field.name for field in inputs)[TREE_LAGS:])
    return tuple(field for field in inputs if field.name not in old and field.name != STEPS_AHEAD)


def _forecast(spec: ModelSpec) -> Forecast:
    if not isinstance(spec.task, Forecast):
        raise TypeError(f"{spec.name} is a forecast, its spec says {spec.task.kind}")
    return spec.task


BUILDER = CostBuilder()
