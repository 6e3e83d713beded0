"""Fit the final model and take its figures on the part that tuning judged by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.base import Builder, Fitted, Observations, Params
from models.manifest import InputField
from models.metrics import RankedLabels, expected_calibration_error
from models.specs import Thresholds

SAMPLE_ROWS = 32


@dataclass(frozen=True)
class Trained:
    """A fitted model with what was learned on the valid part."""

    fitted: Fitted
    valid_probability: NDArray[np.float64]
    alarm_threshold: float
    metrics: dict[str, float]


def train(
    builder: Builder,
    train_part: Observations,
    valid_part: Observations,
    inputs: tuple[InputField, ...],
    params: Params,
    seed: int,
    thresholds: Thresholds,
) -> Trained:
    """Fit on train, stop early and calibrate on valid; the alarm threshold is learned on valid too."""
    fitted = builder.fit(train_part, valid_part, inputs, params, seed)
    probability = fitted.probability(valid_part)
    ranked = RankedLabels(valid_part.label, probability)
    threshold, recall, rate, precision = ranked.operating_point(
        valid_part.weight, thresholds.max_false_positive_rate
    )
    return Trained(
        fitted=fitted,
        valid_probability=probability,
        # Where even the highest score exceeds the bound, the model never alarms.
        alarm_threshold=min(threshold, 1.0),
        metrics={
            "valid_average_precision": ranked.average_precision(valid_part.weight),
            "valid_recall": recall,
            "valid_false_positive_rate": rate,
            "valid_precision": precision,
            "valid_calibration_error": expected_calibration_error(
                valid_part.label, probability, valid_part.weight
            ),
        },
    )


def sample_rows(probability: NDArray[np.float64]) -> NDArray[np.intp]:
    """Indices of at most ``SAMPLE_ROWS`` rows over the whole range of predictions."""
    order = np.argsort(probability, kind="stable")
    places: NDArray[np.intp] = np.unique(np.linspace(0, len(order) - 1, SAMPLE_ROWS).astype(np.intp))
    chosen: NDArray[np.intp] = order[places]
    return chosen
