"""placement: LightGBM on classes of lifetime with censored machines, then the constrained choice of the head."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import lightgbm as lgb
import numpy as np
from numpy.typing import NDArray

from models.base import Answers, Array, Observations, Params, Task
from models.boosters import gain_shares, grow, reproducible, save_booster
from models.encoding import encode
from models.heads.placement import CANDIDATE_INPUTS, PlacementHead
from models.manifest import InputField, ServingParts
from models.placement.lifetimes import softmax
from models.placement.task import SHARES, PlacementTask
from models.specs import ModelSpec

if TYPE_CHECKING:
    import optuna

EDGES_HOURS = (0.25, 0.5, 0.75, 1.0, 2.0, 4.0, 8.0, 16.0, 24.0, 48.0, 120.0, 240.0)
MAX_ROUNDS = 250
PATIENCE_ROUNDS = 15
MAX_BIN = 63
# Sums and exponentials of a hundred trees' doubles, as hours: the text format itself is exact.
TOLERANCE = 1e-6
_LEAST_WEIGHT = 1e-3
_FEWEST_ENDS = 20  # seen beyond an edge, for it to part classes


@dataclass(frozen=True)
class Watched:
    """How long machines were watched, hours, and whether their end was seen; shape (n,) each."""

    hours: Array
    seen: NDArray[np.bool_]
    weight: Array

    @classmethod
    def until(cls, part: Observations, moment: np.datetime64) -> Watched:
        """What was known of the machines at a moment: a later end had not been seen yet."""
        left = (moment - part.time) / np.timedelta64(3_600_000_000, "us")
        hours, seen = part.targets["hours"], part.targets["observed"] > 0
        known = seen & (hours <= left)
        return cls(np.maximum(np.minimum(hours, left), 0.0), known, part.weight)


class PlacementModel:
    """The booster of lifetime classes with its head."""

    def __init__(self, booster: lgb.Booster, features: tuple[InputField, ...], head: PlacementHead) -> None:
        self._booster = booster
        self._features = features
        self._head = head

    @property
    def inputs(self) -> tuple[InputField, ...]:
        hosts = (
            InputField(name=name, type=kind, required=False, unit=unit, minimum=0.0 if unit else None)
            for name, (kind, unit) in CANDIDATE_INPUTS.items()
        )
        return (*self._features, *hosts)

    @property
    def head(self) -> PlacementHead:
        return self._head

    def answer(self, observations: Observations) -> Answers:
        raw = self._booster.predict(encode(observations.columns, self._features), raw_score=True)
        return self._head.answer(observations.columns, {self._head.estimator: np.asarray(raw)})

    def importance(self) -> dict[str, float]:
        return gain_shares([self._booster], self._names, self._names)

    def save(self, folder: Path) -> ServingParts:
        booster = save_booster(self._head.estimator, self._booster, self._names, folder)
        return ServingParts((booster,), self._head, TOLERANCE)

    @property
    def _names(self) -> tuple[str, ...]:
        return tuple(field.name for field in self._features)


class PlacementBuilder:
    """Multiclass LightGBM over classes of lifetime.

    A machine that still ran when the watch ended counts for each class that it may yet fall in,
    in shares that the others' lifetimes say (redistribution to the right; Efron, 1967).
    """

    def default_params(self) -> Params:
        return {
            "learning_rate": 0.04,
            "num_leaves": 5,
            "min_child_samples": 500,
            "feature_fraction": 0.4,
            "lambda_l2": 50.0,
        }

    def suggest(self, trial: optuna.Trial) -> Params:
        return {
            "learning_rate": trial.suggest_float("learning_rate", 0.03, 0.15, log=True),
            "num_leaves": trial.suggest_int("num_leaves", 4, 31, log=True),
            "min_child_samples": trial.suggest_int("min_child_samples", 50, 2000, log=True),
            "feature_fraction": trial.suggest_float("feature_fraction", 0.3, 0.9),
            "lambda_l2": trial.suggest_float("lambda_l2", 1.0, 100.0, log=True),
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
    ) -> PlacementModel:
        """Trees learn from train as it was known when valid began; valid stops them and sets the temperature.

        A trial is not pruned: a fit takes seconds.
        """
        # By entity, the parts share the time, and what is known at the end is known of all.
        now = valid.time.min() if valid.time.min() >= train.time.max() else train.time.max()
        known = Watched.until(train, now)
        judged = Watched.until(valid, valid.time.max())
        edges = _edges(known)
        weights = class_weights(known, edges)
        judged_weights = class_weights(judged, edges, known)
        training = _expanded(encode(train.columns, inputs), weights * known.weight[:, None], inputs)
        validation = _expanded(
            encode(valid.columns, inputs), judged_weights * judged.weight[:, None], inputs, training
        )
        booster = grow(
            {
                "objective": "multiclass",
                "num_class": len(edges) + 1,
                "metric": "multi_logloss",
                "bagging_freq": 1,
                "bagging_fraction": 0.7,
                "max_bin": MAX_BIN,
                **reproducible(seed),
                **params,
            },
            training,
            MAX_ROUNDS,
            validation,
            PATIENCE_ROUNDS,
        )
        raw = np.asarray(booster.predict(encode(valid.columns, inputs), raw_score=True))
        task = self._task()
        head = PlacementHead(
            edges_hours=edges,
            tail_hours=_tail_hours(known, edges[-1]),
            temperature=_temperature(raw, judged_weights * judged.weight[:, None]),
            cores=task.cores,
            memory_gib=task.memory_gib,
        )
        levels = _levels(judged, head.lifetimes(raw).gone(judged.hours))
        return PlacementModel(booster, inputs, head.model_copy(update={"levels": levels}))

    def task(self, spec: ModelSpec) -> Task:
        return self._task()

    def _task(self) -> PlacementTask:
        return PlacementTask(cores="cores__last", memory_gib="memory_gib__last")


def class_weights(watched: Watched, edges: tuple[float, ...], of: Watched | None = None) -> Array:
    """Share of each machine in each class of lifetime, shape (n, classes); rows add up to 1.

    Args:
        edges: Hours that part the classes; a lifetime at an edge belongs to the class above.
        of: Machines whose lifetimes say where the censored go; default: the same.
    """
    classes = len(edges) + 1
    bounds = np.concatenate([[0.0], edges])
    place = np.searchsorted(edges, watched.hours, side="right")
    weights = np.zeros((len(place), classes))
    weights[np.arange(len(place)), place] = 1.0
    survival = _survival_at(of or watched, edges)
    share = -np.diff(np.concatenate([[1.0], survival, [0.0]]))
    lost = np.flatnonzero(~watched.seen)
    later = np.where(np.arange(classes)[None, :] > place[lost, None], share[None, :], 0.0)
    # Of its own class only what lies beyond the watch; within a class, lifetimes are spread evenly.
    ends = np.append(edges, np.inf)[place[lost]]
    begins = bounds[place[lost]]
    beyond = np.where(
        np.isinf(ends), 1.0, (ends - watched.hours[lost]) / np.where(np.isinf(ends), 1.0, ends - begins)
    )
    later[np.arange(len(lost)), place[lost]] = share[place[lost]] * beyond
    total = later.sum(axis=1)
    known = total > 0
    weights[lost[known]] = later[known] / total[known, None]
    return weights


def _levels(watched: Watched, told: Array) -> tuple[float, float, float]:
    """Told shares by which a tenth, half and nine tenths of the machines had really gone.

    A calibrated regression (Kuleshov, Fenner and Ermon, 2018) of censored lifetimes: the quantiles of
    the told share at each machine's own end, by Kaplan and Meier.
    """
    order = np.lexsort((~watched.seen, told))
    weight = watched.weight[order]
    at_risk = np.cumsum(weight[::-1])[::-1]
    gone = 1.0 - np.cumprod(1.0 - np.where(watched.seen[order], weight, 0.0) / at_risk)
    levels = []
    for share in SHARES:
        place = int(np.searchsorted(gone, share))
        # Where the watch ended before so many had gone, the share is taken as told.
        levels.append(float(told[order][place]) if place < len(gone) else share)
    rising = np.maximum.accumulate(np.clip(levels, 0.01, 0.98) + np.array([0.0, 0.001, 0.002]))
    return float(rising[0]), float(rising[1]), float(rising[2])


def _survival_at(watched: Watched, edges: tuple[float, ...]) -> Array:
    """Kaplan and Meier's (1958) survival at each edge, with weights; shape (len(edges),)."""
    order = np.lexsort((~watched.seen, watched.hours))
    weight = watched.weight[order]
    at_risk = np.cumsum(weight[::-1])[::-1]
    survival = np.cumprod(1.0 - np.where(watched.seen[order], weight, 0.0) / at_risk)
    place = np.searchsorted(watched.hours[order], edges, side="left")
    return np.asarray(np.concatenate([[1.0], survival])[place])


def _edges(watched: Watched) -> tuple[float, ...]:
    """Edges beyond which enough ends were seen to tell the class above from the one below."""
    ends = watched.hours[watched.seen]
    return tuple(edge for edge in EDGES_HOURS if np.sum(ends >= edge) >= _FEWEST_ENDS) or EDGES_HOURS[:1]


def _tail_hours(watched: Watched, edge: float) -> float:
    """Mean life beyond the last edge: time watched there by ends seen there (exponential, with censoring)."""
    beyond = watched.hours >= edge
    exposure = float(np.sum((watched.weight * (watched.hours - edge))[beyond]))
    ends = float(np.sum(watched.weight[beyond & watched.seen]))
    return float(np.clip(exposure / max(ends, 1.0), 1.0, 24.0 * 365))


def _expanded(
    matrix: Array, weights: Array, inputs: tuple[InputField, ...], reference: lgb.Dataset | None = None
) -> lgb.Dataset:
    """One row per machine and class that it may belong to, weighted by how likely that is."""
    rows, classes = np.nonzero(weights > _LEAST_WEIGHT)
    return lgb.Dataset(
        matrix[rows],
        classes,
        weight=weights[rows, classes],
        feature_name=[field.name for field in inputs],
        reference=reference,
        params={"max_bin": MAX_BIN},
    )


def _temperature(raw: Array, weights: Array) -> float:
    """Temperature of least log loss on rows that the trees were not grown on (Guo et al., 2017)."""
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        probability = softmax(raw / np.exp(log_temperature))
        return -float(np.sum(weights * np.log(np.maximum(probability, 1e-12))) / np.sum(weights))

    found = minimize_scalar(loss, bounds=(-1.5, 1.5), method="bounded")
    return float(np.exp(found.x))


BUILDER = PlacementBuilder()
