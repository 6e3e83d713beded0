"""failure: gradient-boosted trees on windowed telemetry, with Platt-scaled probabilities."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightgbm as lgb
import numpy as np
from numpy.typing import NDArray

from models.base import Answers, Array, Observations, Params, Task
from models.boosters import gain_shares, grow, reproducible, save_booster
from models.encoding import encode
from models.heads import ProbabilityHead
from models.manifest import FieldType, InputField, ServingParts
from models.metrics import RankedLabels
from models.specs import Classification, ModelSpec
from models.tasks import task_of

if TYPE_CHECKING:
    import optuna

MAX_ROUNDS = 400
PATIENCE_ROUNDS = 30
MAX_BIN = 63
TOLERANCE = 1e-9
WHAT = "a failure within the horizon"


class FailureModel:
    """A trained booster with its head."""

    def __init__(self, booster: lgb.Booster, inputs: tuple[InputField, ...], head: ProbabilityHead) -> None:
        self._booster = booster
        self._inputs = inputs
        self._head = head

    @property
    def inputs(self) -> tuple[InputField, ...]:
        return self._inputs

    def answer(self, observations: Observations) -> Answers:
        score = self._booster.predict(encode(observations.columns, self._inputs), raw_score=True)
        return self._head.answer(observations.columns, {self._head.estimator: np.asarray(score)})

    def importance(self) -> dict[str, float]:
        return gain_shares([self._booster], self._names, self._names)

    def save(self, folder: Path) -> ServingParts:
        booster = save_booster(self._head.estimator, self._booster, self._names, folder)
        return ServingParts((booster,), self._head, TOLERANCE)

    @property
    def _names(self) -> tuple[str, ...]:
        return tuple(field.name for field in self._inputs)


class FailureBuilder:
    """LightGBM, binary, early-stopped on the valid part."""

    def default_params(self) -> Params:
        return {
            "learning_rate": 0.08,
            "num_leaves": 31,
            "min_child_samples": 60,
            "feature_fraction": 0.7,
            "bagging_fraction": 0.8,
            "lambda_l2": 5.0,
        }

    def suggest(self, trial: optuna.Trial) -> Params:
        return {
            "learning_rate": trial.suggest_float("learning_rate", 0.02, 0.2, log=True),
            "num_leaves": trial.suggest_int("num_leaves", 7, 63, log=True),
            "min_child_samples": trial.suggest_int("min_child_samples", 10, 400, log=True),
            "feature_fraction": trial.suggest_float("feature_fraction", 0.3, 1.0),
            "bagging_fraction": trial.suggest_float("bagging_fraction", 0.5, 1.0),
            "lambda_l2": trial.suggest_float("lambda_l2", 0.01, 100.0, log=True),
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
    ) -> FailureModel:
        callbacks: list[Any] = []
        figures: list[Any] = []
        if trial is not None:
            from optuna_integration import LightGBMPruningCallback

            figures.append(_average_precision(valid))
            callbacks.append(LightGBMPruningCallback(trial, "average_precision", valid_name="valid"))
        # Rows count alike: thinned negatives move the scores' level and not their order (Elkan, 2001),
        # and the calibration, which is weighted, puts the level right.
        strings = [field.name for field in inputs if field.type is FieldType.STRING]
        training = lgb.Dataset(
            encode(train.columns, inputs),
            label_of(train),
            feature_name=[field.name for field in inputs],
            categorical_feature=strings,
            params={"max_bin": MAX_BIN},
        )
        validation = lgb.Dataset(encode(valid.columns, inputs), label_of(valid), reference=training)
        booster = grow(
            {
                "objective": "binary",
                # Decides when to stop. Average precision is a step function of few positives: where
                # it reaches 1 early, it would stop a model that still improves.
                "metric": "binary_logloss",
                "bagging_freq": 1,
                # Coarse bins are faster and generalise better.
                "max_bin": MAX_BIN,
                **reproducible(seed),
                **params,
            },
            training,
            MAX_ROUNDS,
            validation,
            PATIENCE_ROUNDS,
            figures,
            callbacks,
        )
        score = np.asarray(booster.predict(encode(valid.columns, inputs), raw_score=True))
        slope, intercept = platt(score, label_of(valid), valid.weight)
        head = ProbabilityHead(slope=slope, intercept=intercept, alarm_threshold=1.0, what=WHAT)
        probability = head.answer({}, {head.estimator: score})["probability"]
        ranked = RankedLabels(label_of(valid), probability)
        threshold, *_ = ranked.operating_point(valid.weight, self._budget(spec))
        # Where even the highest score exceeds the bound, the model never alarms.
        return FailureModel(
            booster, inputs, head.model_copy(update={"alarm_threshold": min(float(threshold), 1.0)})
        )

    def task(self, spec: ModelSpec) -> Task:
        return task_of(spec)

    def _budget(self, spec: ModelSpec) -> float:
        if not isinstance(spec.task, Classification):
            raise TypeError(f"{spec.name} is a classification, its spec says {spec.task.kind}")
        return spec.task.max_false_positive_rate


def label_of(part: Observations) -> Array:
    return part.targets["event"]


def _average_precision(part: Observations) -> Callable[..., tuple[str, float, bool]]:
    """The figure that a trial is pruned by, round for round: that of the study, with weights."""

    def measured(score: Array, _: lgb.Dataset) -> tuple[str, float, bool]:
        return "average_precision", RankedLabels(label_of(part), score).average_precision(part.weight), True

    return measured


def platt(score: Array, label: NDArray, weight: Array) -> tuple[float, float]:
    """Slope and intercept of Platt scaling (Platt, 1999), of raw scores on rows that the trees were not grown on.

    With his targets, a little short of 0 and 1: where the score parts the classes without an error,
    the slope would otherwise have no end.
    """
    from sklearn.linear_model import LogisticRegression

    positive = label == 1
    positives, negatives = float(np.sum(weight[positive])), float(np.sum(weight[~positive]))
    target = np.where(positive, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    # Each row once as positive and once as negative, weighted by its target. With the default
    # tolerance the gradient of a label of 1 in 10,000 passes for zero at the start.
    fitted = LogisticRegression(C=1e6, solver="newton-cholesky", tol=1e-10).fit(
        np.tile(score, 2).reshape(-1, 1),
        np.repeat([1, 0], len(score)),
        sample_weight=np.concatenate([weight * target, weight * (1 - target)]) / np.mean(weight),
    )
    return float(fitted.coef_[0, 0]), float(fitted.intercept_[0])


BUILDER = FailureBuilder()
