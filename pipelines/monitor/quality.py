"""How good a model is without labels yet, by its own word: CBPE and DLE. Pure.

*Confidence-based performance estimation* for classifiers: where probabilities are calibrated, they say how
often each answer is right, so labels can be drawn from them and any metric be taken of the draws
(NannyML's CBPE; Guillory et al., 2021, and Garg et al., 2022, for the family). *Direct loss estimation* for
regression: a second model learns from the holdout of training how large the first one's error is,
given inputs and answer. Neither can see a change of what truth follows from the same inputs; realised
quality does, and the estimates are scored by it once labels have come.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.base import Answers, Array, Observations, Task
from models.specs import Bound

DRAWS = 20


@dataclass(frozen=True)
class Estimate:
    """Metrics by name, with the standard deviation over draws where there are any."""

    values: dict[str, float]
    errors: dict[str, float]


def confidence_based(
    task: Task, part: Observations, answers: Answers, target: str, seed: int, draws: int = DRAWS
) -> Estimate:
    """Metrics that the probabilities promise.

    Args:
        part: Without labels; what it holds of them is not looked at.
        answers: With ``probability``, calibrated.
    """
    random = np.random.default_rng(seed)
    probability = np.clip(answers["probability"].astype(np.float64), 0.0, 1.0)
    found: dict[str, list[float]] = {}
    for _ in range(draws):
        drawn = (random.uniform(size=len(probability)) < probability).astype(np.float64)
        imagined = Observations(part.columns, {target: drawn}, part.weight, part.entity, part.time)
        if not 0 < drawn.sum() < len(drawn):
            continue  # ranking metrics are not defined
        for name, value in task.metrics(imagined, answers).items():
            found.setdefault(name, []).append(value)
    return Estimate(
        {name: float(np.mean(values)) for name, values in found.items()},
        {name: float(np.std(values, ddof=1)) if len(values) > 1 else 0.0 for name, values in found.items()},
    )


def learn_losses(columns: Mapping[str, Array], forecast: Array, truth: Array, seed: int) -> Any:
    """A model of the absolute error, from rows that the forecaster did not learn from."""
    import lightgbm

    inputs = _inputs(columns, forecast)
    return lightgbm.train(
        {"objective": "regression", "num_leaves": 15, "learning_rate": 0.05, "min_data_in_leaf": 50, "verbose": -1,
         "seed": seed, "deterministic": True, "num_threads": 1},
        lightgbm.Dataset(inputs, label=np.abs(truth - forecast)),
        num_boost_round=100,
    )  # fmt: skip


def direct_loss(booster: Any, columns: Mapping[str, Array], forecast: Array) -> Estimate:
    """Mean absolute error, and WAPE with the forecasts' own size for the unknown truths'."""
    errors = np.maximum(np.asarray(booster.predict(_inputs(columns, forecast))), 0.0)
    size = float(np.sum(np.abs(forecast)))
    values = {"mae": float(np.mean(errors))}
    if size > 0:
        values["wape"] = float(np.sum(errors) / size)
    return Estimate(values, {})


def broken_floors(
    values: Mapping[str, float], floors: Mapping[str, Bound], errors: Mapping[str, float] | None = None
) -> tuple[str, ...]:
    """Metrics that lie beyond their bound, by more than twice their error where that is known."""
    found = []
    for name, bound in floors.items():
        value = values.get(name)
        if value is None or not np.isfinite(value):
            continue
        reach = 2 * (errors or {}).get(name, 0.0)
        if bound.minimum is not None and value + reach < bound.minimum:
            found.append(f"{name} {value:.3g} < {bound.minimum:g}")
        if bound.maximum is not None and value - reach > bound.maximum:
            found.append(f"{name} {value:.3g} > {bound.maximum:g}")
    return tuple(found)


def _inputs(columns: Mapping[str, Array], forecast: Array) -> Array:
    numbers = [values.astype(np.float64) for values in columns.values() if values.dtype != object]
    return np.column_stack([*numbers, forecast.astype(np.float64)])
