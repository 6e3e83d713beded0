"""Fit the final model, take its figures on the part that tuning judged by, and look back further."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.base import Answers, Builder, Fitted, Observations, Params
from models.folds import folds, together
from models.heads import FieldType
from models.manifest import InputField, OutputField
from models.specs import ModelSpec
from pipelines.errors import TrainingError

SAMPLE_ROWS = 32


@dataclass(frozen=True)
class Trained:
    """A fitted model with its answers on the valid part.

    Attributes:
        metrics: Figures of the valid part, prefixed ``valid_``.
        backtest: Figures of each fold of the backtest.
    """

    fitted: Fitted
    valid_answers: Answers
    metrics: dict[str, float]
    backtest: tuple[dict[str, float], ...]


def train(
    builder: Builder,
    train_part: Observations,
    valid_part: Observations,
    inputs: tuple[InputField, ...],
    params: Params,
    seed: int,
    spec: ModelSpec,
) -> Trained:
    """Fit on train; stopping, calibration and thresholds are learned on valid.

    Raises:
        TrainingError: an answer on the valid part is no number.
    """
    task = builder.task(spec)
    fitted = builder.fit(train_part, valid_part, inputs, params, seed, spec)
    answers = fitted.answer(valid_part)
    refuse_unspoken(answers)
    return Trained(
        fitted=fitted,
        valid_answers=answers,
        metrics={f"valid_{name}": value for name, value in task.metrics(valid_part, answers).items()},
        backtest=backtest(builder, train_part, valid_part, inputs, params, seed, spec),
    )


def backtest(
    builder: Builder,
    train_part: Observations,
    valid_part: Observations,
    inputs: tuple[InputField, ...],
    params: Params,
    seed: int,
    spec: ModelSpec,
) -> tuple[dict[str, float], ...]:
    """Figures of the same parameters on folds of train and valid; a judge fold also calibrates."""
    if spec.backtest.folds == 0:
        return ()
    task, horizon = builder.task(spec), np.timedelta64(spec.target.horizon)
    known = together(train_part, valid_part)
    figures = []
    for learn, judge in folds(known, spec.backtest.folds, spec.backtest.by, horizon, seed):
        fitted = builder.fit(learn, judge, inputs, params, seed, spec)
        figures.append(task.metrics(judge, fitted.answer(judge)))
    return tuple(figures)


def refuse_unspoken(answers: Answers) -> None:
    """Raise TrainingError where an answer is no number; the output is named."""
    for name, values in answers.items():
        if values.dtype.kind == "f" and (broken := int(np.sum(~np.isfinite(values)))):
            raise TrainingError(
                f"the trained model answers {name} with NaN or infinity in {broken} of {len(values)} rows"
            )


def largest_difference(
    native: Answers, exported: Answers, outputs: tuple[OutputField, ...]
) -> dict[str, float]:
    """By output: largest absolute difference of numbers, share of rows that differ of anything else."""
    return {
        field.name: float(np.max(np.abs(native[field.name] - exported[field.name])))
        if field.type is FieldType.DOUBLE
        else float(np.mean(native[field.name] != exported[field.name]))
        for field in outputs
    }


def sample_rows(answers: Answers, objective_output: str) -> NDArray[np.intp]:
    """Indices of at most ``SAMPLE_ROWS`` rows over the whole range of one output."""
    order = np.argsort(answers[objective_output], kind="stable")
    places: NDArray[np.intp] = np.unique(np.linspace(0, len(order) - 1, SAMPLE_ROWS).astype(np.intp))
    chosen: NDArray[np.intp] = order[places]
    return chosen
